# A thin front for Meson and the scripts. Every target sets up by itself what it needs.
BUILD ?= build
PREFIX ?= /usr/local

all: build

setup:
	@scripts/setup build

$(BUILD)/build.ninja: | setup
	meson setup $(BUILD) --prefix=$(PREFIX)

build: setup $(BUILD)/build.ninja
	@ninja -C $(BUILD)

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

bench: build
	@scripts/setup bench
	@bench/run

install: build
	meson install -C $(BUILD) --no-rebuild

format:
	@scripts/setup build
	find src tests -name '*.[ch]' -exec clang-format -i {} +

clean:
	rm -rf build build-*

.PHONY: all setup build run test test-long asan tsan bench install format clean
