PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: run setup setup-dev test check lock wheel statements sbom audit clean

run: setup
	@exec $(BIN)/iotplatform serve

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "iotplatform needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# hatchling comes from the lock as well, so the project itself is built without fetching anything unlocked. nkeys is only
# published as source: its hash is checked, but what it is built with (setuptools) is fetched unlocked.
$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies into $(VENV)"
	@$(PIP) install --require-hashes --only-binary :all: --no-binary nkeys -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(VENV)/.installed
	@echo "installing the locked development tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

# Most tests wait, for a server that comes back or a time-out, so more of them than there are cores get along.
test: setup-dev
	@$(BIN)/python -m pytest -n 3 --dist worksteal

check: setup-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock:
	@uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml requirements-build.in -o requirements.txt
	@uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group dev pyproject.toml requirements-build.in -o requirements-dev.txt

wheel: setup-dev
	@$(BIN)/python -m hatchling build -t wheel

# What this release asks of PostgreSQL: kept with it, and tried on the schemas of later ones (tests/migration).
statements: setup-dev
	@rm -rf $(VENV)/statements
	@RECORD_STATEMENTS=$(abspath $(VENV))/statements $(BIN)/python -m pytest -n 3 --dist worksteal tests/contract tests/unit/adapters tests/acceptance --ignore tests/acceptance/faults --ignore tests/acceptance/deployment
	@$(BIN)/python -m tests.support.statements $(VENV)/statements tests/migration/statements/$$($(BIN)/iotplatform --version).jsonl

# What an installation consists of, from the lock, with the hashes: CycloneDX, the same for the same lock.
SBOM ?= dist/sbom.json
sbom: setup-dev
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/cyclonedx-py requirements --output-reproducible --of JSON --pyproject pyproject.toml --output-file $(SBOM) requirements.txt

# Known weaknesses of what is locked, where their data can be had.
audit: setup-dev
	@$(BIN)/python .ci/audit.py

clean:
	@rm -rf $(VENV) dist build
