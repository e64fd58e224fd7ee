# The commands of the project. Each brings what it needs: there is nothing to run first.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BENCHES := $(sort $(wildcard bench/bench_*.py))

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench docs clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
	    printf '  make %-7s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## build .venv, with the command hwpoison in it

run: $(STAMP) ## forecast what a memory error would do to this host
	@$(VENV)/bin/hwpoison forecast $(ARGS)

test: $(STAMP) ## run the tests; ARGS='tests/tidy -x' goes to pytest
	@$(VENV)/bin/python -m pytest $(ARGS)

lint: $(STAMP) ## style, format, types, spelling
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy --strict src $(BENCHES)
	@$(VENV)/bin/codespell

bench: $(STAMP) ## run every bench/bench_*.py
	@test -n "$(BENCHES)" || { echo "make bench: there is no bench/bench_*.py to run" >&2; exit 1; }
	@for bench in $(BENCHES); do echo "== $$bench"; $(VENV)/bin/python $$bench || exit 1; done

docs: $(STAMP) ## write the generated documents
	@$(VENV)/bin/python -m hwpoison.docs
	@$(VENV)/bin/python -m tests.review.page
	@$(VENV)/bin/python -m tests.history.page
	@$(VENV)/bin/python -m tests.kernels.page

clean: ## remove .venv and everything else that can be made again
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# hatchling is installed first and pip told to build with it, so constraints.txt pins the build as well.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>/dev/null); echo "make setup: hwpoison needs Python 3.11 or newer," \
	    "and $(PYTHON) is $${found:-not there}; name another with: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make setup:" \
	    "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "make setup: building $(VENV) (once; under a minute)"
	@$(PYTHON) -m venv $(VENV)
	@{ $(VENV)/bin/python -m pip install --no-input -c constraints.txt hatchling && \
	   $(VENV)/bin/python -m pip install --no-input -c constraints.txt --no-build-isolation -e '.[dev]'; } \
	   >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@
