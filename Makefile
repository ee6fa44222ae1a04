# Every target does its own set-up: python3 with venv is all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow lint figures benchmark wheel clean

demo: $(VENV)/.installed  ## align a prior on a gridworld, print before and after, draw the pictures
	@for method in MEReQ MEReQ-L; do \
	  $(BIN)/mereq align carpet --method $$method --seed 0 --out runs/demo && \
	  $(BIN)/python figures/alignment.py runs/demo/carpet/$$method/seed0 --out runs/demo/$$method.png || exit 1; \
	done

test: $(VENV)/.installed-dev  ## the default tests
	$(BIN)/python -m pytest -q

slow: $(VENV)/.installed-dev  ## the long tests
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

figures: $(VENV)/.installed  ## draw every committed figure again from its recorded runs
	$(BIN)/python figures/alignment.py figures/runs/carpet/MEReQ-L/seed0
	$(BIN)/python figures/comparison.py
	$(BIN)/python figures/batch_size.py
	$(BIN)/python figures/bias.py

benchmark: .venv-bench/.installed  ## time the solvers and their peers on one core
	taskset -c 0 .venv-bench/bin/python tests/benchmarks/solvers.py

# The peers pin old versions, so they live apart; torch first, since imitation would bring its CUDA build.
.venv-bench/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

wheel: $(VENV)/.installed-dev  ## build the wheel and import it in an environment of its own
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd dist && ../.venv-wheel/bin/python -c "import mereq_min, gridworlds, deep; print(mereq_min.__file__)"
	cd dist && ../.venv-wheel/bin/mereq tasks --steps 500

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-* build dist
