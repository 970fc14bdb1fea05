# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
CORES := --numprocesses logical --maxprocesses 8 --dist loadscope
unexport PYTHONDONTWRITEBYTECODE  # every process would compile our code and the tests anew

# What Pillow's version can change: goldens and probabilities
PICTURES := tests/models/ark/test_image_processing_ark.py tests/models/ark/test_golden_ark.py tests/data/images \
	tests/data/test_inputs.py tests/data/test_views.py tests/inference/test_pipeline.py tests/inference/test_predict.py

.PHONY: demo test slow-ci slow docs bench fuzz oldest check style

.venv/.core: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/.core
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# gradio asks for Pillow 12, which all tests then run with
.venv/pillow13: | .venv/.core
	$(BIN)/python -m pip install --quiet --target $@ "pillow>=13"

demo: .venv/.core  ## Train on the built-in phantom sites and predict
	$(BIN)/ark-hf demo

test: .venv/.dev  ## The fast tests, and transformers' own tests of our classes
	$(BIN)/python -m pytest $(CORES) --durations=10

slow-ci: .venv/.dev .venv/pillow13  ## The tests that need real processes, a browser or a wheel; extras; Pillow 13
	$(BIN)/python -m pip install --quiet --dry-run ".[demo,dev,dicom,docs,federated,lora,onnx,segmentation,serve,volumes]"
	$(BIN)/python -m pytest $(CORES) -m "slow_ci and not slow" --durations=5
	PYTHONPATH=.venv/pillow13 $(BIN)/python -c "import PIL; assert PIL.__version__ >= '13', PIL"
	PYTHONPATH=.venv/pillow13 $(BIN)/python -m pytest $(CORES) $(PICTURES)

docs: .venv/.dev  ## The site of docs/, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

slow: .venv/.dev  ## The tests that take long
	$(BIN)/python -m pytest -m slow

fuzz: .venv/.dev  ## Ten thousand hostile inputs to every reader, and tests/fuzz/RESULTS.md; half an hour
	$(BIN)/python -m tests.fuzz --cases 10000 --out tests/fuzz

bench: .venv/.dev  ## Every benchmark, and benchmarks/RESULTS.md; an hour and a half on two idle cores
	$(BIN)/python benchmarks/run_all.py

oldest: .venv/.dev  ## Some tests with the oldest versions that setup.cfg allows; 5 GB
	$(BIN)/python tools/dependencies.py try oldest --venv .venv-oldest

check: .venv/.dev  ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/.dev  ## Format and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
