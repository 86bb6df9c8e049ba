.DEFAULT_GOAL := help
.PHONY: help demo test check lowest soak lint docs bench migrate rollback status psql shell wheel

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WITHOUT_DSN := env -u DATABASE_URL -u LTM_DATABASE_URL
# Each worker starts a server of its own, and a file of tests shares what it has set up; a server that
# is given has room for one run.
PYTEST := $(BIN)/pytest $(if $(LTM_TEST_DSN),,-n auto --maxprocesses 4 --dist loadfile)
LOWEST := $(VENV)/lowest
WITH_LOWEST := claude cli_verbs contract database langgraph memories migrate rows telemetry

help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/embedded ## An assistant's day with a year of memories, on a PostgreSQL of its own
	@$(WITHOUT_DSN) $(BIN)/ltm-store demo

test: $(VENV)/dev ## The tests on one PostgreSQL, but the slow ones
	$(WITHOUT_DSN) $(PYTEST) -m "not slow"

check: lint docs lowest ## What CI runs: lint, docs, lowest, all tests on PostgreSQL 15, 16 and 18 and in odd sessions
	$(WITHOUT_DSN) LTM_TEST_PG=18 $(PYTEST)
	$(WITHOUT_DSN) LTM_TEST_PG=18 LTM_TEST_ODD=1 $(PYTEST)
	$(WITHOUT_DSN) LTM_TEST_PG=16 $(PYTEST)
	$(WITHOUT_DSN) LTM_TEST_PG=15 $(PYTEST)

lowest: $(LOWEST)/bin/pytest ## Tests of what others' packages do, with the lowest versions that pyproject.toml allows
	$(WITHOUT_DSN) $(subst $(BIN),$(LOWEST)/bin,$(PYTEST)) $(WITH_LOWEST:%=tests/test_%.py)

lint: $(VENV)/dev ## Style, types, layers, SQL
	$(BIN)/ruff format --check ltm_store tests
	$(BIN)/ruff check ltm_store tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql migrations
	$(BIN)/squawk migrations/[0-9]*.sql

docs: $(VENV)/dev ## The pages of docs/ with a reference of every function, as HTML in site/
	$(BIN)/mkdocs build --strict --config-file docs/api/mkdocs.yml

soak: $(VENV)/dev ## Long runs: mutants, chaos, drawn histories, functions in pairs, a million memories adopted (an hour)
	$(WITHOUT_DSN) $(BIN)/python -m tests.soak.mutations
	$(WITHOUT_DSN) $(BIN)/python -m tests.soak.chaos
	$(WITHOUT_DSN) LTM_TEST_DRAWS=50 $(PYTEST) tests/test_cancellation.py
	$(WITHOUT_DSN) LTM_TEST_DRAWS=20 $(PYTEST) -m hypothesis
	$(WITHOUT_DSN) LTM_TEST_DRAWS=20 $(PYTEST) tests/test_adopt.py tests/test_mirrors.py tests/test_search.py \
		-k "shape or mirrors or best_of_many"
	$(WITHOUT_DSN) $(BIN)/python -m tests.soak.histories
	$(WITHOUT_DSN) $(BIN)/python -m tests.soak.pairs
	$(WITHOUT_DSN) $(BIN)/python -m tests.soak.adopt

migrate: $(VENV)/embedded ## Apply the schema to DATABASE_URL (or the PostgreSQL of the demo)
	@$(BIN)/python -m ltm_store.migrate

rollback: $(VENV)/embedded ## Roll back the last migration
	@$(BIN)/python -m ltm_store.migrate rollback

status: $(VENV)/embedded ## Tell which migrations are applied
	@$(BIN)/python -m ltm_store.migrate status

bench: $(VENV)/bench ## What calls cost beside raw asyncpg and beside other stores (minutes)
	$(WITHOUT_DSN) $(BIN)/python -m tests.bench
	$(WITHOUT_DSN) $(BIN)/python -m tests.bench.peers

psql: $(VENV)/embedded ## Open the database in psql, with a menu of what to try
	@$(BIN)/ltm-store psql

shell: $(VENV)/embedded ## A shell that finds ltm-store and python of this checkout
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec "$${SHELL:-sh}"

wheel: $(VENV)/dev ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/embedded: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,embedded]'
	@touch $@

$(VENV)/dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/embedded

$(LOWEST)/bin/pytest: $(VENV)/dev tests/lowest.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/python -m tests.lowest > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(LOWEST)/constraints.txt -e '.[anthropic,cli,embedded,langgraph,otel]' \
		hypothesis langgraph opentelemetry-sdk packaging pytest pytest-asyncio pytest-xdist
	@touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@
