# nearpath. `make help` lists the targets; `make` builds. Building and the unit tests need Go and nothing else: no
# root, no clang. Targets marked (root) make namespaces and load BPF; they leave the machine as they found it.

GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
GOFMT := $(dir $(GO))gofmt
CACHE ?= $(or $(NEARPATH_CACHE),$(HOME)/.cache/nearpath)
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
LINT := $(CACHE)/lint/golangci-lint
# The linter remembers findings by content, with the directory they were found in: another clone must not see them.
export GOLANGCI_LINT_CACHE := $(CURDIR)/bin/lint-cache

# What Debian must provide for each lane, beyond Go.
PACKAGES_VERIFY := clang-19 llvm-19 libbpf-dev linux-libc-dev
PACKAGES_CLUSTER := etcd-server busybox-static libseccomp-dev pkg-config gcc libc6-dev
PACKAGES_NODE := nftables iptables iproute2 musl-tools
PACKAGES_BENCH := unbound gcc libc6-dev
PACKAGES_VM := qemu-system-x86 busybox-static debian-archive-keyring

# Programs of them by which tests play kube-proxy.
TOOLS_NODE := ip nft iptables ip6tables iptables-legacy ip6tables-legacy

export CGO_ENABLED := 0

.DEFAULT_GOAL := build
.PHONY: help setup build generate verify fmt lint test test-unit test-node test-vm test-cluster test-diff fuzz demo bench bench-check clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## (root) install the Debian packages that verify, test-node, test-vm, test-diff and test-cluster need
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(PACKAGES_VERIFY) $(PACKAGES_VM) $(PACKAGES_NODE) $(PACKAGES_CLUSTER)

