# Start with `make demo` and `make test`. `make check` runs the checks of CI.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
CORES ?= 2
# One more than cores: the tests of SLURM wait most of their time.
WORKERS ?= 3
# Jobs and tests import the same modules many times: let Python keep their compiled form.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format schema golden performance lock hooks clean

# Python compiles the modules that are imported; compiling all with pip would double the time. The native library is
# compiled meanwhile.
$(READY): envs/requirements.lock envs/requirements-dev.lock
	$(PYTHON) -m venv $(VENV)
	PYTHONPATH=workflow $(PYTHON) -m intaglio.native.build & library=$$!; \
	$(BIN)/pip install --quiet --no-compile --requirement envs/requirements-dev.lock || exit 1; \
	wait $$library || echo "Integer models will run without the native library."
	touch $@

# Fine-tune, quantize, evaluate, profile, tables, plots, report; ends with an overview.
demo: $(READY)
	$(BIN)/snakemake --profile profiles/demo --cores $(CORES)
	$(BIN)/snakemake --profile profiles/demo --cores $(CORES) --report report.html
	@cat results/demo/pages/overview.txt
	@echo "With how each file was made: $(CURDIR)/report.html"

test: $(READY) check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder --durations=25

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/demo.yaml

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# The JSON schema of study files and their reference page.
schema: $(READY)
	PYTHONPATH=workflow $(BIN)/python -m intaglio schema --schema workflow/schemas/study.schema.json --reference config/README.md

# Results of every kind of job on a tiny model, updated for kinds that are new or have a higher declared version.
golden: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=workflow $(BIN)/python tests/golden.py

# The page of the measurements that are kept in benchmarks/results.
performance: $(READY)
	PYTHONPATH=workflow $(BIN)/python benchmarks/performance.py

# Update the pins of the packages in envs/*.in.
lock:
	for name in requirements requirements-dev; do \
	  rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet -r envs/$$name.in && \
	  build/lock/bin/pip freeze | sed 's/+cpu//' > envs/$$name.lock || exit 1; \
	done

# Check before every commit.
hooks:
	printf '#!/bin/sh\nexec make check\n' > $$(git rev-parse --git-path hooks)/pre-commit
	chmod +x $$(git rev-parse --git-path hooks)/pre-commit

clean:
	rm -rf $(VENV) .snakemake .mypy_cache .ruff_cache .pytest_cache .hypothesis logs
