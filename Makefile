# make run        the booking example, on http://127.0.0.1:8765 (another port: make run PORT=9000)
# make test       every test            (some of them: make test ARGS="-k booking")
# make check      lint, types, import rules, generated files
# make faults     three instances under every fault, 20 seeds each: hours (fewer: make faults SEEDS=2 ARGS="-k kill")
# make bench      one table with ratios (short: make bench SHORT=1; one program: make bench ARGS="--only echo")
# make install    all of the above's needs, into .venv
# make js         the JavaScript clients, built and checked (needs Node >= 20, which nothing else here does)
# make widget     the chat widget, built into server/widget, which is committed (needs Node, too)
# make lock       the hashed locks, anew from pyproject.toml

PORT ?= 8765
ARGS ?=
SHORT ?=
SEEDS ?= 20
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROJECTS := pyproject.toml clients/python/pyproject.toml
EDITABLE := $(PIP) install --no-index --no-deps --no-build-isolation --editable clients/python --editable .
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	--python-version 3.11 --no-emit-package parley-client --upgrade pyproject.toml

NODE := $(shell node -e 'process.stdout.write(+process.versions.node.split(".")[0] >= 20 ? "node" : "")' 2>/dev/null)
NPM := npm --prefix clients --no-update-notifier
NO_NODE := No Node 20 or newer here, so this leaves out the JavaScript
JS_BUILT := $(if $(NODE),clients/javascript/dist/.built)
JS_SOURCES := $(shell find clients/javascript/src -name '*.ts') clients/javascript/tsdown.config.ts clients/javascript/scripts/cdn.mjs

.PHONY: js widget install run test faults check format bench lock clean
.DEFAULT_GOAL := install

install: $(VENV)/.dev

run: $(VENV)/.runtime
	@exec $(BIN)/parley dev examples/booking --port $(PORT)

test: $(VENV)/.dev $(JS_BUILT)
	@$(if $(ARGS),:,$(if $(NODE),$(NPM) test --silent,echo "$(NO_NODE) tests"))
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

check: $(VENV)/.dev $(JS_BUILT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protocol.schema --check
	$(BIN)/python clients/python/generate.py --check
	$(BIN)/python -m docs.generate --check
	$(if $(NODE),$(NPM) run --silent check,@echo "$(NO_NODE) checks")

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(VENV)/.dev
	@PARLEY_TEST_SEEDS=$(SEEDS) $(BIN)/python -m pytest -n 2 --dist worksteal tests/faults/test_cluster_*.py $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(if $(SHORT),--short) $(ARGS)

lock: $(VENV)/.dev
	$(COMPILE) --group install --output-file requirements.lock
	$(COMPILE) --group test --group lint --group bench --group build \
		--constraint requirements.lock --output-file requirements-dev.lock

widget: clients/node_modules/.installed
	$(NODE) clients/widget/build.mjs

js: clients/javascript/dist/.built
	@$(NPM) run --silent check
	@$(NPM) run --silent package

clean:
	rm -rf clients/node_modules clients/*/dist
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

# JavaScript is apart: nothing of a server needs it, and what a clone runs without Node is complete.
clients/node_modules/.installed: clients/package-lock.json clients/package.json $(wildcard clients/*/package.json)
	@echo "Installing what the JavaScript clients and their tests need into clients/node_modules (once) ..."
	@cd clients && npm ci --no-update-notifier --loglevel error
	@touch $@

clients/javascript/dist/.built: clients/node_modules/.installed $(JS_SOURCES)
	@$(NPM) run --silent build --workspace parley-client
	@touch $@
