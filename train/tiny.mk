# How the embedded model is made, from nothing: `make corpus`, then `make tiny`. Every command goes on where it was stopped; what is
# done leaves a mark and is not begun again. `make rehearsal` runs the same chain on few lines and a few steps each, in minutes, to
# show that its parts still fit each other; the model that comes out is worth nothing.
W ?= out/tiny
# Processes of language-model training.
DEVICES ?= 2

ifdef BRIEF
VOICES := --lines 0.04 --engine hibari flite espeak piper asterisk sounds
PHONES := --share 0.03
TEACHER_SHARE := 0.02
HOURS := 0.2
CODED := --part 0/6
ENCODER := --set train.steps=4 train.quantize_from=2 train.keep_every=2
HEARING := --set train.steps=4 train.heard_from=2 train.batch=2 train.keep_every=2
DECODER := --set train.steps=4 train.keep_every=2
FIRST_RUN := train.steps=4 train.keep_every=2 train.validate_every=4
SECOND_RUN := train.steps=4 train.batch=2 train.keep_every=2 train.validate_every=4
LAST_RUN := train.steps=6 train.batch=2 train.keep_every=2 train.validate_every=4
else
VOICES = --kokoro-voices $(W)/kokoro/package/voices
TEACHER_SHARE := 0.35
HOURS := 2
CODED := --perturb 1 --system-passes 3
COMPILE := --compile
FIRST_RUN := watch.every=1000
SECOND_RUN := train.steps=4000 train.batch=4 train.lr=7e-4 train.depth_lr=7e-4
LAST_RUN := train.steps=7200 train.batch=4 train.lr=1e-3 train.depth_lr=1e-3 train.listen=0.08
endif

TRAIN := @mkdir -p $(W) && $(PY) -m
RECIPES := train/recipes
# Its tokenizer decides how many text pieces a model knows.
VOCABULARY = model.text_card=$$($(PY) -c "from duplex.text import Tokenizer as T; print(T.load('$(W)/tokenizer.model').vocab_size)")
FIT = train.fit $(RECIPES)/lm-tiny.toml --tokenizer $(W)/tokenizer.model --dialogues $(RECIPES)/dialogues-tiny.toml

.PHONY: corpus tiny rehearsal
corpus: $(W)/.phones $(W)/.teacher $(W)/.tokenizer
tiny: $(W)/.model
rehearsal:
	@$(MAKE) --no-print-directory tiny BRIEF=1 W=out/rehearsal

# The few French and Spanish answers are in voices of an npm package; without npm they are left out.
$(W)/.kokoro: $(VENV)/.tested
ifndef BRIEF
	@mkdir -p $(W)/kokoro && cd $(W)/kokoro && { npm pack --silent kokoro-js@1.2.1 && tar xzf kokoro-js-*.tgz; } \
	  || echo "no voices of Kokoro (npm pack failed): French and Spanish answers are left out"
endif
	@mkdir -p $(W) && touch $@
$(W)/.bank: $(W)/.kokoro
	$(TRAIN) train.speak --out $(W)/bank $(VOICES)
ifndef BRIEF
	$(TRAIN) train.speak --out $(W)/bank --seed 1 --engine hibari flite espeak piper
endif
	@touch $@
$(W)/.phones: $(W)/.bank
	$(TRAIN) train.phones --bank $(W)/bank --out $(W)/phones $(PHONES)
	@touch $@
$(W)/.teacher: $(W)/.bank
	$(TRAIN) train.teach --bank $(W)/bank --out $(W)/teacher --share $(TEACHER_SHARE)
	@touch $@
$(W)/.dialogues: $(W)/.bank
	$(TRAIN) train.synthesize $(RECIPES)/dialogues-tiny.toml --bank $(W)/bank --hours $(HOURS) --out $(W)/dialogues
	@touch $@
