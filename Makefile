# `make help` lists the targets. Each sets up what it needs, once, and again when the requirements change.
#
#   make demo ACCELERATOR=cuda13                      on NVIDIA GPUs (cuda12, cuda13) or TPUs (tpu)
#   make test TESTS=tests/nn PROCESSES=0              a part of the tests, in one process
#   make test PYTHON=python3.13 VENV=.venv-newest     another Python, in an environment of its own

PYTHON ?= python3
VENV ?= .venv
ACCELERATOR ?=
TESTS ?= tests
PROCESSES ?= 2

BIN := $(VENV)/bin
OLDEST := .venv-oldest
WITH := $(ACCELERATOR:%=-%)
comma := ,

.DEFAULT_GOAL := help
.PHONY: demo test slow corners lint check docs clean help

demo: $(VENV)/.lmx$(WITH) ## Train a small translator on the embedded phrasebook, score it, write its report
	$(BIN)/python experiments/translation.py phrasebook

test: $(VENV)/.lmx-test$(WITH) ## Run the fast tests
	$(BIN)/python -m pytest -q --numprocesses $(PROCESSES) --dist worksteal $(TESTS)

slow: $(VENV)/.lmx-test$(WITH) ## Run the slow tests
	$(BIN)/python -m pytest -q -m slow --durations 10 --numprocesses $(PROCESSES) --dist loadfile $(TESTS)

corners: $(OLDEST)/.lmx-test ## Run a part of the tests on the oldest versions we ask for, with the newest jax
	$(OLDEST)/bin/python -m pytest -q tests/test_training.py tests/test_checkpoint.py tests/nn/test_attention.py

lint: $(VENV)/.lmx-test$(WITH) ## Check format and style
	$(BIN)/ruff format --check
	$(BIN)/ruff check

check: lint ## What a change must pass: lint, types, fast tests, documentation
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(MAKE) test docs

docs: $(VENV)/.lmx-docs ## Build the documentation into site/
	$(BIN)/python -m sphinx --quiet --fail-on-warning -d site/.doctrees docs site
	@echo "Read site/index.html"

clean: ## Remove the environment and what was built; runs stay
	rm -rf $(VENV) $(OLDEST) site docs/api dist .pytest_cache .ruff_cache

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Each stamp in the environment says that lmx is installed there, with those extras, at the versions we test:
# Python 3.11 ends at jax 0.10, later ones take the newest.
REQUIREMENTS := pyproject.toml constraints/jax-0.10.txt constraints/jax-newest.txt
JAX := import sys; print("jax-0.10" if sys.version_info < (3, 12) else "jax-newest")
define install
	@echo "Installing lmx into $(VENV), a few minutes at most the first time ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(1)' \
		--constraint constraints/$$($(BIN)/python -c '$(JAX)').txt
	@touch $@
endef

$(VENV)/.lmx$(WITH): $(REQUIREMENTS) | $(BIN)/python
	$(call install,$(ACCELERATOR:%=[%]))

$(VENV)/.lmx-test$(WITH): $(REQUIREMENTS) | $(BIN)/python
	$(call install,[test$(ACCELERATOR:%=$(comma)%)])

$(VENV)/.lmx-docs: $(REQUIREMENTS) | $(BIN)/python
	$(call install,[docs])

# The floors of pyproject.toml as pins, but for jax and numpy, which come as new as this Python has them.
$(OLDEST)/.lmx-test: pyproject.toml
	@$(PYTHON) -m venv $(OLDEST) || { rm -rf $(OLDEST); exit 1; }
	@sed -nE 's/^    "([a-z-]+)>=([0-9.]+)(;.*)?",$$/\1==\2\3/p' pyproject.toml | grep -vE '^(jax|numpy)==' > $(OLDEST)/floors.txt
	@echo "Installing the oldest versions into $(OLDEST) ..."
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
		--constraint $(OLDEST)/floors.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
		"lmx needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1). Name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
