/* What translate*.c share. Only they include it. */
#ifndef FREEHOLD_CPU_SOFT_TRANSLATE_INTERNAL_H
#define FREEHOLD_CPU_SOFT_TRANSLATE_INTERNAL_H

#include <stddef.h>

#include "cpu/soft/emit.h"
#include "cpu/soft/leaf.h"
#include "cpu/soft/translate.h"
#include "cpu/x86/flags.h"

#define FIXED_BYTES_MAX 32768
#define TR_CODE_ROOM    16384 /* of one block, and of what it has out of line */
#define FLAGS_ALL       ((uint16_t)X86_RFLAGS_ARITH)

/* Displacements from GS. */
#define STATE(field) ((int32_t)offsetof(struct soft_vcpu, field))
#define GPR(n)       ((int32_t)(offsetof(struct soft_vcpu, gpr) + 8 * (n)))

enum exit_kind { EXIT_RIP, EXIT_LINK, EXIT_OP, EXIT_KINDS };

/* A jump or call to another block, patched once that is translated. */
struct soft_link {
    struct soft_link *next, **previous; /* of the target's incoming ones */
    struct soft_block *from;            /* where the jump is */
    uint8_t *place;                     /* of the rel32, in the writable view */
    const uint8_t *unlinked;            /* where it leads while not linked */
    /* To other pages, in the writable view: an imm64, rip + salt of the target - `less`, and the
     * displacement of the salt that the code adds, `salt` or `salt_global`. NULL: the target lies
     * on the same page. */
    uint8_t *key, *salt;
    int32_t less;    /* of a direct branch: its target, so that what is compared is its own page */
    uint8_t page_at; /* from `key` to another imm64, the target's page; 0: none. Then the key's is
                        negative. */
    uint8_t *failed; /* rel32 of what follows a comparison that fails */
    int32_t target;  /* offset from the page's beginning */
    uint8_t behind_at; /* from `place` to the code behind the jump, NOPs aside; 0: unknown */
    bool indirect;     /* `target` has no meaning */
    bool alone;        /* to soft_block.code_alone */
    bool landing;      /* to what follows a call */
    bool flags_in_memory;
    bool flags_anywhere; /* and in the host's, too */
    bool flags_dead; /* they are nowhere, and the target overwrites them: soft_vcpu.flags_dead */
    uint8_t units;   /* UNIT_*: are loaded there */
    bool behind;     /* leads to where the target has made sure of its own */
};

enum site_reason {
    SITE_TWIN,     /* it is not translated */
    SITE_DECLINED, /* its leaf can't do it */
    SITE_TLB       /* its operand's page can't be put into the TLB, or it is misaligned */
};

/* An operation that leaves to C. */
struct site {
    struct soft_block *block;
    uint16_t op, offset; /* its index, and where it begins in the block */
    enum site_reason reason;
    struct soft_link *link;   /* to be patched when its target was looked up; NULL: none */
    uint16_t inputs, touched; /* where flags follow from it: the registers it reads, and all */
};

/* Entries of the fixed code at the cache's beginning, in the executable view. */
struct fixed {
    void (*enter)(struct soft_vcpu *c, const uint8_t *at); /* flags in memory */
    /* By kind, and flags in host (0) or memory (1). R10: the rip, link or site. */
    uint8_t *exit[EXIT_KINDS][2];
    uint8_t *twin[2]; /* the same, to be called, for an operation that does not end its block */
    uint8_t *lookup[2];
    uint8_t *missed[2]; /* the same for a link that failed */
    uint8_t *find[2];   /* ... for what is in no table: soft_leaf_target(), or C */
    uint8_t *unwind;    /* of the return stack, see translate_control.c */
    uint8_t *frames;    /* called where a call finds no room there, or a request */
    uint8_t *vector_load, *vector_present;
    uint8_t *vector_load_low; /* where bits 128 and up of the first 16 are 0 */
    uint8_t *x87_load;        /* vector_present serves this, too */
    uint8_t *leaf, *flags_load;
    uint8_t *slot[2]; /* by read and write */
    uint8_t *pace;
};

