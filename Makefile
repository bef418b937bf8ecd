# Everything that people and CI do with this repository. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Where builds go; the guest kernel is cached apart, in $(RUNV_CACHE).
BUILD := build
DRIVER ?= auto
export RUNV_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/runv

# `fast` compiles much faster than `release`, and makes larger programs: for work on the code, not for figures.
PROFILE := release
TARGET := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu/$(PROFILE)
PROGRAMS := runv runv-vmm runv-devices
PROGRAM_FILES := $(addprefix $(BUILD)/bin/,$(PROGRAMS) sandbox)
VMLINUX := $(BUILD)/share/runv/vmlinux
INITRD := $(BUILD)/share/runv/initrd.cpio
BUNDLE := $(BUILD)/bundle/debian
# Kernels that a bundle may choose instead, of guest-kernel/variants.
VARIANTS := lean 6.1
KERNELS := $(BUILD)/share/runv/kernels
PACKAGE_LISTS := $(wildcard packages guest-kernel/packages tests/packages)

##@ Use
.PHONY: run
run: build $(BUNDLE)/config.json ## Run a Debian bundle in a microVM (DRIVER=auto|builtin|qemu)
	@tests/bundles/debian/run --driver $(DRIVER) --build $(BUILD) --bundle $(BUNDLE)

$(BUNDLE)/config.json: tests/bundles/debian/make | setup
	@tests/bundles/debian/make $(BUNDLE)

.PHONY: install
install: build ## Install into $(DESTDIR)$(PREFIX), /usr/local by default
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/runv
	install -m 755 $(addprefix $(BUILD)/bin/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin/
	ln -sfn runv $(DESTDIR)$(PREFIX)/bin/sandbox
	install -m 644 $(VMLINUX) $(INITRD) $(DESTDIR)$(PREFIX)/share/runv/
	install -d $(DESTDIR)$(PREFIX)/share/runv/kernels
	for kernel in $(KERNELS)/*; do [ ! -f "$$kernel" ] || install -m 644 "$$kernel" $(DESTDIR)$(PREFIX)/share/runv/kernels/; done

PREFIX ?= /usr/local

##@ Build
.PHONY: build
build: setup programs kernel initrd ## Guest kernel, agent, initrd and programs, into build/ (PROFILE=release|fast)

.PHONY: setup
setup: ## Install the Debian packages that are missing (as root)
	@missing=$$(comm -23 <(sed 's/#.*//' $(PACKAGE_LISTS) | xargs -n 1 | sort -u) \
	    <(dpkg-query -W -f '$${db:Status-Abbrev}$${Package}\n' | sed -n 's/^.i  *//p' | sort -u) | xargs); \
	if [ -n "$$missing" ]; then \
	    echo "setup: installing $$missing"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq; \
	    apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

.PHONY: programs
programs: | setup
	@echo "build: programs (cargo, $(PROFILE))"
	@cargo build --locked --profile $(PROFILE) -p runtime-shim -p vmm -p devices -p agent
	@mkdir -p $(BUILD)/bin $(BUILD)/share/runv
	@for program in $(PROGRAMS); do cmp -s $(TARGET)/$$program $(BUILD)/bin/$$program \
	    || install -m 755 $(TARGET)/$$program $(BUILD)/bin/$$program; done
	@ln -sfn runv $(BUILD)/bin/sandbox

.PHONY: kernel
kernel: | setup
	@mkdir -p $(dir $(VMLINUX))
	@guest-kernel/build $(VMLINUX)

.PHONY: kernels
kernels: | setup ## Other guest kernels, for bundles that choose theirs: a lean one and Linux 6.1
	@mkdir -p $(KERNELS)
	@for variant in $(VARIANTS); do guest-kernel/build --variant $$variant $(KERNELS)/$$variant; done

.PHONY: initrd
initrd: programs
	@initrd/build $(TARGET)/agent $(INITRD)

##@ Check
.PHONY: test
test: build kernels lint unit run e2e conformance engines systemd nested ## Every test: units, the Debian bundle, end to end with QEMU, the specification, engines, the nested KVM host

.PHONY: lint
lint: | setup ## Format, clippy and documentation, with warnings as errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: unit
unit: | setup ## Unit tests of every part
	cargo test --locked --workspace --exclude e2e

.PHONY: e2e
e2e: build kernels ## End to end on this host, with the driver qemu
	tests/run qemu

.PHONY: conformance
conformance: build ## Each MUST of the runtime specification, of runv and of runc, on this host
	tests/run conformance

.PHONY: engines
engines: build ## docker and podman with the runtime runv, on this host
	tests/run engines

.PHONY: systemd
systemd: build ## With cgroups that systemd makes: of version 1 or both on this host, of version 2 in the nested one
	tests/run systemd
	tests/run nested-systemd

.PHONY: nested
nested: build kernels $(BUNDLE)/config.json ## End to end in a nested KVM host, with the driver builtin, 1 and 2 vCPUs; with engines; labels
	tests/bundles/debian/run --driver builtin --build $(BUILD) --bundle $(BUNDLE)
	tests/run nested-all

.PHONY: bench
bench: build ## Speed and size against peers: a table, and JSON in build/bench.json
	tests/bench/run --json $(BUILD)/bench.json

.PHONY: soak
soak: build ## What is too long for CI: hundreds of cycles, kills at random moments
	tests/soak/run

##@ Other
.PHONY: clean
clean: ## Remove what was built here (not the cache of guest kernels)
	rm -rf $(BUILD)
	cargo clean --quiet

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
