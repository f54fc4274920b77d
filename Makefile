# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?=

# make gpu: how long it may take, where what is kept goes, CIFAR-10 as data.path takes it, further options.
MINUTES ?= 25
OUT ?= outputs/gpu-out
DATA ?=
GPU ?=

# make matrix: how many seeds, and of the poison rates 0.1, 0.05 and 0.01, are run. With 2 of each it is the long form.
SEEDS ?= 1
RATES ?= 1
comma := ,
first = $(subst $(eval) ,$(comma),$(wordlist 1,$(1),$(2)))

# make matrix and make photos take DATA too; further options of the jobs of make photos.
PHOTOS ?=

# make site: JSONs of results from elsewhere, or a folder of them.
RESULTS ?=

# Tables (conf/experiment/table): PROFILE=digits is in miniature, for a CPU; PROFILE=paper has the published settings,
# for GPUs. LAUNCHER is Hydra's, where it is not to be the table's own.
PROFILE ?= digits
LAUNCHER ?=
RUN := --run $(LAUNCHER:%=hydra/launcher=%)

CUDA_TESTS = $(sort $(shell grep -rl 'mark.cuda' tests --include='test_*.py'))

.DEFAULT_GOAL := help
.PHONY: help setup demo tables table-baddiffusion table-clipping table-published zoo table-amplify table-attacks \
	table-cost table-diff2 table-diff2-variants table-diff2-transfer matrix site photos test test-slow test-cuda bench gpu check \
	docs format constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)  ## a virtual environment in .venv with exact versions

demo: $(READY)  ## a clean and two backdoored models on the digits, with their numbers (4 minutes on 2 cores)
	$(BIN)/bdiff run -m attack=none,baddiffusion,noise_path_ancestral tracker=none hydra/launcher=joblib \
		hydra.launcher.n_jobs=3 train.epochs=30 $(DEMO)

tables: table-baddiffusion table-clipping table-published  ## all tables; PROFILE=digits (a CPU, default) or paper

table-baddiffusion: $(READY)  ## BadDiffusion over triggers, targets and poison rates
	$(BIN)/bdiff table baddiffusion-asr --profile $(PROFILE) $(RUN)

table-clipping: $(READY)  ## the same models, sampled with and without clipping
	$(BIN)/bdiff table clipping-asr --profile $(PROFILE) $(RUN)

table-published: $(READY)  ## the published rows next to ours, which PROFILE=paper runs
	$(BIN)/bdiff table published --profile $(PROFILE) $(RUN)

zoo: $(READY)  ## clean and backdoored models, and detections on each: detection rates; PROFILE=digits (a CPU) or paper
	$(BIN)/bdiff table zoo --profile $(PROFILE) $(RUN)

table-amplify: $(READY)  ## ASR over the training budget: original, reinforced and scaled trigger
	$(BIN)/bdiff table amplify --profile $(PROFILE) $(RUN)

table-attacks: $(READY)  ## attacks by samplers on the digits: ASR, leak, quality, and whether it was as expected
	$(BIN)/bdiff table attacks $(RUN)

table-cost: $(READY)  ## optimizer steps until a backdoor opens, by attack and poison rate, on the digits (hours)
	$(BIN)/bdiff table cost $(RUN)

table-diff2: $(READY)  ## DIFF2 against purification and certification, countermeasures, and detections
	$(BIN)/bdiff table diff2-shields --profile $(PROFILE) $(RUN)

table-diff2-variants: $(READY)  ## on the digits: preserve, a patch, learned triggers, poisoned images alone, DDIM, a seed
	$(BIN)/bdiff table diff2-variants $(RUN)

table-diff2-transfer: $(READY)  ## on the digits: two surrogates by two victims by two denoisers, for both shields
	$(BIN)/bdiff table diff2-transfer $(RUN)

site: $(READY)  ## leaderboards of all runs in outputs/ as a static site, outputs/site; RESULTS=<JSONs from elsewhere>
	$(BIN)/bdiff report outputs --site outputs/site $(if $(RESULTS),--results $(RESULTS))

matrix: $(READY)  ## every attack against every defense: tables, a figure, a site; PROFILE=digits, cifar10 or paper; SEEDS=2 RATES=2
	$(BIN)/bdiff table matrix --profile $(PROFILE) $(RUN) $(DATA:%=data.path=%) seed=$(call first,$(SEEDS),0 1 2 3 4) \
		attack.poison_rate=$(call first,$(RATES),0.1 0.05 0.01)

photos: PROFILE = small
photos: $(READY)  ## attacks, detections and DIFF2 on CIFAR-10 (DATA=<zip>), about 4 hours on 2 cores; or PROFILE=paper
	$(BIN)/bdiff data prepare cifar10 $(DATA:%=data.path=%)
	$(BIN)/bdiff table photos --profile $(PROFILE) $(RUN) $(DATA:%=data.path=%) $(PHOTOS)

test: $(READY)  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' --durations=10 --numprocesses 2 --dist loadgroup

test-slow: $(READY)  ## the tests that take minutes: kills, launchers, pytorch-fid's own command
	$(BIN)/pytest -m slow --durations=10

test-cuda: $(READY)  ## the tests that need a CUDA device, a process for each file
	@code=0; for file in $(CUDA_TESTS); do $(BIN)/pytest -m cuda $$file || code=1; done; exit $$code

bench: $(READY)  ## how fast the loops are, beside the bare network and what one would run instead (results/bench)
	$(BIN)/python scripts/bench

gpu:  ## tests and benchmarks on a GPU machine, within MINUTES (DATA=CIFAR-10); installs nothing
	$(PYTHON) scripts/gpu.py --minutes $(MINUTES) --out $(OUT) $(if $(DATA),--data $(DATA)) $(GPU)

check: $(READY) docs  ## lint, format, types, and the docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)  ## the site of docs/, as build/docs/index.html; a broken link or any other warning is an error
	$(BIN)/sphinx-build --quiet --fresh-env --nitpicky --fail-on-warning --keep-going -d build/doctrees docs build/docs

format: $(READY)  ## fix what the linter and the formatter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

constraints: $(READY)  ## write the installed versions to constraints.txt
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:  ## remove what runs and builds left behind, but not .venv
	find outputs -mindepth 1 ! -name .gitkeep -delete
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
