# One way to run each chore, by hand and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN ?= runs/quickstart

.PHONY: demo test check format wheel clean help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Winnow needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing Winnow's base into $(VENV) (a minute or two)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.all: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing Winnow with all extras into $(VENV) (a few minutes)"
	$(PIP) --editable '.[all,test]'
	@# streaming asks for torchvision, which Winnow never needs; a build that does not fit
	@# torch breaks every import of transformers.
	@$(BIN)/python -W ignore -c 'import torchvision' 2>/dev/null || \
		$(BIN)/python -m pip uninstall --quiet --yes torchvision
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base ## set up .venv and run the quickstart: text on this machine to shards
	$(BIN)/winnow run quickstart --out $(RUN)

# They start some hundred processes of Winnow: compiled modules are kept, whatever the shell says.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.all ## set up everything and pass the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone" tests/test_faults.py tests/test_train.py tests
	$(BIN)/python -m pytest -m alone $$(grep -l 'mark\.alone' tests/test_*.py)

check: $(VENV)/.all ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# mypy does not follow an editable install's finder: show it the packages where they are imported from.
	@mkdir -p $(VENV)/types/winnow
	@for room in pipelines filters tokenize shards; do ln -sfn $(CURDIR)/$$room $(VENV)/types/winnow/$$room; done
	MYPYPATH=$(VENV)/types $(BIN)/mypy

format: $(VENV)/.all ## bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.all ## build dist/winnow-*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what building leaves
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
