/*
 * Segment descriptors, gates and the stacks of control transfers: what segment.c, far.c,
 * interrupt.c and task.c share. Included only inside src/cpu/soft/.
 *
 * Source: Intel SDM vol. 3, 3.4.5 (descriptors), 6.8 (selectors' error codes), 8.2 (TSS).
 * Threads: the vCPU's own. Descriptors come from the guest: each is loaded once, then judged.
 */
#ifndef FREEHOLD_CPU_SOFT_DESCRIPTOR_H
#define FREEHOLD_CPU_SOFT_DESCRIPTOR_H

#include "cpu/soft/soft.h"

/* System descriptor types (SDM vol. 3, table 3-2). */
enum soft_system_type {
    SOFT_TYPE_TSS16 = 1,
    SOFT_TYPE_LDT = 2,
    SOFT_TYPE_TSS16_BUSY = 3,
    SOFT_TYPE_CALL16 = 4,
    SOFT_TYPE_TASK_GATE = 5,
    SOFT_TYPE_INTERRUPT16 = 6,
    SOFT_TYPE_TRAP16 = 7,
    SOFT_TYPE_TSS32 = 9, /* 64-bit in long mode, and so are all below */
    SOFT_TYPE_TSS32_BUSY = 11,
    SOFT_TYPE_CALL32 = 12,
    SOFT_TYPE_INTERRUPT32 = 14,
    SOFT_TYPE_TRAP32 = 15
};

/* Type bits of code and data segments. */
#define SOFT_SEG_ACCESSED    0x1u
#define SOFT_SEG_WRITABLE    0x2u /* data */
#define SOFT_SEG_READABLE    0x2u /* code */
#define SOFT_SEG_EXPAND_DOWN 0x4u /* data */
#define SOFT_SEG_CONFORMING  0x4u /* code */
#define SOFT_SEG_CODE        0x8u

struct soft_descriptor {
    uint64_t raw;        /* its first eight bytes */
    uint64_t address;    /* linear, of the first byte */
    uint32_t ext;        /* bit 0 of the error codes that it causes */
    uint16_t selector;   /* by which it was reached */
    uint16_t attributes; /* as in struct x86_segment */
};

static inline bool soft_selector_is_null(uint16_t selector)
{
    return (selector & 0xfffcu) == 0;
}

static inline uint16_t soft_raw_attributes(uint64_t raw)
{
    return (uint16_t)((raw >> 40) & 0xf0ff);
}

static inline unsigned soft_descriptor_type(const struct soft_descriptor *d)
{
    return d->attributes & X86_SEG_TYPE;
}

static inline unsigned soft_descriptor_dpl(const struct soft_descriptor *d)
{
    return X86_SEG_DPL_OF(d->attributes);
}

static inline bool soft_descriptor_present(const struct soft_descriptor *d)
{
    return (d->attributes & X86_SEG_P) != 0;
}

static inline bool soft_descriptor_is_system(const struct soft_descriptor *d)
{
    return !(d->attributes & X86_SEG_S);
}

static inline bool soft_attributes_are_code(unsigned attributes)
{
    return (attributes & (X86_SEG_S | SOFT_SEG_CODE)) == (X86_SEG_S | SOFT_SEG_CODE);
}

static inline bool soft_attributes_are_conforming(unsigned attributes)
{
    return soft_attributes_are_code(attributes) && (attributes & SOFT_SEG_CONFORMING);
}

static inline bool soft_attributes_are_writable(unsigned attributes)
{
    return (attributes & (X86_SEG_S | SOFT_SEG_CODE | SOFT_SEG_WRITABLE)) ==
           (X86_SEG_S | SOFT_SEG_WRITABLE);
}

/* An error code that names a selector. */
_Noreturn void soft_selector_fault(struct soft_vcpu *c, uint8_t vector, uint16_t selector,
                                   uint32_t ext);
_Noreturn void soft_descriptor_fault(struct soft_vcpu *c, uint8_t vector,
                                     const struct soft_descriptor *d);

/* Loads the descriptor that `selector` (not null) names; false when it is beyond its table. */
bool soft_descriptor_find(struct soft_vcpu *c, uint16_t selector, struct soft_descriptor *out);
/* The same, but raises `vector` with the selector and `ext` when it is beyond the table. */
struct soft_descriptor soft_descriptor_get(struct soft_vcpu *c, uint16_t selector, uint8_t vector,
                                           uint32_t ext);
