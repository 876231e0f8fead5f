# The words of a day's work. What is checked is listed in .pre-commit-config.yaml, what CI runs in .ci/run.
BIN := .venv/bin
UV := $(BIN)/uv

.PHONY: help ci lint types test quick coverage docs bench build minimum newest

help:  ## these words
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

.venv: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install -q -e '.[test]' build uv
	touch .venv

ci:  ## all that CI runs
	bash .ci/run

lint: .venv  ## ruff, mypy, the layers of the packages, bandit
	PATH=$(CURDIR)/$(BIN):$$PATH pre-commit run --all-files

types: .venv  ## mypy alone
	$(BIN)/mypy

test: .venv  ## all tests
	$(BIN)/pytest

quick: .venv  ## the tests that take less than a second each
	$(BIN)/pytest -m "not slow"

# The figure is what the suite covered when it was last raised. CI has no time for it: on Python 3.11 it costs a sixth.
coverage: .venv  ## all tests, and whether they run as many lines as before
	$(BIN)/pytest --cov=cafe_cli --cov-report=term:skip-covered --cov-fail-under=98

docs: .venv  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict --site-dir build/site

bench: .venv  ## steps and forward passes, variant beside variant; benchmarks/README.md has the others
	$(BIN)/python benchmarks/step.py

build: .venv  ## sdist and wheel, in dist
	$(BIN)/python -m build --outdir dist

minimum: PYTHON := 3.11
minimum: RESOLUTION := lowest-direct
minimum:  ## the quick tests with the lowest versions that pyproject.toml allows
newest: PYTHON := 3.13
newest: RESOLUTION := highest
newest:  ## the quick tests with the newest versions, of Python too
minimum newest: .venv
	$(UV) venv -q --clear --python $(PYTHON) build/$@
	$(UV) pip install -q --python build/$@ --resolution $(RESOLUTION) -e '.[test]'
	build/$@/bin/pytest -m "not slow"
