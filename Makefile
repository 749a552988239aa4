# Everything from a clone: `make help` lists what there is. ARGS="..." goes on to the command behind a target.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DATA ?= data
ARGS ?=

.PHONY: help setup train compare test lint bench inspect simulation-table clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv and install the project into it

$(READY): pyproject.toml
	@echo "setting up $(VENV), once: a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: $(READY)  ## train the LayerNorm GRU on the simulated session; ARGS="model=gru session=..." to choose
	$(BIN)/python -m bci_decode.train model=lngru $(ARGS)

compare: $(READY)  ## train GRU and LN-GRU by the source study's recipe, 40 epochs, and draw loss against epoch
	$(BIN)/python -m bci_decode.train -m experiment=source_study model=gru,lngru trainer.epochs=40 $(ARGS)
	$(BIN)/python scripts/compare.py outputs/source_study

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## ruff check, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## measure reading, binning, start-up and an epoch
	$(BIN)/python scripts/bench.py $(ARGS)

inspect: $(READY)  ## say what is in a recording and what may hurt decoding; ARGS="FILE --figure"
	$(BIN)/python scripts/inspect_session.py $(ARGS)

simulation-table: $(READY)  ## the simulated session beside a real one; ARGS="FILE.mat"
	$(BIN)/python scripts/simulation_table.py $(ARGS)

clean:  ## remove .venv and caches; data/ and outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info build
