# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)  ## a virtual environment in .venv with exact versions

demo: $(READY)  ## a clean and a backdoored model on the digits, with their numbers (about 4 minutes on 2 cores)
	$(BIN)/bdiff run -m attack=none,baddiffusion $(DEMO)

test: $(READY)  ## the tests that take seconds
	$(BIN)/pytest -m 'not slow' --durations=10

test-slow: $(READY)  ## the tests that take minutes: a run killed five times
	$(BIN)/pytest -m slow --durations=10

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## mend what the linter and the formatter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

constraints: $(READY)  ## write the installed versions to constraints.txt
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:  ## remove what runs and builds left behind, but not .venv
	find outputs -mindepth 1 ! -name .gitkeep -delete
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
