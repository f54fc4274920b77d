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

# Tables: PROFILE=digits is in miniature, for a CPU; PROFILE=paper has the published settings, for GPUs.
PROFILE ?= digits
LAUNCHER ?= joblib
TABLES := outputs/tables/$(PROFILE)
SWEEP = $(BIN)/bdiff run -m hydra/launcher=$(LAUNCHER) hydra.sweep.dir=$(TABLES)/$@
SETUP_digits := tracker=none data=digits_faint pretrain=digits train.steps=320 train.lr=5e-3 sample.count=96 \
	trigger=box,stop_sign target=corner,hat,shoe
SETUP_paper := data=cifar10 data.split=all metric.fid.protocol=baddiffusion sample.count=2048 \
	trigger=box_14,stop_sign_14 target=corner,hat,shoe
RATES := 0,0.05,0.1,0.2,0.3,0.5
CLIPPED := 0.1,0.5
COMMA := ,
ROWS = $(subst $() ,$(COMMA),$(patsubst conf/experiment/%.yaml,%,$(wildcard conf/experiment/$(1)*.yaml)))

# The zoo: models with backdoors that are hard and easy to see, and clean ones; every audit of every model.
ZOO_digits := tracker=none data=digits train.steps=500 train.batch_size=64 sample.count=64 metric/fid=none
ZOO_paper := data=cifar10 data.split=all sample.count=256 metric/fid=none
AUDITS_digits := purediffusion,elijah,terd_digits
AUDITS_paper := purediffusion,elijah,terd
EASY := trigger=box_11,box,box_18,stop_sign,noise target=corner attack.poison_rate=0.1,0.3 seed=10
HARD := trigger=box,box_18,stop_sign,glasses,noise target=shoe attack.poison_rate=0.3,0.5 seed=10
CLEAN := attack=none seed=0,1,2,3,4,5,6,7,8,9
# Audits stand before models, so that the first audit's jobs train them side by side and none waits for another.
zoo = $(BIN)/bdiff run -m hydra/launcher=$(LAUNCHER) hydra.sweep.dir=$(TABLES)/zoo/$(1) $(ZOO_$(PROFILE)) \
	defense=$(AUDITS_$(PROFILE)) $($(2))

# How soon a trigger works: the trained one, the reinforced one, and the trained one scaled.
BUDGETS_digits := tracker=none data=digits sample.count=96 metric/fid=none attack.poison_rate=0.3 train.steps=25,50,100,200,400
BUDGETS_paper := data=cifar10 data.split=all metric/fid=none attack.poison_rate=0.1 train.steps=250,500,1000,2000,5000

# DIFF2 and the shields it turns: purification at several t*, certification, countermeasures, and audits of the model.
part = $(BIN)/bdiff run -m hydra/launcher=$(LAUNCHER) hydra.sweep.dir=$(TABLES)/$@/$(1)
COUNTER := defense.ensemble=true defense.repair=true defense/removal=finetune
SHIELD := tracker=none data=digits pretrain=digits pretrain.train.steps=500 pretrain.train.batch_size=64 train.batch_size=64
DIFF2 := $(SHIELD) attack=diff2 train.steps=800
REPAIR := $(COUNTER) defense.removal.train.epochs=100 defense.removal.train.lr=1e-3
define diff2_digits
$(call part,clean) $(SHIELD) attack=none train.steps=0 || code=1; \
$(call part,shields) $(DIFF2) $(REPAIR) defense=purification defense.t=8,12,20 defense.strip.blends=4 || code=1; \
$(call part,certified) $(DIFF2) defense=certification || code=1; \
$(call part,audits) $(DIFF2) defense=$(AUDITS_digits) || code=1;
endef
# Other forms of the attack, each with a model of its own: a name, and what is said for it, with / for blanks. Beside them
# a twin, trained as long without the attack.
VARIANTS := preserve:attack.mode=preserve patch:trigger=patch learned:attack.learn=200 seed:seed=1 \
	ddim:attack.sampler=ddim/defense.sampler=ddim \
	transfer:classifier@surrogate=small_cnn/surrogate.seed=1/surrogate.model.width=16
CIFAR10 := data=cifar10 sample.count=10_000
# A row of certification costs 2e8 network evaluations: 500 images x 2 kinds x 100,100 draws x 2 denoised rows, and with
# countermeasures 5e8, so it goes without. One of purification costs 1e6 with them.
define diff2_paper
$(call part,clean) $(CIFAR10) attack=none train.steps=0 || code=1; \
$(call part,shields) experiment=$(call ROWS,diff2/purification-) $(COUNTER) || code=1; \
$(call part,certified) experiment=$(call ROWS,diff2/certification-) || code=1; \
$(call part,deeper) experiment=diff2/purification-resnet18-ddpm defense.t=75,150,200 $(COUNTER) || code=1; \
$(call part,audits) $(CIFAR10) attack=diff2_cifar10 classifier=resnet18 defense=$(AUDITS_paper) || code=1;
endef

FID_digits := fid_classifier
FID_paper := fid

# After the sweep $(1): its table with the options $(2), metric by metric on the terminal and whole in other formats'
# files, also where jobs failed; make then fails as the sweep did.
define table
$(1); code=$$?; \
for metric in asr mse $(FID_$(PROFILE)); do $(BIN)/bdiff table $(TABLES)/$@ $(2) --metrics $$metric; done; \
$(call files,$(TABLES)/$@ $(2) --metrics asr$(COMMA)mse$(COMMA)$(FID_$(PROFILE))) exit $$code
endef

