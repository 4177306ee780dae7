# Everything runs from .venv, which the first target that needs it makes: Python 3.11 to 3.14 and make are enough.

VENV := .venv
BIN := $(VENV)/bin

# Some containers set it. Without bytecode each of the many processes that tests start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo up test lint fmt docs sbom install clean bench local dev

help:
	@echo "make demo     show the fleet at work, in under a minute"
	@echo "make up       run the whole stack on this machine"
	@echo "make test     run every test"
	@echo "make lint     ruff, pyright, import rules"
	@echo "make fmt      format the code"
	@echo "make docs     write the generated documents anew"
	@echo "make sbom     write build/sbom.json: what the image is made of"
	@echo "make bench    the fleet under load on one core: the table of docs/performance.md"
	@echo "make install  make $(VENV) with everything pinned"
	@echo "make clean    remove what was made"

demo: local
	@$(BIN)/fleet demo

up: local
	@$(BIN)/fleet up

# Two processes for each processor: with one more than processors, half of the processors' time was idle, because tests
# wait for leases and streams.
test: dev
	@$(BIN)/pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) * 2)) --dist loadscope --no-loadscope-reorder

lint: dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@$(BIN)/lint-imports --no-logo

fmt: dev
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

docs: dev
	@$(BIN)/python -m contracts.asyncapi > docs/asyncapi.json
	@$(BIN)/python -m contracts.schemas
	@$(BIN)/python -m admin_api.openapi > docs/openapi.json
	@$(BIN)/python -m tests.permissions.document
	@$(BIN)/python -m tests.architecture

sbom: dev
	@mkdir -p build
	@$(BIN)/python requirements/sbom.py > build/sbom.json

# LOAD has its options, as in make bench LOAD="--rounds 3 --peers DIR".
bench: dev
	@$(BIN)/python -m benchmarks.load $(LOAD)

install: dev

# What runs here, and on top of it what tests and linting need. Does nothing when it is there. PYTHON names the one to take.
local dev:
	@python=$$(sh requirements/python.sh $(PYTHON)) && "$$python" requirements/install.py --venv $(VENV) $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
