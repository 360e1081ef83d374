# make run        the booking example, on http://127.0.0.1:8765 (another port: make run PORT=9000)
# make test       every test            (some of them: make test ARGS="-k booking")
# make check      lint, types, import rules, generated files
# make bench      one table with ratios (short: make bench SHORT=1; one program: make bench ARGS="--only echo")
# make install    all of the above's needs, into .venv
# make lock       the hashed locks, anew from pyproject.toml

PORT ?= 8765
ARGS ?=
SHORT ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROJECTS := pyproject.toml clients/python/pyproject.toml
EDITABLE := $(PIP) install --no-index --no-deps --no-build-isolation --editable clients/python --editable .
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	--python-version 3.11 --no-emit-package parley-client --upgrade pyproject.toml

.PHONY: install run test check format bench lock clean
.DEFAULT_GOAL := install

install: $(VENV)/.dev

run: $(VENV)/.runtime
	@exec $(BIN)/parley dev examples/booking --port $(PORT)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protocol.schema --check
	$(BIN)/python clients/python/generate.py --check
	$(BIN)/python -m docs.generate --check

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(if $(SHORT),--short) $(ARGS)

lock: $(VENV)/.dev
	$(COMPILE) --group install --output-file requirements.lock
	$(COMPILE) --group test --group lint --group bench --group build \
		--constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# The stamps make a second run instant; a changed lock or pyproject.toml makes them stale.
$(VENV)/bin/python:
	@./.ci/venv $(VENV)

$(VENV)/.runtime: requirements.lock $(PROJECTS) | $(VENV)/bin/python
	@echo "Installing what Parley needs into $(VENV) (once; under a minute) ..."
	@$(PIP) install --require-hashes --only-binary :all: --requirement requirements.lock
	@$(EDITABLE)
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(PROJECTS) | $(VENV)/bin/python
	@echo "Installing what Parley and its tests need into $(VENV) (once; about a minute) ..."
	@$(PIP) install --require-hashes --only-binary :all: --requirement requirements-dev.lock
	@$(EDITABLE)
	@touch $@ $(VENV)/.runtime
