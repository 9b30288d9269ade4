# `make demo` and `make test` do all their own set-up: system packages, .venv, PyPI, the operators, the C++ side.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/cmake
INSTALLED := $(VENV)/.installed
OPERATORS := yolact/_ops.abi3.so
OPERATOR_SOURCES := setup.py $(wildcard csrc/ops/*.* csrc/ops/cpu/* csrc/ops/cuda/*)

.PHONY: all demo test pytest ctest lint format clean
all: $(OPERATORS) cpp

demo: all
	$(BIN)/yolact demo --program $(BUILD)/bin/yolact-segment

test: pytest ctest

pytest: all
	$(BIN)/python -m pytest -q

ctest: all
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: the package's own build needs it, and with build isolation would fetch a second one.
$(INSTALLED): pyproject.toml scripts/system_packages.sh
	PYTHON=$(PYTHON) scripts/system_packages.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch torchvision "setuptools>=77" ninja
	YOLACT_CUDA=0 $(BIN)/pip install -q --no-build-isolation -e '.[dev]'
	touch $@

$(OPERATORS): $(OPERATOR_SOURCES) | $(INSTALLED)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

.PHONY: cpp
cpp: | $(INSTALLED)
	$(BIN)/cmake -S . -B $(BUILD) -G Ninja -DYOLACT_PYTHON_EXECUTABLE=$(CURDIR)/$(BIN)/python --log-level=WARNING
	$(BIN)/cmake --build $(BUILD)

clean:
	rm -rf build yolact/*.so