struct soft_translator {
    struct soft_vcpu *vcpu;
    uint8_t *write, *execute;
    uint8_t *reserved[2]; /* the address space around the two */
    uint8_t *stack;       /* the return stack's memory, STACK_BYTES */
    /* Fixed code, then the blocks' own, up to cold_from; from there on what they have out of line,
     * so that it takes no room in the host's instruction caches. */
    size_t bytes, fixed_bytes, used, cold_from, cold_used; /* of address space; offsets */
    size_t joined;                                         /* up to here large pages were tried */
    struct fixed fixed;
    struct soft_link *links, *tail; /* `tail`: the jump that ends the code made last, or NULL */
    struct site *sites;
    struct soft_pace *paces;
    uint32_t link_count, site_count, pace_count;
    size_t held[SOFT_TRANSLATOR_PARTS]; /* see soft_translator_parts() */
    uint64_t flushes;
    bool wide;     /* the guest has AVX-512 registers */
    bool in_use_1; /* XGETBV tells which parts of the state are in use */
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

/* Puts what has been filled of the cache onto large pages, in both views: hot code lies all over
 * it. Where the host has none or is older than Linux 6.1, it stays on small ones. */
void soft_translator_join(struct soft_translator *t);

/* The target's code lies behind the jump, a JMP, with NOPs alone between them. */
void soft_link_behind(struct soft_translator *t, struct soft_link *link, struct soft_block *target);

/* Fills the beginning of the cache and t->fixed. */
MUST_CHECK bool soft_fixed_emit(struct soft_translator *t, struct soft_vcpu *c);

/* What the exits call: the rest is in c->exit_value. Where to go on with the flags in memory, or
 * NULL: in the run loop. */
typedef const uint8_t *soft_exit_service(struct soft_vcpu *c);
soft_exit_service soft_exit_rip, soft_exit_link, soft_exit_op;
bool soft_exit_twin(struct soft_vcpu *c); /* true: go on behind the operation */

/* The lookup table's entry for a key is at GS + 32 * its low 16 bits + this. */
#define LOOKUP(field)                                                                              \
    ((int32_t)(offsetof(struct soft_vcpu, lookup) + offsetof(struct soft_lookup, field)))
_Static_assert(sizeof(struct soft_lookup) == 32, "translated code shifts by 5");

/* -- the return stack -- */

/* A frame is two words: the host's return address, and above it the guest's plus the salt. */
#define FRAME_BYTES    16
#define FRAMES         4096
#define FRAMES_UNWOUND 8 /* as far a return that misses looks for its frame */
/* Leaves run below the frames, as any signal's handler would. */
#define STACK_LEAVES ((size_t)128 << 10)
#define STACK_GUARD  ((size_t)4096)
#define STACK_BYTES                                                                                \
    (STACK_GUARD + STACK_LEAVES + (size_t)FRAME_BYTES * (FRAMES + FRAMES_UNWOUND + 1))

/* After soft_vcpu.vector_changed: how translated code loads the vector registers. */
void soft_vectors_judge(struct soft_vcpu *c);

/* -- a block in translation -- */

enum cold_kind {
    COLD_OP,     /* the interpreted twin of an operation */
    COLD_SLOT,   /* not in the slot: the TLB, a page walk in leaf code, else as COLD_OP */
    COLD_HASH,   /* not in the TLB: as COLD_SLOT */
    COLD_GATHER, /* as a leaf, else as COLD_OP */
    COLD_LEAF,   /* a leaf, where what is inline does not do */
    COLD_RUN,    /* the same for a run of pushes or pops: else one by one */
    COLD_SHARED, /* the same for accesses that share a check: else to the block's other code */
    COLD_FUEL,   /* see fuel_emit() */
    COLD_PART,   /* flags in memory follow from two operations already */
    COLD_UNIT,   /* the state of a unit is not loaded */
    COLD_STRIP,  /* the block's jump to itself: see translate_strip.c */
    COLD_LINK,
    COLD_POLL,
    COLD_FRAMES,  /* too many on the return stack, or a request */
    COLD_LANDING, /* a call has come back from another page */
    COLD_RETURN,  /* the return stack's frame is another return's */
    COLD_GUARD,   /* a link to another page does not hold */
    COLD_INDIRECT /* the lookup of an indirect branch's target missed */
};

/* The operations, + 1, whose addresses are FIP and FDP but are not yet put down; 0: none. */
struct tr_x87_pending {
    uint8_t op, data;
};

/* Something out of line, emitted behind the block. */
struct cold {
    uint8_t *place; /* rel32 that leads here */
    uint8_t *at;    /* where it was put */
    enum cold_kind kind;
    unsigned op;            /* all but COLD_LINK */
    struct soft_link *link; /* COLD_LINK, COLD_GUARD, COLD_INDIRECT (may be NULL) */
    int32_t target;         /* COLD_POLL, COLD_FRAMES */
    bool flags_in_memory;
    unsigned recipe;        /* for the flags: see tr_flags_cook() */
    uint8_t units;          /* COLD_OP, COLD_UNIT: load them before going on */
    bool direct;            /* COLD_GUARD: R10 is not the target */
    bool call;              /* COLD_GUARD, COLD_INDIRECT: not a jump; COLD_FRAMES: indirect */
    uint8_t *back;          /* where to go on: after the twin, or after a call */
    uint8_t *missed;        /* COLD_INDIRECT: rel32 of the inline lookup's miss, or NULL */
    uint8_t *hit;           /* COLD_SLOT: where to go on with the host address in R10 */
    int32_t slot;           /* COLD_SLOT, COLD_HASH, COLD_RUN: of its tag (`stack`: of the first) */
    struct soft_pace *pace; /* COLD_SLOT: see translate_memory.c; NULL: none */
    soft_leaf *leaf;        /* COLD_LEAF */
    uint8_t access;         /* COLD_SLOT to COLD_SHARED */
    uint16_t size;
    uint8_t align;        /* COLD_SLOT, COLD_HASH, COLD_SHARED */
    bool hashed;          /* by the TLB, not a slot */
    bool stack;           /* by one of the stack pointer's slots, which R11 tells */
    uint8_t fill;         /* SOFT_FILL_EARLY, SOFT_FILL_COPY */
    uint8_t shared_ready; /* of struct translation */
    struct tr_x87_pending x87;
    unsigned end; /* COLD_RUN: the operation behind it; and of its flags: */
    bool memory, recorded;
};

/* Accesses to one object, with one check: see translate_share.c. */
struct shared {
    uint8_t base, index, scale, segment;
    uint8_t access; /* enum soft_access */
    uint8_t align;  /* of the lowest byte, for all; 0: each sees to its own */
    bool early;     /* the first does not store, but others do */
    bool spilled;   /* the host address must wait in soft_vcpu.shared */
    unsigned members, first, last;
    int64_t low, high; /* displacements as the first has them, `high` excluded */
};

/* What a direct jump's target wants of the flags: TR_FLAGS_*. */
struct looked {
    int32_t target;
    unsigned need;
    uint16_t written; /* the registers that it changes before it shows them for the last time */
};

/* Accesses of a loop by the same registers: see translate_strip.c. */
struct strip_align {
    int32_t at;
    uint8_t align;
};
#define STRIP_ALIGNED 2
struct strip_group {
    uint8_t base, index, scale;
    uint8_t host; /* the register that has the distance in a strip, or HOST_NONE */
    bool read, written;
    bool table;        /* its index is anything up to a limit, its base constant */
    bool walks;        /* in a strip, `host` has the host address of its lowest byte instead */
    int32_t low, high; /* displacements as an iteration's beginning has them, `high` excluded */
    int32_t step;      /* by an iteration */
    unsigned uses;
    struct strip_align aligned[STRIP_ALIGNED];
    unsigned aligned_count;
};
struct strip {
    struct strip_group group[SOFT_STRIP_GROUPS];
    unsigned groups;
    bool displaced, indexed; /* names guest R9 to R11; has operands with base and index */
    bool tables, walks;      /* has operands that are in such, or do */
    bool counted;            /* the loop goes on as long as a strip of it */
    uint8_t turns;           /* the group that goes on to its next page within a strip, + 1; 0 */
    unsigned counter;        /* the register that tells the end */
    int32_t counter_step;
    int64_t by[16]; /* what registers have moved by at the last comparison */
    uint8_t group_of[SOFT_BLOCK_OPS_MAX];
    int32_t at[SOFT_BLOCK_OPS_MAX]; /* the displacement, as an iteration's beginning has it */
};
#define STRIP_DISTANCE(group) (STATE(strip_distance[0]) + 8 * (int32_t)(group))

/* Most operations have one or two; CLAC has four, a call that ends its block six. */
#define TR_COLD_MAX (6 * SOFT_BLOCK_OPS_MAX)

#define UNIT_VECTOR 1u
#define UNIT_X87    2u

/* From `cold` on not cleared for each block. */
struct translation {
    struct soft_vcpu *c;
    struct soft_translator *t;
    struct soft_block *block;
    struct emit e;
    bool flags_host, flags_memory;
    bool flags_recorded;   /* those in memory may be: see translate_flags.c */
    bool flags_whole;      /* ... but are known to follow from one operation, if from any */
    unsigned flags_recipe; /* the operation from whose operands they follow, + 1; 0: none */
    uint8_t units;         /* UNIT_*: the guest's state is in the host's */
    struct tr_x87_pending x87;
    bool loop;  /* the block seems to be a part of one */
    bool alone; /* nothing is shared */
    uint8_t shared_count;
    uint8_t shared_ready; /* those that were checked, by bit */
    uint8_t shared_held;  /* the one in R10, + 1; 0: none */
    struct looked looked[2];
    unsigned looked_count;
    uint8_t facts[SOFT_BLOCK_OPS_MAX]; /* of operations, for translate_flags.c; 0: not known yet */
    unsigned cold_count;
    uint8_t *body, *body_end, *cold_begin; /* in the writable view */
    struct cold cold[TR_COLD_MAX];
    uint8_t *op_at[SOFT_BLOCK_OPS_MAX]; /* where each operation's code begins */
    struct shared shared[SOFT_SHARED];
    uint8_t shared_of[SOFT_BLOCK_OPS_MAX]; /* by operation: which it is in, + 1; 0: none */
    int32_t shared_at[SOFT_BLOCK_OPS_MAX]; /* its displacement, as the first has it */
    struct strip strip;
};

/* Every function that emits an operation gives false where it can't: what it emitted is taken back
 * and the operation runs interpreted. */

/* -- registers, flags, ways out (translate.c) -- */

/* Guest R9, R10, R11 lie in soft_vcpu.gpr. */
static inline bool tr_is_displaced(unsigned guest)
{
    return guest >= 9 && guest <= 11;
}

static inline enum host_register tr_host_of(unsigned guest)
{
    return guest == X86_RSP ? HOST_R9 : (enum host_register)guest;
}

static inline bool tr_fits32(int64_t value)
{
    return value == (int32_t)value;
}

/* An offset in the block as one in its page. */
static inline int32_t tr_page_offset(const struct translation *tr, unsigned within)
{
    return (int32_t)((uintptr_t)tr->block->host & 0xfff) + (int32_t)within;
}

void tr_jump_to(struct translation *tr, const uint8_t *execute);
/* Adds 1 to a counter at this displacement from GS, if the VM's tools measure. Destroys R11. */
void tr_measure(const struct soft_vcpu *c, struct emit *e, int32_t counter);
void tr_guest_to(struct translation *tr, uint8_t host, unsigned guest);
struct cold *tr_cold_add(struct translation *tr, uint8_t *place, enum cold_kind kind);
/* Where the host's flags say so, the interpreted twin of the operation runs instead. */
void tr_twin_if(struct translation *tr, unsigned op, enum emit_condition condition);
uint32_t tr_site_new(struct translation *tr, unsigned op);
/* UNIT_*: what a vector or x87 operation needs loaded; 0: it is not native. */
unsigned tr_vector_units(const struct translation *tr, unsigned i);
unsigned tr_x87_units(const struct translation *tr, unsigned i);
/* Before operation i: the guest's state of these units into the host's, where it is not yet.
 * Destroys R10, and flags that nobody wants in the host's. */
void tr_units_load(struct translation *tr, unsigned i, unsigned units);

/* Calls `leaf` for operation i: guest registers and flags are in soft_vcpu then, vectors stay in
 * the host's registers. Where it declines, the twin runs. Flags are in memory afterwards. */
void tr_leaf(struct translation *tr, unsigned i, soft_leaf *leaf);
/* The same for an operation that ends the block: the leaf has set c->rip, canonical. */
void tr_leaf_jump(struct translation *tr, unsigned i, soft_leaf *leaf);
/* A leaf out of line, where a jump at `place` leads, for an operation of which only the usual case
 * is inline; that has left the flags where they were. The caller sets `back`. */
struct cold *tr_leaf_else(struct translation *tr, unsigned i, uint8_t *place, soft_leaf *leaf);
/* The call alone, with the flags in memory; E: it has declined. */
void tr_leaf_call(struct translation *tr, unsigned i, soft_leaf *leaf);

/* -- flags (translate_flags.c) -- */

/* What code wants of the flags before it writes them all. */
#define TR_FLAGS_DEAD   0u
#define TR_FLAGS_MEMORY 1u /* a fault may show them, after the host's are spoilt */
#define TR_FLAGS_HOST   2u /* reads them in the host's */
#define TR_FLAGS_SAVED  4u /* reads them after the host's were spoilt */
#define TR_FLAGS_POLLED 8u /* an event may show them at a jump backwards */

unsigned tr_flags_from(struct translation *tr, unsigned i); /* operation i and what follows */
/* What the block wants of them where it is entered: one that is counted shows all. */
unsigned tr_flags_entry(struct translation *tr);
/* Code at an offset from the page's beginning. */
unsigned tr_flags_at(struct translation *tr, int32_t target);
/* x86_flags_of(), but what is undefined and never keeps its old value counts as written. */
void tr_flags_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                 struct x86_flags *out);

