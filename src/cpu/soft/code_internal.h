/*
 * What block.c (decoding), cache*.c (the cache of blocks) and code.c (coherence) share. Included by
 * these only.
 */
#ifndef FREEHOLD_CPU_SOFT_CODE_INTERNAL_H
#define FREEHOLD_CPU_SOFT_CODE_INTERNAL_H

#include "cpu/soft/code.h"

/* What the decoder may look at. */
struct soft_window {
    const uint8_t *bytes;
    unsigned available;
    unsigned most; /* operations wanted */
};

/* Decodes into `block` until something ends it. The first instruction may be incomplete: then
 * `count` stays 0 and the result says why. */
enum x86_decode_result soft_block_decode(struct soft_vcpu *c, const struct soft_window *window,
                                         struct soft_block *block);
/* One operation at `offset` of the window; `code_size`: enum x86_code_size. */
enum x86_decode_result soft_op_decode(struct soft_vcpu *c, const struct soft_window *window,
                                      unsigned code_size, unsigned offset, struct soft_op *op);

/* The lock on who holds code of which page. */
void soft_code_lock(struct soft_vcpu *c);
void soft_code_unlock(struct soft_vcpu *c);
/* Under the lock, before the page's bytes are read: it is code from now on. */
void soft_code_mark(struct soft_vcpu *c, uint64_t gpa);
/* Under the lock: these bytes of a marked page belong to a block. */
void soft_code_cover(struct soft_vcpu *c, uint64_t gpa, unsigned bytes);

/* Pieces of a page, of SOFT_PIECE bytes. */
#define SOFT_PIECE       16
#define SOFT_PAGE_PIECES (GUEST_PAGE_SIZE / SOFT_PIECE)
struct soft_pieces {
    uint64_t word[SOFT_PAGE_PIECES / 64];
};

/* Drops this vCPU's blocks that depend on [from, to) of a page; true: none are left on it. Else
 * `freed` are the pieces that had blocks and have none any more. */
bool soft_cache_drop(struct soft_vcpu *c, const uint8_t *from, const uint8_t *to,
                     struct soft_pieces *freed);
/* Where a vCPU overwrites code block after block, it goes on to do so: how far a drop had better
 * reach, `to` or more, in the same page. */
const uint8_t *soft_cache_reach(struct soft_vcpu *c, const uint8_t *from, const uint8_t *to);
/* Makes the block depend on a range more, and gives room for its bytes; NULL, and nothing done:
 * there is none. */
uint8_t *soft_cache_rely(struct soft_vcpu *c, struct soft_block *block, struct soft_range range);
/* Drops them all. */
void soft_cache_clear(struct soft_vcpu *c);

#endif
