# make help says what there is.

PREFIX     ?= /usr/local
sysconfdir ?= /etc
bindir      = $(PREFIX)/bin
libdir      = $(PREFIX)/lib
mandir      = $(PREFIX)/share/man
datadir     = $(PREFIX)/share

GO       ?= go
GOTEST   ?= $(GO) test
TOOL      = $(GO) tool -modfile=.ci/go.mod
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BINARIES  = bin/checkprocd bin/checkprocctl bin/checkproc-alert
SOURCES   = go.mod go.sum $(shell find cmd pkg -type f ! -name '*_test.go' ! -path '*/testdata/*')
FUZZTIME ?= 2000x
SOAK_FOR ?= 10m
UNITTESTS = $$($(GO) list ./... | grep -v /deploy/e2e$$)
# What hangs ends after that; a busy machine is slow, not hung.
HUNG      = -timeout=40m
# Where goroutines, locks and shared memory are.
RACY      = ./pkg/daemon/... ./pkg/escalate/... ./pkg/control/... ./pkg/systemd/... ./pkg/process/... ./pkg/table/... ./pkg/registry/... ./pkg/alert/...

.DELETE_ON_ERROR:
.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  \1\t/p' Makefile | expand -t 14

##  Building and running

.PHONY: build
build: $(BINARIES) ## bin/checkprocd, bin/checkprocctl and bin/checkproc-alert

$(BINARIES): bin/%: $(SOURCES)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-w -X main.version=$(VERSION)' -o $@ ./cmd/$*

.PHONY: run
run: build ## build, and run the guard in the foreground with its defaults
	bin/checkprocd

.PHONY: demo
demo: build ## see the guard at work on a few programs
	deploy/demo/run.sh

##  Testing

.PHONY: deps
deps: ## install what the tests need (as root, on Debian)
	.ci/deps

.PHONY: test
test: deps unit race fuzz e2e ## everything

.PHONY: unit
unit: ## unit and integration tests
	$(GOTEST) -count=1 $(HUNG) $(UNITTESTS)

.PHONY: race
race: ## the same under the race detector, for packages that share memory
	$(GOTEST) -race -count=1 $(HUNG) $(RACY)

.PHONY: soak
soak: build ## restarts of the guard under 1000 clients that hang, exit, crash and come, for SOAK_FOR=10m, and 1000 reloads, of the daemon and in a booted systemd (root only)
	LOAD_CLIENTS=1000 LOAD_FOR=$(SOAK_FOR) $(GO) test -v -count=1 -timeout=0 -run='^TestLoad$$' ./pkg/daemon
	SOAK_RELOADS=1000 $(GO) test -v -count=1 -timeout=0 -run='^TestReloadUnderLoad$$' ./pkg/daemon
	SOAK_RELOADS=1000 $(GO) test -v -count=1 -timeout=0 -run='^TestReloadsUnderLoad$$' ./deploy/e2e

.PHONY: simulate
simulate: ## random hosts, programs and faults for SIMULATE_FOR=10m, or as many schedules as SIMULATE=300000 says
	SIMULATE=$(SIMULATE) SIMULATE_FOR=$(or $(SIMULATE_FOR),$(if $(SIMULATE),,10m)) $(GOTEST) -v -count=1 -timeout=0 -run='^TestSimulation$$' ./pkg/guard

.PHONY: mutate
mutate: ## wrong versions of the guard, of which each must be caught by a test: all, or MUTATE=brake
	MUTATE='$(or $(MUTATE),all)' $(GOTEST) -v -count=1 $(HUNG) -run='^TestMutations$$' ./pkg/guard

.PHONY: fuzz
fuzz: ## each fuzz target, FUZZTIME=2000x executions
	@grep -rl --include='*_test.go' '^func Fuzz' cmd pkg | xargs -r -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -rhoP --include='*_test.go' '^func \KFuzz\w+' $$dir); do \
			echo "fuzz $$dir $$target"; \
			log=$$($(GO) test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) ./$$dir 2>&1) || { echo "$$log"; exit 1; }; \
		done || exit 1; \
	done

.PHONY: e2e
e2e: build ## end-to-end tests: booted systemd 252 and 257 (root only)
	$(GOTEST) -count=1 -parallel=12 $(HUNG) ./deploy/e2e

.PHONY: bench
bench: build ## benchmarks, and a table of figures with their marks
	$(GO) test -run='^TestFigure' -bench=. -benchmem -timeout=20m ./pkg/... ./cmd/...

