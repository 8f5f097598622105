# make demo   the main job on synthetic corpora, from nothing to a table and a plot
# make test   everything the tests need, then the tests
# make lint   ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DATA := data/demo
DEMO_RUN := results/demo

.PHONY: demo test lint format clean

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
	$(BIN)/python -m downstream.corpora.synthetic $(DEMO_DATA) --size demo --corpus VoxCeleb1
	$(BIN)/python run_downstream.py -u wav2vec2_tiny -d voxceleb1_sv --data-root $(DEMO_DATA) \
		-c recipes/demo/voxceleb1_sv.yaml -p $(DEMO_RUN) --overwrite

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO_DATA) $(DEMO_RUN)
