# Every target sets up .venv by itself from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
CORPUS ?= ../shared/data/corpus
# Two workers; the one that is done first takes tests of the other, so both end together.
TWO := -n 2 --dist worksteal
ENV := FAIRWAY_DATA=$(dir $(CORPUS)) OMP_NUM_THREADS=1

# The pr264 shape at a size that two cores train in about an hour, for benchmarks.
PR264 := --out runs/pr264-small --set data.source=files --set data.path=$(CORPUS) \
	--set 'data.tokenizer=""' --set model.window=512 --set train.batch_tokens=4096 \
	--set train.steps=300 --set run.train_limit_s=100000 --set train.compile=false

.PHONY: venv demo test slow campaign check lint types cover models docs clean

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: venv  ## the whole course on this CPU: a model, its artifact, its score, the verified proof
	$(BIN)/fairway demo

test: venv  ## all tests but the slow ones
	$(ENV) $(BIN)/pytest $(TWO)

slow: venv  ## tests marked slow: what builds the package or needs a browser
	$(ENV) $(BIN)/pytest -m slow

campaign: venv  ## foreign inputs and lies by the thousand, for two hours
	$(BIN)/fairway run tiny --out runs/tiny
	$(BIN)/python tests/campaign.py runs/tiny
	$(BIN)/python tests/adversary/meaning.py runs/tiny
	$(BIN)/python tests/page/mutants.py

check: lint types cover  ## what must hold before a commit

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

cover: venv  ## all tests, and which lines they ran
	$(BIN)/coverage erase
	$(ENV) $(BIN)/coverage run -m pytest $(TWO)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

models: venv  ## the trained models that benchmarks take with --model; stop and repeat at will
	$(BIN)/fairway run mini --out runs/mini --set data.source=files --set data.path=$(CORPUS)
	$(BIN)/fairway prepare pr264 $(PR264)
	$(BIN)/fairway train pr264 $(PR264)
	$(BIN)/fairway pack runs/pr264-small

docs: venv  ## the pages as a site in build/docs; a broken link is an error
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## results and caches; the environment stays
	rm -rf runs build dist .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache
