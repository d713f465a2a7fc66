# make demo    create the environment and run the whole path on the embedded demo
# make test    create the environment and run the tests (SLOW=1 runs the slow ones too)
# make lint    ruff and mypy
# make kills   commands killed at random moments and before single file operations (KILLS=200), an hour or less
# make soak    a Runtime for MINUTES=10 in a crowd of threads, with domains that come and go
# make fuzz    damage what da3 reads, 50,000 times, and see what it says (CASES=1000 SEED=7 JOBS=4)
# make triton-test  the tests that ask a real Triton Inference Server, in an environment of their own (x86-64 Linux)
# make triton-load  32 clients at once for MINUTES=5: TRITON_BUNDLE=bundle TRITON_PHOTOS=photos
# make bench   measure the demo's bundle: gated against all blocks on

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The environment is made again when what it is made from changes.
STAMP = $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# What tests can do without: TensorRT-RTX and Ray, each where it can be installed.
OPTIONAL = $(VENV)/.optional-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PIP_FLAGS ?=
MARK := $(if $(SLOW),-m "not gpu",)
CASES ?= 50000
SEED ?= 1
JOBS ?= 2

.PHONY: demo test lint fuzz kills soak triton-test triton-load bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

$(STAMP):
	@test -n "$(PYTHON)" || { echo "error: no python3 found: install Python 3.10 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is older than Python 3.10: pass PYTHON=/path/to/newer"; exit 1; }
	@echo "creating the environment in $(VENV) (a minute or so, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS) -c constraints.txt -e '.[train,cpu,demo,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

$(OPTIONAL): $(STAMP)
	@rm -f $(VENV)/.optional-*
	@for extra in rtx ray; do \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS) -c constraints.txt -e ".[$$extra]" \
		|| { echo "the extra $$extra cannot be installed: its tests will be skipped"; failed=1; }; \
	done; test -n "$$failed" || touch $@

demo: $(STAMP)
	@$(BIN)/da3 demo --out demo-out

test: $(STAMP) $(OPTIONAL)
	@# A worker for each core, each with one thread: two threads each would wait for one another.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(MARK)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Type checkers follow the package-dir mapping only in an installed copy.
	@rm -rf build/typed build/lib  # where setuptools leaves modules that are gone
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p da3.runtime -p da3.export -p da3.calib -p da3.toolchain -m da3.__main__
	cd tests && MYPYPATH=../build/typed ../$(BIN)/mypy --config-file ../pyproject.toml -m simulation -p simulation.device -p simulation.cuda -p simulation.tensorrt

KILLS ?= 200
MINUTES ?= 10

kills: $(STAMP)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m kills --count $(KILLS)

soak: $(STAMP)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m soak --minutes $(MINUTES)

fuzz: $(STAMP)
	@# What is found stays in build/fuzz as files: python -m fuzz --replay FILE runs one again.
	cd tests && PYTHONPATH=.:runtime ../$(BIN)/python -m fuzz --cases $(CASES) --seed $(SEED) --jobs $(JOBS) --keep ../build/fuzz

# Triton's Python package wants an older numpy than the other environment has.
TRITON := .venv-triton
TRITON_STAMP = $(TRITON)/.installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)
TRITON_BUNDLE ?= bundle
TRITON_PHOTOS ?= photos

$(TRITON_STAMP):
	@echo "creating the environment in $(TRITON) (a minute or so, once)"
	@$(PYTHON) -m venv $(TRITON)
	@$(TRITON)/bin/pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS) -e '.[triton-test]'
	@rm -f $(TRITON)/.installed-*
	@touch $@

triton-test: $(TRITON_STAMP)
	$(TRITON)/bin/python -m pytest -m "slow or not slow" --confcutdir=tests/serving tests/serving

triton-load: $(TRITON_STAMP)
	$(TRITON)/bin/python tests/serving/load.py $(TRITON_BUNDLE) $(TRITON_PHOTOS) --minutes $(MINUTES)

bench: $(STAMP)
	@test -d demo-out/bundle || $(MAKE) --no-print-directory demo
	@for domain in digits glyphs; do $(BIN)/da3 bench run demo-out/bundle --domain $$domain --images demo-out/photos/$$domain/val; done

clean:
	rm -rf $(VENV) $(TRITON) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
