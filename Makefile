# Everything on a fresh machine with Python 3.11 and make: `make demo`, `make test`.
#   HARDWARE=cpu     PyTorch's small CPU build (default); TensorRT-RTX builds engines, none runs
#   HARDWARE=gpu     RTX 20 and newer (constraints/gpu.txt: what has code for which card)
#   HARDWARE=pascal  GTX 10 cards
HARDWARE ?= cpu
PYTHON   ?= python3
VENV     ?= .venv
OUT      ?= demo

EXTRAS_cpu    := cpu,openvino,rtx,dev
EXTRAS_gpu    := gpu,rtx,dev
EXTRAS_pascal := pascal,dev
# Outside PyPI: PyTorch's CPU build (https://pytorch.org/get-started/locally) and TensorRT 8.6.
TORCH_INDEX_cpu := --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu
INDEX_pascal    := --extra-index-url https://pypi.nvidia.com

BIN         := $(VENV)/bin
CONSTRAINTS := constraints/$(HARDWARE).txt
LOCK        := constraints/$(HARDWARE).lock
INSTALLED   := $(VENV)/.installed-$(HARDWARE)

.PHONY: help install lock demo test test-slow test-faults test-gpu gpu-check clean
help:
	@echo "make demo   train, export and benchmark on drawn street scenes (3 to 8 minutes)"
	@echo "make test   lint, types and tests (some 15 minutes on two cores)"
	@echo "            HARDWARE=cpu (default), gpu or pascal chooses what is installed"
	@echo "make gpu-check  what is installed, on this machine's GPU (10 minutes; docs/gpu_check.md)"

install: $(INSTALLED)

# Of the CPU set every file is known by its hash (constraints/cpu.lock), but PyTorch's, which differs
# from index to index. The other sets are held by their constraints alone.
$(INSTALLED): setup.cfg pyproject.toml $(CONSTRAINTS) $(wildcard $(LOCK))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
ifeq ($(HARDWARE),cpu)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH_INDEX_cpu) -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet $(INDEX_$(HARDWARE)) -c $(CONSTRAINTS) \
	    -e '.[$(EXTRAS_$(HARDWARE))]'
endif
	touch $@

# Newest versions that the constraints allow, and their hashes, for maintainers.
lock: FRESH := build/lock
lock:
	rm -rf $(FRESH) && $(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/python -m pip install --quiet --upgrade 'pip>=24' 'setuptools>=68' uv
	$(FRESH)/bin/python -m pip install --quiet $(TORCH_INDEX_cpu) -c constraints/cpu.txt torch
	$(FRESH)/bin/python -m pip install --quiet -c constraints/cpu.txt -e '.[$(EXTRAS_cpu)]'
	$(FRESH)/bin/python -m pip freeze --all --exclude-editable | grep -vE '^(pip|torch|uv)==' > build/lock.in
	$(FRESH)/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate \
	    build/lock.in --output-file constraints/cpu.lock
	rm -rf $(FRESH) build/lock.in

# Two epochs show how training works; what is exported and measured was trained for forty.
TRAINED := weights/dabnet_toy_street.pth
demo: $(INSTALLED)
	rm -rf $(OUT) && mkdir -p $(OUT)
	$(BIN)/dabnet-train --dataset toy-street --max-epochs 2 --eval-every 1 --output $(OUT)/train
	$(BIN)/dabnet-export onnx $(TRAINED) --size 512x1024 --optimize-for ort-cpu -o $(OUT)/dabnet.onnx
	$(if $(filter cpu,$(HARDWARE)),$(BIN)/dabnet-export trt $(TRAINED) --size 512x1024 --precision fp16 \
	    --target sm86 -o $(OUT)/dabnet-fp16-sm86.engine)
	$(if $(filter cpu,$(HARDWARE)),$(BIN)/dabnet-export inspect $(OUT)/dabnet-fp16-sm86.engine --plan)
	$(BIN)/dabnet-bench $(TRAINED) --size 512x1024 --max-images 24 --rounds 10 --min-time 5 \
	    --calibration-images 16 --pictures 3 --cache-dir $(OUT)/cache --output $(OUT)/bench
	@echo "page with pictures: $(OUT)/bench/bench.html, training curves: $(OUT)/train/curves.png"

# A worker per core; all tests of a file in one worker, whose fixtures they share, in the order of their folders:
# xdist would leave the long files of few tests to the end. One thread per operator, as the cores are taken. Hypothesis'
# profile draws the same examples each time: one commit is judged once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder \
    --hypothesis-profile ci
# In processes of their own: on one virtual machine (Linux 6.18, Zen 5) a process in which int8 kernels of
# OpenVINO 2026.4.1 had run was ended by SIGSEGV in a later system call. The cause is not known.
WITH_OPENVINO := tests/bench/backends/test_backends.py tests/runtime/test_openvino_runner.py
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m 'not slow and not gpu' $(WITH_OPENVINO)
	$(PYTEST) -m 'not slow and not gpu' $(WITH_OPENVINO:%=--ignore=%) tests

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

test-faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/faults

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

# It installs nothing: it checks what there is, and needs no network.
gpu-check:
	$(BIN)/python tools/gpu_check.py

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .dabnet-cache
