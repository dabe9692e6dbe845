# Every target sets up what it needs first. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv/up-to-date
PEERS := .venv/peers-up-to-date
PYTHON_IN_VENV := .venv/bin/python

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): requirements/dev.txt pyproject.toml
	@stack/set_up.sh

.PHONY: set-up
set-up: $(VENV) ## Create or update .venv

.PHONY: up down status demo
up: $(VENV) ## Start the whole stack, print where each part is, and return (MODE=docker or native forces one)
	@$(PYTHON_IN_VENV) -m stack up
down: $(VENV) ## Stop the whole stack
	@$(PYTHON_IN_VENV) -m stack down
status: $(VENV) ## Show where each part is and how it is
	@$(PYTHON_IN_VENV) -m stack status
demo: $(VENV) ## Start the stack and play an evening on it, so that every panel moves
	@$(PYTHON_IN_VENV) -m stack demo

.PHONY: test lint
test: lint tools ## Run every check and every test
	@$(PYTHON_IN_VENV) -m pytest
lint: $(VENV) ## Lint, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

.PHONY: tools
tools: $(VENV) ## Fetch the programs the stack and its tests run (Prometheus, Alertmanager, redis_exporter)
	@$(PYTHON_IN_VENV) -m stack tools

$(PEERS): requirements/bench.txt $(VENV)
	@echo "set-up: installing requirements/bench.txt into .venv"
	@$(PYTHON_IN_VENV) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

.PHONY: load bench
load: $(VENV) ## The release gate: 10,000 requests a second for 60 s (exit 0 passed, 1 missed, 2 usage, 3 invalid)
	@$(PYTHON_IN_VENV) -m loadtest
bench: $(PEERS) ## The benchmarks, side by side with the peers
	@$(PYTHON_IN_VENV) -m benchmarks $(BENCH)

.PHONY: dashboards alerts
dashboards: $(VENV) ## Generate, check and test the dashboards
	@$(PYTHON_IN_VENV) -m dashboards
	@$(PYTHON_IN_VENV) -m pytest tests/dashboards
alerts: tools ## Generate, check and test the rules
	@$(PYTHON_IN_VENV) -m alerts
	@$(PYTHON_IN_VENV) -m stack render
	@$(PYTHON_IN_VENV) -m pytest tests/alerts

PIP_COMPILE = .venv/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --unsafe-package smartcache

.PHONY: requirements
requirements: $(VENV) ## Resolve the pinned requirements anew
	@$(PIP_COMPILE) --extra dev --output-file requirements/dev.txt pyproject.toml
	@$(PIP_COMPILE) --extra image --output-file requirements/image.txt pyproject.toml
	@$(PIP_COMPILE) --output-file requirements/bench.txt requirements/bench.in
	@$(PIP_COMPILE) --output-file requirements/bench.txt requirements/bench.in
	@sed -i '/^# WARNING: The following packages were not pinned/,$$d' requirements/*.txt  # smartcache itself
