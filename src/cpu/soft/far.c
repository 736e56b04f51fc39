/*
 * Far control transfers: CALL, JMP and RET between segments, through call gates and between rings;
 * IRET.
 *
 * Source: Intel SDM vol. 2 (CALL, JMP, RET, IRET), vol. 3, ch. 5.8 and 20.2; AMD APM vol. 2, 4.7
 * to 4.9. Each transfer is judged whole and its stack probed before anything is pushed; registers
 * change after the last check.
 * Threads: the vCPU's own. Selectors, descriptors, gates and stacks are the guest's.
 */
#include "cpu/soft/control.h"

static bool is_plain(const struct soft_vcpu *c)
{
    return soft_is_real(c) || soft_is_v86(c);
}

/* -- far pointers -- */

struct far_pointer {
    uint64_t offset;
    uint16_t selector;
};

static struct far_pointer far_operand(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned size = insn->operand_size;
    struct far_pointer far;
    uint64_t linear;

    if (!insn->memory) {
        far.offset = (uint32_t)insn->immediate;
        far.selector = (uint16_t)(insn->immediate >> 32);
        return far;
    }
    linear = soft_operand(c, op, size + 2, SOFT_READ);
    far.offset = soft_load(c, linear, size);
    far.selector = soft_load16(c, (linear + size) & c->address_mask);
    return far;
}

/* -- real and v8086 modes -- */

static void plain_commit(struct soft_vcpu *c, uint16_t selector, uint64_t rip)
{
    soft_segment_load_real(c, X86_CS, selector);
    c->rip = rip;
    soft_mode_update(c);
}

static void plain_jump(struct soft_vcpu *c, const struct far_pointer *far)
{
    if (far->offset > c->seg[X86_CS].limit)
        soft_raise_code(c, X86_GP, 0);
    plain_commit(c, far->selector, far->offset);
}

static void plain_call(struct soft_vcpu *c, const struct far_pointer *far, unsigned size)
{
    struct soft_stack stack = soft_stack_current(c, 0);
    uint64_t next = soft_rip_next(c);

    if (far->offset > c->seg[X86_CS].limit)
        soft_raise_code(c, X86_GP, 0);
    soft_stack_reserve(c, &stack, 2, size);
    soft_stack_push(c, &stack, c->seg[X86_CS].selector, size);
    soft_stack_push(c, &stack, next, size);
    soft_stack_commit(c, &stack);
    plain_commit(c, far->selector, far->offset);
}

static void plain_return(struct soft_vcpu *c, unsigned size, unsigned release)
{
    uint64_t rip = soft_stack_peek(c, 0, size);
    uint16_t selector = (uint16_t)soft_stack_peek(c, size, size);

    if (rip > c->seg[X86_CS].limit)
        soft_raise_code(c, X86_GP, 0);
    soft_stack_drop(c, 2 * size + release);
    plain_commit(c, selector, rip);
}

/* -- JMP and CALL in protected mode -- */

struct transfer {
    struct soft_descriptor code; /* of the target */
    uint64_t rip;
    uint64_t next;     /* return address of a CALL */
    uint16_t size;     /* of what a CALL pushes */
    uint8_t arguments; /* words that a call gate copies */
    bool call;
    bool gate64; /* through a 64-bit call gate */
};

static void code_commit(struct soft_vcpu *c, struct soft_descriptor *code, uint8_t cpl,
                        uint64_t rip)
{
    soft_descriptor_type_set(c, code, SOFT_SEG_ACCESSED);
    c->seg[X86_CS] = soft_code_segment(code, cpl);
    c->rip = rip;
    soft_mode_update(c);
}

static void call_push(struct soft_vcpu *c, struct soft_stack *stack, const struct transfer *t)
{
    soft_stack_push(c, stack, c->seg[X86_CS].selector, t->size);
    soft_stack_push(c, stack, t->next, t->size);
}

/* To a segment of the same privilege. */
static void transfer_same(struct soft_vcpu *c, struct transfer *t)
{
    struct x86_segment cs = soft_code_segment(&t->code, c->cpl);
    struct soft_stack stack = soft_stack_current(c, 0);

    soft_target_check(c, &cs, t->rip, 0);
    if (t->gate64)
        stack = soft_stack_of(&c->seg[X86_SS], c->gpr[X86_RSP], c->cpl, true);
    soft_descriptor_type_probe(c, &t->code, SOFT_SEG_ACCESSED);
    if (t->call) {
        soft_stack_reserve(c, &stack, 2, t->size);
        call_push(c, &stack, t);
        soft_stack_commit(c, &stack);
    }
    code_commit(c, &t->code, c->cpl, t->rip);
}

