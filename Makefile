# `make demo` and `make test` do all their own set-up: system packages, .venv, packages of PyPI, operators, C++ code.
#
#   V=1                  shows the output of every step; otherwise it goes to build/setup.log
#   YOLACT_TORCH=cpu     installs torch's small build without CUDA; YOLACT_TORCH=pypi goes back to the default
#   YOLACT_CUDA=1 or 0   builds with or without CUDA; by default with CUDA only if there is a CUDA device

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/cmake
STEP := @scripts/step.sh
export V YOLACT_CUDA YOLACT_TORCH

.PHONY: all demo test pytest ctest lint format docs clean operators program cpp
all: cpp

demo: program
	@$(BIN)/yolact demo --program $(BUILD)/bin/yolact-segment

test: pytest ctest

# Two processes of one thread do more than two of two threads, which wait for each other.
pytest: all
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n 2 --dist worksteal

ctest: all
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	git diff --check $$(git hash-object -t tree /dev/null) -- . ':!tests/parity'
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(ISSUE_FORMS)
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "the documentation is in build/docs/index.html"

ISSUE_FORMS = $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
CXX_FILES = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' '*.inc')

# YOLACT_TORCH asks for another torch than the environment has.
ifneq ($(filter-out $(shell cat $(VENV)/.torch 2>/dev/null),$(YOLACT_TORCH)),)
other-torch := other-torch
.PHONY: other-torch
endif

# torch comes first, because the package's own build needs it. Build isolation would download a second torch.
$(VENV)/.torch: scripts/system_packages.sh scripts/install_torch.sh $(other-torch)
	$(STEP) "Looking for system packages" env PYTHON=$(PYTHON) scripts/system_packages.sh
	$(STEP) "Installing torch" scripts/install_torch.sh $(PYTHON) $(VENV)

# This always runs: setup.py knows whether there is anything to compile.
operators: $(VENV)/.torch
	$(STEP) "Compiling the operators" $(BIN)/python setup.py build_ext --inplace

$(VENV)/.package: pyproject.toml $(VENV)/.torch | operators
	$(STEP) "Installing the package" $(BIN)/pip install --no-build-isolation -e '.[build]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.package | operators
	$(STEP) "Installing what tests and training need" $(BIN)/pip install --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.package | operators
	$(STEP) "Installing what the documentation needs" $(BIN)/pip install --no-build-isolation -e '.[docs]'
	@touch $@

CMAKE := $(BIN)/cmake -S . -B $(BUILD) -G Ninja -DYOLACT_PYTHON_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	-DYOLACT_CUDA=$(or $(YOLACT_CUDA),AUTO) && $(BIN)/cmake --build $(BUILD)

program: $(VENV)/.package | operators
	$(STEP) "Compiling the C++ program" sh -c '$(CMAKE) --target yolact-segment'

cpp: $(VENV)/.dev | operators
	$(STEP) "Compiling the C++ program, the Python binding and the tests" sh -c '$(CMAKE)'

clean:
	rm -rf build yolact/lib yolact/*.so
