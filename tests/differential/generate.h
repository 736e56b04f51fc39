/*
 * Random instruction sequences for the differential test: valid 64-bit user-mode code that stays
 * inside its data window but for faults at the ends of pages, and that ends by jumping to a fixed
 * address.
 *
 * A sequence is straight code with short branches over an instruction, or a program: chunks that
 * jump to, call and return to one another at random. Backward jumps and calls pass a check that
 * counts a cell of memory down, so that every program ends.
 *
 * Conventions of the generated code: R15 holds DATA_MIDDLE, R14 a small index; neither is ever
 * written. RSP stays inside the stack that it begins on. g->pointer, if not 0, is a register that
 * only points around ends of pages. All else is free.
 */
#ifndef FREEHOLD_TESTS_DIFFERENTIAL_GENERATE_H
#define FREEHOLD_TESTS_DIFFERENTIAL_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODE_BASE  UINT64_C(0x21000000)
#define CODE_BYTES UINT64_C(0x4000)
#define EXIT_BASE  UINT64_C(0x21008000) /* where every sequence ends */
/* Pages behind one another, unmapped ones before and behind: the window (4), one unmapped, one
 * to write, one to read only, one to write. */
#define DATA_BASE      UINT64_C(0x10000000)
#define DATA_BYTES     UINT64_C(0x8000)
#define DATA_MIDDLE    (DATA_BASE + 0x1000)
#define DATA_UNMAPPED  4
#define DATA_READ_ONLY 6
#define STACK_TOP      (DATA_BASE + 0x3800)

/* In the window's beginning, where no random operand goes: how often checks may be passed, a place
 * for a register, and addresses of code. */
#define DATA_FUEL     (DATA_BASE + 0x200)
#define DATA_SAVED    (DATA_BASE + 0x208)
#define DATA_TABLE    (DATA_BASE + 0x240)
#define TABLE_ENTRIES 32

struct generator {
    uint64_t random;           /* state of the generator, from the seed alone */
    bool avx, bmi, movbe, adx; /* what the host has */
    const bool *feature;       /* by enum x86_feature: what vector instructions there may be */
    uint8_t *code;             /* at CODE_BASE */
    size_t start;              /* of the sequence in it */
    size_t length, capacity;
    unsigned count;     /* instructions emitted */
    uint8_t pointer;    /* register, or 0: none */
    uint16_t kept;      /* registers that nothing may write now, as a mask */
    unsigned edge_rate; /* one memory operand in so many lies at a page's end */
    bool returns;       /* the stack holds return addresses: leave them alone */
    uint64_t table[TABLE_ENTRIES];
};

/* Fills g->code with about `instructions`, of which only the first `limit` are kept, and the final
 * jump. */
void generate(struct generator *g, unsigned instructions, unsigned limit);
uint64_t generator_random(struct generator *g);
/* A value for RSP, for g->pointer. */
uint64_t generator_stack(struct generator *g);
uint64_t generator_pointer(struct generator *g);

#endif
