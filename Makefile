# `make demo` and `make test` set up what they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit format schemas clean

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "zoo needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[convert,dask,s3,serve,dev]'
	@# pip compiles what it installs, but not an editable checkout; without this every start would.
	$(BIN)/python -m compileall -q zoo converters
	@touch $@

demo: $(STAMP) ## Build, publish, fetch, break and repair a small Gemma 4 bundle on this machine.
	$(BIN)/zoo demo

test: lint types unit ## Everything CI checks.

lint: $(STAMP) ## Style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## The strict type checker.
	$(BIN)/mypy

unit: $(STAMP) ## All tests, on up to four processes.
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup

format: $(STAMP) ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(STAMP) ## Write the checked-in JSON Schemas and tables again.
	$(BIN)/python -m zoo.schema
	$(BIN)/python -m zoo.provisional
	$(BIN)/python -m zoo.swift.app_lists

clean: ## Remove what make made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
