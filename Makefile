.DEFAULT_GOAL := help
PYTHON ?= python3
UV_VERSION := 0.13.8
ENV := .venv/.complete
BIN := .venv/bin

.PHONY: help install demo test test-quick lint format lock gpu bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ENV): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Skygloss needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(ENV)

install: $(ENV) ## Make the environment in .venv

demo: $(ENV) ## Ingest a real field, annotate it and serve the pages
	$(BIN)/skygloss demo

test: lint ## Run every check and every test
	$(BIN)/pytest

test-quick: $(ENV) ## Run the tests that neither train a network nor drive a browser
	$(BIN)/pytest -m "not slow and not browser"

lint: $(ENV) ## Format, lint, type and import checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ENV) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(ENV) ## Pin the dependencies again, naming no host
	$(BIN)/uv lock --quiet --upgrade --python $(BIN)/python
	$(BIN)/uv export --quiet --no-header --no-annotate --all-groups --extra simulate --no-emit-project -o requirements.txt

gpu: $(ENV) ## Add what TensorFlow needs on an NVIDIA GPU
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[gpu]"

bench: $(ENV) ## Print the benchmark tables
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## Remove the environment and the caches (not your data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
