# Every target does its own set-up: python3 with venv is all that is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(@D)/bin/pip install --quiet --disable-pip-version-check

.PHONY: demo test slow floor python-3.13 opengl browser lint figures book book-check benchmark benchmark-highway \
  benchmark-waiting benchmark-live benchmark-deep wheel clean

demo: .venv/.installed  ## align priors on a gridworld and on the highway, print before and after, draw pictures
	@for method in MEReQ MEReQ-L; do \
	  $(BIN)/mereq align carpet --method $$method --seed 0 --out runs/demo && \
	  $(BIN)/python figures/alignment.py runs/demo/carpet/$$method/seed0 --out runs/demo/$$method.png || exit 1; \
	done
	$(BIN)/mereq align highway --seed 4 --out runs/demo
	@echo "Now teach one yourself, in the browser: $(BIN)/mereq teach carpet"

# By file, so that what a module trains once is trained once.
PYTEST := -m pytest -q --durations=25 --numprocesses auto --maxprocesses 4 --dist loadfile
# Test by test: these share nothing but the built book.
PYTEST_BOOK := $(PYTEST:loadfile=load)

# Small networks and matrices: threads would only get into one another's way.
test slow floor python-3.13 book book-check: export OMP_NUM_THREADS = 1

test: .venv/.installed-dev opengl browser build/axe-core/axe.min.js  ## the default tests
	$(BIN)/python $(PYTEST)

slow: .venv/.installed-dev opengl browser build/axe-core/axe.min.js  ## the long tests, but for those of the book
	$(BIN)/python $(PYTEST) -m slow --ignore=tests/book

# For other versions, a minute or two: tables, runs, pictures, command line; then simulators and networks.
QUICK := tests/gridworlds tests/mereq_min/test_residual.py tests/mereq_min/lab/runs tests/mereq_min/lab/show \
  tests/mereq_min/lab/commands/test_main.py tests/deep/highway/test_envs.py tests/deep/fanuc/test_envs.py \
  --deselect tests/mereq_min/lab/commands/test_main.py::test_help_and_the_list_of_tasks_are_quick
NETWORKS := tests/contracts/test_learners.py tests/deep/test_nets.py tests/deep/test_stable_baselines.py

# What numba compiled for one environment would be compiled anew for the next.
floor python-3.13: export NUMBA_CACHE_DIR = $(CURDIR)/$(<D)/numba

# It calls a newer pyparsing by old names. Warnings that our own code causes stay errors.
OLD_MATPLOTLIB := -W ignore::DeprecationWarning:matplotlib._fontconfig_pattern -W ignore::DeprecationWarning:matplotlib._mathtext

floor: .venv-floor/.installed opengl  ## some tests with Python 3.11 and the lowest versions that pyproject.toml admits
	$(<D)/bin/python $(PYTEST) $(OLD_MATPLOTLIB) $(QUICK) $(NETWORKS)

python-3.13: .venv-3.13/.installed opengl  ## some tests with Python 3.13, without torch
	$(<D)/bin/python $(PYTEST) $(QUICK)

opengl:  # MuJoCo draws without a display through EGL
	@ldconfig -p | grep -q libEGL.so.1 || { apt-get update && apt-get install --yes --no-install-recommends \
	  libegl1 libgl1-mesa-dri; }

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell mereq_min gridworlds deep tests figures book *.md Makefile pyproject.toml
	$(BIN)/mypy

figures: .venv/.installed  ## draw every committed figure again from its recorded runs, and fill the tables
	$(BIN)/python figures/hero.py
	$(BIN)/python figures/alignment.py figures/runs/carpet/MEReQ-L/seed0
	$(BIN)/python figures/comparison.py
	$(BIN)/python figures/batch_size.py
	$(BIN)/python figures/bias.py
	$(BIN)/python figures/fidelity.py
	$(BIN)/python figures/arm.py
	$(BIN)/python figures/human.py
	$(BIN)/python figures/noise.py
	$(BIN)/python figures/results.py

book: .venv/.installed-book book/_static/mathjax/tex-svg.js book/_build/.library  ## build the book into book/_build/html
	$(BIN)/sphinx-build -W --keep-going --quiet --jobs auto book book/_build/html

browser:  # pages are tested in Chromium
	@command -v chromedriver > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends \
	  chromium chromium-driver fonts-dejavu-core; }

book-check: .venv/.installed-dev browser book  ## open every page of the book in a browser; screenshots in book/_build/screenshots
	$(BIN)/python $(PYTEST_BOOK) -m slow tests/book

benchmark: .venv-bench/.installed  ## time the solvers and their peers on one core
	taskset -c 0 $(<D)/bin/python tests/benchmarks/solvers.py

