# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow check style

.venv/.core: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# Pillow afterwards: gradio asks for an older one, whose resizing differs by a grey level here and there from the goldens
.venv/.dev: .venv/.core
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-warn-conflicts "pillow>=13"
	touch $@

demo: .venv/.core  ## Train on the built-in phantom sites and predict
	$(BIN)/ark-hf demo

test: .venv/.dev  ## The fast tests, then transformers' own tests of our classes
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -o addopts="" -q --timeout 300 tests/upstream

slow: .venv/.dev  ## The tests that take long
	$(BIN)/python -m pytest -o addopts="" -q -m slow --ignore=tests/upstream tests

check: .venv/.dev  ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/.dev  ## Format and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
