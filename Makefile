# The commands a person types. `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PY := .venv/bin/python

-include deploy/compose.mk

.PHONY: help demo test unit check lint types units suite environment bench chaos fuzz clean

# Tests start hundreds of processes. Each of them, and each that collects the tests, would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

environment: ## make .venv with all that runs on this machine need, without a GPU
	@scripts/environment local

demo: environment ## run the main job on synthetic radiographs
	@.venv/bin/cxr-backlog demo

check: ## lint and types only
	@scripts/environment dev
	@$(MAKE) --no-print-directory lint types

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types:
	$(PY) -m mypy

# The tests of one file stay in one process, and each process starts its own servers. Whole runs come first, not the files of
# most tests (tests/conftest.py): a long file at the end would run alone. TEST_PROCESSES=2 is gentler to a machine.
TEST_PROCESSES ?= $(shell scripts/test-processes)
PYTEST = $(PY) -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

unit: ## lint, types and the tests that need no whole run, in minutes; what `make test` runs besides takes longer
	@scripts/system-packages redis-server:redis-server Orthanc:orthanc dcmdump:dcmtk \
		/usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb
	@scripts/environment dev
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 types units

units: # beside the types, which take one core
	$(PYTEST) -m "not slow and not long" tests/test_house.py tests/backlog tests/producer tests/worker

test: ## install what the tests need; lint, types, tests
	@scripts/system-packages redis-server:redis-server Orthanc:orthanc dcmdump:dcmtk pdftotext:poppler-utils chromium:chromium 7z:p7zip-full tmux:tmux \
		/usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb promtool:prometheus /usr/share/java/pixelmed.jar:pixelmed-apps
	@scripts/environment dev
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 types suite

suite:
	$(PYTEST) -m "not long"

bench: ## measure, as ratios in one run
	@scripts/system-packages redis-server:redis-server Orthanc:orthanc chromium:chromium
	@scripts/environment dev
	$(PY) -m bench

chaos: ## break everything on purpose and count what is lost; then the tests that take longest
	@scripts/system-packages redis-server:redis-server Orthanc:orthanc /usr/share/java/pixelmed.jar:pixelmed-apps faketime:faketime stunnel:stunnel4 ip:iproute2
	@scripts/environment dev
	$(PY) -m tests.chaos
	$(PY) -m pytest -q -m long

FUZZ_SECONDS ?= 600
fuzz: ## look for inputs that break a reader, FUZZ_SECONDS=600 in all
	@scripts/environment dev
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS)

clean: ## remove what the targets above made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz *.egg-info
