# Every target builds the virtual environment that it needs, and is quick when that exists already.
#   make test PYTHON=python3.12     another interpreter, in an environment of its own
#   make test PYTEST="-k radius"    further arguments for pytest

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
WORKERS ?= 2
PYTEST ?=
OUTPUT ?= runs/smoke

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
CODE := $(wildcard jaxcert theory experiments benchmarks)

.DEFAULT_GOAL := help
.PHONY: help certify test slow-test lint format bench theory docs clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

certify: $(VENV)/.base  ## train on the embedded digits, certify, and draw the curve
	$(VENV)/bin/python -m experiments.cohen --preset smoke --output $(OUTPUT)

test: $(VENV)/.dev  ## the fast test suite, with the examples of all docstrings
	$(VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST)

slow-test: $(VENV)/.dev  ## the long statistical and end-to-end tests
	$(VENV)/bin/python -m pytest -m slow $(PYTEST)

lint: $(VENV)/.dev  ## formatting, style and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(CODE)

format: $(VENV)/.dev  ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.bench  ## the benchmarks, beside the committed baselines
	$(VENV)/bin/python -m benchmarks

theory: $(VENV)/.base  ## check the theorems in numbers, and that broken ones are refuted
	$(VENV)/bin/python -m theory

docs: $(VENV)/.docs  ## the HTML documentation, warnings are errors
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

clean:  ## remove environments, caches and built documentation; runs/ stays
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "jaxcert needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/.dev $(VENV)/.docs $(VENV)/.bench: $(VENV)/.%: $(VENV)/.base
	$(PIP) install --editable '.[$*]'
	@touch $@
