# `make demo` and `make test` make .venv and install into it what they need, once.
# `make test PYTHON=python3.12 CONSTRAINTS=` runs the tests with another interpreter and the newest packages.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2 # processes that share the tests, a file each; 0 runs them in pytest's own process
BIN := .venv/bin
PINNED := $(addprefix --constraint ,$(CONSTRAINTS))
# Python compiles a module when it is first imported, and most of what is installed never is.
INSTALL := $(BIN)/pip install --quiet --no-compile
MAKEFLAGS += --jobs=2 # the checks before the tests

.PHONY: demo test lint docs browser clean

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable ".[pipeline]"
	touch $@

# setuptools comes first, so that the project is built with the constrained version and not with the newest one.
.venv/installed-test: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) $(PINNED) setuptools
	$(INSTALL) $(PINNED) --no-build-isolation --editable ".[test,docs]"
	touch .venv/installed $@

demo: .venv/installed
	$(BIN)/eloftr demo

# Where Ray does not work, each of its tests fails after minutes, so 25 failures are enough.
test: lint docs browser
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder --cov --maxfail 25

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-test
	$(BIN)/mkdocs build --strict

# Tests open the report page in Chromium. Where it is missing, they are skipped and say so.
browser:
	@command -v chromium chromium-browser google-chrome > /dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
		then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; \
		else false; fi; } \
		|| echo "There is no Chromium, so tests of the report page are skipped: apt-get install chromium"

clean:
	rm -rf .venv .coverage demo site
