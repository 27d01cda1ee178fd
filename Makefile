# The developer's verbs; .ci/run calls the same ones.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
BENCH_STAMP := $(VENV)/.setup-bench
BENCHES := $(subst _,-,$(sort $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/main_*.py benchmarks/search_*.py benchmarks/shrink_*.py benchmarks/train_*.py))) serve serve-fuzz serve-watched peers)
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo check format test test-all bench docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make bench-NAME one of: $(BENCHES)"

setup: $(STAMP) ## .venv with everything in it; .venv/bin/hasten is the command

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install -c constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/pip install -c constraints.txt -e ".[all,dev]"
	touch $@

demo: setup ## from nothing to a served prediction
	$(BIN)/python examples/demo.py

check: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## the tests that take seconds each
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: setup ## every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench: $(addprefix bench-,$(filter-out peers,$(BENCHES))) ## every benchmark but bench-peers, which installs other tools; see benchmarks/results

$(BENCH_STAMP): $(STAMP)
	$(BIN)/pip install -c constraints.txt tokenizers transformers
	touch $@

bench-%: setup $(BENCH_STAMP)
	$(BIN)/python benchmarks/$(subst -,_,$*).py

bench-serve: setup
	$(BIN)/python benchmarks/serve_load.py
	$(BIN)/python benchmarks/serve_replicas.py

docs: setup ## out/docs/reference.md, from the code
	$(BIN)/python docs/build.py
