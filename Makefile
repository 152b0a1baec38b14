# make install   an environment in .venv, which the others make too if there is none: minutes, 1.4 GB
# make demo   train both twins on the built-in language, watch them write, compare them (five minutes, no download)
# make race   watch the shipped twins write, side by side
# make test   everything CI runs
# make site   build the page in which the models run, and serve it at http://localhost:8000
# make artifacts   after other weights: everything that is made from them; long, and needs tmux and chromium
# make notebooks   run every notebook from top to bottom and keep what it shows

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: install demo race test results artifacts notebooks web site clean

install: .venv/installed

demo: .venv/installed
	$(BIN)/python diffusion.py --train --generate --out $(DEMO)/diffusion
	$(BIN)/python gpt.py --train --generate --out $(DEMO)/gpt
	$(BIN)/python -m microdlm.comparison $(DEMO)/diffusion $(DEMO)/gpt --windows 256 --out $(DEMO)/twins.json

race: .venv/installed
	$(BIN)/python visualize.py

# One process a core, one thread a process: torch's threads would only be in each other's way.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The tables in README.md, the page results/README.md and the figures, from results/*.json
results: .venv/installed
	$(BIN)/python results/tables.py
	$(BIN)/python results/page.py
	$(BIN)/python results/figures.py

# In the order in which one is made from the other. Wants an idle machine: much of it is timed. The frontier
# takes longest, and goes on where it was.
artifacts: web
	$(BIN)/python -m microdlm.export_web --out results/web_export.json
	$(BIN)/python -m microdlm.comparison shakespeare-diffusion shakespeare-gpt --out results/twins.json
	$(BIN)/python results/steps.py 3
	$(BIN)/python results/sampling_frontier.py
	$(BIN)/python results/sampling_speed.py
	$(BIN)/python visualize.py race --no-animate --save web/frames.json
	$(BIN)/python results/terminal.py
	$(BIN)/python results/web.py
	$(BIN)/python web/explore/data.py
	$(BIN)/python web/picture.py
	$(MAKE) notebooks results

# What the page needs beside its own files: the models in eight bits, the runtime from npm. About two minutes.
web: .venv/web-installed web/node_modules
	$(BIN)/python -m microdlm.export_web
	cd web && node build.js

site: web
	$(BIN)/python -m http.server --directory web 8000

web/node_modules: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund --ignore-scripts
	touch $@

.venv/web-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[web]'
	touch $@

notebooks: .venv/installed
	$(BIN)/python notebooks/build.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "microDLM needs Python 3.11 or newer")'
	@echo 'Installing into .venv: minutes, and 1.4 GB or more. pip says nothing while all goes well.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
