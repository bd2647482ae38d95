# Short loops for development. CI runs .ci/run, which does everything.
BIN ?= .venv/bin

.PHONY: check test docs
check:  ## format, lint, types, import contracts, tables
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deconv-jax tables --check texts

test:  ## quick tests
	$(BIN)/pytest -q -n 2 -m "not slow"

docs:  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
