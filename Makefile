# make help lists the targets. Each makes the environment first, from the lock.
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK = $(shell $(PYTHON) -c 'import sys, os; \
  own = "requirements-%d.%d.lock" % sys.version_info[:2]; \
  print(own if os.path.exists(own) else "requirements-3.12.lock")')

.PHONY: help venv demo test test-fast lint check bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /: /'

$(STAMP): setup.py $(wildcard requirements-*.lock)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "error: PYTHON = %s: allowed is Python 3.11 or newer. " \
	  "Run make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

venv: $(STAMP)  ## make the environment

demo: venv  ## train on the embedded data set, evaluate, show the result
	$(BIN)/python -m big_contrastive.train --workdir runs/demo \
	  --config configs/demo.py$(if $(DEMO_ARGS),:$(DEMO_ARGS))

test: venv  ## the whole suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: venv  ## the suite without what is slow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: venv  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch .ci/run

check: lint test  ## what CI runs

bench: venv  ## time the step; prints a table
	$(BIN)/python -m benchmarks.step

lock: venv  ## write the lock file of this Python anew
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet -e '.[test]'
	$(VENV)/lock/bin/pip freeze --exclude-editable \
	  > requirements-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').lock
	rm -rf $(VENV)/lock

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) runs build ./*.egg-info
