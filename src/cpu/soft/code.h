/*
 * Decoded code: blocks, where to find them, and what happens when guest code is written to.
 * Only inside src/cpu/soft/. See code.c.
 */
#ifndef FREEHOLD_CPU_SOFT_CODE_H
#define FREEHOLD_CPU_SOFT_CODE_H

#include "cpu/soft/soft.h"

#define SOFT_BLOCK_OPS_MAX 48
#define SOFT_AHEAD_MAX     2 /* both targets of a Jcc */

/* Bytes of a page: offsets, `to` excluded. */
struct soft_range {
    uint16_t from, to;
};

/* A run of instructions on one page, entered only at its first; or one instruction that lies across
 * the ends of two. */
struct soft_block {
    /* What a store to its page looks at comes first. */
    const uint8_t *host; /* of its first byte: its identity, with `mode` */
    struct soft_block *page_next;
    uint16_t bytes; /* on its first byte's page */
    uint16_t count;
    /* Code elsewhere in the page that the translation relies on: offsets in the page. */
    struct soft_range ahead[SOFT_AHEAD_MAX];
    uint8_t ahead_count;
    uint8_t mode; /* what decoding depends on: see soft_code_mode() */
    bool valid;
    uint8_t heat; /* how often it was interpreted, up to what makes it worth translating */
    struct soft_block *head; /* this is none, but such an instruction's end: it is dropped, too */
    struct soft_block *hash_next;
    uint64_t gpa;               /* of its first byte */
    uint8_t *code;              /* translated: entry with the flags in the host's; NULL: not yet */
    uint8_t *code_flags;        /* ... with the flags in soft_vcpu.arith */
    uint8_t *code_alone;        /* the same, each access with a check of its own */
    bool unshared;              /* code has no other kind of check (translate_share.c) */
    uint8_t units;              /* UNIT_*: what code begins by making sure of, */
    uint8_t units_bytes;        /* and how many bytes that takes */
    struct soft_link *incoming; /* jumps of translated code that lead here */
    const uint8_t *second;      /* the second page, on the host, of an instruction that has two */
    const uint8_t *ahead_bytes[SOFT_AHEAD_MAX];
    uint8_t *away[2];    /* where the entries lead while it is dropped; NULL: nowhere yet */
    uint32_t link_first; /* the translation's own links, link_count of them */
    uint8_t link_count;
    bool came_back;      /* it was dropped once, and may often be */
    uint8_t entry[2][5]; /* while it is dropped: what the entries began with */
    bool odd;            /* has an operation that is no instruction, or across pages: see cache.c */
    /* Decoded, if this is 0 (for good) or soft_vcpu.decoded_round: see soft_block_ops(). */
    uint64_t decoded_round;
    struct soft_op *ops;
    uint8_t raw[]; /* its bytes as they were decoded */
};

struct soft_op *soft_block_decode_again(struct soft_vcpu *c, struct soft_block *block);
/* Its operations, decoded again if their room went to others. True until the next block is decoded.
 * A leaf may look whether they are there (soft_block_is_decoded), and no more. */
static inline bool soft_block_is_decoded(const struct soft_vcpu *c, const struct soft_block *block)
{
    return block->decoded_round == 0 || block->decoded_round == c->decoded_round;
}
static inline struct soft_op *soft_block_ops(struct soft_vcpu *c, struct soft_block *block)
{
    return soft_block_is_decoded(c, block) ? block->ops : soft_block_decode_again(c, block);
}
/* A copy of an operation that stays as long as all code does. There must be room for it. */
const struct soft_op *soft_op_keep(struct soft_vcpu *c, const struct soft_op *op);

/* A change of these bytes of the block's page drops the block from now on. Gives the bytes as they
 * are now; NULL: there is no room for them, or the block has SOFT_AHEAD_MAX ranges already. */
const uint8_t *soft_code_rely(struct soft_vcpu *c, struct soft_block *block,
                              struct soft_range range);

MUST_CHECK int soft_code_new(struct mem *mem, struct soft_vm *vm);
void soft_code_free(struct soft_vm *vm);
MUST_CHECK int soft_cache_new(struct soft_vcpu *c);
void soft_cache_free(struct soft_vcpu *c);
/* One bound, soft_vm.code_bytes, holds for all that a vCPU keeps of code: decoded, translated, and
 * what goes with that. It lies in mappings of this name; NULL: no memory. */
