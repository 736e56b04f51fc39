/*
 * Segmentation: effective to linear addresses, loads of segment registers, the stack, the flags
 * register, and what follows from them all (CPL, code size, privilege of accesses).
 *
 * Source: Intel SDM vol. 3, ch. 3 and 5; vol. 2 MOV, POP; AMD APM vol. 2, ch. 4. Intel's behaviour
 * where the two differ (a null selector clears FS's and GS's base).
 * Threads: the vCPU's own. Selectors, descriptors and offsets are the guest's: all are checked.
 */
#include "cpu/soft/descriptor.h"

#define RFLAGS_KEPT                                                                                \
    (X86_RFLAGS_TF | X86_RFLAGS_IF | X86_RFLAGS_DF | X86_RFLAGS_IOPL | X86_RFLAGS_NT |             \
     X86_RFLAGS_RF | X86_RFLAGS_VM | X86_RFLAGS_AC | X86_RFLAGS_VIF | X86_RFLAGS_VIP |             \
     X86_RFLAGS_ID)

/* -- addresses -- */

static _Noreturn void segment_violation(struct soft_vcpu *c, unsigned segment)
{
    soft_raise_code(c, segment == X86_SS ? X86_SSV : X86_GP, 0);
}

/* Whether the type allows the access (SDM vol. 3, 5.5); real and v8086 modes have no types. */
static bool type_allows(const struct x86_segment *segment, enum soft_access access)
{
    unsigned attributes = segment->attributes;

    if (!(attributes & X86_SEG_P))
        return false;
    if (access == SOFT_WRITE)
        return soft_attributes_are_writable(attributes);
    if (access == SOFT_FETCH)
        return true;
    return !soft_attributes_are_code(attributes) || (attributes & SOFT_SEG_READABLE);
}

static uint64_t linear_long(struct soft_vcpu *c, unsigned segment, uint64_t offset, unsigned size)
{
    if (segment >= X86_FS)
        offset += c->seg[segment].base;
    if (!soft_is_canonical(offset) || !soft_is_canonical(offset + size - 1))
        segment_violation(c, segment);
    return offset;
}

uint64_t soft_linear(struct soft_vcpu *c, unsigned segment, uint64_t offset, unsigned size,
                     enum soft_access access)
{
    const struct x86_segment *s = &c->seg[segment];

    if (c->code_size == X86_CODE_64)
        return linear_long(c, segment, offset, size);
    if (!soft_segment_contains(s, offset, size))
        segment_violation(c, segment);
    if (!soft_is_real(c) && !soft_is_v86(c) && !type_allows(s, access))
        segment_violation(c, segment);
    return (uint32_t)(s->base + offset);
}

/* -- loads of segment registers -- */

void soft_segment_load_real(struct soft_vcpu *c, unsigned segment, uint16_t selector)
{
    struct x86_segment *s = &c->seg[segment];
    bool v86 = soft_is_v86(c);

    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    if (v86) {
        /* SDM vol. 3, 20.2.1: 64 KiB, and CPL (which is SS.DPL) 3. */
        s->limit = 0xffff;
        s->attributes = X86_SEG_P | X86_SEG_DPL | X86_SEG_S | SOFT_SEG_WRITABLE | SOFT_SEG_ACCESSED;
        return;
    }
    /* Real mode changes base and selector; limit and size stay ("unreal mode"). */
    s->attributes = (uint16_t)((s->attributes & (X86_SEG_DB | X86_SEG_G)) | X86_SEG_P | X86_SEG_S |
                               SOFT_SEG_WRITABLE | SOFT_SEG_ACCESSED);
}

/* SS in protected mode. */
static void stack_segment_load(struct soft_vcpu *c, uint16_t selector)
{
    if (soft_selector_is_null(selector)) {
        if (c->code_size != X86_CODE_64 || c->cpl == 3 || (selector & 3) != c->cpl)
            soft_raise_code(c, X86_GP, 0);
        c->seg[X86_SS] = soft_stack_null(selector, c->cpl);
    } else {
        c->seg[X86_SS] = soft_stack_segment(c, selector, c->cpl, X86_GP, 0);
    }
    soft_mode_update(c);
}

/* DS, ES, FS or GS in protected mode. */
static void data_segment_load(struct soft_vcpu *c, unsigned segment, uint16_t selector)
{
    struct soft_descriptor d;
    unsigned dpl;

    if (soft_selector_is_null(selector)) {
        c->seg[segment] = (struct x86_segment){.selector = selector};
        return;
    }
    d = soft_descriptor_get(c, selector, X86_GP, 0);
    dpl = soft_descriptor_dpl(&d);
    if (soft_descriptor_is_system(&d) ||
        (soft_attributes_are_code(d.attributes) && !(d.attributes & SOFT_SEG_READABLE)))
        soft_descriptor_fault(c, X86_GP, &d);
    if (!soft_attributes_are_conforming(d.attributes) && (dpl < (selector & 3u) || dpl < c->cpl))
        soft_descriptor_fault(c, X86_GP, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_NP, &d);
    soft_descriptor_type_set(c, &d, SOFT_SEG_ACCESSED);
    c->seg[segment] = soft_descriptor_segment(&d);
}

