/* What translate*.c share. Only they include it. */
#ifndef FREEHOLD_CPU_SOFT_TRANSLATE_INTERNAL_H
#define FREEHOLD_CPU_SOFT_TRANSLATE_INTERNAL_H

#include <stddef.h>

#include "cpu/soft/emit.h"
#include "cpu/soft/translate.h"

#define FIXED_BYTES_MAX 32768

enum exit_kind { EXIT_RIP, EXIT_LINK, EXIT_OP };

/* A direct jump to another block of the same page, patched once that is translated. */
struct soft_link {
    struct soft_link *next;  /* of the target's incoming ones */
    struct soft_block *from; /* where the jump is */
    uint8_t *place;          /* of the rel32, in the writable view */
    const uint8_t *unlinked; /* where it leads while not linked */
    uint32_t target;         /* offset in the page */
    bool flags_in_memory;
};

/* An operation that leaves to C. */
struct site {
    struct soft_block *block;
    uint32_t op;
};

/* Entries of the fixed code at the cache's beginning, in the executable view. */
struct fixed {
    uint32_t (*enter)(struct soft_vcpu *c, const uint8_t *at);
    uint8_t *exit[3][2]; /* by kind, and flags in host (0) or memory (1) */
    uint8_t *lookup[2];
    uint8_t *vector_load, *vector_present;
};

struct soft_translator {
    uint8_t *write, *execute;
    size_t bytes, used, fixed_bytes;
    struct fixed fixed;
    struct soft_link *links;
    struct site *sites;
    uint32_t links_max, sites_max, link_count, site_count;
    uint64_t flushes;
    bool wide; /* the guest has AVX-512 registers */
};

/* The cache is mapped twice: one place in either view from its place in the other. */
static inline uint8_t *to_execute(const struct soft_translator *t, const uint8_t *write)
{
    return t->execute + (write - t->write);
}

static inline uint8_t *to_write(const struct soft_translator *t, const uint8_t *execute)
{
    return t->write + (execute - t->execute);
}

/* Fills the beginning of the cache and t->fixed. */
MUST_CHECK bool soft_fixed_emit(struct soft_translator *t);

#endif
