# What one can do here. Everything sets itself up in .venv first; nothing else on the machine is touched.
PY := .venv/bin/python

.PHONY: help demo test test-fast lint types bench bench-decisions recording screenshots clean
help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

demo:            ## build ./demo and play it: eleven scenes in under two minutes, then the dashboard (KEEP=1 resumes and goes on watching)
	@python3 scripts/setup.py
	@$(PY) -m evertrain.demo

test:            ## run every test
	@python3 scripts/setup.py tests
	@$(PY) scripts/test.py

test-fast:       ## run the tests that need no processes to be killed, in about a minute
	@python3 scripts/setup.py tests
	@$(PY) scripts/test.py -m "not slow" -n 2 --dist loadfile

lint:            ## check style and formatting
	@python3 scripts/setup.py tests typing
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types:           ## check types, strictly
	@python3 scripts/setup.py tests typing
	@.venv/bin/mypy

bench:           ## measure what Evertrain costs; writes docs/benchmarks.md
	@python3 scripts/setup.py tests
	@$(PY) -m benchmarks

bench-decisions: ## measure its decisions beside other tools; writes docs/benchmarks-decisions.md (QUICK=1: a small look; STREAMS=60: fewer than 300)
	@python3 scripts/setup.py tests
	@$(PY) -m benchmarks.decisions

recording: demo  ## play the demo and keep its recording for the README
	@cp demo/recording.svg docs/demo.svg

screenshots:     ## draw every page of ./demo in light, dark and phone width into docs/screenshots (after make demo)
	@python3 scripts/setup.py tests
	@$(PY) scripts/screenshots.py demo demo/days

clean:           ## remove what these commands made
	@rm -rf .venv .make demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
