# make demo   train both twins on the built-in language, watch them write, compare them (five minutes, no download)
# make test   everything CI runs

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test results clean

demo: .venv/installed
	$(BIN)/python diffusion.py --train --generate --out $(DEMO)/diffusion
	$(BIN)/python gpt.py --train --generate --out $(DEMO)/gpt
	$(BIN)/python -m microdlm.comparison $(DEMO)/diffusion $(DEMO)/gpt --windows 256 --out $(DEMO)/twins.json

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

# The tables in README.md, the page results/README.md and the figures, from results/*.json
results: .venv/installed
	$(BIN)/python results/tables.py
	$(BIN)/python results/page.py
	$(BIN)/python results/figures.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "microDLM needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
