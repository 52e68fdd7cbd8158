# Two commands matter on a fresh machine: `make demo` and `make test`. Both set up what they need in .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := $(VENV)/.installed-demo
COMMA  := ,
PREFIX ?= /opt/modeld
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: demo test coverage check format bench test-system install uninstall clean help
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

SOURCES := pyproject.toml constraints.txt hatch_build.py server/modeld/forest/kernel.c

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "modeld needs python3 >= 3.11; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) with $(1): a minute or more"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV): on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
	@touch $@
endef

$(STAMP): $(SOURCES)
	$(call install,.[dev$(COMMA)plots])

$(DEMO): $(SOURCES)
	$(call install,.[plots])

demo: $(DEMO)  ## train, register, serve, swap, break and roll back on real prices; prints what happened
	$(BIN)/modeld demo

test: $(STAMP)  ## the tests that need neither root nor a system package
	$(BIN)/python -m pytest -m "not system"

coverage: $(STAMP)  ## how much of modelreg its tests reach, in their own processes too; less than 95 % of the branches fails
	$(BIN)/coverage erase
	$(BIN)/coverage run --source=modelreg -m pytest -q tests/registry tests/test_config.py
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --show-missing
	@$(BIN)/coverage json -q -o - | $(BIN)/python -c 'import json, sys; share = json.load(sys.stdin)["totals"]["percent_branches_covered"]; print(f"branches covered: {share:.1f} %"); sys.exit(share < 95)'

test-system: $(STAMP)  ## the tests that need root or system packages (installs them)
	tests/system/install
	$(BIN)/python -m pytest -m system

check: $(STAMP)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the sources in the agreed format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## latency of the running stack as a ratio to a bare ZeroMQ echo
	$(BIN)/modeld bench

install:  ## as root: a venv below /opt/modeld, units, a first configuration; starts nothing
	$(PYTHON) -m venv $(PREFIX)/modeld-$(VERSION)
	$(PREFIX)/modeld-$(VERSION)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	ln -sfn modeld-$(VERSION) $(PREFIX)/venv
	$(PREFIX)/venv/bin/modeld install-units --prefix $(PREFIX)/venv

uninstall:  ## as root: take it away again; state stays, unless PURGE=--purge
	$(PREFIX)/venv/bin/modeld uninstall-units $(PURGE)
	rm -rf $(PREFIX)/venv $(PREFIX)/modeld-*

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output dist
