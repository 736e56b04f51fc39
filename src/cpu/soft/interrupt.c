/*
 * Delivery of exceptions and interrupts: real mode's vector table, the protected-mode and the
 * long-mode IDT; INT n, INT3, INT1 and INTO.
 *
 * Source: Intel SDM vol. 3, ch. 6 (6.12, 6.13 error codes and EXT, 6.14 64-bit mode), 18.3.1.1
 * (RF in the pushed flags), 20.3 (from v8086 mode), vol. 2 INT n; AMD APM vol. 2, ch. 8.
 * Threads: the vCPU's own. IDT, TSS and stacks are the guest's: all is judged before a register
 * changes, and the stack is probed before the first push.
 */
#include "cpu/soft/control.h"

struct delivery {
    const struct soft_event *event;
    struct soft_descriptor gate;
    struct soft_descriptor code;
    struct x86_segment cs;
    struct soft_stack stack;
    uint64_t rip;   /* of the handler */
    uint64_t flags; /* as pushed */
    uint32_t ext;   /* bit 0 of error codes of faults in the delivery */
    uint8_t cpl;    /* the new one */
    uint8_t size;   /* of what is pushed */
};

/* -- flags -- */

/* RF as pushed: 1 for faults, so that the instruction's breakpoint is not met again. A breakpoint's
 * own #DB, traps and aborts push it as it is. */
static uint64_t pushed_flags(const struct soft_vcpu *c, const struct soft_event *event)
{
    uint64_t flags = soft_rflags_get(c);
    bool fault = event->kind == SOFT_EVENT_EXCEPTION && event->vector != X86_DB &&
                 event->vector != X86_DF && event->vector != X86_MC;

    return fault ? flags | X86_RFLAGS_RF : flags;
}

static void event_commit(struct soft_vcpu *c, uint64_t cleared)
{
    c->shadow = false;
    c->shadow_debug = false;
    soft_rflags_set(c, soft_rflags_get(c) & ~cleared);
}

/* -- real mode (SDM vol. 3, 20.1.4) -- */

static void real_deliver(struct soft_vcpu *c, const struct soft_event *event)
{
    struct soft_stack stack = soft_stack_current(c, 0);
    uint32_t entry = event->vector * 4u;
    uint64_t target;

    if (entry + 3 > c->idtr.limit)
        soft_raise_code(c, X86_GP, entry * 2 + 2);
    target = soft_system_load(c, (uint32_t)(c->idtr.base + entry), 4);
    soft_stack_reserve(c, &stack, 3, 2);
    soft_stack_push(c, &stack, soft_rflags_get(c), 2);
    soft_stack_push(c, &stack, c->seg[X86_CS].selector, 2);
    soft_stack_push(c, &stack, event->return_rip, 2);
    soft_stack_commit(c, &stack);
    event_commit(c, X86_RFLAGS_IF | X86_RFLAGS_TF | X86_RFLAGS_AC | X86_RFLAGS_RF);
    soft_segment_load_real(c, X86_CS, (uint16_t)(target >> 16));
    c->rip = target & 0xffff;
    soft_mode_update(c);
}

/* -- gates -- */

static _Noreturn void gate_fault(struct soft_vcpu *c, const struct delivery *d, uint8_t vector)
{
    soft_raise_code(c, vector, d->event->vector * 8u + 2 + d->ext);
}

static bool gate_type_is_good(const struct soft_vcpu *c, const struct soft_descriptor *gate)
{
    unsigned type = soft_descriptor_type(gate);

    if (!soft_descriptor_is_system(gate))
        return false;
    if (type == SOFT_TYPE_INTERRUPT32 || type == SOFT_TYPE_TRAP32)
        return true;
    return !c->long_mode && (type == SOFT_TYPE_TASK_GATE || type == SOFT_TYPE_INTERRUPT16 ||
                             type == SOFT_TYPE_TRAP16);
}

static void gate_load(struct soft_vcpu *c, struct delivery *d)
{
    unsigned bytes = c->long_mode ? 16 : 8;
    uint32_t entry = d->event->vector * bytes;
    struct soft_descriptor *gate = &d->gate;

    if (entry + bytes - 1 > c->idtr.limit)
        gate_fault(c, d, X86_GP);
    gate->address = c->idtr.base + entry;
    if (!c->long_mode)
        gate->address = (uint32_t)gate->address;
    gate->raw = soft_system_load(c, gate->address, 8);
    gate->attributes = soft_raw_attributes(gate->raw);
    gate->ext = d->ext;
    gate->selector = (uint16_t)(gate->raw >> 16);
    if (!gate_type_is_good(c, gate))
        gate_fault(c, d, X86_GP);
    if (d->event->kind == SOFT_EVENT_SOFTWARE && soft_descriptor_dpl(gate) < c->cpl)
        gate_fault(c, d, X86_GP);
    if (!soft_descriptor_present(gate))
        gate_fault(c, d, X86_NP);
}