/* General registers, as a mask. */
uint16_t tr_registers_written(const struct x86_insn *insn);

/* Right before operation i, which makes all flags, is emitted. */
void tr_flags_made(struct translation *tr, unsigned i, const struct emit_rename *rename);
/* Right before operation i, which makes some of them, where they are in memory and nobody but a
 * fault would see them: they stay there, and it is noted that they follow from this one, too.
 * False: they must be in the host's. */
bool tr_flags_part(struct translation *tr, unsigned i, const struct emit_rename *rename);
void tr_flags_part_cold(struct translation *tr, const struct cold *cold);
/* Guest flags to memory too; to the host's too; somewhere else, since the host's will be spoilt.
 * Saving destroys R11. */
void tr_flags_save(struct translation *tr);
void tr_flags_load(struct translation *tr);
void tr_flags_clobber(struct translation *tr);
/* For an operation that reads and keeps CF at most, and writes all others. Spoils those. */
void tr_carry_load(struct translation *tr);
/* To soft_vcpu.arith itself, for code that reads it. */
void tr_flags_store(struct translation *tr);
/* On the way to C: which recipe gives the flags (0: they are in memory). */
void tr_flags_cook(struct translation *tr, unsigned recipe);

/* After an exit with soft_vcpu.flags_site not 0: computes soft_vcpu.arith. A leaf, too. */
void soft_flags_settle(struct soft_vcpu *c);

