# make demo    a full-duplex conversation with a recorded user, on the embedded model (no download)
# make test    all tests; those that need a sound server, a browser or a speech engine of Debian's say so and are left out without
# make bench   every bench of the embedded model: out/bench/index.html (about half an hour; started again it goes on)
# make trust   the promises under load, faults and bad input: out/trust/index.html (about four hours, a two-hour soak among them)
# make corpus  everything that the embedded model learns from: out/tiny (hours; started again it goes on)
# make tiny    the embedded model, trained on that: out/tiny/model (a day of two cores; started again it goes on)
# make rehearsal  the commands of those two on little of everything: out/rehearsal/model (minutes)
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# One thread a process and no spinning: two spinning OpenMP pools on few cores slow each other several times.
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

.PHONY: demo test bench trust lint clean

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

include train/tiny.mk

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
