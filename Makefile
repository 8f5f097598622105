# make demo   three tasks on synthetic corpora, from nothing to a table and plots
# make test   everything the tests need, then the tests
# make lint   ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DATA := data/demo
DEMO_RUN := results/demo
DEMO_CORPORA := --corpus VoxCeleb1 --corpus VoxLingua107 --corpus LibriSpeech
DEMO_PROTOCOLS := voxceleb1_sv voxlingua107_lid librispeech_asr
ALL_PROTOCOLS := $(sort $(basename $(notdir $(wildcard recipes/demo/*.yaml))))

.PHONY: demo demo-all test lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo]'
	touch $@

# Building fairseq takes some minutes.
$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo,lm,lora,datasets,fairseq,test]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/python -m downstream.corpora.synthetic $(DEMO_DATA) --size demo $(DEMO_CORPORA)
	for name in $(DEMO_PROTOCOLS); do \
		BENCHMARK_CACHE=$(DEMO_DATA)/cache $(BIN)/python run_downstream.py -u wav2vec2_tiny -d $$name --data-root $(DEMO_DATA) \
			-c recipes/demo/$$name.yaml -p $(DEMO_RUN)/$$name --overwrite || exit 1; \
	done
	$(BIN)/python -m benchmark table $(DEMO_RUN)

# Every benchmark on synthetic trees: the table of the README.
demo-all: DEMO_CORPORA :=
demo-all: DEMO_PROTOCOLS := $(ALL_PROTOCOLS)
demo-all: demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO_DATA) $(DEMO_RUN)
