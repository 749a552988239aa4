# Everything from a clone: `make help` lists what there is. ARGS="..." goes on to the command behind a target.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DATA ?= data
OUTPUT ?= outputs
SESSION =
ARGS ?=

.PHONY: help setup data data-all data-list train compare explain test lint bench bench-layers inspect simulation-table clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv and install the project into it

$(READY): pyproject.toml
	@echo "setting up $(VENV), once: a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,sweep]'
	@touch $@

train: $(READY)  ## train the LayerNorm GRU on the simulated session; ARGS="model=gru session=..." to choose
	$(BIN)/python -m bci_decode.train model=lngru $(ARGS)

compare: $(READY)  ## train GRU and LN-GRU by the source study's recipe, 40 epochs, and draw loss against epoch
	$(BIN)/python -m bci_decode.train -m experiment=source_study model=gru,lngru trainer.epochs=40 output_dir=$(OUTPUT) $(ARGS)
	$(BIN)/python scripts/compare.py $(OUTPUT)/source_study

explain: $(READY)  ## show why LayerNorm helps, and where not, in outputs/explain; ARGS="--session FILE.mat --parts watch"
	$(BIN)/python scripts/explain.py --output $(OUTPUT)/explain --jobs 2 $(ARGS)

data: $(READY)  ## fetch recordings; SESSION=indy_20160927_04, SESSION="loco_*" or several; ARGS="--jobs 2"
	$(BIN)/python scripts/download.py $(patsubst %,'%',$(SESSION)) --data-dir $(DATA) $(ARGS)

data-all: $(READY)  ## fetch all 47 recordings, 24 GB
	$(BIN)/python scripts/download.py '*' --data-dir $(DATA) $(ARGS)

data-list: $(READY)  ## list the recordings, and which are on disk and verified
	@$(BIN)/python scripts/download.py --list --data-dir $(DATA) $(ARGS)

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(READY)  ## ruff check, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## measure reading, binning, start-up and an epoch
	$(BIN)/python scripts/bench/pipeline.py $(ARGS)

bench-layers: $(READY)  ## measure the recurrent layers against torch.nn.GRU; ARGS="--threads 2 --key"
	$(BIN)/python scripts/bench/layers.py $(ARGS)

inspect: $(READY)  ## say what is in a recording and what may hurt decoding; ARGS="FILE --figure"
	$(BIN)/python scripts/inspect_session.py $(ARGS)

simulation-table: $(READY)  ## the simulated session beside a real one; ARGS="FILE.mat"
	$(BIN)/python scripts/simulation_table.py $(ARGS)

clean:  ## remove .venv and caches; data/ and outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info build
