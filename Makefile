# `make` lists what there is. Everything runs in $(VENV), made on first use and
# brought up to date whenever pyproject.toml changes.

VENV ?= .venv
# The first of these that runs, is new enough, and can make virtual environments.
# Each is tried rather than looked up: a name on PATH may be a shim that only fails.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

BIN := $(VENV)/bin
# Silent about what succeeds; what fails is still told.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# Arguments for pytest: make test ARGS="-k shutdown -x"
ARGS ?=
# Of the fault run: how long it goes on, and what its chances are drawn from.
MINUTES ?= 1
SEED ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test stress chaos lint format types docs coverage check bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: $(VENV)/ready-to-run ## see the main job at work: a saver against a locked database
	@$(BIN)/python docs/examples/main_job.py

test: $(VENV)/ready-to-test ## run the tests
	@$(BIN)/python -m pytest -q $(ARGS)

# The parts of the fault run come to 2.4 times what each of them is told.
stress: $(VENV)/ready-to-test ## run the fault run for MINUTES=1, with SEED=1
	@RETRYEXEC_STRESS=$$(($(MINUTES) * 25)) RETRYEXEC_SEED=$(SEED) \
		$(BIN)/python -m pytest -q -s tests/stress $(ARGS)

MINUTES ?= 10
chaos: $(VENV)/ready-to-test ## kill journals' processes and cut their power, for MINUTES=10
	@RETRYEXEC_CHAOS=$$(($(MINUTES) * 60)) RETRYEXEC_POWER=10000 \
		RETRYEXEC_SEED=$${RETRYEXEC_SEED:-$$(date +%j)} \
		$(BIN)/python -m pytest -q -s tests/journal/test_chaos.py tests/journal/test_power.py $(ARGS)

lint: $(VENV)/ready-to-develop ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/ready-to-develop ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: $(VENV)/ready-to-develop ## check the types, with mypy and pyright
	@$(BIN)/mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/ready-to-develop ## build the documentation into docs/_build
	@$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build
	@echo "built docs/_build/index.html"

coverage: $(VENV)/ready-to-test ## run the tests, and tell which lines and branches they leave out
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q --ignore=tests/cpython $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --fail-under=96

check: lint types docs coverage ## do lint, types, docs and coverage

bench: $(VENV)/ready-to-bench ## measure against the peers, in half an hour, for docs/benchmarks
	@$(BIN)/python benchmarks/report.py $(ARGS)

clean: ## remove what the other targets made
	rm -rf .venv .venv-* docs/_build .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing to be installed, so its presence means that all went well.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "retryexec needs Python 3.11 or newer with its venv module" \
		"(on Debian: apt install python3-venv); name one with make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c '$(SUITABLE)' || { echo "$(PYTHON) is not Python 3.11 or newer" \
		"with its venv module" >&2; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version) ..."
	@"$(PYTHON)" -m venv "$(VENV)"

# Four sets of packages, so that nobody waits for a linter to see an example run.
$(VENV)/ready-to-run: WHAT = .[cli]
$(VENV)/ready-to-test: WHAT = .[test]
$(VENV)/ready-to-develop: WHAT = .[dev]
$(VENV)/ready-to-bench: WHAT = .[bench]
$(addprefix $(VENV)/ready-to-,run test develop bench): pyproject.toml | $(BIN)/pip
	@echo "Installing $(WHAT) into $(VENV) ..."
	@$(PIP) install --editable "$(WHAT)"
	@touch $@