/* The words that a call gate copies, from the caller's stack (SDM vol. 3, 5.8.5). */
static void arguments_load(struct soft_vcpu *c, const struct transfer *t, uint64_t *words)
{
    for (unsigned i = 0; i < t->arguments; i++)
        words[i] = soft_stack_peek(c, i * t->size, t->size);
}

/* A CALL through a gate to an inner ring: CPL becomes the DPL of the code segment. */
static void call_inner(struct soft_vcpu *c, struct transfer *t)
{
    uint8_t cpl = (uint8_t)soft_descriptor_dpl(&t->code);
    struct x86_segment cs = soft_code_segment(&t->code, cpl);
    struct soft_stack stack = soft_task_stack(c, cpl, 0);
    uint64_t words[32] = {0};

    arguments_load(c, t, words);
    soft_stack_reserve(c, &stack, 4u + t->arguments, t->size);
    soft_target_check(c, &cs, t->rip, 0);
    soft_descriptor_type_probe(c, &t->code, SOFT_SEG_ACCESSED);
    soft_stack_push(c, &stack, c->seg[X86_SS].selector, t->size);
    soft_stack_push(c, &stack, c->gpr[X86_RSP], t->size);
    for (unsigned i = t->arguments; i-- > 0;)
        soft_stack_push(c, &stack, words[i], t->size);
    call_push(c, &stack, t);
    soft_stack_commit(c, &stack);
    code_commit(c, &t->code, cpl, t->rip);
}

