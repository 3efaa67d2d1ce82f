# The words of this repository. `make demo` and `make test` do all their own set-up.
SHELL   := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PKG     := github.com/selvedge-io/selvedge
LDFLAGS := -s -w -X $(PKG)/cli/version.number=$(VERSION)
GO      ?= go
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags '$(LDFLAGS)'
LOADGEN ?= ../shared/loadgen
ROUNDS  ?= 3
FUZZ    ?= 30s

.PHONY: help build demo test check bench fuzz cross clean

help: ## show these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/selvedge and bin/selvedge-edge
	$(BUILD) -o bin/ ./cmd/...

demo: build ## hub, gateway and modules as real processes; DEMO_SECONDS=20 ends by itself
	scripts/demo.sh

test: build ## everything: unit, protocol, real SDKs, faults; installs what it needs
	scripts/setup-test.sh
	$(GO) vet ./...
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /test/)
	$(GO) test -race -count=1 -timeout 20m ./test/... # of the programs, which no cached result knows

check: ## gofmt, vet, staticcheck, govulncheck where its database can be reached
	@out="$$(gofmt -l $$(git ls-files '*.go'))"; if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	scripts/govulncheck.sh

bench: build ## speed against loadgen and mosquitto: make bench LOADGEN=path
	scripts/bench.sh $(LOADGEN) $(ROUNDS)

fuzz: ## each fuzz target for FUZZ (30s)
	scripts/fuzz.sh $(FUZZ)

cross: ## build for every system we ship to, into dist/
	@set -e; for t in linux/amd64 linux/arm64 linux/arm/7; do \
	  IFS=/ read -r os arch arm <<< "$$t"; echo "selvedge, selvedge-edge  $$t"; \
	  GOOS=$$os GOARCH=$$arch GOARM=$$arm $(BUILD) -o dist/$$os-$$arch/ ./cmd/...; done
	@set -e; for t in windows/amd64 darwin/arm64; do \
	  IFS=/ read -r os arch <<< "$$t"; echo "selvedge                 $$t"; \
	  GOOS=$$os GOARCH=$$arch $(BUILD) -o dist/$$os-$$arch/ ./cmd/selvedge; done

clean: ## remove what the other words made
	rm -rf bin dist .demo test/sdk/node_modules
