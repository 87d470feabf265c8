# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs.
# Bytecode of the package is kept outside the source tree: tests start it many times.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READERS := .readers
READER_RELEASES := 0.9.0 0.10.0 0.11.0 0.12.3 0.13.1 0.14.0 0.15.3 0.16.1
# Old releases have wheels for old Pythons only. What is loaded of them is plain Python, so the
# wheel for one version serves all.
ANY_PYTHON := --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

FUZZ_SEED ?= 1
MUTANTS ?= 120
MARKED ?= not full
# Many tests wait for a disk, a process or a server, so there are two workers for each core.
WORKERS ?= $(shell expr 2 \* $$(nproc))
DIST ?= dist

.PHONY: demo test test-full all-tests lint types unit some-faults faults readers browser shells facts matrix bench fuzz \
	mutants structure demo-recording docs examples dist pyz clean

## demo: check, downgrade, check and upgrade back, on a sample that release 0.19.0 wrote
demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh

## test: lint, types, and the tests that decide whether a change lands; minutes
test: lint types unit some-faults

## test-full: all tests: more releases, kills and mutations, every page in a browser, the packages
test-full: lint types all-tests some-faults

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python tests/phrases.py

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev readers browser shells
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not full'

all-tests: $(VENV)/.dev readers browser shells
	$(BIN)/python -m pytest -n auto --dist worksteal

some-faults: $(VENV)/.dev
	$(BIN)/python tests/faults/inject.py --every 37
	$(BIN)/python tests/faults/crash.py --every 37

## faults: every fault at every system call that writes, the power cut at every moment, and a kill and
## every fault at every request to a store; an hour
faults: $(VENV)/.dev
	$(BIN)/python tests/faults/inject.py
	$(BIN)/python tests/faults/crash.py
	$(BIN)/python -m pytest -n auto --dist worksteal -m full tests/test_object_store_kills.py tests/test_store_faults.py

## readers: real megatron-core releases, each in a folder of its own
readers: $(READER_RELEASES:%=$(READERS)/%/.installed)

$(READERS)/%/.installed: | $(VENV)/.installed
	rm -rf $(@D)
	$(PIP) install --no-deps $(ANY_PYTHON) --target $(@D) megatron-core==$*
	touch $@

## browser: Debian's Chromium where it is missing, for the tests of the page
browser:
	@command -v chromium || command -v chromium-browser || { \
	$(SUDO) apt-get update -qq && \
	$(SUDO) apt-get install -y -qq --no-install-recommends chromium; }

## shells: Debian's zsh and fish where they are missing, for the tests of completion
shells:
	@command -v zsh >/dev/null && command -v fish >/dev/null || { \
	$(SUDO) apt-get update -qq && \
	$(SUDO) apt-get install -y -qq --no-install-recommends zsh fish; }

## facts: compile compat_matrix.yaml into the package, its tables into docs/matrix.md, its pictures
facts: $(VENV)/.dev
	$(BIN)/python -m ckptmigrate.compat.compilation
	$(BIN)/ckptmigrate matrix --into docs/matrix.md
	$(BIN)/python -m ckptmigrate.compat.picture docs/images

## matrix: measure every cell of compat_matrix.yaml with the real releases, and rewrite it
matrix: $(VENV)/.dev readers
	$(BIN)/ckptmigrate matrix run --readers $(READERS) --update
	$(MAKE) facts

## examples: run every example of the README and docs/ and write what it prints; generate the
## command reference, the module map and the tables of the pages
examples: $(VENV)/.dev
	$(BIN)/python tests/module_map.py
	$(BIN)/python tests/examples.py

## demo-recording: the picture of a terminal in the README, from a real run of demo.sh
demo-recording: $(VENV)/.dev
	$(BIN)/python tests/demo_recording.py

## docs: the pages in site/, strict; without a network once the tools are there
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'python3 -m http.server -d site shows them'

## bench: what a migration takes beside what else moves a checkpoint, as a table and a picture; half
## an hour, 35 GB of disk
bench: $(VENV)/.dev $(READERS)/0.14.0/.installed $(READERS)/0.16.1/.installed
	$(BIN)/python -m benchmarks --into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.plot

## fuzz: mutations of .metadata, common.pt and blobs, two minutes of each; FUZZ=100000 for so many
fuzz: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m fuzz --seed $(FUZZ_SEED) $(if $(FUZZ),--count $(FUZZ),--minutes 2)

## mutants: the share of small errors in the core packages that the tests of `make test` find; an
## hour or two; MARKED= for those of every test, MUTANTS=500 for a larger sample
mutants: $(VENV)/.dev
	$(BIN)/python tests/mutation contexts -n auto -m '$(MARKED)'
	$(BIN)/python tests/mutation run --count $(MUTANTS)

## structure: code lines of each package, imports between packages, circles, names used twice
structure: $(VENV)/.dev
	@$(BIN)/python tests/structure.py

## dist: an sdist, and a wheel from it
dist: $(VENV)/.build
	rm -rf $(DIST)
	$(BIN)/python -m build --no-isolation --outdir $(DIST)

## pyz: dist/ckptmigrate.pyz, one file that any Python from 3.10 on runs as it is
pyz: dist
	$(PIP) install --no-compile --only-binary :all: --python-version 3.10 --target $(DIST)/pyz \
	$(DIST)/*.whl
	$(BIN)/python -m zipapp $(DIST)/pyz --compress --python '/usr/bin/env python3' \
	--main ckptmigrate.__main__:main --output $(DIST)/ckptmigrate.pyz
	chmod 755 $(DIST)/ckptmigrate.pyz
	rm -rf $(DIST)/pyz

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml constraints.txt tests/readers/requirements.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]' -r tests/readers/requirements.txt
	touch $@

$(VENV)/.build: $(VENV)/.installed constraints.txt
	$(PIP) install --constraint constraints.txt build hatchling
	touch $@

$(VENV)/.docs: $(VENV)/.installed pyproject.toml
	$(PIP) install --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(READERS) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis fuzz-failures
