/*
 * Random instruction sequences for the differential test: valid 64-bit user-mode code that stays
 * inside its data window but for an occasional fault, and that ends by jumping to a fixed address.
 *
 * Conventions of the generated code: R15 holds the data window's middle, R14 a small index; neither
 * is ever written. RSP stays inside the window's stack part. All else is free.
 */
#ifndef FREEHOLD_TESTS_DIFFERENTIAL_GENERATE_H
#define FREEHOLD_TESTS_DIFFERENTIAL_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODE_BASE   UINT64_C(0x21000000)
#define CODE_BYTES  UINT64_C(0x4000)
#define EXIT_BASE   UINT64_C(0x21008000) /* where every sequence ends */
#define DATA_BASE   UINT64_C(0x10000000)
#define DATA_BYTES  UINT64_C(0x4000) /* unmapped pages before and behind */
#define DATA_MIDDLE (DATA_BASE + 0x1000)
#define STACK_TOP   (DATA_BASE + 0x3800)

struct generator {
    uint64_t random;           /* state of the generator, from the seed alone */
    bool avx, bmi, movbe, adx; /* what the host has */
    const bool *feature;       /* by enum x86_feature: what vector instructions there may be */
    uint8_t *code;
    size_t length, capacity;
    unsigned count; /* instructions emitted */
};

/* Fills g->code with about `instructions` and the final jump. */
void generate(struct generator *g, unsigned instructions);
uint64_t generator_random(struct generator *g);

#endif
