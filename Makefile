# `make demo` and `make test`: both make .venv and install into it what they need, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

demo: .venv/installed
	$(BIN)/python jobs/demo.py

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv demo