build: ## build the binaries into bin/
	$(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/... ./test/podapp

generate: ## rebuild the BPF objects and their Go types with clang 19
	@command -v clang-19 llvm-strip-19 >/dev/null || { echo "generate: clang-19 and llvm-19 are missing: sudo make setup"; exit 1; }
	BPF2GO_CFLAGS="-I/usr/include/$(shell uname -m)-linux-gnu" $(GO) generate ./bpf

verify: generate ## fail if generated files, go.mod or formatting are stale, or a test does not compile or could be skipped
	$(GO) mod tidy -diff
	$(GO) -C bench mod tidy -diff
	$(GO) -C test/diff/kubeproxy mod tidy -diff
	@unformatted=$$($(GOFMT) -l $$(git ls-files '*.go')) || exit 1; \
		[ -z "$$unformatted" ] || { echo "verify: run make fmt: $$unformatted"; exit 1; }
	@large=$$(git ls-files -z | xargs -0 stat -c '%s %n' | awk '$$1 > 1048576') || exit 1; \
		[ -z "$$large" ] || { echo "verify: tracked files above 1 MB: $$large"; exit 1; }
	$(GO) vet -tags node,cluster,vm,diff ./...
	@# rapid discards a draw with Skip, too; there its T is called rt.
	@git ls-files '*_test.go' | xargs grep -nE '\bt\.Skip(f|Now)?\(' /dev/null; \
		[ $$? -ne 0 ] || { echo "verify: a skipped test proves nothing"; exit 1; }
	@stale=$$(git status --porcelain -- bpf go.mod go.sum) || exit 1; \
		[ -z "$$stale" ] || { echo "verify: generated files are not those committed: $$stale"; git diff -- bpf | head -50; exit 1; }

fmt: ## format Go
	$(GOFMT) -w $$(git ls-files '*.go')

$(LINT): test/tools/lint/go.mod
	$(GO) build -C test/tools/lint -trimpath -ldflags '-s -w' -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

lint: $(LINT) ## run the linters over every build tag
	$(LINT) run --build-tags node,cluster,vm,diff ./...
	cd bench && $(LINT) run --build-tags node --config ../.golangci.yaml ./...
	cd test/diff/kubeproxy && $(LINT) run --config ../../../.golangci.yaml ./...

test: test-unit test-node ## (root) everything but the kernel and cluster lanes

test-unit: ## pure logic; no root, no kernel features
	$(GO) test ./...
	$(GO) -C bench test ./...
	$(GO) -C test/diff/kubeproxy test ./...

test-node: ## (root) this machine's kernel: BPF, namespaces, the simulated cloud
	@[ "$$(id -u)" = 0 ] || { echo "test-node: needs root: sudo make test-node"; exit 2; }
	@for p in $(TOOLS_NODE); do command -v $$p >/dev/null || { echo "test-node: $$p is missing: sudo make setup"; exit 1; }; done
	$(GO) test -p 1 -count=1 -timeout 20m -tags node $$(grep -rl --include='*_test.go' --exclude-dir=bench '^//go:build node\b' . | xargs -n 1 dirname | sort -u)
	$(GO) -C bench test -p 1 -count=1 -tags node ./...

test-vm: ## Debian's 5.10, 6.1 and 6.12 kernels in QEMU, with what this machine's kernel lacks
	NEARPATH_CACHE=$(CACHE) $(GO) run ./test/vm

fuzz: ## every fuzz target for FUZZTIME (10s); the seeds run with the unit tests
	@for target in $$(git grep -hoE '^func Fuzz[A-Za-z]+' -- '*_test.go' | cut -d' ' -f2); do \
		dir=$$(dirname $$(git grep -lE "^func $$target\(" -- '*_test.go')); echo "$$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(or $(FUZZTIME),10s) ./$$dir || exit 1; done

test-cluster: build ## (root) a real control plane and two kubelets on this machine
	@[ "$$(id -u)" = 0 ] || { echo "test-cluster: needs root: sudo make test-cluster"; exit 2; }
	NEARPATH_CACHE=$(CACHE) $(GO) test -p 1 -count=1 -timeout 30m -tags cluster ./test/e2e/... ./test/kube/... ./plugins/autopath

test-diff: ## (root) take over from the real kube-proxy, and random clusters beside it: N=50 of them from SEED=1 on, DIFF="-shrink=false ..." for flags
	@[ "$$(id -u)" = 0 ] || { echo "test-diff: needs root: sudo make test-diff"; exit 2; }
	@for p in $(TOOLS_NODE); do command -v $$p >/dev/null || { echo "test-diff: $$p is missing: sudo make setup"; exit 1; }; done
	$(GO) build -C test/diff/kubeproxy -trimpath -ldflags '-s -w' -o $(CACHE)/diff/kubeproxy .
	$(GO) build -trimpath -o $(CACHE)/diff/diff ./test/diff
	NEARPATH_KUBEPROXY=$(CACHE)/diff/kubeproxy $(GO) test -count=1 -tags diff -run TestRealKubeProxy ./internal/takeover
	$(CACHE)/diff/diff -kubeproxy $(CACHE)/diff/kubeproxy -n $(or $(N),50) -seed $(or $(SEED),1) $(DIFF)

demo: build ## (root) two simulated nodes, pods, Services and names; ends in under a minute
	$(BIN)/nearpath demo

bench: build ## (root) measure beside peers: BENCH=autopath|cni|dns|externaldns|policy|service|shaping|all, QUICK=1 for fewer rounds, DOCS=1 to write docs/benchmarks.md
	@[ "$$(id -u)" = 0 ] || { echo "bench: needs root: sudo make bench"; exit 2; }
	$(GO) build -C bench -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o $(abspath $(BIN))/ ./cmd/...
	@for p in unbound gcc; do command -v $$p >/dev/null || { echo "bench: $$p is missing: apt-get install $(PACKAGES_BENCH)"; exit 1; }; done
	$(GO) build -C bench -buildvcs=false -trimpath -ldflags '-s -w' -o $(CACHE)/bench/peers/ tool ./cmd/cachepeer ./cmd/relaypeer ./cmd/stockpeer
	gcc -O2 -Wall -o $(CACHE)/bench/peers/udp-echo bench/dns/echo/echo.c
	gcc -O2 -Wall -o $(CACHE)/bench/peers/udp-relay bench/dns/relay/relay.c
	$(GO) build -C test/diff/kubeproxy -trimpath -ldflags '-s -w' -o $(CACHE)/bench/peers/kubeproxy .
	$(if $(filter externaldns all,$(or $(BENCH),all)),$(GO) build -C test/tools/externaldns -trimpath -ldflags '-s -w' -o $(CACHE)/bench/peers/external-dns sigs.k8s.io/external-dns)
	$(BIN)/bench run -bench $(or $(BENCH),all) -bin $(BIN) -peers $(CACHE)/bench/peers $(if $(QUICK),-quick) $(if $(DOCS),-docs docs/benchmarks.md)

bench-check: ## compare the newest figures of make bench with what nearpath promises
	$(GO) run -C bench ./cmd/bench check -out out -budgets budgets.yaml

clean: ## remove what build made
	rm -rf $(BIN)