.PHONY: lint
lint: ## formatting, vet, staticcheck, rules of the house, the other architecture
	@test -z "$$(gofmt -l cmd pkg deploy | tee /dev/stderr)"
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	.ci/house
	GOARCH=arm64 $(GO) vet ./...

##  Installing

# install -D with the names of this installation filled in
define fill
	install -d $(DESTDIR)$(dir $(2))
	sed 's|@bindir@|$(bindir)|g' $(1) >$(DESTDIR)$(2)
	chmod 0644 $(DESTDIR)$(2)
endef

.PHONY: install
install: build ## install below PREFIX=/usr/local, staged in DESTDIR
	install -D -t $(DESTDIR)$(bindir) $(BINARIES)
	$(call fill,deploy/checkprocd.service.in,$(libdir)/systemd/system/checkprocd.service)
	$(call fill,deploy/checkproc-alert.service.in,$(libdir)/systemd/system/checkproc-alert.service)
	install -D -m 0644 -t $(DESTDIR)$(datadir)/checkprocd deploy/webhook.schema.json
	install -D -m 0644 -t $(DESTDIR)$(datadir)/doc/checkprocd/examples deploy/examples/*
	install -D -m 0644 deploy/checkprocd.sysusers.conf $(DESTDIR)$(libdir)/sysusers.d/checkprocd.conf
	install -D -m 0644 deploy/checkprocd.tmpfiles.conf $(DESTDIR)$(libdir)/tmpfiles.d/checkprocd.conf
	install -D -m 0644 deploy/checkprocd.catalog $(DESTDIR)$(libdir)/systemd/catalog/checkprocd.catalog
	for page in deploy/man/*.[1-8]; do install -D -m 0644 -t $(DESTDIR)$(mandir)/man$${page##*.} $$page; done
	install -d $(DESTDIR)$(sysconfdir)/checkprocd/conf.d
	test -e $(DESTDIR)$(sysconfdir)/checkprocd/checkprocd.toml || install -m 0644 deploy/checkprocd.toml $(DESTDIR)$(sysconfdir)/checkprocd
	test -e $(DESTDIR)$(sysconfdir)/checkprocd/alert.toml || install -m 0600 deploy/alert.toml $(DESTDIR)$(sysconfdir)/checkprocd
	install -d $(DESTDIR)$(datadir)/bash-completion/completions $(DESTDIR)$(datadir)/zsh/site-functions $(DESTDIR)$(datadir)/fish/vendor_completions.d
	bin/checkprocctl completion bash >$(DESTDIR)$(datadir)/bash-completion/completions/checkprocctl
	bin/checkprocctl completion zsh >$(DESTDIR)$(datadir)/zsh/site-functions/_checkprocctl
	bin/checkprocctl completion fish >$(DESTDIR)$(datadir)/fish/vendor_completions.d/checkprocctl.fish
	@$(MAKE) -s refresh

.PHONY: uninstall
uninstall: ## remove what install installed, except the configuration
	if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now checkproc-alert.service checkprocd.service || true; fi
	rm -f $(addprefix $(DESTDIR), $(BINARIES:bin/%=$(bindir)/%) \
		$(libdir)/systemd/system/checkprocd.service $(libdir)/systemd/system/checkproc-alert.service $(libdir)/systemd/catalog/checkprocd.catalog \
		$(libdir)/sysusers.d/checkprocd.conf $(libdir)/tmpfiles.d/checkprocd.conf \
		$(foreach page,$(notdir $(wildcard deploy/man/*.[1-8])),$(mandir)/man$(patsubst .%,%,$(suffix $(page)))/$(page)) \
		$(datadir)/bash-completion/completions/checkprocctl $(datadir)/zsh/site-functions/_checkprocctl \
		$(datadir)/fish/vendor_completions.d/checkprocctl.fish)
	rm -rf $(DESTDIR)$(datadir)/checkprocd $(DESTDIR)$(datadir)/doc/checkprocd
	@$(MAKE) -s refresh

# What systemd has to be told after files came or went; a package does the same after its installation.
.PHONY: refresh
refresh:
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		if [ -e $(libdir)/sysusers.d/checkprocd.conf ]; then systemd-sysusers checkprocd.conf && systemd-tmpfiles --create checkprocd.conf; fi; \
		journalctl --update-catalog; \
		systemctl daemon-reload; \
	fi

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
