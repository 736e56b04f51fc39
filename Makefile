# A thin front for Meson and the scripts. Every target sets up by itself what it needs.
BUILD ?= build
PREFIX ?= /usr/local
# What the packages that setup sees to are for; scripts/setup knows the words.
purpose = build

all: build

setup:
	@scripts/setup $(purpose)

$(BUILD)/build.ninja: | setup
	meson setup $(BUILD) --prefix=$(abspath $(PREFIX))
	@echo $(abspath $(PREFIX)) >$(BUILD)/prefix

build: setup $(BUILD)/build.ninja
	@ninja -C $(BUILD)

run: purpose = run
run: build
	@images/run

test:
	@scripts/setup test
	@tests/run

test-long:
	@scripts/setup test
	@tests/run --long

asan:
	@scripts/setup build
	@tests/run --only asan

tsan:
	@scripts/setup build
	@tests/run --only tsan

bench: purpose = bench
bench: build
	@bench/run

install: build
	@[ "$$(cat $(BUILD)/prefix 2>&1)" = $(abspath $(PREFIX)) ] || { \
	    meson configure $(BUILD) --prefix=$(abspath $(PREFIX)) && ninja -C $(BUILD) && \
	    echo $(abspath $(PREFIX)) >$(BUILD)/prefix; }
	meson install -C $(BUILD) --no-rebuild

format:
	@scripts/setup format
	find src tests -name '*.[ch]' -exec clang-format -i {} +

clean:
	rm -rf build build-*

.PHONY: all setup build run test test-long asan tsan bench install format clean
