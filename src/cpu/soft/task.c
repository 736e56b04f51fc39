/*
 * Tasks: the switch between 32-bit and 16-bit task state segments, inner stacks from them, and the
 * I/O permission map.
 *
 * Source: Intel SDM vol. 3, ch. 8 (8.3 task switching with its order of checks, table 8-1; 8.2.3
 * the 64-bit TSS), vol. 1, 19.5.2 (I/O permission bit map).
 * Threads: the vCPU's own. A TSS is guest memory: it is probed before the old task is saved, then
 * loaded once. What is wrong with the new task's segments is reported in the new task's context.
 */
#include "cpu/soft/descriptor.h"

#define DR7_LOCAL    UINT64_C(0x155) /* L0 to L3 and LE */
#define TSS_BUSY_BIT 2u

/* Where things lie in a TSS (SDM vol. 3, figures 8-2 and 8-10). */
struct tss_layout {
    uint8_t size; /* of a register */
    uint8_t last; /* byte that it must hold: its smallest limit */
    uint8_t rip, flags, gpr, segments, segment_count, ldt;
    uint8_t segment_step;
};

static const struct tss_layout layout32 = {.size = 4,
                                           .last = 0x67,
                                           .rip = 0x20,
                                           .flags = 0x24,
                                           .gpr = 0x28,
                                           .segments = 0x48,
                                           .segment_count = 6,
                                           .ldt = 0x60,
                                           .segment_step = 4};
static const struct tss_layout layout16 = {.size = 2,
                                           .last = 0x2b,
                                           .rip = 0x0e,
                                           .flags = 0x10,
                                           .gpr = 0x12,
                                           .segments = 0x22,
                                           .segment_count = 4,
                                           .ldt = 0x2a,
                                           .segment_step = 2};

static const struct tss_layout *layout_of(unsigned attributes)
{
    return (attributes & X86_SEG_TYPE) >= SOFT_TYPE_TSS32 ? &layout32 : &layout16;
}

/* What a TSS holds. */
struct task {
    uint64_t cr3, rip, rflags;
    uint64_t gpr[8];
    uint16_t selector[X86_SEG_COUNT];
    uint16_t ldt;
    bool trap; /* T: debug exception on the way in */
};

/* -- inner stacks -- */

struct soft_stack soft_task_stack(struct soft_vcpu *c, uint8_t cpl, uint32_t ext)
{
    bool wide = c->long_mode || layout_of(c->tr.attributes) == &layout32;
    unsigned offset = wide ? 4 + 8u * cpl : 2 + 4u * cpl;
    unsigned size = wide ? 4 : 2;
    struct soft_stack stack;
    struct x86_segment ss;
    uint64_t rsp;
    uint16_t selector;

    if (offset + (c->long_mode ? 8 : size + 2) - 1 > c->tr.limit)
        soft_selector_fault(c, X86_TS, c->tr.selector, ext);
    if (c->long_mode) {
        ss = soft_stack_null(cpl, cpl);
        rsp = soft_system_load(c, c->tr.base + offset, 8);
        stack = soft_stack_of(&ss, rsp, cpl, true);
        stack.code = ext;
        return stack;
    }
    rsp = soft_system_load(c, (uint32_t)(c->tr.base + offset), size);
    selector = (uint16_t)soft_system_load(c, (uint32_t)(c->tr.base + offset + size), 2);
    ss = soft_stack_segment(c, selector, cpl, X86_TS, ext);
    stack = soft_stack_of(&ss, rsp, cpl, false);
    stack.code = (selector & 0xfffcu) | ext;
    return stack;
}

/* -- task gates -- */

struct soft_descriptor soft_task_gate(struct soft_vcpu *c, const struct soft_descriptor *gate)
{
    uint16_t selector = (uint16_t)(gate->raw >> 16);
    struct soft_descriptor tss;
    unsigned type;

    if (selector & 4)
        soft_selector_fault(c, X86_GP, selector, gate->ext);
    tss = soft_descriptor_get(c, selector, X86_GP, gate->ext);
    type = soft_descriptor_type(&tss);
    if (!soft_descriptor_is_system(&tss) || (type != SOFT_TYPE_TSS16 && type != SOFT_TYPE_TSS32))
        soft_descriptor_fault(c, X86_GP, &tss);
    if (!soft_descriptor_present(&tss))
        soft_descriptor_fault(c, X86_NP, &tss);
    return tss;
}

/* -- the switch -- */

static uint64_t field_load(struct soft_vcpu *c, const struct x86_segment *tss, unsigned offset,
                           unsigned size)
{
    return soft_system_load(c, (uint32_t)(tss->base + offset), size);
}

static void field_store(struct soft_vcpu *c, unsigned offset, uint64_t value, unsigned size)
{
    soft_system_store(c, (uint32_t)(c->tr.base + offset), value, size);
}

