# Every target works in a fresh clone: the first one used finds or installs uv and Python, then fills $(VENV).
# UV_PYTHON=3.12 VENV=.venv-3.12 sets up another interpreter beside the usual one.

VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: all help setup demo run bench check test grid fuzz fuzz-frames hammer python docs clean
.DELETE_ON_ERROR:

all: setup help

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(READY) ## find or install uv and Python >= 3.12, install what uv.lock names

$(READY): pyproject.toml uv.lock .python-version deploy/dev/bootstrap deploy/native.py $(wildcard workers/guest/native/*.[ch])
	@deploy/dev/bootstrap
	@touch $@

demo: setup ## run a real script, kill its processes, watch it go on
	$(BIN)/perdure demo

run: setup ## run a script durably: make run FILE=script.py
	@test -n "$(FILE)" || { echo "name the script: make run FILE=script.py" >&2; exit 2; }
	$(BIN)/perdure run $(FILE)

bench: setup ## measure: make bench WHAT=calls
	$(BIN)/perdure bench $(WHAT)

check: setup ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

test: setup ## run the tests, JOBS at a time: make test ARGS='-k store' JOBS=1
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

grid: setup ## kill real processes at every recorded boundary: hours; goes on where it was
	$(BIN)/python -m tests.invariants $(ARGS)

fuzz: setup ## random programs, compared as graphs after every statement: a million steps, hours
	$(BIN)/python -m tests.checkpoint.fuzz 1 1000000 $(ARGS)

hammer: setup ## the store and commits, by thousands of kills, wake-ups and histories: an hour
	PERDURE_KILLS=3000 PERDURE_ROUNDS=10000 PERDURE_HISTORIES=2000 PERDURE_COMMIT_KILLS=0 PERDURE_CUTS=1 \
	$(BIN)/python -m pytest tests/store tests/blobs tests/whole/test_commits.py tests/checkpoint/test_torn.py $(ARGS)

python: setup ## compare with CPython at length: restores between statements, its own tests, popular packages
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --group packages
	$(BIN)/python -m pytest -m python $(ARGS)

fuzz-frames: setup ## fuzz what the host makes of a guest's bytes, by coverage (needs atheris)
	$(BIN)/python -m tests.workers.fuzz_frames -max_total_time=$(or $(SECONDS),600) -max_len=4096

docs: setup ## check the links, names and examples of the documentation
	$(BIN)/python -m pytest -m docs

clean: ## remove what the tools left, and the environment
	rm -rf $(VENV) .tools dist build .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find engine capabilities workers tests docs deploy -name __pycache__ -type d -prune -exec rm -rf {} +