/* -- memory operands (translate_memory.c) -- */

/* The effective address to R10; false: it can't be formed. Destroys R11; the flags only where the
 * operand is relative to FS or GS. */
bool tr_address(struct translation *tr, const struct soft_op *op);
/* R10 = the operand of operation i, a register or memory, of 4 or 8 bytes; false: its address can't
 * be formed. Of memory, destroys R11 and flags. */
bool tr_operand_load(struct translation *tr, unsigned i, unsigned size);

struct check {
    unsigned op;
    unsigned size;
    unsigned align; /* 0 or a power of two up to 64 */
    bool maybe;     /* a store under a mask, which may be none and then makes no page dirty */
    bool stack;     /* what is pushed, of an operation whose operand is in memory */
    enum soft_access access;
};
/* R10 from linear to host address, or out of line to the interpreted twin. Destroys R11, flags. */
void tr_check(struct translation *tr, const struct check *check);
void tr_check_cold(struct translation *tr, const struct cold *cold);
/* R10 from linear to host address where the TLB allows this access, with R11 spoilt. Gives the
 * place of the JA where it does not; all other registers are as they were there. */
uint8_t *tr_tlb_look(struct translation *tr, enum soft_access access, unsigned size);
/* -- shared checks (translate_share.c) -- */

/* Before the first operation: which accesses share a check. */
void tr_share_plan(struct translation *tr);
/* C may have changed what was checked. */
void tr_share_end(struct translation *tr);
/* Behind operation i, whose code R10 may not have survived. */
void tr_share_after(struct translation *tr, unsigned i);
/* R10 + *at = the operand's host address; false: it needs a check of its own. */
bool tr_share_use(struct translation *tr, const struct check *check, int32_t *at);
/* Whether code behind this operation relies on a check before it. */
bool tr_share_is_live(const struct translation *tr, const struct cold *cold);
void tr_share_cold(struct translation *tr, struct cold *cold);
/* What an operation does with its memory operand; false: something else than read or write it. */
bool tr_integer_access(const struct x86_insn *insn, struct check *check);
bool tr_vector_access(const struct translation *tr, const struct x86_insn *insn,
                      struct check *check);
