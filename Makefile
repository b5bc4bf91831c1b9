# `make demo` and `make test` need Python 3.11 and a C++ compiler; they make .venv when it is missing.
.DEFAULT_GOAL := help
.PHONY: help demo demo-real test test-all chaos bench docs links lint audit environment

RUN ?= runs/demo
RUN_REAL ?= runs/demo_real
WORKERS ?= 2
SEEDS ?= 10000
python := .venv/bin/python
in_parallel = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# torch builds extensions with c++ unless it is told otherwise.
ifeq ($(origin CXX)$(shell command -v c++ 2>/dev/null),default)
export CXX := g++
endif

help:
	@echo 'make demo       the whole of RLHF on a small made-up world; [SEED=0] [RUN=runs/demo]'
	@echo 'make demo-real  the same stages on real data; DATA=directory [RUN_REAL=runs/demo_real]'
	@echo 'make test       the tests that need no GPU; [WORKERS=2] [ARGS="tests/test_setup.py -x"]'
	@echo 'make test-all   those, and more of the same on real engines, marked exhaustive; about twice as long'
	@echo 'make chaos      processes and machines lost in every phase, simulated deaths, faults of the disk, fuzz; [SEEDS=10000]'
	@echo 'make bench      the time of one PPO iteration beside bare engines and TRL'
	@echo 'make docs       the documents as a site: build/docs/index.html; broken links are errors'
	@echo 'make links      asks every site that the documents link to; needs a network'
	@echo 'make lint       ruff'
	@echo 'make audit      known vulnerabilities of the pinned packages, with pip-audit'
	@echo 'Each makes .venv first, once, with the Python 3.11 on PATH or PYTHON=/path/to/python3.11.'

demo: environment
	@$(python) -m rlhf run configs/pipeline.yaml run_dir=$(RUN) $(if $(SEED),seed=$(SEED))

demo-real: environment
	@$(if $(DATA),,echo 'demo-real: name the directory of the data with DATA=' >&2; exit 2)
	@$(python) -m rlhf run configs/demo_real.yaml run_dir=$(RUN_REAL) sources.real=$(DATA) $(if $(SEED),seed=$(SEED))

test: environment
	@$(python) -m pytest -m 'not gpu and not chaos and not exhaustive' $(in_parallel) $(ARGS)

test-all: environment
	@$(python) -m pytest -m 'not gpu and not chaos' $(in_parallel) $(ARGS)

chaos: environment
	@$(python) -m tests.chaos.simulation $(SEEDS)
	@$(python) -m pytest -m 'chaos or not gpu' tests/chaos tests/cluster/test_hosts.py tests/cluster/test_matrix.py tests/faults tests/fuzz \
		tests/end_to_end/test_recovery.py tests/end_to_end/test_train_stages.py $(ARGS)

bench: environment
	@$(python) tests/benchmarks/ppo_iteration.py $(ARGS)

docs: environment
	@$(python) -m sphinx -W --keep-going -n -q -b html docs build/docs
	@echo build/docs/index.html

links: environment
	@$(python) -m sphinx -W --keep-going -q -b linkcheck docs build/links

lint: environment
	@$(python) -m ruff check .

audit: environment
	@$(python) cluster/audit.py $(ARGS)

environment:
	@sh cluster/setup_env.sh
