# `make fit` and `make test` are all a fresh machine needs: both make the environment first, if it is missing.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/digits.yaml
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup fit test gpu lint format lock bench notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make the environment in .venv from the locked packages

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment in $(VENV): some 6 GB with the CUDA build of torch, a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

fit: $(READY) ## train configs/digits.yaml; CONFIG=… for another, ARGS="--model.x 1" for overrides
	$(BIN)/lightning fit --config $(CONFIG) $(ARGS)

test: $(READY) ## run every test, in up to four processes
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

gpu: $(READY) ## run the tests that need a GPU, and measure it, into benchmarks/results/gpu.json
	$(BIN)/python benchmarks/gpu.py $(ARGS)

lint: $(READY) ## ruff, and pyrefly for the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(READY) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY) ## resolve the newest packages that pyproject.toml admits; needs uv
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --upgrade --quiet --output-file requirements.lock

bench: $(READY) ## measure the Trainer's overhead on this machine, into benchmarks/results/
	$(BIN)/python benchmarks/trainer_overhead.py

notebooks: $(READY) ## run the notebooks again on runs/digits/latest; store their outputs, and the README's picture
	$(BIN)/python -c 'import sys, nbclient, nbformat; [nbformat.write(nbclient.execute(nbformat.read(path, 4), \
		record_timing=False), path) for path in sys.argv[1:]]' notebooks/*.ipynb
	$(BIN)/python -c 'import base64, nbformat, pathlib; pictures = [output.data["image/png"] for cell in \
		nbformat.read("notebooks/01_first_run.ipynb", 4).cells for output in cell.get("outputs", []) \
		if "image/png" in output.get("data", {})]; \
		pathlib.Path("docs/first_run.png").write_bytes(base64.b64decode(pictures[0]))'

clean: ## remove the environment and the caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
