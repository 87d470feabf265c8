# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READERS := .readers
READER_RELEASES := 0.9.0 0.10.0 0.11.0 0.12.3 0.13.1 0.14.0 0.15.3 0.16.1
# Old releases have wheels for old Pythons only. What is loaded of them is plain Python, so the
# wheel for one version serves all.
ANY_PYTHON := --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint types unit some-faults faults readers bench clean

## demo: inspect, downgrade, diff and upgrade back, on a sample that release 0.19.0 wrote
demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh

## test: lint, types and every test, the real readers included
test: lint types unit some-faults

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev readers
	$(BIN)/python -m pytest -n auto

some-faults: $(VENV)/.dev
	$(BIN)/python tests/faults/inject.py --every 37
	$(BIN)/python tests/faults/crash.py --every 37

## faults: every fault at every system call that writes, and the power cut at every moment; minutes
faults: $(VENV)/.dev
	$(BIN)/python tests/faults/inject.py
	$(BIN)/python tests/faults/crash.py

## readers: real megatron-core releases, each in a folder of its own
readers: $(READER_RELEASES:%=$(READERS)/%/.installed)

$(READERS)/%/.installed: | $(VENV)/.installed
	rm -rf $(@D)
	$(PIP) install --no-deps $(ANY_PYTHON) --target $(@D) megatron-core==$*
	touch $@

## bench: the measured time of a downgrade
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/downgrade.py

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml constraints.txt tests/readers/requirements.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]' -r tests/readers/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(READERS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
