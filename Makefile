# Everything from a clone: `make help` lists the targets.
# On the command line, key=value sets one of the first VARIABLES or else a setting of the training
# command: `make train model=gru trainer.epochs=20`. ARGS="..." adds words to any command.
PYTHON ?= python3
VENV ?= .venv
DATA ?= data
OUTPUT ?= outputs
SESSION =
ARGS =
TORCH_INDEX =
VARIABLES = PYTHON VENV DATA OUTPUT SESSION ARGS TORCH_INDEX

BIN = $(VENV)/bin
READY = $(VENV)/.ready
PIP_INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --disable-pip-version-check
# make compare draws these two
experiment = source_study
output_dir = $(OUTPUT)

quote = '$(subst ','\'',$(1))'
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
keys := $(sort $(filter-out $(VARIABLES),$(given)))
SETTINGS = $(if $(SESSION),session=$(call quote,$(SESSION))) data_dir=$(call quote,$(DATA)) \
	output_dir=$(call quote,$(OUTPUT)) \
	$(foreach key,$(keys),$(call quote,$(key)=$(value $(key)))) $(ARGS)

without_settings := $(filter-out train compare setup,$(or $(MAKECMDGOALS),help))
ifneq ($(and $(keys),$(without_settings)),)
$(error $(firstword $(keys))=: `make $(firstword $(without_settings))` takes no settings; \
its variables are $(VARIABLES))
endif

# the six sessions of experiment=neurobench and experiment=aegru
NEUROBENCH = indy_20160622_01 indy_20160630_01 indy_20170131_02 loco_20170210_03 loco_20170215_02 loco_20170301_05

.PHONY: help setup train compare explain data data-all data-list data-neurobench inspect simulated-days simulation-table \
	test test-export test-faults test-fuzz test-loggers test-newest test-oldest test-onnx-examples test-page lint docs bench bench-layers bench-study bench-stream clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sort \
		| sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv and install the project; TORCH_INDEX=URL chooses another build of PyTorch

$(READY): pyproject.toml
	@echo "Setting up $(VENV), once. It takes one to five minutes, most of it to download PyTorch."
	@echo "On Linux, pip takes the CUDA build by default: 5 GB on disk. For the CPU build, 1.5 GB:"
	@echo "  make setup TORCH_INDEX=URL     (pytorch.org/get-started shows the URL)"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --quiet --upgrade pip
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev,docs,ezmsg,fast,live,lsl,onnx,sweep]'
	@touch $@
	@$(BIN)/python -c "import torch; print('$(VENV) is ready, with PyTorch', torch.__version__)"

train: $(READY)  ## train a decoder; settings: model=gru SESSION=indy_20160927_04 trainer.epochs=20 ...
	$(BIN)/bci-decode train $(if $(filter experiment,$(keys)),,experiment=best) $(SETTINGS)

compare: $(READY)  ## train GRU and LN-GRU with the source study's recipe, 40 epochs, and compare them
	$(BIN)/bci-decode train -m experiment=source_study model=gru,lngru trainer.epochs=40 $(SETTINGS)
	$(BIN)/bci-decode compare $(call quote,$(output_dir)/$(experiment))

explain: $(READY)  ## measure why LayerNorm helps: outputs/explain; ARGS="--session FILE.mat --parts dynamics"
	$(BIN)/python scripts/explain.py --output $(OUTPUT)/explain --jobs 2 $(ARGS)

data: $(READY)  ## download recordings; SESSION=indy_20160927_04, SESSION="loco_*" or several names
	$(BIN)/bci-decode download $(foreach name,$(SESSION),$(call quote,$(name))) --data-dir $(DATA) $(ARGS)

data-all: $(READY)  ## download all 47 recordings, 24 GB
	$(BIN)/bci-decode download '*' --data-dir $(DATA) $(ARGS)

data-neurobench: $(READY)  ## download the six recordings of experiment=neurobench and experiment=aegru
	$(BIN)/bci-decode download $(NEUROBENCH) --data-dir $(DATA) $(ARGS)

data-list: $(READY)  ## list the recordings, and which are on disk and verified
	@$(BIN)/bci-decode download --list --data-dir $(DATA) $(ARGS)

inspect: $(READY)  ## describe a recording and what may hurt decoding; SESSION=NAME or ARGS="FILE.mat --figure"
	$(BIN)/bci-decode inspect $(SESSION) --data-dir $(DATA) $(ARGS)

simulated-days: $(READY)  ## show how a simulated array changes over its days
	$(BIN)/python scripts/simulated_days.py $(ARGS)

simulation-table: $(READY)  ## compare the simulated session with a recording; ARGS=FILE.mat
	$(BIN)/python scripts/simulation_table.py $(ARGS)

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-loggers: $(READY)  ## test MLflow and Weights & Biases, each in a separate .venv: ten minutes
	for tool in mlflow wandb; do \
		$(PYTHON) -m venv .venv-$$tool && .venv-$$tool/bin/pip install -q -e ".[dev,$$tool]" && \
		TESTED_LOGGERS=$$tool .venv-$$tool/bin/python -m pytest tests/training/test_loggers.py || exit 1; \
	done

test-faults: $(READY)  ## kill, interrupt and damage real runs and sweeps, in full
	TESTED_GUARANTEES=all $(BIN)/python -m pytest tests/faults tests/training/test_distributed.py $(ARGS)

test-fuzz: $(READY)  ## damaged recordings and senseless settings, thousands of them
	TESTED_GUARANTEES=all $(BIN)/python -m pytest tests/fuzz tests/runs/test_packed.py $(ARGS)

test-oldest test-newest: $(READY)
	$(BIN)/python scripts/versions_test.py $(@:test-%=%) $(PYTHON) \
		$(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(ARGS)
test-oldest:  ## run the tests with the oldest versions of all dependencies; PYTHON=python3.10
test-newest:  ## run the tests with the newest versions; PYTHON="python3.10 python3.13"

test-export: $(READY)  ## test the export of every model to ONNX: two minutes
	TESTED_EXPORTS=all $(BIN)/python -m pytest tests/realtime/test_export.py $(ARGS)

test-onnx-examples: $(READY)  ## test the examples of exported decoders without PyTorch, in Python and Node.js
	bash scripts/onnx_examples_test.sh $(BIN)/python

test-page: $(READY)  ## test the live page in headless Chromium; ARGS="--screenshot PAGE.png"
	$(BIN)/python scripts/page_test.py $(ARGS)

lint: $(READY)  ## check style and types: ruff check, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

bench: $(READY)  ## measure reading, binning, start-up and an epoch
	$(BIN)/python scripts/bench/pipeline.py $(ARGS)

bench-layers: $(READY)  ## measure the recurrent layers against torch.nn.GRU; ARGS="--threads 2 --key"
	$(BIN)/python scripts/bench/layers.py $(ARGS)

bench-study: $(READY)  ## estimate the hours that the whole source study takes; ARGS="--sessions 5"
	$(BIN)/python scripts/bench/study.py $(ARGS)

bench-stream: $(READY)  ## measure live decoding: latency of each engine; ARGS="--minutes 60" for endurance
	$(BIN)/python scripts/bench/stream.py $(ARGS)

clean:  ## remove .venv, site and caches; data/ and outputs/ stay
	rm -rf $(VENV) .venv-mlflow .venv-newest .venv-oldest .venv-wandb site .pytest_cache .ruff_cache .mypy_cache dist
