# Everything sets itself up in .venv-3.11 (or .venv-3.10) with the WebUI's own pins: one or two minutes the first time.
# PYTHON=… names the interpreter: python3.10, python3.11, or a path; for test-fast python3.13 as well, with the pins of
# Forge Neo.
INTERPRETER := $(shell sh tests/setup/python.sh $(PYTHON))
VERSION := $(if $(INTERPRETER),$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV := .venv-$(VERSION)
PY := $(VENV)/bin/python
NEO := $(filter 3.13,$(VERSION))
REQUIREMENTS := $(if $(NEO),requirements-neo.txt,requirements-test.txt requirements-test-nodeps.txt requirements-lock.txt)
READY := $(VENV)/.ready-$(firstword $(shell cat $(REQUIREMENTS) | cksum))
ifdef NEO
ifneq ($(filter-out test-fast clean,$(or $(MAKECMDGOALS),test)),)
$(error Python $(VERSION) is for test-fast alone: leave PYTHON out, or name 3.10 or 3.11)
endif
endif
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
# uv downloads and unpacks side by side and links what another environment has; where it cannot (an index or a proxy that
# only pip has been told of), pip does it.
UV := uv==0.13.9
install = $(PY) -m uv pip install --quiet --system-certs --python $(PY) $(1) || $(PIP) $(1)
PROCESSES := auto
PYTEST := $(PY) -m pytest -n $(PROCESSES)

.PHONY: environment test all-tests test-fast lint format browser faces batch demo panel bench bench-quality clean

environment: $(READY)

test: lint browser faces batch all-tests

# With -j beside the linters and the downloads for faces and catalogues, whose tests wait for these themselves.
all-tests: browser
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) $(if $(WITHOUT),-m "not $(WITHOUT)") $(if $(ONCE),--once) tests/unit

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

browser: $(READY)
	$(PY) -m tests.setup.browser

faces: $(READY)
	$(PY) -m tests.setup.faces

batch: $(READY)
	$(PY) -m tests.setup.batch

demo: $(READY)
	$(PY) -m demo.make_sheet

bench: $(READY)
	$(PY) -m benchmarks.bench --write $(if $(WEBUI),--webui "$(WEBUI)")

bench-quality: $(READY)
	$(PY) -m demo.family.quality

panel: $(READY)
	$(PY) -m demo.serve

$(READY): $(REQUIREMENTS)
	$(if $(INTERPRETER),,$(error Python 3.10 or 3.11 is needed, and $(or $(PYTHON),none on PATH) does not run here as \
	one of them: install one, or name its path: make PYTHON=/path/to/python3.11 …))
	$(INTERPRETER) -m venv $(VENV)
	$(PIP) $(UV) || true
ifdef NEO
	$(call install,--no-deps -r requirements-neo.txt)
else
	$(call install,-r requirements-test.txt -c requirements-lock.txt)
	$(call install,--no-deps -r requirements-test-nodeps.txt)
endif
	# On all processors, without the packages' own tests; files that are for other Pythons are no fault. UNCOMPILED=1:
	# Python compiles what it imports.
	$(if $(UNCOMPILED),,$(PY) -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' $(VENV)/lib || true)
	rm -f $(VENV)/.ready-*
	touch $@

clean:
	rm -rf .venv .venv-* demo/output demo/data .pytest_cache .ruff_cache .mypy_cache .hypothesis
