# `make run` and `make test` set up .venv by themselves; nothing outside this folder is changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-timm test-trackio test-wheel install lint audit format types imports docs example clean

run: install
	$(BIN)/accelerate launch --quiet --config_file accelerate.yaml benchmark/run.py --models all

test: install
	$(BIN)/pytest --numprocesses auto

# timm needs torchvision, whose wheels on a package index fit a torch for GPUs only. So both go into a
# folder of their own, and tests/torchvision_operators lets them be imported beside a torch for CPUs.
TIMM := $(VENV)/timm

test-timm: install
	test -d $(TIMM) || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
		--target $(TIMM) timm==1.0.31 torchvision==0.28.0
	PYTHONPATH=tests/torchvision_operators:$(TIMM) $(BIN)/pytest tests/test_timm.py

# trackio wants an older Pillow than is pinned, so it and what it needs go into a folder that is looked
# into last.
TRACKIO := $(VENV)/trackio

test-trackio: install
	test -d $(TRACKIO) || $(BIN)/pip install --quiet --disable-pip-version-check --target $(TRACKIO) trackio==0.43.0
	PYTHONPATH=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'):$(TRACKIO) \
		$(BIN)/pytest tests/test_trackers.py

# What a wheel holds, away from the checkout: the registry comes along.
WHEEL := $(abspath $(VENV))/wheel

test-wheel: install
	rm -rf $(WHEEL)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL) .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(WHEEL)/site $(WHEEL)/*.whl
	cd $(WHEEL) && PYTHONPATH=$(WHEEL)/site $(abspath $(BIN))/python -c \
		'import benchmark; assert benchmark.__file__.startswith("$(WHEEL)"), benchmark.__file__'
	cd $(WHEEL) && PYTHONPATH=$(WHEEL)/site $(abspath $(BIN))/python -m benchmark registry validate
	cd $(WHEEL) && PYTHONPATH=$(WHEEL)/site $(abspath $(BIN))/python -m benchmark run --suite smoke --dry-run

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[embedded,test]"
	touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/bandit --quiet --recursive benchmark scripts --configfile pyproject.toml

# Known vulnerabilities of what constraints.txt pins. Asks the advisory database of the network, so
# it is no part of lint, which works without one.
audit: install
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

# The pages that are generated from the code.
docs: install
	$(BIN)/python scripts/write_metrics_page.py
	$(BIN)/python scripts/write_api_page.py
	$(BIN)/python -m benchmark.registry schema > docs/registry.schema.json

# The report that the repository keeps. Data, seeds and models are those of the default suite.
example: run
	rm -rf reports/example
	cp -r reports/embedded reports/example

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