/* Offset and size by the gate's type. */
static void gate_decode(struct soft_vcpu *c, struct delivery *d)
{
    uint64_t raw = d->gate.raw;
    unsigned type = soft_descriptor_type(&d->gate);

    d->rip = raw & 0xffff;
    d->size = 2;
    if (type == SOFT_TYPE_INTERRUPT32 || type == SOFT_TYPE_TRAP32) {
        d->rip |= (raw >> 32) & 0xffff0000;
        d->size = 4;
    }
    if (c->long_mode) {
        d->rip |= soft_system_load(c, d->gate.address + 8, 8) << 32;
        d->size = 8;
    }
}

static void code_load(struct soft_vcpu *c, struct delivery *d)
{
    const struct soft_descriptor *code = &d->code;
    unsigned dpl;

    if (soft_selector_is_null(d->gate.selector))
        soft_raise_code(c, X86_GP, d->ext);
    d->code = soft_descriptor_get(c, d->gate.selector, X86_GP, d->ext);
    dpl = soft_descriptor_dpl(code);
    if (!soft_attributes_are_code(code->attributes) || dpl > c->cpl)
        soft_descriptor_fault(c, X86_GP, code);
    if (c->long_mode && (code->attributes & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        soft_descriptor_fault(c, X86_GP, code);
    if (!soft_descriptor_present(code))
        soft_descriptor_fault(c, X86_NP, code);
    d->cpl = soft_attributes_are_conforming(code->attributes) ? c->cpl : (uint8_t)dpl;
    /* v8086 mode is left only to ring 0. */
    if (soft_is_v86(c) && d->cpl != 0)
        soft_descriptor_fault(c, X86_GP, code);
    d->cs = soft_code_segment(code, d->cpl);
}

/* -- stacks -- */

/* SDM vol. 3, 6.14.5: an entry of the interrupt stack table, by the gate's number 1 to 7. */
static uint64_t ist_load(struct soft_vcpu *c, const struct delivery *d, unsigned ist)
{
    uint32_t offset = 0x24 + 8 * (ist - 1);

    if (offset + 7 > c->tr.limit)
        soft_selector_fault(c, X86_TS, c->tr.selector, d->ext);
    return soft_system_load(c, c->tr.base + offset, 8);
}

static void long_stack(struct soft_vcpu *c, struct delivery *d)
{
    unsigned ist = (d->gate.raw >> 32) & 7;
    bool inner = d->cpl < c->cpl;

    if (inner && !ist) {
        d->stack = soft_task_stack(c, d->cpl, d->ext);
    } else {
        struct x86_segment ss = inner ? soft_stack_null(d->cpl, d->cpl) : c->seg[X86_SS];
        uint64_t rsp = ist ? ist_load(c, d, ist) : c->gpr[X86_RSP];

        d->stack = soft_stack_of(&ss, rsp, d->cpl, true);
    }
    d->stack.code = d->ext;
    d->stack.rsp &= ~UINT64_C(15);
}

static void stack_choose(struct soft_vcpu *c, struct delivery *d)
{
    if (c->long_mode)
        long_stack(c, d);
    else if (d->cpl < c->cpl)
        d->stack = soft_task_stack(c, d->cpl, d->ext);
    else
        d->stack = soft_stack_current(c, d->ext);
}

/* -- the frame -- */

struct frame {
    uint64_t word[10];
    unsigned count;
};

static void frame_add(struct frame *f, uint64_t value)
{
    f->word[f->count++] = value;
}

static void frame_build(const struct soft_vcpu *c, const struct delivery *d, struct frame *f)
{
    f->count = 0;
    if (soft_is_v86(c)) {
        frame_add(f, c->seg[X86_GS].selector);
        frame_add(f, c->seg[X86_FS].selector);
        frame_add(f, c->seg[X86_DS].selector);
        frame_add(f, c->seg[X86_ES].selector);
    }
    if (c->long_mode || d->cpl < c->cpl) {
        frame_add(f, c->seg[X86_SS].selector);
        frame_add(f, c->gpr[X86_RSP]);
    }
    frame_add(f, d->flags);
    frame_add(f, c->seg[X86_CS].selector);
    frame_add(f, d->event->return_rip);
    if (d->event->has_code)
        frame_add(f, d->event->code);
}

/* v8086 mode's data segments have no meaning for the handler. */
static void v86_leave(struct soft_vcpu *c)
{
    static const uint8_t data[4] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < 4; i++)
        c->seg[data[i]] = (struct x86_segment){0};
}

static void delivery_commit(struct soft_vcpu *c, struct delivery *d)
{
    uint64_t cleared = X86_RFLAGS_TF | X86_RFLAGS_NT | X86_RFLAGS_RF | X86_RFLAGS_VM;
    unsigned type = soft_descriptor_type(&d->gate);

    if (type == SOFT_TYPE_INTERRUPT32 || type == SOFT_TYPE_INTERRUPT16)
        cleared |= X86_RFLAGS_IF;
    soft_descriptor_type_set(c, &d->code, SOFT_SEG_ACCESSED);
    if (soft_is_v86(c))
        v86_leave(c);
    soft_stack_commit(c, &d->stack);
    c->seg[X86_CS] = d->cs;
    c->rip = d->rip;
    event_commit(c, cleared);
    soft_mode_update(c);
}

static void gate_deliver(struct soft_vcpu *c, struct delivery *d)
{
    struct frame frame;

    gate_decode(c, d);
    code_load(c, d);
    stack_choose(c, d);
    frame_build(c, d, &frame);
    soft_stack_reserve(c, &d->stack, frame.count, d->size);
    soft_target_check(c, &d->cs, d->rip, d->ext);
    soft_descriptor_type_probe(c, &d->code, SOFT_SEG_ACCESSED);
    for (unsigned i = 0; i < frame.count; i++)
        soft_stack_push(c, &d->stack, frame.word[i], d->size);
    delivery_commit(c, d);
}

/* -- task gates (SDM vol. 3, 6.12.2) -- */

static void task_deliver(struct soft_vcpu *c, struct delivery *d)
{
    struct soft_task_switch request = {
        .tss = soft_task_gate(c, &d->gate),
        .reason = SOFT_TASK_EVENT,
        .return_rip = d->event->return_rip,
        .rflags = d->flags,
    };
    bool wide = soft_descriptor_type(&request.tss) == SOFT_TYPE_TSS32;
    struct soft_stack stack;

    soft_task_switch(c, &request);
    c->shadow = false;
    c->shadow_debug = false;
    if (!d->event->has_code)
        return;
    stack = soft_stack_current(c, d->ext);
    soft_stack_push(c, &stack, d->event->code, wide ? 4 : 2);
    soft_stack_commit(c, &stack);
}

void soft_event_deliver(struct soft_vcpu *c, const struct soft_event *event)
{
    struct delivery d = {.event = event, .flags = pushed_flags(c, event)};

    if (soft_is_real(c)) {
        real_deliver(c, event);
        return;
    }
    d.ext = event->kind != SOFT_EVENT_SOFTWARE;
    gate_load(c, &d);
    if (soft_descriptor_type(&d.gate) == SOFT_TYPE_TASK_GATE)
        task_deliver(c, &d);
    else
        gate_deliver(c, &d);
}

/* -- instructions -- */

static void software_interrupt(struct soft_vcpu *c, uint8_t vector, enum soft_event_kind kind)
{
    struct soft_event event = {.kind = kind, .vector = vector, .return_rip = soft_rip_next(c)};

    soft_event_deliver(c, &event);
    c->trap_dropped = true; /* TF was cleared on the way (SDM vol. 3, 18.3.1.4) */
}

void soft_op_int(struct soft_vcpu *c, const struct soft_op *op)
{
    /* Without VME, INT n in v8086 mode needs IOPL 3 (SDM vol. 3, 20.3.3); INT3 and INTO don't. */
    if (soft_is_v86(c) && (c->rflags & X86_RFLAGS_IOPL) != X86_RFLAGS_IOPL)
        soft_raise_code(c, X86_GP, 0);
    software_interrupt(c, (uint8_t)op->insn.immediate, SOFT_EVENT_SOFTWARE);
}

void soft_op_int3(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    software_interrupt(c, X86_BP, SOFT_EVENT_SOFTWARE);
}

void soft_op_int1(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    software_interrupt(c, X86_DB, SOFT_EVENT_INT1);
    /* A breakpoint that MOV SS held back becomes one with this #DB. */
    c->dr6 |= c->pending_db;
    c->pending_db = 0;
    soft_mode_update(c);
}

void soft_op_into(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    if (soft_rflags_get(c) & X86_RFLAGS_OF)
        software_interrupt(c, X86_OF, SOFT_EVENT_SOFTWARE);
    else
        c->rip = soft_rip_next(c);
}
