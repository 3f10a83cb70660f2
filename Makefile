# Everything sets itself up in .venv with the WebUI's own pins (about three minutes the first time).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
READY := .venv/.ready-$(firstword $(shell cat requirements-*.txt | cksum))

.PHONY: test demo panel lint bench-quality clean

test: lint
	$(PY) -m pytest

lint: $(READY)
	.venv/bin/ruff check .

demo: $(READY)
	$(PY) -m demo.make_sheet

bench-quality: $(READY)
	$(PY) -m demo.family.quality

panel: $(READY)
	$(PY) -m demo.serve

$(READY): requirements-test.txt requirements-test-nodeps.txt requirements-lock.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt -c requirements-lock.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test-nodeps.txt
	rm -f .venv/.ready-*
	touch $@

clean:
	rm -rf .venv demo/output demo/data .pytest_cache .ruff_cache .hypothesis