/* Whether an operation adds a constant to a 64-bit register, which it changes in no other way. A
 * POP has another result besides. */
bool tr_step_find(const struct x86_insn *insn, unsigned *reg, int64_t *step);

/* A guess, for the sake of speed. */
bool tr_is_loop(const struct translation *tr);

/* -- strips (translate_strip.c) -- */

/* Whether operation `op`, which jumps to `target`, had better lead to a strip. */
bool tr_strip_is_due(struct translation *tr, int32_t target, unsigned op);
void tr_strip_emit(struct translation *tr);

/* -- operations -- */

/* Scratch registers stand in for displaced ones. */
struct tr_renaming {
    struct emit_rename rename;
    uint8_t guest[2]; /* displaced registers in use, and where they are */
    uint8_t host[2];
    unsigned count;
    uint16_t written;
};
/* Memory is to be at [R10]. False: there are too few, or RSP is implied. */
bool tr_rename(const struct x86_insn *insn, const struct emit_registers *regs,
               struct tr_renaming *r);
void tr_renamed_load(struct translation *tr, const struct tr_renaming *r);
void tr_renamed_store(struct translation *tr, const struct tr_renaming *r);

/* What operation i, which the host may run, is and does with its memory operand. */
bool tr_integer_describe(const struct translation *tr, unsigned i, struct check *check);
bool tr_vector_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                        struct check *check);
bool tr_x87_describe(const struct translation *tr, unsigned i, struct x86_vector_insn *v,
                     struct check *check);
