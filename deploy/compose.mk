# The stack of containers. N is the number of inference workers, kept in .env: make up N=4
COMPOSE ?= docker compose
PYTHON ?= .venv/bin/python
N ?=

.PHONY: env model up down bundle compose-test

env: ## Write .env with random passwords, and the folders inbox, out and models
	@sh deploy/env.sh

model: ## Fetch and verify the weights into models, if they are not there; 'up' does it too
	$(COMPOSE) run --rm --build model

up: ## Build and start the stack, or upgrade all of it; N=4 keeps four inference workers
	@sh deploy/workers.sh $(N)
	$(COMPOSE) up --detach --build --wait

down: ## Stop the stack and a running producer; its volumes, runs and reports stay
	$(COMPOSE) --profile '*' down --remove-orphans

# In this order: the viewer's and the modality's checks change settings, an upgrade leaves newer code behind.
COMPOSE_CHECKS ?= stack runner kills flower monitoring tls viewer modality bundle upgrade

bundle: ## Pack images, model and compose files into one archive for a machine without internet
	@COMPOSE="$(COMPOSE)" sh deploy/bundle.sh $(FILE)

compose-test: ## Bring up a stack of its own and try it; needs a Docker Engine with Compose v2
	@scripts/environment dev
	$(PYTHON) -m pytest $(addprefix tests/compose/check_,$(addsuffix .py,$(COMPOSE_CHECKS)))