/* The code segment a call gate names. */
static void gate_target(struct soft_vcpu *c, struct transfer *t, uint16_t selector)
{
    const struct soft_descriptor *code = &t->code;

    if (soft_selector_is_null(selector))
        soft_raise_code(c, X86_GP, 0);
    t->code = soft_descriptor_get(c, selector, X86_GP, 0);
    if (!soft_attributes_are_code(code->attributes) || soft_descriptor_dpl(code) > c->cpl)
        soft_descriptor_fault(c, X86_GP, code);
    if (c->long_mode && (code->attributes & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        soft_descriptor_fault(c, X86_GP, code);
    if (!soft_descriptor_present(code))
        soft_descriptor_fault(c, X86_NP, code);
}

static void gate_decode(struct soft_vcpu *c, struct transfer *t, const struct soft_descriptor *gate)
{
    uint64_t raw = gate->raw;

    t->rip = (raw & 0xffff) | ((raw >> 32) & 0xffff0000);
    t->arguments = (uint8_t)((raw >> 32) & 31);
    t->size = 4;
    if (c->long_mode) {
        uint64_t upper = soft_descriptor_upper(c, gate);

        /* The type field of the upper half must be 0 (SDM vol. 3, 5.8.3.1). */
        if ((upper >> 40) & 0x1f)
            soft_descriptor_fault(c, X86_GP, gate);
        t->rip |= upper << 32;
        t->arguments = 0;
        t->size = 8;
        t->gate64 = true;
    } else if (soft_descriptor_type(gate) == SOFT_TYPE_CALL16) {
        t->rip &= 0xffff;
        t->size = 2;
    }
}

static void through_gate(struct soft_vcpu *c, struct transfer *t,
                         const struct soft_descriptor *gate)
{
    bool inner;

    if (!soft_descriptor_present(gate))
        soft_descriptor_fault(c, X86_NP, gate);
    gate_decode(c, t, gate);
    gate_target(c, t, (uint16_t)(gate->raw >> 16));
    inner = !soft_attributes_are_conforming(t->code.attributes) &&
            soft_descriptor_dpl(&t->code) < c->cpl;
    if (inner && !t->call)
        soft_descriptor_fault(c, X86_GP, &t->code);
    if (inner)
        call_inner(c, t);
    else
        transfer_same(c, t);
}

static void to_task(struct soft_vcpu *c, const struct transfer *t, const struct soft_descriptor *d)
{
    struct soft_task_switch request = {
        .tss = *d,
        .reason = t->call ? SOFT_TASK_CALL : SOFT_TASK_JMP,
        .return_rip = t->next,
        .rflags = soft_rflags_get(c),
    };

    soft_task_switch(c, &request);
}

static void through_system(struct soft_vcpu *c, struct transfer *t, const struct soft_descriptor *d)
{
    unsigned type = soft_descriptor_type(d);
    bool legacy = !c->long_mode;
    struct soft_descriptor tss;

    /* Intel: the type before the privileges. */
    if (type != SOFT_TYPE_CALL32 &&
        !(legacy && (type == SOFT_TYPE_CALL16 || type == SOFT_TYPE_TASK_GATE ||
                     type == SOFT_TYPE_TSS16 || type == SOFT_TYPE_TSS32)))
        soft_descriptor_fault(c, X86_GP, d);
    if (soft_descriptor_dpl(d) < c->cpl || soft_descriptor_dpl(d) < (d->selector & 3u))
        soft_descriptor_fault(c, X86_GP, d);
    if (type == SOFT_TYPE_CALL32 || type == SOFT_TYPE_CALL16) {
        through_gate(c, t, d);
        return;
    }
    if (!soft_descriptor_present(d))
        soft_descriptor_fault(c, X86_NP, d);
    if (type == SOFT_TYPE_TASK_GATE) {
        tss = soft_task_gate(c, d);
        d = &tss;
    }
    to_task(c, t, d);
}

static void through_code(struct soft_vcpu *c, struct transfer *t)
{
    const struct soft_descriptor *code = &t->code;
    unsigned dpl = soft_descriptor_dpl(code);
    bool allowed;

    if (soft_attributes_are_conforming(code->attributes))
        allowed = dpl <= c->cpl;
    else
        allowed = dpl == c->cpl && (code->selector & 3u) <= c->cpl;
    if (!allowed || !soft_attributes_are_code(code->attributes) || soft_code_is_reserved(c, code))
        soft_descriptor_fault(c, X86_GP, code);
    if (!soft_descriptor_present(code))
        soft_descriptor_fault(c, X86_NP, code);
    transfer_same(c, t);
}

static void protected_transfer(struct soft_vcpu *c, const struct far_pointer *far,
                               struct transfer *t)
{
    if (soft_selector_is_null(far->selector))
        soft_raise_code(c, X86_GP, 0);
    t->code = soft_descriptor_get(c, far->selector, X86_GP, 0);
    t->rip = far->offset;
    if (soft_descriptor_is_system(&t->code)) {
        struct soft_descriptor d = t->code;

        through_system(c, t, &d);
        return;
    }
    through_code(c, t);
}

void soft_op_jmp_far(struct soft_vcpu *c, const struct soft_op *op)
{
    struct far_pointer far = far_operand(c, op);
    struct transfer t = {.next = soft_rip_next(c)};

    if (is_plain(c))
        plain_jump(c, &far);
    else
        protected_transfer(c, &far, &t);
}

void soft_op_call_far(struct soft_vcpu *c, const struct soft_op *op)
{
    struct far_pointer far = far_operand(c, op);
    struct transfer t = {.next = soft_rip_next(c), .call = true, .size = op->insn.operand_size};

    if (is_plain(c))
        plain_call(c, &far, op->insn.operand_size);
    else
        protected_transfer(c, &far, &t);
}

/* -- returns in protected mode: RET and IRET -- */

struct far_return {
    struct soft_descriptor code;
    struct x86_segment cs, ss;
    uint64_t rip, rsp;
    unsigned popped; /* bytes, to where an outer SS:RSP is or the return leaves RSP */
    uint16_t ss_selector;
    uint8_t size;
    uint8_t cpl; /* the new one */
    bool stack;  /* SS:RSP are popped too */
};

/* The code segment to return to: SDM vol. 2, RET and IRET, PROTECTED-MODE-RETURN. */
static void return_code(struct soft_vcpu *c, struct far_return *r, uint16_t selector)
{
    const struct soft_descriptor *code = &r->code;
    unsigned dpl;

    if (soft_selector_is_null(selector))
        soft_raise_code(c, X86_GP, 0);
    r->code = soft_descriptor_get(c, selector, X86_GP, 0);
    r->cpl = selector & 3;
    dpl = soft_descriptor_dpl(code);
    if (!soft_attributes_are_code(code->attributes) || r->cpl < c->cpl ||
        soft_code_is_reserved(c, code))
        soft_descriptor_fault(c, X86_GP, code);
    if (soft_attributes_are_conforming(code->attributes) ? dpl > r->cpl : dpl != r->cpl)
        soft_descriptor_fault(c, X86_GP, code);
    if (!soft_descriptor_present(code))
        soft_descriptor_fault(c, X86_NP, code);
    r->cs = soft_code_segment(code, r->cpl);
}

/* The stack of the outer ring (or of the same one, for IRET in 64-bit mode). */
static void return_stack(struct soft_vcpu *c, struct far_return *r)
{
    r->rsp = soft_stack_peek(c, r->popped, r->size);
    r->ss_selector = (uint16_t)soft_stack_peek(c, r->popped + r->size, r->size);
    if (!soft_selector_is_null(r->ss_selector)) {
        r->ss = soft_stack_segment(c, r->ss_selector, r->cpl, X86_GP, 0);
        return;
    }
    /* A null SS only to 64-bit code inside the kernel. */
    if (!(r->cs.attributes & X86_SEG_L) || !c->long_mode || r->cpl == 3 ||
        (r->ss_selector & 3) != r->cpl)
        soft_raise_code(c, X86_GP, 0);
    r->ss = soft_stack_null(r->ss_selector, r->cpl);
}

void soft_segments_drop(struct soft_vcpu *c)
{
    static const uint8_t data[4] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < 4; i++) {
        struct x86_segment *s = &c->seg[data[i]];

        if (!soft_attributes_are_conforming(s->attributes) &&
            X86_SEG_DPL_OF(s->attributes) < c->cpl) {
            s->selector = 0;
            s->attributes = 0;
            /* A base that was null-loaded or written by MSR stays (Linux keeps its FS base). */
        }
    }
}

static void return_commit(struct soft_vcpu *c, struct far_return *r, unsigned release)
{
    bool outer = r->cpl > c->cpl;

    soft_descriptor_type_set(c, &r->code, SOFT_SEG_ACCESSED);
    if (!r->stack)
        soft_stack_drop(c, r->popped + release);
    c->seg[X86_CS] = r->cs;
    c->rip = r->rip;
    if (r->stack) {
        c->seg[X86_SS] = r->ss;
        soft_mode_update(c);
        soft_stack_set(c, r->rsp + release);
    }
    soft_mode_update(c);
    if (outer)
        soft_segments_drop(c);
}

static void protected_return(struct soft_vcpu *c, unsigned size, unsigned release)
{
    struct far_return r = {.size = (uint8_t)size, .popped = 2 * size + release};
    uint16_t selector;

    r.rip = soft_stack_peek(c, 0, size);
    selector = (uint16_t)soft_stack_peek(c, size, size);
    return_code(c, &r, selector);
    r.stack = r.cpl > c->cpl;
    if (r.stack)
        return_stack(c, &r);
    soft_target_check(c, &r.cs, r.rip, 0);
    soft_descriptor_type_probe(c, &r.code, SOFT_SEG_ACCESSED);
    /* `release` is given back on both stacks, or once on the one there is. */
    return_commit(c, &r, r.stack ? release : 0);
}

void soft_op_retf(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned release = insn->form == X86_FORM_IMM ? (unsigned)insn->immediate & 0xffff : 0;

    if (is_plain(c))
        plain_return(c, insn->operand_size, release);
    else
        protected_return(c, insn->operand_size, release);
}

/* -- IRET -- */

uint64_t soft_iret_flags(const struct soft_vcpu *c, unsigned size)
{
    uint64_t mask = X86_RFLAGS_ARITH | X86_RFLAGS_TF | X86_RFLAGS_DF | X86_RFLAGS_NT;

    if (size > 2)
        mask |= X86_RFLAGS_RF | X86_RFLAGS_AC | X86_RFLAGS_ID;
    if (c->cpl <= ((c->rflags & X86_RFLAGS_IOPL) >> 12))
        mask |= X86_RFLAGS_IF;
    if (c->cpl == 0)
        mask |= X86_RFLAGS_IOPL;
    return mask;
}

/* RF has no effect while no breakpoint is armed, and every fault sets it in what its handler's IRET
 * pops: then it is dropped, so that the next instruction need not be run alone. */
static void flags_return(struct soft_vcpu *c, uint64_t flags, uint64_t mask)
{
    if (!(c->dr7 & SOFT_DR7_ENABLED))
        flags &= ~(uint64_t)X86_RFLAGS_RF;
    soft_rflags_set(c, (soft_rflags_get(c) & ~mask & ~(uint64_t)X86_RFLAGS_RF) | (flags & mask));
    c->rf_kept = true;
}

static void plain_iret(struct soft_vcpu *c, unsigned size)
{
    uint64_t rip = soft_stack_peek(c, 0, size);
    uint16_t selector = (uint16_t)soft_stack_peek(c, size, size);
    uint64_t flags = soft_stack_peek(c, 2 * size, size);

    if (rip > c->seg[X86_CS].limit)
        soft_raise_code(c, X86_GP, 0);
    c->nmi_blocked = false;
    soft_stack_drop(c, 3 * size);
    plain_commit(c, selector, rip);
    flags_return(c, flags, soft_iret_flags(c, size));
}

/* SDM vol. 3, 20.2.5: to v8086 mode, from CPL 0 with VM set in the popped flags. */
static void iret_v86(struct soft_vcpu *c, uint64_t rip, uint16_t selector, uint64_t flags)
{
    static const uint8_t order[5] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    uint16_t selectors[5];
    uint64_t rsp = soft_stack_peek(c, 12, 4);

    for (unsigned i = 0; i < 5; i++)
        selectors[i] = (uint16_t)soft_stack_peek(c, 16 + 4 * i, 4);
    if (rip > 0xffff)
        soft_raise_code(c, X86_GP, 0);
    soft_rflags_set(c, flags);
    c->rf_kept = true;
    for (unsigned i = 0; i < 5; i++)
        soft_segment_load_real(c, order[i], selectors[i]);
    plain_commit(c, selector, rip);
    c->gpr[X86_RSP] = (uint32_t)rsp;
}

static void iret_task(struct soft_vcpu *c)
{
    struct soft_task_switch request = {.reason = SOFT_TASK_IRET, .return_rip = soft_rip_next(c)};
    uint16_t selector = (uint16_t)soft_system_load(c, c->tr.base & UINT32_MAX, 2);
    unsigned type;

    if (soft_selector_is_null(selector) || (selector & 4))
        soft_selector_fault(c, X86_TS, selector, 0);
    request.tss = soft_descriptor_get(c, selector, X86_TS, 0);
    type = soft_descriptor_type(&request.tss);
    if (!soft_descriptor_is_system(&request.tss) ||
        (type != SOFT_TYPE_TSS16_BUSY && type != SOFT_TYPE_TSS32_BUSY))
        soft_descriptor_fault(c, X86_TS, &request.tss);
    if (!soft_descriptor_present(&request.tss))
        soft_descriptor_fault(c, X86_NP, &request.tss);
    request.rflags = soft_rflags_get(c) & ~(uint64_t)X86_RFLAGS_NT;
    soft_task_switch(c, &request);
}

static void protected_iret(struct soft_vcpu *c, unsigned size)
{
    struct far_return r = {.size = (uint8_t)size, .popped = 3 * size};
    uint64_t mask = soft_iret_flags(c, size);
    uint64_t flags;
    uint16_t selector;

    r.rip = soft_stack_peek(c, 0, size);
    selector = (uint16_t)soft_stack_peek(c, size, size);
    flags = soft_stack_peek(c, 2 * size, size);
    if (!c->long_mode && size == 4 && (flags & X86_RFLAGS_VM) && c->cpl == 0) {
        iret_v86(c, r.rip, selector, flags);
        return;
    }
    return_code(c, &r, selector);
    r.stack = r.cpl > c->cpl || c->code_size == X86_CODE_64;
    if (r.stack)
        return_stack(c, &r);
    soft_target_check(c, &r.cs, r.rip, 0);
    soft_descriptor_type_probe(c, &r.code, SOFT_SEG_ACCESSED);
    if (c->cpl == 0 && size > 2)
        mask |= X86_RFLAGS_VIF | X86_RFLAGS_VIP;
    return_commit(c, &r, 0);
    flags_return(c, flags, mask);
}

void soft_op_iret(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    bool nested = (c->rflags & X86_RFLAGS_NT) != 0;

    if (soft_is_v86(c) && (c->rflags & X86_RFLAGS_IOPL) != X86_RFLAGS_IOPL)
        soft_raise_code(c, X86_GP, 0);
    soft_serialize();
    if (is_plain(c)) {
        plain_iret(c, size);
        return;
    }
    if (nested && c->long_mode)
        soft_raise_code(c, X86_GP, 0);
    /* SDM vol. 3, 6.7.1: NMIs are let in again even if IRET faults after this. */
    c->nmi_blocked = false;
    if (nested)
        iret_task(c);
    else
        protected_iret(c, size);
}
