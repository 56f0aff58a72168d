# Everything a newcomer needs: `make run`, `make test`. The rest is for those who change the code.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Remade only when what is installed changes, so a second call does no set-up work.
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all bench faults lint format types docs clean

help:          ## list the commands
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(STAMP) ## create .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "trainkit needs Python 3.11 or newer; say which with 'make PYTHON=python3.11 ...'"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(STAMP)  ## grow a transformer while it trains, beside every size alone
	@$(BIN)/trainkit train progressive_lm $(ARGS)

test: $(STAMP) ## run the tests (ARGS='-k step' to choose, see also test-all)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-all: $(STAMP) ## run the tests with the whole slow matrices
	@$(BIN)/python -m pytest -n 2 --dist worksteal --slow=all $(ARGS)

bench: $(STAMP) ## measure speed beside other libraries, write docs/performance.md (22 minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(STAMP) ## plant small faults in growth, see which the tests miss (hours; goes on where it ended)
	@$(BIN)/python -m tools.faults $(ARGS)

lint: $(STAMP) ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP) ## put style right
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(STAMP) ## check types
	@$(BIN)/mypy

docs: $(STAMP) ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict && echo "Open site/index.html"

clean:         ## remove the environment and every cache
	@rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
