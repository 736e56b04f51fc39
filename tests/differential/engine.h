/* Runs generated code in the soft engine: see engine.c. */
#ifndef FREEHOLD_TESTS_DIFFERENTIAL_ENGINE_H
#define FREEHOLD_TESTS_DIFFERENTIAL_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/cpu.h"
#include "native.h"

struct engine {
    const struct cpu_engine *ops;
    struct mem *mem;
    struct cpu_vm *vm;
    struct vcpu *vcpu;
    struct x86_cpuid cpuid;
    struct x86_state start; /* user mode, 64-bit, paging on */
    uint8_t *code;          /* guest RAM behind CODE_BASE */
    uint8_t *data;          /* ... and DATA_BASE */
};

bool engine_init(struct engine *engine, bool interpret_only);
/* Puts code into the guest, at `offset` from CODE_BASE. */
void engine_load(struct engine *engine, size_t offset, const uint8_t *code, size_t length);
/* Runs from machine->rip; data is the guest's own. */
void engine_run(struct engine *engine, struct machine *machine);

#endif
