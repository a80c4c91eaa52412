# Needs Python 3.11 or newer and make. Every target sets up what it needs; `make PYTHON=python3.12 test` picks the interpreter.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
UNFINISHED := $(VENV)/.unfinished
CLI := $(BIN)/diffusion-lightning

.DEFAULT_GOAL := help
.PHONY: help setup demo compare test lint bench clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
	    printf '  make %-7s  %s\n' "$$name" "$$text"; done

setup: $(VENV)/.dev ## make .venv and install the package with its development tools

# Validated once, at the end, so that each table and image is printed once.
LAST := --trainer.check_val_every_n_epoch 40

# A shorter run of the configuration, in a folder of its own.
PHOTO := --trainer.max_epochs 4 --trainer.check_val_every_n_epoch 4 --model.lr_scheduler.init_args.T_max 1000

demo: $(VENV)/.dev ## train small models, generate digits, restore digits and photographs, and print the paths (runs/)
	@echo "1/5 generation: training configs/warm_blur.yaml"
	$(CLI) fit --config configs/warm_blur.yaml $(LAST)
	@echo "2/5 restoration: training configs/blur.yaml"
	$(CLI) fit --config configs/blur.yaml $(LAST)
	@echo "3/5 restoration of photographs: training configs/photo_blur.yaml, shortened"
	$(CLI) fit --config configs/photo_blur.yaml $(PHOTO) --trainer.default_root_dir runs/demo/photo_blur
	@echo "4/5 restoring held-out photographs"
	$(CLI) preview --config configs/photo_blur.yaml --output runs/demo/photographs/strip.png --files runs/demo/photographs
	$(CLI) restore --ckpt_path runs/demo/photo_blur/checkpoints/last.ckpt --sampler Direct \
	    --input runs/demo/photographs/degraded --output runs/demo/photographs/restored
	@echo "5/5 generating images"
	$(CLI) generate --ckpt_path runs/warm_blur/checkpoints/last.ckpt --number 64 --output runs/demo/generated
	@echo "photographs:      runs/demo/photographs/ (degraded, restored, original)"
	@echo "restored digits:  $$(ls -t runs/blur/images/restored-*.png | head -n 1)"
	@echo "generated digits: runs/demo/generated/grid.png"
	@echo "trajectories:     $$(ls -t runs/warm_blur/images/trajectory-*.png | head -n 1)"

RUN ?= ddpm
STEPS ?= [5, 10, 20, 50, 100]

compare: $(VENV)/.dev ## compare samplers on a trained config: FID against network evaluations; make compare RUN=ddpm STEPS='[5, 20]'
	@[ -e runs/$(RUN)/checkpoints/last.ckpt ] || $(CLI) fit --config configs/$(RUN).yaml
	$(CLI) compare --config configs/$(RUN).yaml --ckpt_path runs/$(RUN)/checkpoints/last.ckpt --output runs/compared/$(RUN) \
	    --features DigitsClassifier --steps '$(STEPS)' $(ARGS)

# One thread per worker: PyTorch's threads would compete for the cores. A worker takes seconds to import torch, so few of them.
test: $(VENV)/.dev ## run the tests; arguments for pytest go in ARGS: make test ARGS="-k blur -n 0"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(ARGS)

lint: $(VENV)/.dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench ## run every script of tests/benchmarks, one after another
	@failed=; for script in tests/benchmarks/[!_]*.py; do \
	    echo "== $$script"; $(BIN)/python "$$script" || failed="$$failed $$script"; done; \
	    [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

clean: ## remove runs, builds and caches; keeps .venv and data
	@for path in runs lightning_logs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis; do \
	    [ ! -e "$$path" ] || { echo "removing $$path"; rm -rf "$$path"; }; done
	@echo "removing __pycache__ of the package and the tests"
	@find diffusion_lightning tests -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is .unfinished until everything is installed: an interrupted set-up is repeated from the start. A .venv made by
# hand is kept and completed.
$(VENV)/.dev: pyproject.toml
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	        echo "$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12" >&2; exit 1; }; \
	    $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	        echo "$(PYTHON) has no venv module; install it (Debian: apt install python3-venv) or set PYTHON" >&2; exit 1; }; \
	    rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV); fi
	@touch $(UNFINISHED)
	$(BIN)/python -m pip install -e '.[dev]'
	@mv $(UNFINISHED) $@

$(VENV)/.bench: $(VENV)/.dev
	@mv $(VENV)/.dev $(UNFINISHED)
	$(BIN)/python -m pip install -e '.[dev,bench]'
	@mv $(UNFINISHED) $(VENV)/.dev && touch $@