$(W)/.tokenizer: $(W)/.dialogues
	$(TRAIN) train.tokenizer $(W)/dialogues --size 1000 --out $(W)/tokenizer.model
	@touch $@
$(W)/.codec: $(W)/.phones $(W)/.teacher
	$(TRAIN) train.codec $(RECIPES)/codec-tiny.toml --bank $(W)/bank --phones $(W)/phones --teacher $(W)/teacher $(COMPILE) \
	  --out $(W)/codec $(ENCODER)
	@touch $@

# The first model, which the encoder then learns to be understood by. Nobody listens to it: its codec's decoder has learnt nothing.
$(W)/.shards: $(W)/.codec $(W)/.tokenizer
	$(TRAIN) train.prepare $(W)/dialogues/train --codec $(W)/codec --tokenizer $(W)/tokenizer.model --out $(W)/shards/train
	$(TRAIN) train.prepare $(W)/dialogues/test --codec $(W)/codec --tokenizer $(W)/tokenizer.model --out $(W)/shards/test
	@touch $@
$(W)/.coded: $(W)/.codec
	$(TRAIN) train.coded --bank $(W)/bank --codec $(W)/codec --out $(W)/coded $(CODED)
	@touch $@
$(W)/.run: $(W)/.shards $(W)/.coded
	$(TRAIN) $(FIT) --shards $(W)/shards --coded $(W)/coded --codec $(W)/codec --real-share 0.1 --out $(W)/run \
	  --set machine.devices=$(DEVICES) $(FIRST_RUN) $(VOCABULARY)
	@touch $@
$(W)/.first: $(W)/.run
	$(TRAIN) train.export --run $(W)/run --codec $(W)/codec --tokenizer $(W)/tokenizer.model --out $(W)/first
	@touch $@
$(W)/.hearing: $(W)/.first
	$(TRAIN) train.codec $(RECIPES)/codec-tiny-hearing.toml --bank $(W)/bank --model $(W)/first $(COMPILE) --out $(W)/hearing $(HEARING)
	@touch $@

# What is embedded: the voice, and the model that goes on learning with the plainer codes; at last mostly from whole dialogues.
$(W)/.voice: $(W)/.hearing
	$(TRAIN) train.codec $(RECIPES)/codec-tiny-decoder.toml --bank $(W)/bank --start $(W)/hearing $(COMPILE) --out $(W)/voice $(DECODER)
	@touch $@
$(W)/.shards-2: $(W)/.hearing
	$(TRAIN) train.prepare $(W)/dialogues/train --codec $(W)/hearing --tokenizer $(W)/tokenizer.model --out $(W)/shards-2/train
	$(TRAIN) train.prepare $(W)/dialogues/test --codec $(W)/hearing --tokenizer $(W)/tokenizer.model --out $(W)/shards-2/test
	@touch $@
$(W)/.coded-2: $(W)/.hearing
	$(TRAIN) train.coded --bank $(W)/bank --codec $(W)/hearing --out $(W)/coded-2 $(CODED)
	@touch $@
RUN_2 = $(FIT) --shards $(W)/shards-2 --coded $(W)/coded-2 --codec $(W)/hearing --real-share 0.05 --start $(W)/first --out $(W)/run-2 \
  --set machine.devices=$(DEVICES) train.seed=15
$(W)/.run-2: $(W)/.shards-2 $(W)/.coded-2
	$(TRAIN) $(RUN_2) $(SECOND_RUN) $(VOCABULARY)
	@touch $@
$(W)/.run-3: $(W)/.run-2
	$(TRAIN) $(RUN_2) $(LAST_RUN) $(VOCABULARY)
	@touch $@
$(W)/.model: $(W)/.run-3 $(W)/.voice
	$(TRAIN) train.export --run $(W)/run-2 --codec $(W)/voice --tokenizer $(W)/tokenizer.model --out $(W)/model --half \
	  --audio-temperature 0 --text-temperature 0.1 --patience 2
	@touch $@