/* The registers of the running task into its TSS. */
static void task_save(struct soft_vcpu *c, const struct soft_task_switch *request)
{
    const struct tss_layout *l = layout_of(c->tr.attributes);

    field_store(c, l->rip, request->return_rip, l->size);
    field_store(c, l->flags, request->rflags, l->size);
    for (unsigned i = 0; i < 8; i++)
        field_store(c, l->gpr + i * l->size, c->gpr[i], l->size);
    for (unsigned i = 0; i < l->segment_count; i++)
        field_store(c, l->segments + i * l->segment_step, c->seg[i].selector, 2);
}

static void task_load(struct soft_vcpu *c, const struct x86_segment *tss, struct task *task)
{
    const struct tss_layout *l = layout_of(tss->attributes);

    *task = (struct task){.cr3 = c->cr3};
    task->rip = field_load(c, tss, l->rip, l->size);
    task->rflags = field_load(c, tss, l->flags, l->size);
    for (unsigned i = 0; i < 8; i++)
        task->gpr[i] = field_load(c, tss, l->gpr + i * l->size, l->size);
    for (unsigned i = 0; i < l->segment_count; i++)
        task->selector[i] = (uint16_t)field_load(c, tss, l->segments + i * l->segment_step, 2);
    task->ldt = (uint16_t)field_load(c, tss, l->ldt, 2);
    if (l == &layout32) {
        task->cr3 = field_load(c, tss, 0x1c, 4);
        task->trap = field_load(c, tss, 0x64, 2) & 1;
    }
}

/* Both TSSs are large enough and can be reached, before anything is written. */
static void switch_check(struct soft_vcpu *c, const struct soft_task_switch *request,
                         const struct x86_segment *tss)
{
    const struct tss_layout *to = layout_of(tss->attributes);
    const struct tss_layout *from = layout_of(c->tr.attributes);
    bool nests = request->reason == SOFT_TASK_CALL || request->reason == SOFT_TASK_EVENT;

    if (tss->limit < to->last)
        soft_descriptor_fault(c, X86_TS, &request->tss);
    if (c->tr.limit < from->last)
        soft_selector_fault(c, X86_TS, c->tr.selector, request->tss.ext);
    soft_system_probe(c, (uint32_t)(c->tr.base + from->rip), from->ldt - from->rip, SOFT_WRITE);
    soft_system_probe(c, (uint32_t)tss->base, to->last + 1u, SOFT_READ);
    if (nests)
        soft_system_probe(c, (uint32_t)tss->base, 2, SOFT_WRITE);
    soft_system_probe(c, request->tss.address + 5, 1, SOFT_WRITE);
}

/* The running task's TSS is available again. */
static void old_release(struct soft_vcpu *c)
{
    uint16_t selector = c->tr.selector;
    struct soft_descriptor old;

    if (soft_descriptor_find(c, selector & 0xfff8, &old))
        soft_descriptor_type_clear(c, &old, TSS_BUSY_BIT);
}

static void page_table_switch(struct soft_vcpu *c, uint64_t cr3)
{
    if (!(c->cr0 & X86_CR0_PG) || cr3 == c->cr3)
        return;
    if ((c->cr4 & X86_CR4_PAE) && !soft_pdpte_load(c, cr3))
        soft_raise_code(c, X86_GP, 0);
    c->cr3 = cr3;
    soft_trace(c, TRACE_CR3, 0, cr3);
    soft_tlb_flush(c);
}

/* Registers and bare selectors of the new task; from here on faults are its own. */
static void task_enter(struct soft_vcpu *c, const struct task *task)
{
    uint8_t cpl = task->selector[X86_CS] & 3;

    c->dr7 &= ~DR7_LOCAL;
    c->cr0 |= X86_CR0_TS;
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = task->gpr[i];
    soft_rflags_set(c, task->rflags);
    c->rf_kept = true;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        c->seg[i] = (struct x86_segment){.selector = task->selector[i]};
        if (soft_is_v86(c))
            soft_segment_load_real(c, i, task->selector[i]);
    }
    if (!soft_is_v86(c)) {
        c->seg[X86_SS] = soft_stack_null(task->selector[X86_SS], cpl);
        c->seg[X86_CS].attributes = X86_SEG_DB;
    }
    c->ldtr = (struct x86_segment){.selector = task->ldt};
    c->rip = task->rip;
    c->block_rip = task->rip - c->op->offset; /* soft_rip_current(): where faults return to */
    soft_mode_update(c);
    page_table_switch(c, task->cr3);
}

static void ldt_load(struct soft_vcpu *c, uint16_t selector, uint32_t ext)
{
    struct soft_descriptor d;

    if (soft_selector_is_null(selector))
        return;
    if (selector & 4)
        soft_selector_fault(c, X86_TS, selector, ext);
    d = soft_descriptor_get(c, selector, X86_TS, ext);
    if (!soft_descriptor_is_system(&d) || soft_descriptor_type(&d) != SOFT_TYPE_LDT ||
        !soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_TS, &d);
    c->ldtr = soft_descriptor_segment(&d);
}

