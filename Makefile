# Everything here needs git, make and Python 3.11, 3.12 or 3.13 with venv; 'make setup' brings the rest into .venv.

PYTHONS = python3 python3.13 python3.12 python3.11
BIN = .venv/bin
PASSEL = $(BIN)/passel
STAMP = .venv/.installed
OUT ?= $(if $(filter demo,$(MAKECMDGOALS)),demo,out)
ARGS ?=
# As many processes as cores, each a whole file at a time, in the order that tests/conftest.py gives; SPREAD= for one.
SPREAD ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo photos-given map test test-flight test-long fuzz check format bench bench-large bench-server bench-cluster clean

help:
	@echo "make demo                           set up, map the built-in synthetic survey, say where the map is"
	@echo "make map PHOTOS=dir [OUT=dir]       map your own photos; ARGS='--split 200' passes options on"
	@echo "make test                           set up, run the tests;  ARGS='-k split' passes options on"
	@echo "make test-long                      the tests that take minutes: links cut for a minute, and the like"
	@echo "make test-flight                    a real flight through PyODM, server and engine, in full"
	@echo "make fuzz                           garbage for the server, for ten minutes"
	@echo "make check                          format, lint, types and tests, as continuous integration does"
	@echo "make bench                          measure speed, memory and accuracy"
	@echo "make bench-large                    the steps that see a whole survey, on 12,000 made-up photos (half an hour)"
	@echo "make bench-server                   measure the API and the gateway under load, with nodes that are killed"
	@echo "make bench-cluster                  measure many machines: scheduling, transfer, faults, overhead (hours)"
	@echo "make setup                          only set up .venv"
	@echo "make clean                          remove .venv, caches and the demo's map"

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@set -e; \
	for p in $(PYTHONS); do \
	  if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    found="$$p"; \
	    if "$$p" -c 'import ensurepip, venv' 2>/dev/null; then python="$$p"; break; fi; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  if [ -n "$$found" ]; then echo "make: $$found lacks venv. Install it: sudo apt install $$found-venv" >&2; \
	  else echo "make: no Python 3.11, 3.12 or 3.13 found (libraries in constraints.txt are not made for others). Install one: sudo apt install python3 python3-venv" >&2; fi; \
	  exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version): about 1.8 GB, a few minutes, once."; \
	rm -rf .venv; \
	"$$python" -m venv .venv; \
	pip="$(BIN)/python -m pip install --disable-pip-version-check --quiet --only-binary=:all: --constraint constraints.txt"; \
	$$pip setuptools; \
	$$pip --no-build-isolation --editable '.[dev,cloud]'; \
	$(PASSEL) --version; \
	touch $(STAMP)

demo: setup
	$(PASSEL) demo --output "$(OUT)" $(ARGS)

photos-given:
	@if [ -z "$(PHOTOS)" ]; then echo "make: say where the photos are: make map PHOTOS=folder [OUT=folder]" >&2; exit 2; fi

map: photos-given setup
	$(PASSEL) run "$(PHOTOS)" --output "$(OUT)" $(ARGS)

test: setup
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

test-flight: setup
	$(BIN)/python -m pytest -m 'real and long' tests/test_pyodm.py $(ARGS)

test-long: setup
	$(BIN)/python -m pytest -m long $(ARGS)

fuzz: setup
	$(BIN)/python bench/server_fuzz.py $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python bench/run.py $(ARGS)

bench-large: setup
	$(BIN)/python bench/large.py $(ARGS)

bench-server: setup
	$(BIN)/python bench/server_load.py
	$(BIN)/python bench/gateway_proxy.py
	$(BIN)/python bench/gateway_chaos.py

bench-cluster: setup
	$(BIN)/python bench/cluster_graph.py $(ARGS)
	$(BIN)/python bench/cluster_transfer.py
	$(BIN)/python bench/cluster_inputs.py
	$(BIN)/python bench/cluster_cost.py
	$(BIN)/python bench/cluster_chaos.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo build dist