/* The upper eight bytes of a 16-byte descriptor (long mode). Raises #GP(selector). */
uint64_t soft_descriptor_upper(struct soft_vcpu *c, const struct soft_descriptor *d);

/* What a segment register holds after a load of `d` (the base only of the first eight bytes). */
struct x86_segment soft_descriptor_segment(const struct soft_descriptor *d);

/* Faults now, if setting bits of the type would; a no-op when `bits` are set already. */
void soft_descriptor_type_probe(struct soft_vcpu *c, const struct soft_descriptor *d,
                                unsigned bits);
/* Sets and clears bits of the type in memory, atomically, and sets in *d. */
void soft_descriptor_type_set(struct soft_vcpu *c, struct soft_descriptor *d, unsigned bits);
void soft_descriptor_type_clear(struct soft_vcpu *c, struct soft_descriptor *d, unsigned bits);

/* True when `size` bytes at `offset` lie within the limit, be it expand-up or expand-down. */
bool soft_segment_contains(const struct x86_segment *segment, uint64_t offset, unsigned size);

/* -- code segments -- */
/* CS as it is after a transfer to `d` at `cpl`. */
struct x86_segment soft_code_segment(const struct soft_descriptor *d, uint8_t cpl);
/* #GP(ext) unless `rip` is within `cs`: its limit, or canonical for 64-bit code. */
void soft_target_check(struct soft_vcpu *c, const struct x86_segment *cs, uint64_t rip,
                       uint32_t ext);
/* L and D both set in long mode: no such code segment. */
bool soft_code_is_reserved(const struct soft_vcpu *c, const struct soft_descriptor *d);

/* -- stack segments -- */
/* SS for `cpl`, null in 64-bit mode. */
struct x86_segment soft_stack_null(uint16_t selector, uint8_t cpl);
/* Checks and loads SS from `selector` for `cpl`; every fault but not-present (#SS) is `vector`. */
struct x86_segment soft_stack_segment(struct soft_vcpu *c, uint16_t selector, uint8_t cpl,
                                      uint8_t vector, uint32_t ext);

/* A stack to which a control transfer pushes before it is committed. */
struct soft_stack {
    struct x86_segment ss;
    uint64_t rsp;
    uint64_t mask; /* of RSP */
    uint32_t code; /* of the #SS for lack of room */
    uint8_t cpl;   /* whose privilege the accesses have */
    bool flat;     /* 64-bit mode: canonical check instead of limit */
};

/* The current one. */
struct soft_stack soft_stack_current(const struct soft_vcpu *c, uint32_t ext);
/* One with the segment `ss` (64-bit mode: `flat`). */
struct soft_stack soft_stack_of(const struct x86_segment *ss, uint64_t rsp, uint8_t cpl, bool flat);
/* Faults now if `count` pushes of `size` bytes would. */
void soft_stack_reserve(struct soft_vcpu *c, const struct soft_stack *stack, unsigned count,
                        unsigned size);
void soft_stack_push(struct soft_vcpu *c, struct soft_stack *stack, uint64_t value, unsigned size);
/* Makes it the current one. */
void soft_stack_commit(struct soft_vcpu *c, const struct soft_stack *stack);
/* `size` bytes at `offset` above the current RSP, as a pop reads them. */
uint64_t soft_stack_peek(struct soft_vcpu *c, unsigned offset, unsigned size);
/* RSP after popping `bytes`. */
void soft_stack_drop(struct soft_vcpu *c, unsigned bytes);

/* RSP0 to RSP2 (SS:ESP) for `cpl` from the TSS of any size; raises #TS. */
struct soft_stack soft_task_stack(struct soft_vcpu *c, uint8_t cpl, uint32_t ext);

/* -- tasks (task.c) -- */
enum soft_task_reason { SOFT_TASK_JMP, SOFT_TASK_CALL, SOFT_TASK_IRET, SOFT_TASK_EVENT };
struct soft_task_switch {
    struct soft_descriptor tss; /* of the new task: privileges checked */
    enum soft_task_reason reason;
    uint64_t return_rip; /* saved in the old task */
    uint64_t rflags;     /* saved in the old task */
};
/* Switches; faults of the new task's segments are raised in its context. */
void soft_task_switch(struct soft_vcpu *c, const struct soft_task_switch *request);
/* Follows a task gate: the TSS descriptor, checked to be available; raises #GP, #NP. */
struct soft_descriptor soft_task_gate(struct soft_vcpu *c, const struct soft_descriptor *gate);

#endif