void *soft_cache_map(size_t bytes);
/* A mapping of one kind of thing, filled from its beginning on and empty after each clearing. */
struct soft_part {
    uint8_t *memory;
    size_t used;  /* bytes of it */
    size_t *held; /* bytes that may still be in memory since an earlier clearing, if more */
};
/* Whether `bytes` more stay within the bound. Gives back what parts hold beyond their use, where
 * that would exceed it. */
bool soft_cache_has_room(struct soft_vcpu *c, size_t bytes);

/* The block at c->rip, decoded if need be; raises fetch faults. Valid until the next call. */
struct soft_block *soft_code_find(struct soft_vcpu *c);
/* The same in 64-bit code where that takes little; NULL: it does not. A leaf may ask. */
struct soft_block *soft_code_find_known(struct soft_vcpu *c);
/* The block at an offset in the page of `block`, the one at c->rip: decoded if there is room for
 * it. NULL: there is none on this page alone. Nothing is dropped and nothing faults. */
struct soft_block *soft_code_find_beside(struct soft_vcpu *c, const struct soft_block *block,
                                         unsigned offset);
/* The address space that c->rip is in, by tlb.c's number. */
void soft_code_space_set(struct soft_vcpu *c, unsigned space);
/* Linear addresses mean something else now: forget which blocks lie where (everywhere, on the pages
 * of one space that are not global, on one page). */
void soft_code_forget_addresses(struct soft_vcpu *c);
void soft_code_forget_space(struct soft_vcpu *c, unsigned space);
void soft_code_forget_page(struct soft_vcpu *c, uint64_t linear);

/* Around a store to a page that holds decoded code (of any vCPU): blocks that overlap it go. */
void soft_code_write_begin(struct soft_vcpu *c, uint64_t gpa, unsigned length);
void soft_code_write_end(struct soft_vcpu *c);
/* Whether this vCPU may store there without that: it alone may do so, and no block covers these
 * bytes. True until its next block boundary at most. Leaf code may ask. */
bool soft_code_is_apart(const struct soft_vcpu *c, uint64_t gpa, unsigned length);
/* After that: a store there is being prepared. A page without blocks does not stay one with code if
 * there are many. A leaf may tell. */
void soft_code_look(const struct soft_vcpu *c, uint64_t gpa);
/* The bytes around `gpa`, of its page, where that is so; none: `to` is 0. */
struct soft_range soft_code_apart_range(const struct soft_vcpu *c, uint64_t gpa);
/* The same where the store itself needs no protection (accessed and dirty bits). */
void soft_code_written(struct soft_vcpu *c, uint64_t gpa, unsigned length);

/* Requests of other vCPUs and of devices: SOFT_REQUEST_INVALIDATE and SOFT_REQUEST_TLB. */
void soft_code_serve(struct soft_vcpu *c, uint32_t requests);

/* Whether `block`, which is what c->rip means, lies on global pages; false where that is not known.
 */
bool soft_code_is_global(const struct soft_vcpu *c, const struct soft_block *block);

#define SOFT_MODE_VECTORS                                                                          \
    8u /* in soft_block.mode: vector instructions can't fault by themselves                        \
        */

#define SOFT_MODE_USER 16u /* CPL 3 */
#define SOFT_MODE_X87  32u /* x87 and MMX instructions can't fault by themselves */
#define SOFT_MODES     64u

/* The mode of blocks for the code at c->rip: the part of the key that decoding depends on (VEX has
 * no meaning in real and v86 mode). */
static inline uint8_t soft_code_mode(const struct soft_vcpu *c)
{
    return c->code_key & 63;
}

/* A vCPU is running while it may hold pointers into guest memory that it has checked. */
void soft_code_enter(struct soft_vcpu *c);
void soft_code_leave(struct soft_vcpu *c);

/* Between these two no other vCPU touches guest memory: what no host instruction does at once is
 * atomic to them. The caller holds no checked pointer when it begins, since it may have to wait. A
 * fault or exit between the two ends it (run.c). */
void soft_exclusive_begin(struct soft_vcpu *c);
void soft_exclusive_end(struct soft_vcpu *c);
/* SOFT_REQUEST_STOP: waits until the other one has done its work. */
void soft_exclusive_yield(struct soft_vcpu *c);

/* Whether a block must end after the operation. */
bool soft_op_ends_block(const struct x86_insn *insn);
/* Whether events and the mode must be looked at after its interpreted twin, though translated code
 * need not end a block at it. Its handler ends the running block by op_end. */
bool soft_op_twin_ends_block(const struct x86_insn *insn);

#endif
