# Fairlead. `make help` lists the targets.

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS   := -trimpath
LDFLAGS   := -s -w -X main.version=$(VERSION)
STATIC    := CGO_ENABLED=0
PILOTS    := agent/engine/pilot/linux-amd64.gz agent/engine/pilot/linux-arm64.gz
# Labs that run darwin and windows binaries on Linux, where they are at hand.
DARWINLAB ?= ../shared/darwinlab
WINELAB   ?= ../shared/winelab
# Where newer engines are unpacked, and kept.
ENGINES   ?= /var/cache/fairlead-test
DNSBENCH  ?= ../shared/bench/bench.sh
OSES      := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
# Packages that think without an OS: their tests run as real darwin and windows binaries too.
OSFREE    := ./cmd/fairlead ./agent ./agent/doctor ./agent/engine ./dnsserver ./routes ./resolver ./platform ./platform/tunnel

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1:\2/p' $(MAKEFILE_LIST) | awk -F: '{ t = $$1; sub(/^[^:]*:/, ""); printf "  %-11s %s\n", t, $$0 }'

.PHONY: build
build: pilot ## build bin/fairlead for this host, the pilots inside
	$(STATIC) go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o bin/fairlead ./cmd/fairlead

.PHONY: pilot
pilot: $(PILOTS) ## build the in-VM helper for both architectures

# The same sources give the same bytes, so that an engine which has the image need not load it again. Whatever lies in the folder
# is embedded by a build at the same time, so only what is whole gets there.
PILOTSRC := $(wildcard cmd/pilot/*.go platform/tunnel/*.go platform/firewall/*.go) go.mod go.sum
agent/engine/pilot/linux-%.gz: $(PILOTSRC)
	@mkdir -p bin
	$(STATIC) GOOS=linux GOARCH=$* go build $(GOFLAGS) -buildvcs=false -ldflags '-s -w -buildid=' -o bin/pilot-linux-$* ./cmd/pilot
	gzip -9nc bin/pilot-linux-$* > bin/pilot-linux-$*.gz && mv bin/pilot-linux-$*.gz $@

.PHONY: demo
demo: build ## show a container answering by name, on throw-away namespaces (root or sudo)
	@internal/lab/prepare.sh
	$(STATIC) go build $(GOFLAGS) -o bin/demo ./internal/lab/demo
	@case "$$(id -u) $$(uname)" in 0\ * | *\ MINGW* | *\ MSYS*) exec bin/demo ;; *) exec sudo bin/demo ;; esac

# By exec, which is the shell's: make for Windows by itself would have the script run by the bash of System32, which is WSL's.
.PHONY: test
test: pilot ## run all tests, with the race detector, as root where it can be had
	@internal/lab/prepare.sh
	@exec internal/lab/test.sh $(DARWINLAB) $(WINELAB) $(OSFREE)

.PHONY: check
check: oscheck bin/staticcheck ## gofmt, go mod tidy, vet and staticcheck, for every OS
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt'ed:"; echo "$$out"; exit 1; }
	go mod tidy -diff
	@for t in $(OSES); do echo "staticcheck $$t"; GOOS=$${t%/*} GOARCH=$${t#*/} bin/staticcheck ./... || exit 1; done

bin/staticcheck:
	GOBIN=$(CURDIR)/bin go install honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: oscheck
oscheck: pilot ## vet, and compile the tests, for every OS and architecture
	@for t in $(OSES); do echo "vet $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} $(STATIC) go vet ./... || exit 1; \
		GOOS=$${t%/*} GOARCH=$${t#*/} $(STATIC) go test -exec true -count=1 ./... > /dev/null || exit 1; done

.PHONY: engines
engines: pilot ## try every traffic on engines 17.12, 20.10 or what is here, 26, 28.5 and 29; docs/design.md has the table
	@internal/lab/prepare.sh
	@e17=$$(internal/lab/engines.sh 17 $(ENGINES)/engine-17) && e26=$$(internal/lab/engines.sh 26 $(ENGINES)/engine-26) && e28=$$(internal/lab/engines.sh 28 $(ENGINES)/engine-28) && \
		e29=$$(internal/lab/engines.sh 29 $(ENGINES)/engine-29) && \
		LAB_ENGINES="$$e17 dockerd $$e26 $$e28 $$e29 $$e29-nftables" go test -count=1 -timeout 60m -run TestMatrix -v ./internal/lab/e2e

.PHONY: bench
bench: build ## run the benchmarks; docs/benchmarks.md has the figures
	@internal/lab/prepare.sh
	go test -run '^$$' -bench . -benchmem ./dnsserver ./agent ./platform
	go test -run '^$$' -bench 'Answer|Route' -benchtime 200x ./internal/lab/e2e
	go test -run '^$$' -bench Hang -benchtime 5x ./internal/lab/e2e
	go test -run '^$$' -bench VPN -benchtime 60x ./internal/lab/e2e
	go test -run '^$$' -bench Chaos -benchtime 100x -timeout 60m ./internal/lab/e2e
	@internal/lab/prepare.sh iperf3
	go test -run '^$$' -bench Reach -benchtime 5x ./internal/lab/e2e
	@if [ -f $(DNSBENCH) ]; then internal/lab/prepare.sh nsd knot unbound dnsmasq-base && internal/lab/dnsbench.sh $(dir $(DNSBENCH)) $(CURDIR)/bin/fairlead; \
	else echo "no judge of DNS servers at $(DNSBENCH): go test's own benchmarks have to do"; fi

.PHONY: fuzz
fuzz: ## fuzz every parser for FUZZTIME (default 20s) each
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
		echo "fuzz $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-20s} $$p || exit 1; done; done

.PHONY: package
package: build ## build archives, macOS packages, debs, a Homebrew formula, Windows packages in dist/
	@rm -rf dist
	@for t in $(OSES); do os=$${t%/*}; arch=$${t#*/}; ext=; [ $$os = windows ] && ext=.exe; \
		GOOS=$$os GOARCH=$$arch $(STATIC) go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o dist/bin/$$os-$$arch/fairlead$$ext ./cmd/fairlead || exit 1; done
	@packaging/windows/package.sh '$(VERSION)' dist/bin dist '$(WINELAB)'
	@packaging/package.sh '$(VERSION)' bin/fairlead

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf bin dist agent/engine/pilot/*.gz
