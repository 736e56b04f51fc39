/* Runs generated code on the host CPU itself: see native.c. */
#ifndef FREEHOLD_TESTS_DIFFERENTIAL_NATIVE_H
#define FREEHOLD_TESTS_DIFFERENTIAL_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#define XSAVE_BYTES 2688 /* x87, SSE, AVX and AVX-512 in the standard format */

/* What both sides start from and end with. */
struct machine {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    int vector;             /* -1: reached the end; else the exception */
    uint64_t fault_address; /* #PF only */
    uint32_t fault_code;    /* ... */
    _Alignas(64) uint8_t xsave[XSAVE_BYTES];
};

struct native {
    uint8_t *code; /* writable view of CODE_BASE */
    uint8_t *data; /* ... and of DATA_BASE */
    uint64_t xsave_mask;
};

/* Maps the fixed addresses and takes over SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM; false: says
 * why. */
bool native_init(struct native *native);
/* A sequence begins: if it does not end, on either side, or the engine crashes in it, the test ends
 * and names its seed. */
void native_watch(uint64_t seed);
/* Runs from machine->rip. */
void native_run(struct native *native, struct machine *machine);

#endif
