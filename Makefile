# Two commands do everything on a fresh Debian 12, as root: `make demo` and `make test`.
# Every target calls `setup`, which does nothing when nothing is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
STAMP := $(VENV)/.installed-$(shell sha256sum $(LOCK) pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)
C_SOURCES := $(wildcard l4/bpf/*.c l4/bpf/*.h l4/native/*.c l7/native/*.c tests/bench/bpf/*.c)
EXTENSION := l4/table_build$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')

# What the product runs on, what the tests and benches need, what the lint needs.
PACKAGES := python3-venv python3-dev gcc python3-bpfcc linux-headers-amd64 bird2 iproute2 ethtool procps \
            openssl curl jq tcpdump tshark nginx-light haproxy wrk nghttp2-client clang clang-format bpftool

.PHONY: help setup check-system packages compiled lint format test-fast fuzz test demo soak bench-l4 bench-l7 clean lock

help: ## what this file can do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: check-system packages $(STAMP) $(EXTENSION) compiled ## install what is missing: Debian packages, venv, locked requirements

check-system:
	@. /etc/os-release 2>/dev/null; [ "$${ID:-}" = debian ] && [ "$${VERSION_ID:-0}" -ge 12 ] || \
	  { echo "setup: this is not Debian 12 or newer, which the packages are named for (seen: $${PRETTY_NAME:-unknown})" >&2; exit 1; }

# Services that Debian would start on installation stay down: the lab starts its own, in namespaces.
packages:
	@missing=""; for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' "$$p" 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] && exit 0; \
	[ "$$(id -u)" = 0 ] || { echo "setup: as root, run: apt-get install$$missing" >&2; exit 1; }; \
	echo "setup: installing$$missing"; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 0755 $$policy; trap "rm -f $$policy" EXIT; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null

$(STAMP): $(LOCK) pyproject.toml
	@echo "setup: virtual environment with the locked requirements"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*; touch $@

# Installing builds it too; this is for when its source has changed since.
$(EXTENSION): l4/native/table_build.c setup.py $(STAMP)
	@echo "setup: the compiled table build"
	@$(BIN)/python setup.py --quiet build_ext --inplace --force

# Digests say whether that is needed. Without it the proxy runs all the same, slower; tests and benches do without never.
compiled: $(STAMP)
	@$(BIN)/python compile_modules.py --if-needed || \
	  echo "setup: the proxy's hot modules could not be compiled: it runs as plain Python, slower" >&2

lint: setup ## ruff, mypy strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run --Werror $(C_SOURCES)

format: setup ## rewrite the sources as the lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i $(C_SOURCES)

# What is compiled is what is tested (l7/compiled.py). COMPILED=no: plain Python.
COMPILED ?= yes
test-fast test fuzz bench-l7: export EDGEFLEET_COMPILED := $(COMPILED)

test-fast: setup ## unit tests: no root, under a minute
	$(BIN)/pytest -m "not kernel and not lab" --numprocesses 2 --dist loadfile

FUZZ_RUNS ?= 100000
fuzz: setup ## the HTTP/1 codecs against what coverage-guided fuzzing finds (FUZZ_RUNS=100000)
	$(BIN)/python -m tests.l7.fuzz_http1 -runs=$(FUZZ_RUNS)

test: setup ## everything: unit, kernel programs, lab (root, minutes)
	@status=0; \
	$(BIN)/pytest -m "not lab" --numprocesses 2 --dist loadfile || status=1; \
	$(BIN)/pytest -m lab || status=1; \
	exit $$status

demo: setup ## lab up, 300 long flows, two drains and a dead L4 node, verdict, lab down
	$(BIN)/edgectl lab demo

soak: setup ## lab up, 10,000 random changes under load, what broke and what grew, lab down (most of an hour)
	$(BIN)/edgectl lab soak

bench-l7: setup ## what a request costs the proxy, beside HAProxy and nginx (root, a quiet machine with two cores)
	$(BIN)/python -m tests.bench.l7 $(ARGS)

bench-l4: setup ## what a packet costs in the kernel programs, beside a reference (root, a quiet machine)
	$(BIN)/python -m tests.bench.l4

clean: ## stop a lab that is still up, remove what setup and the tests made here
	@[ ! -x $(BIN)/edgectl ] || $(BIN)/edgectl lab down || true
	rm -rf $(VENV) build *.egg-info l4/*.so .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Pins every requirement with its hashes. Names no index: whoever installs chooses where from.
lock: setup ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --upgrade --quiet --output-file $(LOCK)
