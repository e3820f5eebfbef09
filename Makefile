# Everything starts from Python >= 3.11 and make: each target makes .venv and installs what it needs.
#   make demo    stage a performance, capture it, look at the report       make test    the tests
#   make check   ruff, pyright, import contracts, documentation            make clean   forget .venv

SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/bin

# --no-compile: byte-code for all of torch costs more than the few modules used ever will
PIP := $(BIN)/python -m pip install -qq --no-compile --no-input -c constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PYTHONUNBUFFERED := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo page node-tools test test-slow check lint format types imports docs install install-dev clean

PAGE := src/topohead/viewer/page

demo: install page
	$(BIN)/topohead demo --out demo

# one thread each: two test processes on two cores; loadfile: fixtures of a file are built once
test: install-dev page node-tools
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" \
		-n logical --maxprocesses 4 --dist loadfile

page: src/topohead/viewer/dist/index.html

# without Node, or without a network the first time, `topohead view` shows meshes alone and says so
src/topohead/viewer/dist/index.html: $(wildcard $(PAGE)/src/* $(PAGE)/*.json $(PAGE)/build.mjs)
	@if node -e 'process.exit(+(parseInt(process.versions.node) < 20))' 2>/dev/null && \
		(cd $(PAGE) && npm ci --silent && npm run --silent build); then touch $@; \
	else echo "make: the page of topohead view was not built (it needs Node >= 20 and npm)" >&2; fi

# the Khronos validator; tests that want it skip without
node-tools: tests/node/node_modules/.installed

tests/node/node_modules/.installed: tests/node/package.json
	@if npm ci --silent --prefix tests/node 2>/dev/null; then touch $@; \
	else echo "make: no glTF validator (it needs npm); its tests are skipped" >&2; fi

test-slow: install-dev
	$(BIN)/python -m pytest -m slow

check: lint types imports docs

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install-dev
	$(BIN)/pyright

imports: install-dev
	$(BIN)/lint-imports

docs: install-dev
	$(BIN)/mkdocs build --strict --quiet

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing topohead into $(VENV) (a few minutes the first time)"
	@# torch by itself first, so that its build for this machine is settled before others ask for it
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) -e '.[dev]'
	@touch $@

# the first Python that is new enough and can make environments; PYTHON=... names another
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.11 python3.12 python3.13; do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null; then exec $$python -m venv $(VENV); fi; \
	done; \
	echo "make: no Python >= 3.11 with the venv module found; name one: make PYTHON=/path/to/python" >&2; \
	exit 2

clean:
	rm -rf $(VENV) site demo