/* Whether an x87 operation or FWAIT runs on the host, and what it does with a memory operand that
 * needs no look at its value. */
bool tr_x87_is_native(const struct translation *tr, const struct x86_insn *insn);
bool tr_x87_access(const struct translation *tr, const struct x86_insn *insn, struct check *check);
/* FIP = operation i; FDP = the address of op's operand, or false. Destroy R10, R11. */
void tr_x87_pointer(struct translation *tr, unsigned i);
bool tr_x87_data_pointer(struct translation *tr, const struct soft_op *op);
/* Puts them down where they wait for that: no flag is touched. Before operation i: if they can't
 * wait any longer. */
void tr_x87_settle(struct translation *tr, struct tr_x87_pending *pending);
void tr_x87_before(struct translation *tr, unsigned i);

/* Natively, with its explicit registers renamed and its memory operand checked. */
bool tr_native(struct translation *tr, unsigned i, const struct x86_vector_insn *vector,
               const struct check *check);
/* Whether the host executes `insn` as it stands, operands and features aside. */
bool tr_runs_as_it_stands(const struct x86_insn *insn);
/* LEA relative to RIP that needs no register but its own. */
bool tr_lea_is_near(const struct x86_insn *insn);
bool tr_integer(struct translation *tr, unsigned i); /* translate_integer.c, stack and LEA too */
/* The word on the stack that an operation stores or loads, if it has no other operand in memory but
 * a branch's target. */
