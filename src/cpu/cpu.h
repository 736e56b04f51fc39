/*
 * The CPU engine interface: nothing above src/cpu/ knows which engine runs, except to name it.
 *
 * A vCPU is run by one thread, its own; only kick() and interrupt_set() may come from others. run()
 * executes guest code until something needs the VM: it never calls a device.
 *
 * Completing an exit: for a read (port, MMIO, MSR), fill the exit's value and call run() again
 * with the same struct; the engine finishes the instruction. An instruction with several accesses
 * exits once for each, and no access is ever repeated.
 *
 * Interrupts: the VM's interrupt controller calls interrupt_set(true) whenever it holds a
 * deliverable vector. When the guest can take it (IF, no shadow), run() exits with
 * CPU_EXIT_INTERRUPT; the VM acknowledges its controller and calls inject(). After CPU_EXIT_HALT
 * with IF set the VM may inject at once.
 */
#ifndef FREEHOLD_CPU_CPU_H
#define FREEHOLD_CPU_CPU_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "mem/mem.h"

enum cpu_exit_kind {
    CPU_EXIT_KICKED,    /* kick() was called: look at the VM's requests, run again */
    CPU_EXIT_IO,        /* port I/O, one unit of 1, 2 or 4 bytes */
    CPU_EXIT_MMIO,      /* an access to a guest-physical address with no RAM (or a ROM write) */
    CPU_EXIT_MSR,       /* an MSR the engine does not own: LAPIC, paravirtual clock, unknown */
    CPU_EXIT_CR8,       /* MOV to or from CR8: the LAPIC's task priority >> 4, as `msr.value` */
    CPU_EXIT_HALT,      /* HLT: wait for an interrupt, then run again */
    CPU_EXIT_INTERRUPT, /* the guest can take the pending external interrupt now */
    CPU_EXIT_SHUTDOWN,  /* triple fault */
    CPU_EXIT_PAUSE,     /* the guest spins (many PAUSEs): let others run, then run again */
    CPU_EXIT_FAILED     /* the engine cannot go on; `failed` says why */
};
#define CPU_EXIT_KINDS (CPU_EXIT_FAILED + 1)
const char *cpu_exit_name(unsigned kind); /* "mmio"...; "?": there is no such kind */

struct cpu_exit {
    enum cpu_exit_kind kind;
    union {
        struct {
            uint16_t port;
            uint8_t size;
            bool write;
            uint32_t value;
        } io;
        struct {
            uint64_t gpa;
            uint8_t size; /* 1, 2, 4 or 8; the access does not cross 8 bytes' alignment */
            bool write;
            uint64_t value;
        } mmio;
        struct {
            uint32_t index;
            bool write;
            bool fault; /* set by the VM: raise #GP(0) instead */
            uint64_t value;
        } msr;
        char failed[160];
    };
};

struct trace;   /* cpu/trace.h */
struct symbols; /* base/symbols.h */

/* What an engineer wants to see, beyond the counters; all of it lives as long as the VM. */
struct cpu_tools {
    bool measure;                  /* count what costs something, too: see counters.h */
    struct trace *trace;           /* with a ring for each vCPU; NULL: nobody asks */
    FILE *perf_map;                /* gets perf's map of generated code at the end; may be NULL */
    FILE *dump;                    /* gets each block's guest and host code; may be NULL */
    const uint64_t *dump_at;       /* ... of blocks with one of these addresses only */
    unsigned dump_at_count;        /* 0: all */
    const struct symbols *symbols; /* of the guest's kernel; NULL: unknown */
};

struct cpu_config {
    struct mem *mem;
    const struct x86_cpuid *cpuid;
    unsigned vcpu_count;
    bool interpret_only;           /* soft: never translate (tests, lockstep) */
    bool translate_at_once;        /* soft: translate even what runs once (tests) */
    bool lockstep_blocks;          /* lockstep: compare behind each block */
    uint32_t code_bytes;           /* soft: most that a vCPU keeps of code, 0: its choice */
    const struct cpu_tools *tools; /* NULL: none */
};

/* What an engine has counted on one vCPU. Groups and names are the engine's own, for people. */
struct cpu_counter {
    const char *group, *name; /* valid during the call; times are in groups called *_ns */
    uint64_t value;
};
typedef void cpu_counter_visit(void *opaque, const struct cpu_counter *counter);

struct cpu_vm; /* one engine's part of a VM */
struct vcpu;   /* one vCPU of it */

struct cpu_engine {
    const char *name;
    const char *description;
    bool counts_time;                /* its guest's time is to be counted (base/counted.h) */
    int (*probe)(struct error *why); /* 0, or why this host can't use it, in one sentence */
    int (*vm_new)(const struct cpu_config *config, struct cpu_vm **out, struct error *err);
    void (*vm_free)(struct cpu_vm *vm);
    int (*vcpu_new)(struct cpu_vm *vm, unsigned index, struct vcpu **out, struct error *err);
    void (*vcpu_free)(struct vcpu *vcpu);
    void (*run)(struct vcpu *vcpu, struct cpu_exit *exit);
    void (*kick)(struct vcpu *vcpu);
    void (*interrupt_set)(struct vcpu *vcpu, bool pending);
    void (*inject)(struct vcpu *vcpu, uint8_t vector, bool nmi);
    void (*state_get)(struct vcpu *vcpu, struct x86_state *state);
    /* Also drops whatever was unfinished: an exit not completed, an event not delivered. */
    int (*state_set)(struct vcpu *vcpu, const struct x86_state *state, struct error *err);
    /* Guest TSC - host TSC. state_set() derives it from state->tsc, which is late by the time it
     * takes; setting it afterwards keeps the vCPUs' TSCs exactly together. */
    uint64_t (*tsc_offset_get)(struct vcpu *vcpu);
    void (*tsc_offset_set)(struct vcpu *vcpu, uint64_t offset);
    /* Shows each counter that is not 0, group by group. Any thread. */
    void (*counters)(struct vcpu *vcpu, cpu_counter_visit *visit, void *opaque);
};

/* Every engine, best first (the order in which `auto` tries them). */
extern const struct cpu_engine *const cpu_engines[];
extern const unsigned cpu_engine_count;

/* `name` NULL or "auto": the first that probes well. -ENOENT, or the probe's own error. */
MUST_CHECK int cpu_engine_find(const char *name, const struct cpu_engine **out, struct error *err);

/* Guest TSC frequency on this host in Hz (measured once at start against CLOCK_MONOTONIC_RAW). */
uint64_t cpu_tsc_hz(void);

#endif