files = $(foreach form,md latex csv,$(BIN)/bdiff table $(1) --format $(form) --out $(TABLES)/$@.$(form);)

CUDA_TESTS = $(sort $(shell grep -rl 'mark.cuda' tests --include='test_*.py'))

.DEFAULT_GOAL := help
.PHONY: help setup demo tables table-baddiffusion table-clipping table-published zoo table-amplify table-diff2 \
	table-diff2-variants test test-slow test-cuda gpu check format constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)  ## a virtual environment in .venv with exact versions

demo: $(READY)  ## a clean and a backdoored model on the digits, with their numbers (about 4 minutes on 2 cores)
	$(BIN)/bdiff run -m attack=none,baddiffusion tracker=none $(DEMO)

tables: table-baddiffusion table-clipping table-published  ## all tables; PROFILE=digits (a CPU, default) or paper

table-baddiffusion: $(READY)  ## BadDiffusion over triggers, targets and poison rates
	@$(call table,$(SWEEP) $(SETUP_$(PROFILE)) attack.poison_rate=$(RATES),--rows trigger$(COMMA)target --cols attack.poison_rate)

table-clipping: $(READY)  ## the same models, sampled with and without clipping
	@$(call table,$(SWEEP) $(SETUP_$(PROFILE)) attack.poison_rate=$(CLIPPED) sample.clip=false$(COMMA)true,--rows trigger$(COMMA)target$(COMMA)attack.poison_rate --cols sample.clip)

table-published: $(READY)  ## the published rows beside ours, which PROFILE=paper runs
	@$(if $(filter paper,$(PROFILE)),$(SWEEP) experiment=$(call ROWS,baddiffusion/)$(COMMA)$(call ROWS,clipping/),true); code=$$?; \
	$(BIN)/bdiff table baddiffusion; $(BIN)/bdiff table clipping; $(call files,baddiffusion clipping) exit $$code

zoo: $(READY)  ## clean and backdoored models, every audit of each: detection rates; PROFILE=digits (a CPU) or paper
	@$(call zoo,easy,EASY); easy=$$?; $(call zoo,hard,HARD); hard=$$?; $(call zoo,clean,CLEAN); clean=$$?; \
	for form in md latex csv; do $(BIN)/bdiff zoo $(TABLES)/zoo --format $$form --out $(TABLES)/zoo.$$form; done; \
	$(BIN)/bdiff zoo $(TABLES)/zoo --figure $(TABLES)/zoo.png && exit $$((easy | hard | clean))

table-amplify: $(READY)  ## ASR over the training budget: original, reinforced and scaled trigger
	@$(SWEEP) $(BUDGETS_$(PROFILE)) amplify=purediffusion; code=$$?; \
	$(BIN)/bdiff table $(TABLES)/$@ --rows train.steps --metrics suspect/asr$(COMMA)amplified/asr$(COMMA)scaled/asr; \
	exit $$code

# On the digits one model serves all jobs, which therefore come one after the other, each on all cores.
table-diff2: LAUNCHER = $(if $(filter digits,$(PROFILE)),basic,joblib)
table-diff2: $(READY)  ## DIFF2 before purification and certification, countermeasures, and what audits see
	@code=0; $(diff2_$(PROFILE)) \
	$(BIN)/bdiff table $(TABLES)/$@/clean $(TABLES)/$@/audits --rows attack,defense \
		--metrics $(FID_$(PROFILE)),audit/score,audit/flagged,audit/seconds || code=1; \
	$(BIN)/bdiff shields $(TABLES)/$@ || code=1; \
	for form in md latex; do $(BIN)/bdiff shields $(TABLES)/$@ --format $$form --out $(TABLES)/$@.$$form; done; exit $$code

table-diff2-variants: LAUNCHER := basic
table-diff2-variants: $(READY)  ## on the digits: preserve, a patch, a learned trigger, DDIM, another surrogate and seed
	@code=0; $(foreach one,$(VARIANTS),$(call part,$(firstword $(subst :, ,$(one)))) $(DIFF2) \
		defense=purification $(subst /, ,$(lastword $(subst :, ,$(one)))) || code=1;) \
	$(call part,twin) $(SHIELD) attack=none train.steps=800 defense=purification,certification,$(AUDITS_digits) || code=1; \
	$(BIN)/bdiff shields $(TABLES)/$@ || code=1; exit $$code

test: $(READY)  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' --durations=10 --numprocesses 2 --dist loadfile

test-slow: $(READY)  ## the tests that take minutes: kills, launchers, pytorch-fid's own command
	$(BIN)/pytest -m slow --durations=10

test-cuda: $(READY)  ## the tests that need a CUDA device, a process for each file
	@code=0; for file in $(CUDA_TESTS); do $(BIN)/pytest -m cuda $$file || code=1; done; exit $$code

gpu:  ## a machine with a card, all that is worth knowing within MINUTES (DATA=CIFAR-10); installs nothing
	$(PYTHON) scripts/gpu.py --minutes $(MINUTES) --out $(OUT) $(if $(DATA),--data $(DATA)) $(GPU)

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## mend what the linter and the formatter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

constraints: $(READY)  ## write the installed versions to constraints.txt
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:  ## remove what runs and builds left behind, but not .venv
	find outputs -mindepth 1 ! -name .gitkeep -delete
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
