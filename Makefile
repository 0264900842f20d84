# The commands of this project. `make` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Where tests that need PostgreSQL find one; they make and remove a database of their own.
POSTGRES_URL ?= postgres://postgres@127.0.0.1:5432/postgres

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CODE := stepsite steps executions manage.py
TEMPLATES = $(shell find templates -name '*.html')

.DEFAULT_GOAL := help
.PHONY: help run install test test-postgres check lint bench chaos fmt screenshots constraints clean
.PHONY: dev chromium

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 ; \2/p' Makefile | \
	while IFS=';' read -r command text; do printf '%-22s%s\n' "$$command" "$$text"; done

run: install ## set up what is missing and run the site; ARGS="--port 9000" and so on
	@exec $(BIN)/python manage.py up --with-parent $(ARGS)

install: $(VENV)/.installed ## build the environment in .venv

test: dev chromium ## get what the tests need and run them all; ARGS="-k name" and so on
	$(BIN)/python -m pytest $(ARGS)
	@if [ -n "$$CI" ] || $(BIN)/python -c "import psycopg; psycopg.connect('$(POSTGRES_URL)', connect_timeout=3)" 2>/dev/null; \
	then $(MAKE) --no-print-directory test-postgres; \
	else echo "Not tested with PostgreSQL: none answers at $(POSTGRES_URL)."; fi

test-postgres: dev ## run the tests of the database against PostgreSQL, at POSTGRES_URL
	DATABASE_URL=$(POSTGRES_URL) $(BIN)/python -m pytest tests/integration $(ARGS)

check: lint test ## everything that has to be right before a change goes in

lint: dev ## format, lint, types, import contracts, templates, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	$(BIN)/djade --target-version 5.2 --check $(TEMPLATES)
	$(BIN)/python manage.py makemigrations --check --dry-run

bench: dev chromium ## measure engine and waiting times beside the limits of this machine
	$(BIN)/python -m tests.benchmarks $(ARGS)

chaos: dev chromium ## hurt real sites in every known way and count; only kills with ARGS="--seed 7"
	@$(BIN)/python -m tests.chaos $(ARGS)
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -m chaos -s tests/faults tests/torture tests/integration/test_worker.py
	HYPOTHESIS_PROFILE=chaos $(BIN)/python -m pytest tests/unit/test_protocol_explorer.py \
		tests/integration/test_lifecycle_machine.py
endif

fmt: dev ## format code and templates
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	-$(BIN)/djade --target-version 5.2 $(TEMPLATES)

screenshots: dev chromium ## take the pictures of the documentation anew
	$(BIN)/python -m tests.screenshots $(ARGS)

constraints: ## write constraints.txt anew, from the newest versions that pyproject.toml allows
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip --disable-pip-version-check --quiet install -e '.[dev,grown]'
	(sed -n '/^#/p' constraints.txt; \
	.venv-constraints/bin/python -m pip freeze --exclude-editable) > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-constraints

clean: ## remove what was built, but no data
	rm -rf .venv .venv-next .venv-constraints *.egg-info build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(CODE) tests -name __pycache__ -type d -prune -exec rm -rf {} +

dev: $(VENV)/.installed-dev

# A stamp, so that pip runs again only when what it would read has changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "stepsite needs Python 3.11 or newer, and $(PYTHON) is none."; \
		echo "Name another one: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments. On Debian, run as root:"; \
		echo "apt-get update && apt-get install -y python3-venv"; exit 1; } >&2
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --editable '.[dev,grown]'
	@touch $@

chromium:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; \
	else \
		echo "The tests of the pages need Chromium. Run this as root, then make again:"; \
		echo "apt-get update && apt-get install -y chromium"; exit 1; \
	fi >&2