static void task_code_load(struct soft_vcpu *c, uint16_t selector, uint32_t ext)
{
    uint8_t rpl = selector & 3;
    struct soft_descriptor d;
    unsigned dpl;

    if (soft_selector_is_null(selector))
        soft_selector_fault(c, X86_TS, selector, ext);
    d = soft_descriptor_get(c, selector, X86_TS, ext);
    dpl = soft_descriptor_dpl(&d);
    if (!soft_attributes_are_code(d.attributes) ||
        (soft_attributes_are_conforming(d.attributes) ? dpl > rpl : dpl != rpl))
        soft_descriptor_fault(c, X86_TS, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_NP, &d);
    soft_descriptor_type_set(c, &d, SOFT_SEG_ACCESSED);
    c->seg[X86_CS] = soft_code_segment(&d, rpl);
    soft_mode_update(c);
}

static void task_stack_load(struct soft_vcpu *c, uint16_t selector, uint32_t ext)
{
    if (soft_selector_is_null(selector))
        soft_selector_fault(c, X86_TS, selector, ext);
    c->seg[X86_SS] = soft_stack_segment(c, selector, c->cpl, X86_TS, ext);
    soft_mode_update(c);
}

static void task_data_load(struct soft_vcpu *c, unsigned segment, uint16_t selector, uint32_t ext)
{
    struct soft_descriptor d;
    unsigned dpl;

    if (soft_selector_is_null(selector))
        return;
    d = soft_descriptor_get(c, selector, X86_TS, ext);
    dpl = soft_descriptor_dpl(&d);
    if (soft_descriptor_is_system(&d) ||
        (soft_attributes_are_code(d.attributes) && !(d.attributes & SOFT_SEG_READABLE)) ||
        (!soft_attributes_are_conforming(d.attributes) && (dpl < c->cpl || dpl < (selector & 3u))))
        soft_descriptor_fault(c, X86_TS, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_NP, &d);
    soft_descriptor_type_set(c, &d, SOFT_SEG_ACCESSED);
    c->seg[segment] = soft_descriptor_segment(&d);
}

static void segments_load(struct soft_vcpu *c, const struct task *task, uint32_t ext)
{
    static const uint8_t data[4] = {X86_DS, X86_ES, X86_FS, X86_GS};

    ldt_load(c, task->ldt, ext);
    if (soft_is_v86(c))
        return;
    task_code_load(c, task->selector[X86_CS], ext);
    task_stack_load(c, task->selector[X86_SS], ext);
    for (unsigned i = 0; i < 4; i++)
        task_data_load(c, data[i], task->selector[data[i]], ext);
}

void soft_task_switch(struct soft_vcpu *c, const struct soft_task_switch *request)
{
    struct soft_descriptor new = request->tss;
    struct x86_segment tss = soft_descriptor_segment(&new);
    bool nests = request->reason == SOFT_TASK_CALL || request->reason == SOFT_TASK_EVENT;
    struct task task;

    switch_check(c, request, &tss);
    task_save(c, request);
    task_load(c, &tss, &task);
    if (nests) {
        soft_system_store(c, (uint32_t)tss.base, c->tr.selector, 2);
        task.rflags |= X86_RFLAGS_NT;
    } else {
        old_release(c);
    }
    if (request->reason != SOFT_TASK_IRET)
        soft_descriptor_type_set(c, &new, TSS_BUSY_BIT);
    tss.attributes = new.attributes;
    c->tr = tss;
    task_enter(c, &task);
    segments_load(c, &task, new.ext);
    soft_target_check(c, &c->seg[X86_CS], c->rip, new.ext);
    if (task.trap) {
        c->pending_db |= SOFT_DR6_BT;
        soft_mode_update(c);
    }
}

/* -- I/O permission -- */

static uint32_t permission_word(struct soft_vcpu *c, uint32_t offset)
{
    uint64_t address = c->tr.base + offset;

    return (uint32_t)soft_system_load(c, c->long_mode ? address : (uint32_t)address, 2);
}

bool soft_io_permitted(struct soft_vcpu *c, uint16_t port, unsigned size)
{
    uint32_t at, bits;

    if (soft_is_real(c) || (!soft_is_v86(c) && c->cpl <= (c->rflags & X86_RFLAGS_IOPL) >> 12))
        return true;
    if (!(c->tr.attributes & X86_SEG_P) || layout_of(c->tr.attributes) != &layout32 ||
        c->tr.limit < 0x67)
        return false;
    at = permission_word(c, 0x66) + port / 8;
    /* Two bytes are always read, so the map ends with a byte of ones. */
    if (at + 1 > c->tr.limit)
        return false;
    bits = permission_word(c, at);
    return ((bits >> (port % 8)) & ((1u << size) - 1)) == 0;
}
