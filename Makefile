# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow check style

.venv/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev,dicom]"
	touch $@

demo: .venv/.installed  ## Train on the built-in phantom sites and predict
	$(BIN)/ark-hf demo

test: .venv/.installed  ## The fast tests, then transformers' own tests of our classes
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -o addopts="" -q --timeout 300 tests/upstream

slow: .venv/.installed  ## The tests that take long
	$(BIN)/python -m pytest -o addopts="" -q -m slow --ignore=tests/upstream tests

check: .venv/.installed  ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/.installed  ## Format and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
