# Everything by one word. `make run` is the whole set-up of a fresh machine.
PYTHON ?= python3
BENCH_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, ensurepip; assert sys.version_info >= (3, 11); print(sys.executable)' 2>/dev/null || echo $(PYTHON))
VENV := .venv
BIN := $(VENV)/bin
NODE := tests/node/node_modules/.installed
PIP := python -m pip --quiet --disable-pip-version-check
LOCKED := install --require-hashes -r
OURSELVES := install --no-deps --no-build-isolation --editable .

.PHONY: run install test system check matrix bench soak table lock image chart cluster

run: install                        ## serve; on the sandbox when no credentials are found
	@exec $(BIN)/arriero serve

install: $(VENV)/.installed         ## only make .venv

test: system .venv-dev/.installed .venv-litellm/.installed .venv-oci/.installed $(NODE)   ## all tests
	.venv-dev/bin/python -m pytest -n 2

system:
	@tests/system.sh

check: .venv-dev/.installed         ## format, lint, types, generated pages
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy
	.venv-dev/bin/python -m tests.conformance.pages

matrix: .venv-dev/.installed        ## every conversation at every cloud; write the matrix and the pages made from it
	.venv-dev/bin/python -m tests.conformance

image:                              ## the container image; EXTRAS=litellm for the fuller one
	@.ci/image.sh

chart: .venv-dev/.installed         ## write what is made of other files: values.schema.json, the chart's README
	@.venv-dev/bin/python -m helm.values_schema
	@.venv-dev/bin/python -m helm.dashboards
	@.venv-dev/bin/python -m tests.kube.tools

cluster: .venv-dev/.installed       ## a real one-node Kubernetes: the chart installed, upgraded, drained, killed under load
	@tests/kube/cluster/run.sh

soak: .venv-dev/.installed          ## the long runs; CI takes a tenth of one: SOAK=tests/soak/test_kills.py CALLS=50000, with two databases
	ARRIERO_SOAK_CALLS=$(CALLS) .venv-dev/bin/python -m pytest -m soak --timeout 7200 -s $(SOAK)
CALLS ?= 1000000
SOAK ?= tests

bench: .venv-bench/.installed       ## speed, as ratios to real peers in one run
	.venv-bench/bin/python -m bench

table: .venv-dev/.installed         ## write docs/parameters.md anew, from the adapters
	.venv-dev/bin/python -m tests.contract.table

lock:                               ## write the lock files anew
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile $(COMPILE) --group install --extra aws --extra oci --extra postgres pyproject.toml -o requirements.lock
	.venv-lock/bin/uv pip compile $(COMPILE) --group dev pyproject.toml -o requirements-dev.lock
	.venv-lock/bin/uv pip compile $(COMPILE) --group install --extra litellm pyproject.toml -o requirements-litellm.lock
	.venv-lock/bin/uv pip compile $(COMPILE) --group install --extra all pyproject.toml -o requirements-image.lock
	.venv-lock/bin/uv pip compile $(COMPILE) --group pyproject.toml:oci-judge -o requirements-oci.lock
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --upgrade

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Arriero needs Python 3.11 or newer")'
	@echo "Setting up $(VENV) (once)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/$(PIP) $(LOCKED) requirements.lock
	@$(BIN)/$(PIP) $(OURSELVES)
	@touch $@

.venv-dev/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -m venv .venv-dev
	@.venv-dev/bin/$(PIP) $(LOCKED) requirements-dev.lock
	@.venv-dev/bin/$(PIP) $(OURSELVES)
	@touch $@

.venv-bench/.installed: requirements.lock pyproject.toml   # by the distribution's Python where it is new enough
	@$(BENCH_PYTHON) -m venv .venv-bench
	@.venv-bench/bin/$(PIP) $(LOCKED) requirements.lock
	@.venv-bench/bin/$(PIP) $(OURSELVES)
	@touch $@

.venv-litellm/.installed: requirements-litellm.lock pyproject.toml
	@$(PYTHON) -m venv .venv-litellm
	@.venv-litellm/bin/$(PIP) $(LOCKED) requirements-litellm.lock
	@.venv-litellm/bin/$(PIP) $(OURSELVES)
	@touch $@

.venv-oci/.installed: requirements-oci.lock   # Oracle's SDK, which judges ours: 38 MB to fetch, 300 MB on disk
	@$(PYTHON) -m venv .venv-oci
	@.venv-oci/bin/$(PIP) $(LOCKED) requirements-oci.lock --no-compile
	@touch $@

$(NODE): tests/node/package-lock.json   # without npm the Node SDK's tests skip at a desk and fail on CI
	@cd tests/node && npm ci --silent && touch node_modules/.installed || echo "No npm: the Node SDK is not tested" >&2
