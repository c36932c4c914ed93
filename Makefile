# Every target sets itself up: it needs Python 3.11+ with venv, g++ 12 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= qwen2.5-coder:0.5b
HOURS ?= 4
CASES ?= 1000000
PROMPT ?= Write a Python function that returns the n-th Fibonacci number.
CORE := $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*.cpp csrc/kernels/*.h csrc/kernels/lanes/*.h csrc/train/*.cpp csrc/train/*.h)
CHECK := $(wildcard tests/cross/*.cpp tests/cross/*.h)

.DEFAULT_GOAL := help
.PHONY: help run setup-train tools test test-slow lint fix sanitize neon-check amx-check bench bench-peers bench-serve proof-verify proof-one-answer proof-fuzz proof-overload proof-lives proof-survival proof-learn proof-tour bench-train clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 24

run: $(VENV)/.built  ## answer PROMPT with MODEL; the first time fetches and packs the model
	@$(BIN)/qwell run $(MODEL) "$(PROMPT)" --max-tokens 256

setup-train: $(VENV)/.train  ## what `qwell train` needs beyond the base install: torch and a few more

tools:  ## Chromium and Node for the tests of the web page, from the system's packages
	@tools/page_tools.sh

test: $(VENV)/.dev tools  ## every fast test, in under 10 minutes
	$(BIN)/pytest -q -m "not slow"

test-slow: $(VENV)/.dev tools  ## the slow tests: real models against their bars
	$(BIN)/pytest -q -m slow --durations=10

lint: $(VENV)/.dev  ## ruff, mypy --strict, clang-format, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CORE) $(CHECK)
	$(BIN)/lint-imports --no-cache

fix: $(VENV)/.dev  ## what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CORE) $(CHECK)
	$(BIN)/python -m nanobind.stubgen -q -m qwell._core -o src/qwell/_core.pyi

sanitize: $(VENV)/.dev  ## the native tests under the address and undefined-behaviour sanitizers
	@tools/sanitize.sh

neon-check: $(VENV)/.dev  ## the core built for AArch64, its kernels run under emulation against scalar
	@tools/neon_check.sh

amx-check: $(VENV)/.dev  ## the kernels for AMX on a CPU without it: every tile instruction trapped and emulated
	@tools/amx_check.sh

bench: $(VENV)/.built  ## speed of MODEL, and how near it is to what this machine gives at best
	@$(BIN)/qwell bench $(MODEL)

bench-peers: $(VENV)/.built  ## the same work on llama.cpp, OpenVINO, transformers and here; ARGS="--rounds 5 ..."
	@$(BIN)/python benchmarks/peers/compare.py $(MODEL) $(ARGS)

bench-train: $(VENV)/.dev  ## one training step of MODEL here and in transformers + PEFT; ARGS="--kind full ..."
	@$(BIN)/python benchmarks/train_peers.py --model $(MODEL) $(ARGS)

bench-serve: $(VENV)/.built  ## 16 streaming clients on qwell serve, llama.cpp's server and LLM.generate
	@$(BIN)/python benchmarks/serve.py $(MODEL) $(ARGS)

proof-verify: $(VENV)/.built  ## by hand, long: both real models on 16 windows; add the row to LOG.md
	$(BIN)/qwell verify qwen2.5-coder:0.5b --windows 16
	$(BIN)/qwell verify qwen2.5-coder:1.5b --windows 16

proof-one-answer: $(VENV)/.dev  ## by hand, HOURS long: random schedules on MODEL, every reply against the lone one
	$(BIN)/python tools/proof_one_answer.py --model $(MODEL) --hours $(HOURS)

proof-fuzz: $(VENV)/.dev  ## by hand, long: CASES mutated HTTP requests; the server lives and answers right
	$(BIN)/python tools/proof_fuzz.py --cases $(CASES)

proof-overload: $(VENV)/.dev  ## by hand, five minutes: ten times what a server of MODEL can do
	$(BIN)/python tools/proof_serve.py overload --model $(MODEL)

proof-lives: $(VENV)/.dev  ## by hand, long: 10,000 requests with cancels on a server of MODEL; nothing is lost
	$(BIN)/python tools/proof_serve.py lives --model $(MODEL)

proof-survival: $(VENV)/.dev  ## by hand, minutes: a tiny run killed 200 times is bit-equal to one that lived
	$(BIN)/python tools/proof_survival.py --kills 200

proof-learn: $(VENV)/.dev  ## by hand, long: LoRA on MODEL learns a task it does badly, a control does not
	$(BIN)/python tools/proof_learn.py --model $(MODEL) $(ARGS)

proof-tour: $(VENV)/.dev  ## by hand, 25 minutes: a small model's whole life, from this machine's text to chat
	$(BIN)/qwell train tour --out build/tour $(ARGS)

clean:  ## remove what make built; the model cache stays (qwell rm removes that)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.venv-ready:
	@command -v $(PYTHON) >/dev/null || { echo "qwell: $(PYTHON) is missing: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qwell: $(PYTHON) is older than 3.11: set PYTHON=python3.11 or newer"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "qwell: a C++ compiler is missing: install g++ 12 or newer"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "qwell: python venv is missing: install your system's python3-venv package"; exit 1; }
	@touch $@

# The sources of the core are a dependency: edit one and the next target builds it again.
$(VENV)/.built: $(VENV)/.venv-ready pyproject.toml CMakeLists.txt constraints.txt $(CORE)
	@$(BIN)/pip install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.train: $(VENV)/.built
	@$(BIN)/pip install -q -c constraints.txt torch
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[tour]'
	@touch $@

$(VENV)/.dev: $(VENV)/.built
	@$(BIN)/pip install -q -c constraints.txt torch
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