void soft_segment_load(struct soft_vcpu *c, unsigned segment, uint16_t selector)
{
    if (soft_is_real(c) || soft_is_v86(c))
        soft_segment_load_real(c, segment, selector);
    else if (segment == X86_SS)
        stack_segment_load(c, selector);
    else
        data_segment_load(c, segment, selector);
}

/* -- modes -- */

/* DR7 enables a breakpoint on data (R/W field 1 or 3): SDM vol. 3, 18.2.4. */
static bool watchpoint_enabled(const struct soft_vcpu *c)
{
    for (unsigned i = 0; i < 4; i++) {
        bool enabled = ((c->dr7 >> (2 * i)) & 3) != 0;

        if (enabled && ((c->dr7 >> (16 + 4 * i)) & 1))
            return true;
    }
    return false;
}

static uint8_t privilege_of(const struct soft_vcpu *c)
{
    bool alignment = c->cpl == 3 && (c->cr0 & X86_CR0_AM) && (c->rflags & X86_RFLAGS_AC);

    if (alignment || watchpoint_enabled(c))
        return SOFT_CHECKED;
    if (c->cpl == 3)
        return SOFT_USER;
    if ((c->cr4 & X86_CR4_SMAP) && !(c->rflags & X86_RFLAGS_AC))
        return SOFT_KERNEL_SMAP;
    return SOFT_KERNEL;
}

static void mode_trace(struct soft_vcpu *c)
{
    uint32_t mode = (uint32_t)c->code_size << 4 | (c->long_mode ? TRACE_MODE_LONG : 0) |
                    (c->cr0 & X86_CR0_PE ? TRACE_MODE_PROTECTED : 0) |
                    (c->cr0 & X86_CR0_PG ? TRACE_MODE_PAGING : 0) |
                    (soft_is_v86(c) ? TRACE_MODE_V86 : 0);

    if (mode == c->traced_mode)
        return;
    c->traced_mode = mode;
    soft_trace(c, TRACE_MODE, mode, 0);
}

void soft_mode_update(struct soft_vcpu *c)
{
    const unsigned cs = c->seg[X86_CS].attributes;

    c->long_mode = (c->efer & X86_EFER_LMA) != 0;
    if (c->long_mode && (cs & X86_SEG_L))
        c->code_size = X86_CODE_64;
    else
        c->code_size = cs & X86_SEG_DB ? X86_CODE_32 : X86_CODE_16;
    if (soft_is_real(c))
        c->cpl = 0;
    else if (soft_is_v86(c))
        c->cpl = 3;
    else
        c->cpl = X86_SEG_DPL_OF(c->seg[X86_SS].attributes);
    c->address_mask = c->code_size == X86_CODE_64 ? UINT64_MAX : UINT32_MAX;
    c->privilege = privilege_of(c);
    c->step = (c->rflags & (X86_RFLAGS_TF | X86_RFLAGS_RF)) != 0 || (c->dr7 & SOFT_DR7_ENABLED) ||
              c->pending_db != 0;
    soft_code_mode_changed(c);
    if (__builtin_expect(c->trace != NULL, 0))
        mode_trace(c);
}

/* -- stack -- */

uint64_t soft_stack_mask(const struct soft_vcpu *c)
{
    if (c->code_size == X86_CODE_64)
        return UINT64_MAX;
    return c->seg[X86_SS].attributes & X86_SEG_DB ? UINT32_MAX : UINT16_MAX;
}

/* A 32-bit stack pointer is written as any 32-bit register is: with bits 63-32 cleared. */
void soft_stack_set(struct soft_vcpu *c, uint64_t rsp)
{
    uint64_t mask = soft_stack_mask(c);

    if (mask == UINT16_MAX)
        c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~mask) | (rsp & mask);
    else
        c->gpr[X86_RSP] = rsp & mask;
}

void soft_push(struct soft_vcpu *c, uint64_t value, unsigned size)
{
    uint64_t rsp = (c->gpr[X86_RSP] - size) & soft_stack_mask(c);

    soft_store(c, soft_linear(c, X86_SS, rsp, size, SOFT_WRITE), value, size);
    soft_stack_set(c, rsp);
}

uint64_t soft_pop(struct soft_vcpu *c, unsigned size)
{
    uint64_t rsp = c->gpr[X86_RSP] & soft_stack_mask(c);
    uint64_t value = soft_load(c, soft_linear(c, X86_SS, rsp, size, SOFT_READ), size);

    soft_stack_set(c, rsp + size);
    return value;
}

/* -- flags -- */

uint64_t soft_rflags_get(const struct soft_vcpu *c)
{
    uint64_t low = (c->arith >> 8) & (X86_RFLAGS_ARITH & 0xff);

    return c->rflags | low | (uint64_t)(c->arith & 1) << 11;
}

void soft_rflags_set(struct soft_vcpu *c, uint64_t value)
{
    const uint32_t modes = X86_RFLAGS_TF | X86_RFLAGS_RF | X86_RFLAGS_AC | X86_RFLAGS_VM;
    uint32_t old = c->rflags;
    unsigned low = ((unsigned)value & X86_RFLAGS_ARITH & 0xff) | X86_RFLAGS_ONE;

    c->arith = (uint16_t)(low << 8 | ((value >> 11) & 1));
    c->rflags = ((uint32_t)value & RFLAGS_KEPT) | X86_RFLAGS_ONE;
    if ((old ^ c->rflags) & modes)
        soft_mode_update(c);
}
