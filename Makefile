# `make` lists what there is. Everything runs in $(VENV), made on first use and
# brought up to date whenever pyproject.toml changes.

VENV ?= .venv
# The first of these that runs, is new enough, and can make virtual environments.
# Each is tried rather than looked up: a name on PATH may be a shim that only fails.
PYTHON ?= $(shell for python in python3.15 python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

BIN := $(VENV)/bin
# Silent about what succeeds; what fails is still told.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# Arguments for pytest: make test ARGS="-k shutdown -x"
ARGS ?=
# Processes that the tests are spread over; 0 runs them in pytest's own, as --pdb needs it.
PROCESSES ?= 2
# Set to anything, make bench only shows that all benchmarks run, and writes nothing.
QUICK ?=
# How long make stress and make chaos go on; each has its own default.
MINUTES ?=
# What the chances of make stress (1) and make chaos (the day of the year) are drawn from.
SEED ?=
PYTEST = -m pytest -q -n $(PROCESSES) --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-all stress chaos chaos-postgres lint format types docs dist coverage check bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

run: $(VENV)/ready-to-run ## see the main job at work: a saver against a locked database
	@$(BIN)/python docs/examples/main_job.py

test: $(VENV)/ready-to-test ## run the tests but the slow ones, in four minutes
	@echo "Running the tests: about four minutes on two quiet cores."
	@$(BIN)/python $(PYTEST) $(ARGS)

test-all: $(VENV)/ready-to-test ## run all tests, in eight minutes
	@echo "Running all tests: about eight minutes on two quiet cores."
	@$(BIN)/python $(PYTEST) --slow $(ARGS)

# The parts of the stress run come to 1.7 times what each of them is told.
stress: $(VENV)/ready-to-test ## random faults, forks, exits and interrupts, for MINUTES=1
	@echo "Running the stress tests for $(or $(MINUTES),1) min."
	@RETRYEXEC_STRESS=$$(($(or $(MINUTES),1) * 35)) RETRYEXEC_SEED=$(or $(SEED),1) \
		$(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 tests/stress $(ARGS)

chaos: $(VENV)/ready-to-test ## kill journals' processes for MINUTES=10, and cut their power
	@echo "Killing processes for $(or $(MINUTES),10) min, then cutting the power: a minute more."
	@RETRYEXEC_CHAOS=$$(($(or $(MINUTES),10) * 60)) \
		RETRYEXEC_POWER=$$(($(or $(MINUTES),10) * 1000)) \
		RETRYEXEC_SEED=$(or $(SEED),$(shell date +%j)) $(BIN)/python -m pytest -q -s --slow \
		-o faulthandler_timeout=0 tests/journal/test_chaos.py tests/journal/test_power.py \
		tests/journal/test_damage.py tests/journal/test_chaos_keys.py $(ARGS)

chaos-postgres: $(VENV)/ready-to-test ## kill and stop processes, and a PostgreSQL server, for MINUTES=1
	@RETRYEXEC_CHAOS=$$(($(or $(MINUTES),1) * 60)) RETRYEXEC_SEED=$(or $(SEED),$(shell date +%j)) \
		$(BIN)/python -m pytest -q -s --slow -o faulthandler_timeout=0 \
		tests/journal/test_postgres_chaos.py tests/journal/test_postgres_processes.py $(ARGS)

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

dist: $(VENV)/ready-to-develop ## build sdist and wheel into dist/, and check them
	@$(BIN)/python .ci/dist

coverage: $(VENV)/ready-to-test ## run all tests, and tell which lines and branches they leave out
	@echo "Running all tests, and counting lines: about nine minutes on two quiet cores."
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST) --slow $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --fail-under=97

check: lint types docs coverage ## do lint, types, docs and coverage

bench: $(VENV)/ready-to-bench ## measure against the peers, in 20 minutes, or, with QUICK=1, in one
	@$(BIN)/python benchmarks/report.py $(if $(QUICK),--quick) $(ARGS)

clean: ## remove what the other targets made
	rm -rf .venv .venv-* dist docs/_build .coverage .coverage.* \
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
