# The first target that needs it makes .venv and installs everything into it; nothing has to be activated.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## install piny and the pinned dependencies into .venv

hooks: $(READY) ## let git clean and merge notebooks
	$(BIN)/nbdev_install_hooks

figures: $(READY) ## train the variants on the built-in corpus and draw the figures
	$(BIN)/piny_ablate --corpus grammar --preset quick

test: $(READY) ## run the tests of the notebooks, then those in tests/
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n auto --dist loadfile --no-loadscope-reorder

bench: $(READY) ## measure piny beside its peers, and keep tables and figures: a quarter of an hour
	$(BIN)/python -m piny.benchmark

docs: $(READY) ## build the site into _docs/
	$(BIN)/python tools/docs.py

preview: $(READY) ## serve the site at http://127.0.0.1:4200, and build what changes
	$(BIN)/python tools/docs.py --preview

readme: $(READY) ## write the sidebar and README.md from the notebooks
	$(BIN)/python tools/readme.py

prepare: $(READY) ## after changing a notebook: clean all, export piny/, write the sidebar and README.md
	$(BIN)/python tools/light.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_clean --fname ablations
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

# The stamp is touched last: an interrupted set-up is begun afresh, one that is out of date is brought up to date.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	test -f $@ || $(PYTHON) -m venv --clear .venv
	rm -f $@
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

.PHONY: help setup hooks figures test bench docs preview readme prepare