bool tr_stack_access(const struct x86_insn *insn, struct check *check);
bool tr_branches_by_stack(const struct x86_insn *insn); /* calls and returns */
/* Several pushes or pops from operation i on, or one whose check is shared; gives how many
 * operations that were. */
unsigned tr_stack_run(struct translation *tr, unsigned i); /* translate_stack.c */
void tr_stack_cold(struct translation *tr, const struct cold *cold);
/* One operation, natively or by its twin. (translate.c) */
void tr_op(struct translation *tr, unsigned i);
bool tr_string(struct translation *tr, unsigned i); /* translate_string.c */
/* BT and the like, of memory by a register. (translate_bits.c) */
bool tr_bit_string(struct translation *tr, unsigned i);
bool tr_mxcsr(struct translation *tr, unsigned i);  /* ... LDMXCSR and STMXCSR */
bool tr_vector(struct translation *tr, unsigned i); /* translate_vector.c */
/* Gathers and scatters. (translate_gather.c) */
bool tr_gather(struct translation *tr, unsigned i, const struct x86_vector_insn *v);
void tr_gather_cold(struct translation *tr, const struct cold *cold);
bool tr_x87(struct translation *tr, unsigned i); /* translate_x87.c */

/* System instructions (translate_system.c); where it gives false nothing was emitted. */
bool tr_system(struct translation *tr, unsigned i);
bool tr_divide(struct translation *tr, unsigned i); /* DIV, IDIV (translate_divide.c) */

/* -- control flow (translate_control.c) -- */

bool tr_branch(struct translation *tr, unsigned i); /* Jcc, JMP, CALL, RET, LOOP, JRCXZ */
/* RET, with the return address in R10 and all else done. */
void tr_return(struct translation *tr, unsigned i);
/* What lies out of line of a branch. */
void tr_branch_cold(struct translation *tr, const struct cold *cold);
/* The target of a direct branch from the page's beginning; false: too far. */
bool tr_branch_offset(const struct translation *tr, const struct soft_op *op, int32_t *target);
/* To `target` (an offset from the page's beginning). */
void tr_exit_direct(struct translation *tr, int32_t target, unsigned op);
/* To the linear address in R10. */
void tr_exit_lookup(struct translation *tr, unsigned i);
/* Whether a link to an offset in the page needs no guard: the target's block lies on this page
 * alone, if at all. That the bytes may change does no harm, see soft_exit_link(). */
bool tr_link_is_plain(const struct translation *tr, int32_t target);
/* R10 = the linear address of an offset from the page's beginning. */
void tr_rip(struct translation *tr, int32_t target);

#endif
