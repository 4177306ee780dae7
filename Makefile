# Everything runs from .venv, which the first target that needs it makes: Python 3.11 or later and make are enough.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo up test lint fmt docs sbom install clean bench

help:
	@echo "make demo     show the fleet at work, in under a minute"
	@echo "make up       run the whole stack on this machine"
	@echo "make test     run every test"
	@echo "make lint     ruff, pyright, import rules"
	@echo "make fmt      format the code"
	@echo "make docs     write the generated documents anew"
	@echo "make sbom     write build/sbom.json: what the image is made of"
	@echo "make bench    measure"
	@echo "make install  make $(VENV) with everything pinned"
	@echo "make clean    remove what was made"

demo: $(INSTALLED)
	@$(BIN)/fleet demo

up: $(INSTALLED)
	@$(BIN)/fleet up

test: $(INSTALLED)
	@$(BIN)/pytest --numprocesses logical --dist loadscope

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@$(BIN)/lint-imports --no-logo

fmt: $(INSTALLED)
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

docs: $(INSTALLED)
	@$(BIN)/python -m contracts.asyncapi > docs/asyncapi.json
	@$(BIN)/python -m contracts.schemas
	@$(BIN)/python -m admin_api.openapi > docs/openapi.json
	@$(BIN)/python -m tests.permissions.document

sbom: $(INSTALLED)
	@mkdir -p build
	@$(BIN)/python requirements/sbom.py > build/sbom.json

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks

install: $(INSTALLED)

# The first Python that is new enough and can make a virtual environment. What comes as source is built with the pinned
# setuptools, where pip would fetch any. The lock holds the whole tree, so pip looks for nothing beside it (--no-deps):
# for a requirement with an extra it would take the newest version, which may have been published after the lock was made.
$(INSTALLED): requirements/dev.txt pyproject.toml
	@set -eu; \
	for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "make: Python 3.11 or later with venv is needed; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	echo "Installing into $(VENV) with $$($$found --version), once …"; \
	$$found -m venv $(VENV); \
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements/dev.txt > $(VENV)/setuptools.txt; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/setuptools.txt; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --no-build-isolation -r requirements/dev.txt; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	$(BIN)/python -m pip check --disable-pip-version-check; \
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
