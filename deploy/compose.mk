# The stack of containers. N is the number of inference workers, by default one a core: make up N=4
COMPOSE ?= docker compose
PYTHON ?= .venv/bin/python
N ?= $(shell nproc)

.PHONY: env model up down compose-test

env: ## Write .env with random passwords, and the folders inbox, out and models
	@sh deploy/env.sh

model: ## Fetch and verify the weights into models, if they are not there; 'up' does it too
	$(COMPOSE) run --rm --build model

up: ## Build and start the stack; N=4 starts four inference workers
	$(COMPOSE) up --detach --build --wait --scale worker-inference=$(N)

down: ## Stop the stack and a running producer; its volumes, runs and reports stay
	$(COMPOSE) --profile '*' down --remove-orphans

compose-test: ## Bring up a stack of its own and try it; needs a Docker Engine with Compose v2
	@scripts/environment dev
	$(PYTHON) -m pytest tests/compose/check_stack.py tests/compose/check_flower.py \
	  tests/compose/check_tls.py