benchmark-highway: .venv/.installed  ## time the compiled highway and highway-env on one core
	taskset -c 0 $(<D)/bin/python tests/benchmarks/highway.py

benchmark-waiting: .venv/.installed opengl  ## time tables, films and small runs on one core
	taskset -c 0 $(<D)/bin/python tests/benchmarks/waiting.py

benchmark-live: .venv/.installed-dev  ## measure how late a live session is, at rest and while it learns
	$(BIN)/python tests/benchmarks/live.py --record runs/benchmarks/live.json

benchmark-deep: .venv-bench-deep/.installed  ## time residual SAC and Stable-Baselines3 on one core
	taskset -c 0 $(<D)/bin/python tests/benchmarks/learners.py

wheel: .venv/.installed-dev  ## build the wheel and import it in an environment of its own
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd dist && ../.venv-wheel/bin/python -c "import mereq_min, gridworlds, deep; print(mereq_min.__file__)"
	cd dist && ../.venv-wheel/bin/mereq align carpet --iterations 1
	cd dist && ../.venv-wheel/bin/mereq figures --runs runs --out pictures

%/bin/python:
	$(PYTHON) -m venv $*

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[deep]'
	touch $@

.venv/.installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[dev]'
	touch $@ .venv/.installed

.venv/.installed-book: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[book]'
	touch $@ .venv/.installed

# Formulas without the network: the one file of MathJax that draws them.
book/_static/mathjax/tex-svg.js:
	@command -v npm > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends npm; }
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent mathjax@3.2.2
	tar -xzf $(@D)/mathjax-3.2.2.tgz -C $(@D) --strip-components=2 package/es5/tex-svg.js
	rm $(@D)/mathjax-3.2.2.tgz

# Looks for faults of pages that keep people out.
build/axe-core/axe.min.js:
	@command -v npm > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends npm; }
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent axe-core@4.10.3
	tar -xzf $(@D)/axe-core-4.10.3.tgz -C $(@D) --strip-components=1 package/axe.min.js
	rm $(@D)/axe-core-4.10.3.tgz

# What pages computed is kept until the code or the recorded runs behind it change.
book/_build/.library: $(shell find mereq_min gridworlds deep -name '*.py') $(wildcard figures/*.gif figures/*.jsonl figures/runs/* book/*.py book/*.mplstyle)
	rm -rf $(@D)/.jupyter_cache $(@D)/html/.doctrees
	mkdir -p $(@D)
	touch $@

# uv finds a Python of the version asked for or downloads it. pyenv hides its own from others.
.venv-uv/bin/uv: .venv-uv/bin/python constraints.txt
	.venv-uv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	touch $@

find_python = $(or $(lastword $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python$(1))),$(1))

# Made anew, since uv keeps what is installed and admissible, and with the other packages of one day. torch comes first:
# uv would download its CUDA build.
.venv-floor/.installed: .venv-uv/bin/uv pyproject.toml constraints.txt
	$< venv --quiet --clear --seed --python $(call find_python,3.11) $(@D)
	$(INSTALL) --no-compile -c constraints.txt torch
	grep '^torch==' constraints.txt > $(@D)/overrides.txt
	$< pip install --quiet --python $(@D)/bin/python --resolution lowest-direct --exclude-newer 2026-11-01 \
	  --overrides $(@D)/overrides.txt -e '.[dev]'
	touch $@

# Without torch, whose wheel for 3.13 is a CUDA build of gigabytes.
.venv-3.13/.installed: .venv-uv/bin/uv pyproject.toml constraints.txt
	$< venv --quiet --clear --python $(call find_python,3.13) $(@D)
	echo "torch ; python_version < '3'" > $(@D)/overrides.txt
	$< pip install --quiet --python $(@D)/bin/python -c constraints.txt --overrides $(@D)/overrides.txt -e '.[dev]'
	touch $@

# imitation pins a gymnasium older than ours, which the solvers do not need; torch comes first, since imitation would bring
# its CUDA build.
.venv-bench/.installed: .venv-uv/bin/uv pyproject.toml constraints.txt
	$< venv --quiet --clear --seed --python $(call find_python,3.11) $(@D)
	$(INSTALL) -c constraints.txt torch
	grep '^torch==' constraints.txt > $(@D)/overrides.txt
	echo 'gymnasium==0.29.1' >> $(@D)/overrides.txt
	$< pip install --quiet --python $(@D)/bin/python --overrides $(@D)/overrides.txt -e '.[bench]'
	touch $@

.venv-bench-deep/.installed: .venv-bench-deep/bin/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[bench-deep]'
	touch $@

clean:
	rm -rf .venv .venv-* build dist book/_build book/_static/mathjax book/reference
