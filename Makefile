# make demo   builds a virtual environment, exports exit 5 and classifies example pictures
# make test   builds what the tests need and runs the checkers and the tests
#
# Both need Python 3.10 or later and the network for pip, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check built-in clean

demo: $(VENV)/.export
	$(BIN)/tgems-edge export --layer 5 --output build/demo.onnx --overwrite
	$(BIN)/tgems-edge classify --model build/demo.onnx examples

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Makes again everything that depends on the demo CLIP: the heads of all blocks, the built-in file, and
# the tables of benchmarks/. TRAIN and VALIDATION are CIFAR-10 as image folders, FOLDER/<class>/*.jpg.
LAYERS := 1 2 3 4 5 6 7 8 9 10 11 12
HEADS := export/tgems_export/demo/heads
built-in: $(VENV)/.dev
	$(if $(TRAIN),,$(error give TRAIN=folder and VALIDATION=folder of CIFAR-10 pictures))
	$(BIN)/tgems-edge train $(TRAIN) $(addprefix --layer ,$(LAYERS)) --out $(HEADS) --overwrite
	$(BIN)/tgems-edge export --layer 5 --data $(VALIDATION) --output tgems_edge/demo/model.onnx --overwrite
	$(BIN)/python benchmarks/accuracy.py $(TRAIN) $(VALIDATION)
	$(BIN)/python benchmarks/training_time.py $(TRAIN)
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/readme.py

# A stamp per set of extras; about 6 GB with torch, two to three minutes.
$(VENV)/.export: pyproject.toml | $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,export]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,export,dev]'
	@touch $@ $(VENV)/.export

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build
