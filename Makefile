# keylime: one executable for agent, registrar, verifier and tenant. `make` or `make help` lists the targets.

BINARY    := keylime
GO        ?= go
PEER_VENV ?= $(CURDIR)/.peer/venv
FUZZTIME  ?= 20s
PLATFORMS := linux/amd64 linux/arm64 linux/arm/7 linux/riscv64 linux/s390x linux/ppc64le
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# Static, stripped, without paths of this machine; the version comes from the build info (git tag or commit).
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags='-s -w -buildid='
# The race detector is the one thing that needs cgo.
TEST  := CGO_ENABLED=1 KEYLIME_REQUIRE_TOOLS=1 KEYLIME_PEER_VENV=$(PEER_VENV) $(GO) test

.DEFAULT_GOAL := help
.PHONY: help build demo test race peers fuzz bench lint vuln cross repro clean setup setup-test

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the static executable, ./keylime
	$(BUILD) -o $(BINARY) .

demo: setup build ## the whole story on a software TPM: register, attest, tamper, revoke, recover
	@$(GO) run ./scripts/demo -keylime ./$(BINARY)

test: setup-test lint build ## everything: lint, unit, TPM, fault and peer tests, with the race detector
	$(TEST) -race -timeout 14m ./...

race: ## the Go tests alone with the race detector; what lacks its tool is skipped
	CGO_ENABLED=1 $(GO) test -race ./...

peers: setup-test build ## only the tests against upstream's Python roles
	$(TEST) -v -timeout 14m -run TestLife ./internal/e2e

fuzz: ## every fuzz target for FUZZTIME (20s)
	@sh scripts/fuzz.sh $(FUZZTIME)

bench: ## every benchmark beside its reference, as ratios
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt'ed: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

vuln: ## known vulnerabilities in what is linked (needs the vulnerability database)
	$(GO) run $(GOVULNCHECK) ./...

cross: ## executables for every supported platform, in dist/
	@for p in $(PLATFORMS); do IFS=/; set -- $$p; unset IFS; \
	  echo "dist/$(BINARY)-$$1-$$2$${3:+v$$3}"; \
	  GOOS=$$1 GOARCH=$$2 GOARM=$$3 $(BUILD) -o dist/$(BINARY)-$$1-$$2$${3:+v$$3} . || exit 1; done

repro: ## build twice from two directories and compare
	@sh scripts/repro.sh

clean: ## remove what was built here
	rm -rf $(BINARY) dist

setup:
	@sh scripts/setup.sh tpm

setup-test:
	@sh scripts/setup.sh tpm race peer $(PEER_VENV)
