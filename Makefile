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
comma := ,

.DEFAULT_GOAL := help
.PHONY: help demo build test test-unit test-netns test-integration test-systemd conformance docker judges shells engines clients bench lint fmt clean

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

test-systemd: build docker judges ## the unit under a real systemd, on a copy of this machine's root; not part of make test
	@$(GO) test -tags=systemd -v -count=1 -timeout=5m -exec="$(CURDIR)/scripts/isolated" ./test/systemd

conformance: build engines clients ## real SDKs in real containers: 30 minutes, writes doc/conformance.md and doc/doctor-sdks.md (CONFORMANCE='-clients=boto3,curl -slow=false')
	@$(GO) test -tags=conformance -v -count=1 -run='TestConformance|TestOutage|TestDoctor' -parallel=1 -timeout=90m \
		-exec="$(CURDIR)/scripts/isolated env TASKROLE_TEST_BIN=$(CURDIR)/bin TASKROLE_TEST_ENGINES=$(CURDIR)/build/engines \
			TASKROLE_TEST_CLIENTS=$(CURDIR)/build/clients" ./test/conformance \
		-args -results=$(CURDIR)/build -page=$(CURDIR)/doc/conformance.md -doctor-page=$(CURDIR)/doc/doctor-sdks.md $(CONFORMANCE)

# Clients that take nothing but Debian and Go, and a minute to build, on every path they can go without waiting long.
# Sessions are short, so that the end of one is seen.
QUICK := curl go-v2 minio-go boto3-debian
conformance-quick: build engines clients-quick ## a few of them in a minute, as CI does; one that cannot be built is a failure
	@mkdir -p build/quick
	@$(GO) test -tags=conformance -count=1 -run='TestConformance|TestOutage|TestDoctor' -parallel=3 -timeout=5m \
		-exec="$(CURDIR)/scripts/isolated env TASKROLE_TEST_BIN=$(CURDIR)/bin TASKROLE_TEST_ENGINES=$(CURDIR)/build/engines \
			TASKROLE_TEST_CLIENTS=$(CURDIR)/build/clients" ./test/conformance \
		-args -results=$(CURDIR)/build/quick -clients=$(subst $() ,$(comma),$(QUICK)) -engines=docker-28.5 -require -life=12s -slow=false -golden=false
	@cat build/quick/conformance.txt

clients-quick:
	@scripts/clients $(QUICK)

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
	@$(GO) vet -tags=integration,systemd ./...
	@$(LINT) run ./...
	@$(LINT) fmt --diff $(SOURCES)

fmt: ## format every file as lint wants it
	@$(LINT) fmt $(SOURCES)

clean: ## remove what was built, the engines too
	@rm -rf bin
	@[ ! -e build ] || scripts/as-root rm -rf --one-file-system build
