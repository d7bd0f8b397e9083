# make demo    a full-duplex conversation with a recorded user, on the embedded model (no download)
# make test    all tests; those that need a sound server, a browser or a speech engine of Debian's say so and are left out without
# make bench   every bench of the embedded model: out/bench/index.html (about half an hour; started again it goes on)
# make trust   the promises under load, faults and bad input: out/trust/index.html (about four hours, a two-hour soak among them)
# make corpus  everything that the embedded model learns from: out/tiny (hours; started again it goes on)
# make tiny    the embedded model, trained on that: out/tiny/model (a day of two cores; started again it goes on)
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# One thread a process and no spinning: two spinning OpenMP pools on few cores slow each other several times.
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

.PHONY: demo test bench trust corpus tiny lint clean

demo: $(VENV)/.installed
	@$(PY) -m infer.demo --out out/demo

test: $(VENV)/.tested
	@$(PY) -m pytest

bench: $(VENV)/.tested
	@$(PY) -m pip install --disable-pip-version-check -q -e '.[bench]' || echo "no C compiler: PESQ is left out"
	@$(PY) -m benchmarks.bench --model tiny --out out/bench

trust: $(VENV)/.tested
	@$(PY) -m pip install --disable-pip-version-check -q -e '.[fuzz,audit]'
	@$(PY) -m benchmarks.trust --out out/trust

# Every command goes on where it was stopped; what is done leaves a mark and is not begun again.
W := out/tiny
TRAIN := @mkdir -p $(W) && $(PY) -m
corpus: $(W)/.phones $(W)/.teacher $(W)/.tokenizer
tiny: $(W)/.model

$(W)/.bank: $(VENV)/.tested
	$(TRAIN) train.speak --out $(W)/bank
	@touch $@
$(W)/.phones: $(W)/.bank
	$(TRAIN) train.phones --bank $(W)/bank --out $(W)/phones
	@touch $@
$(W)/.teacher: $(W)/.bank
	$(TRAIN) train.teach --bank $(W)/bank --out $(W)/teacher --share 0.35
	@touch $@
$(W)/.dialogues: $(W)/.bank
	$(TRAIN) train.synthesize train/recipes/dialogues-tiny.toml --bank $(W)/bank --hours 2 --out $(W)/dialogues
	@touch $@
$(W)/.tokenizer: $(W)/.dialogues
	$(TRAIN) train.tokenizer $(W)/dialogues --size 1000 --out $(W)/tokenizer.model
	@touch $@
$(W)/.codec: $(W)/.phones $(W)/.teacher
	$(TRAIN) train.codec train/recipes/codec-tiny.toml --bank $(W)/bank --phones $(W)/phones --teacher $(W)/teacher --compile \
	  --out $(W)/codec
	@touch $@
$(W)/.decoder: $(W)/.codec
	$(TRAIN) train.codec train/recipes/codec-tiny-decoder.toml --bank $(W)/bank --start $(W)/codec --compile --out $(W)/decoder
	@touch $@
$(W)/.shards: $(W)/.codec $(W)/.tokenizer
	$(TRAIN) train.prepare $(W)/dialogues/train --codec $(W)/codec --tokenizer $(W)/tokenizer.model --out $(W)/shards/train
	$(TRAIN) train.prepare $(W)/dialogues/test --codec $(W)/codec --tokenizer $(W)/tokenizer.model --out $(W)/shards/test
	@touch $@
$(W)/.coded: $(W)/.codec
	$(TRAIN) train.coded --bank $(W)/bank --codec $(W)/codec --perturb 1 --system-passes 3 --out $(W)/coded
	@touch $@
$(W)/.run: $(W)/.shards $(W)/.coded
	$(TRAIN) train.fit train/recipes/lm-tiny.toml --shards $(W)/shards --coded $(W)/coded --tokenizer $(W)/tokenizer.model \
	  --dialogues train/recipes/dialogues-tiny.toml --codec $(W)/codec --real-share 0.1 --out $(W)/run \
	  --set model.text_card=$$($(PY) -c "from duplex.text import Tokenizer as T; print(T.load('$(W)/tokenizer.model').vocab_size)")
	@touch $@
# The first model, which the encoder then learns to be understood by; and the one that goes on learning with the plainer codes.
$(W)/.first: $(W)/.run $(W)/.decoder
	$(TRAIN) train.export --run $(W)/run --codec $(W)/decoder --tokenizer $(W)/tokenizer.model --out $(W)/first
	@touch $@
$(W)/.hearing: $(W)/.first
	$(TRAIN) train.codec train/recipes/codec-tiny-hearing.toml --bank $(W)/bank --model $(W)/first --compile --out $(W)/hearing
	@touch $@
$(W)/.shards-2: $(W)/.hearing
	$(TRAIN) train.prepare $(W)/dialogues/train --codec $(W)/hearing --tokenizer $(W)/tokenizer.model --out $(W)/shards-2/train
	$(TRAIN) train.prepare $(W)/dialogues/test --codec $(W)/hearing --tokenizer $(W)/tokenizer.model --out $(W)/shards-2/test
	@touch $@
$(W)/.coded-2: $(W)/.hearing
	$(TRAIN) train.coded --bank $(W)/bank --codec $(W)/hearing --perturb 1 --system-passes 3 --out $(W)/coded-2
	@touch $@
$(W)/.run-2: $(W)/.shards-2 $(W)/.coded-2
	$(TRAIN) train.fit train/recipes/lm-tiny.toml --shards $(W)/shards-2 --coded $(W)/coded-2 --tokenizer $(W)/tokenizer.model \
	  --dialogues train/recipes/dialogues-tiny.toml --codec $(W)/hearing --real-share 0.1 --start $(W)/first \
	  --out $(W)/run-2 \
	  --set train.steps=5000 train.batch=4 train.lr=7e-4 train.depth_lr=7e-4 \
	  model.text_card=$$($(PY) -c "from duplex.text import Tokenizer as T; print(T.load('$(W)/tokenizer.model').vocab_size)")
	@touch $@
$(W)/.model: $(W)/.run-2
	$(TRAIN) train.export --run $(W)/run-2 --codec $(W)/hearing --tokenizer $(W)/tokenizer.model --out $(W)/model --half \
	  --audio-temperature 0 --text-temperature 0.1 --patience 1
	@touch $@

lint: $(VENV)/.tested
	@$(PY) -m ruff check .

# The virtual environment is remade only when pyproject.toml changes, so that the second run starts at once.
$(VENV)/.installed: pyproject.toml
	@test -x $(PY) || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (about 7 GB with the CUDA libraries that torch brings; a few minutes the first time)"
	@$(PY) -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PY) -m pip install --disable-pip-version-check -e '.[train,corpus,eval,live,serve,cluster,clients,quant,dev]'
	@touch $@

clean:
	rm -rf out $(VENV)
