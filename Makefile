# An index of what can be done here. Every target sets up what it needs; on a fresh Debian or Ubuntu machine only
# make, git and Go must be there. What needs root says so, and uses sudo where sudo asks no question.
export CGO_ENABLED ?= 0
export AWS_EC2_METADATA_DISABLED = true
GO   ?= go
LINT := $(GO) tool -modfile=tools/go.mod golangci-lint
# Formatting walks what it is given, whether Go would or not: never build/, where root file systems are made meanwhile.
SOURCES := cmd internal lab test
DEMO ?=
CONFORMANCE ?=
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help demo build test test-unit test-netns test-integration conformance docker judges shells engines clients bench lint fmt clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: build ## the whole story on this machine, as a table (DEMO='--engine namespace --json' for the demo's options)
	@$(MAKE) --no-print-directory docker || \
		echo 'Docker cannot be installed here: the demo uses plain Linux namespaces as containers.' >&2
	@scripts/as-root bin/taskrole-lab demo $(DEMO)

build: ## static programs in bin/
	@$(GO) build -trimpath -o bin/ ./cmd/...
	@$(GO) build -trimpath -o bin/taskrole-lab-probe ./lab/probe

test: ## every level: unit, script and namespace tests, then Docker 20.10 (runtime) and Docker 28.5 (CDI)
	@$(GO) run ./test/levels

test-unit: ## the tests that run anywhere, without root
	@$(GO) run ./test/levels unit

test-netns: ## the tests that need root and network namespaces, none skipped
	@$(GO) run ./test/levels netns

test-integration: ## the tests with real engines
	@$(GO) run ./test/levels integration

conformance: build engines clients ## real SDKs in real containers: 20 minutes, writes doc/conformance.md (CONFORMANCE='-clients=boto3,curl -slow=false')
	@$(GO) test -tags=conformance -v -count=1 -run=TestConformance -timeout=90m \
		-exec="$(CURDIR)/scripts/isolated env TASKROLE_TEST_BIN=$(CURDIR)/bin TASKROLE_TEST_ENGINES=$(CURDIR)/build/engines \
			TASKROLE_TEST_CLIENTS=$(CURDIR)/build/clients" ./test/conformance \
		-args -results=$(CURDIR)/build -page=$(CURDIR)/doc/conformance.md $(CONFORMANCE)

docker: ## the machine's own Docker, from Debian's packages; its daemon is not used, only the programs
	@scripts/packages dockerd=docker.io 'docker=docker-cli|docker.io' iptables=iptables ip=iproute2

judges: ## what judges our unit file and our manual pages: systemd-analyze and groff
	@scripts/packages systemd-analyze=systemd groff=groff-base

shells: ## the shells that read what `taskrole env` writes, from Debian's packages
	@scripts/packages dash=dash bash=bash zsh=zsh fish=fish

engines: ## the container engines of the integration tests, in build/engines
	@scripts/engines

clients: ## the foreign clients of the conformance suite, in build/clients
	@scripts/clients

bench: build engines ## what a role costs, against a bare net/http handler (writes BENCH.md), and what it adds to a start
	@$(GO) build -trimpath -o build/taskrole-bench ./test/bench
	@$(GO) build -trimpath -o build/taskrole-bench-fetch ./test/bench/fetch
	@scripts/isolated $(CURDIR)/build/taskrole-bench --bin=$(CURDIR)/bin --out=$(CURDIR)/BENCH.md $(BENCH)
	@$(GO) test -tags=integration -count=1 -run='^$$' -bench=. -benchtime=1x -timeout=15m -v \
		-exec="$(CURDIR)/scripts/isolated env TASKROLE_TEST_BIN=$(CURDIR)/bin TASKROLE_TEST_ENGINES=$(CURDIR)/build/engines" ./test/integration

lint: ## formatting, vet, the linters, and go.mod
	@$(GO) mod tidy -diff
	@$(GO) vet -tags=integration ./...
	@$(LINT) run ./...
	@$(LINT) fmt --diff $(SOURCES)

fmt: ## format every file as lint wants it
	@$(LINT) fmt $(SOURCES)

clean: ## remove what was built, the engines too
	@rm -rf bin
	@[ ! -e build ] || scripts/as-root rm -rf --one-file-system build
