# Each target sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

# Debian's programs that tests run. Who is not root is told what is missing, and what needs it is skipped (in CI it fails).
TOOLS := prometheus chromium

.PHONY: demo test test-long lint audit test-engines bench overhead soak clean

demo: .venv/ready
	$(BIN)/paceline demo

test: .venv/ready-test .venv/ready-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/audit.py

# known vulnerabilities of what is installed: needs an index that has advisories, and fails where there is none
audit: .venv/ready-test
	$(BIN)/python tests/audit.py --strict

# a thousand experiments of each kind whose truth is known (`make test` has sixty), and what is left out there: minutes
test-long: .venv/ready-test
	PACELINE_EXPERIMENTS=1000 $(BIN)/pytest tests/bench/test_truth.py $(ARGS)
	$(BIN)/pytest -m long $(ARGS)

# real vLLM and transformers serve on the CPU: 5 GB and some minutes the first time (llama.cpp's server runs in `make test`)
test-engines: .venv/ready-test
	$(BIN)/pytest -m engines tests/engines $(ARGS)

# Paceline beside other proxies: about a quarter of an hour, on a quiet machine
overhead: .venv/ready
	$(BIN)/python -m bench.overhead $(ARGS)

# an hour at half capacity, with leaving clients
soak: .venv/ready
	$(BIN)/python -m bench.soak $(ARGS)

bench: .venv/ready
	$(BIN)/python -m bench.fit_profile

.venv/bin/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip

.venv/ready: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[plot]'
	touch $@

.venv/ready-test: .venv/ready pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[plot,text-generation]' --group test --group lint
	touch $@

.venv/ready-tools: .venv/bin/pip
	@missing=$$(for tool in $(TOOLS); do command -v $$tool >/dev/null || echo $$tool; done); \
	if [ -z "$$missing" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null && touch $@; \
	else echo "missing, and what needs it is skipped: $$missing (apt-get install)" >&2; fi

clean:
	rm -rf .venv .engines .bench
