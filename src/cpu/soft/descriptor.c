/*
 * Descriptors: finding, judging, marking them; stacks of control transfers. See descriptor.h.
 *
 * Threads: the vCPU's own. The tables are guest memory that other vCPUs may change at any time:
 * a descriptor is loaded once, and only accessed and busy bits are written, atomically.
 */
#include "cpu/soft/descriptor.h"

_Noreturn void soft_selector_fault(struct soft_vcpu *c, uint8_t vector, uint16_t selector,
                                   uint32_t ext)
{
    soft_raise_code(c, vector, (selector & 0xfffcu) | ext);
}

_Noreturn void soft_descriptor_fault(struct soft_vcpu *c, uint8_t vector,
                                     const struct soft_descriptor *d)
{
    soft_selector_fault(c, vector, d->selector, d->ext);
}

/* Linear addresses of tables wrap at 4 GiB outside long mode. */
static uint64_t table_address(const struct soft_vcpu *c, uint64_t address)
{
    return c->long_mode ? address : (uint32_t)address;
}

static bool table_find(const struct soft_vcpu *c, uint16_t selector, unsigned bytes,
                       uint64_t *address)
{
    bool local = (selector & 4) != 0;
    uint64_t base = local ? c->ldtr.base : c->gdtr.base;
    uint32_t limit = local ? c->ldtr.limit : c->gdtr.limit;
    uint32_t offset = selector & 0xfff8u;

    if (local && !(c->ldtr.attributes & X86_SEG_P))
        return false;
    *address = table_address(c, base + offset);
    return offset + bytes - 1 <= limit;
}

bool soft_descriptor_find(struct soft_vcpu *c, uint16_t selector, struct soft_descriptor *out)
{
    uint64_t address;

    if (!table_find(c, selector, 8, &address))
        return false;
    out->address = address;
    out->selector = selector;
    out->ext = 0;
    out->raw = soft_system_load(c, address, 8);
    out->attributes = soft_raw_attributes(out->raw);
    return true;
}

struct soft_descriptor soft_descriptor_get(struct soft_vcpu *c, uint16_t selector, uint8_t vector,
                                           uint32_t ext)
{
    struct soft_descriptor d;

    if (!soft_descriptor_find(c, selector, &d))
        soft_selector_fault(c, vector, selector, ext);
    d.ext = ext;
    return d;
}

uint64_t soft_descriptor_upper(struct soft_vcpu *c, const struct soft_descriptor *d)
{
    uint64_t address;

    if (!table_find(c, d->selector, 16, &address))
        soft_descriptor_fault(c, X86_GP, d);
    return soft_system_load(c, address + 8, 8);
}

struct x86_segment soft_descriptor_segment(const struct soft_descriptor *d)
{
    uint64_t raw = d->raw;
    struct x86_segment segment = {
        .base = ((raw >> 16) & 0xffffff) | ((raw >> 32) & 0xff000000),
        .limit = (uint32_t)((raw & 0xffff) | ((raw >> 32) & 0xf0000)),
        .selector = d->selector,
        .attributes = d->attributes,
    };

    if (segment.attributes & X86_SEG_G)
        segment.limit = (segment.limit << 12) | 0xfff;
    return segment;
}

void soft_descriptor_type_probe(struct soft_vcpu *c, const struct soft_descriptor *d, unsigned bits)
{
    if ((d->attributes & bits) != bits)
        soft_system_probe(c, d->address + 5, 1, SOFT_WRITE);
}

/*
 * The type byte, for a locked change by the host. The access is the system's own whatever CPL is;
 * soft_rmw_begin() obeys c->privilege, so that is lent for as long. The probe has shown that it
 * does not fault; if another vCPU unmaps the page in between, the delivery of the page fault puts
 * the privilege right (soft_mode_update).
 */
static void type_change(struct soft_vcpu *c, const struct soft_descriptor *d, uint8_t set,
                        uint8_t clear)
{
    uint64_t address = table_address(c, d->address + 5);
    uint8_t *byte;

    soft_system_probe(c, address, 1, SOFT_WRITE);
    c->privilege = SOFT_KERNEL;
    byte = soft_rmw_begin(c, address, 1);
    if (set)
        __atomic_fetch_or(byte, set, __ATOMIC_SEQ_CST);
    if (clear)
        __atomic_fetch_and(byte, (uint8_t)~clear, __ATOMIC_SEQ_CST);
    soft_rmw_end(c);
    soft_mode_update(c);
}

void soft_descriptor_type_set(struct soft_vcpu *c, struct soft_descriptor *d, unsigned bits)
{
    if ((d->attributes & bits) == bits)
        return;
    type_change(c, d, (uint8_t)bits, 0);
    d->attributes = (uint16_t)(d->attributes | bits);
}

void soft_descriptor_type_clear(struct soft_vcpu *c, struct soft_descriptor *d, unsigned bits)
{
    type_change(c, d, 0, (uint8_t)bits);
    d->attributes = (uint16_t)(d->attributes & ~bits);
}

/* SDM vol. 3, 5.3: expand-down segments hold what is above their limit. An access that wraps at
 * 4 GiB is outside every segment. */
bool soft_segment_contains(const struct x86_segment *segment, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    uint64_t top;

    if ((segment->attributes & (X86_SEG_S | SOFT_SEG_CODE | SOFT_SEG_EXPAND_DOWN)) !=
        (X86_SEG_S | SOFT_SEG_EXPAND_DOWN))
        return last <= segment->limit;
    top = segment->attributes & X86_SEG_DB ? UINT32_MAX : UINT16_MAX;
    return offset > segment->limit && last <= top;
}

struct x86_segment soft_code_segment(const struct soft_descriptor *d, uint8_t cpl)
{
    struct x86_segment cs = soft_descriptor_segment(d);

    cs.selector = (uint16_t)((cs.selector & 0xfffcu) | cpl);
    cs.attributes |= SOFT_SEG_ACCESSED;
    return cs;
}

bool soft_code_is_reserved(const struct soft_vcpu *c, const struct soft_descriptor *d)
{
    return c->long_mode && (d->attributes & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB);
}

void soft_target_check(struct soft_vcpu *c, const struct x86_segment *cs, uint64_t rip,
                       uint32_t ext)
{
    bool good;

    if (c->long_mode && (cs->attributes & X86_SEG_L))
        good = soft_is_canonical(rip);
    else
        good = rip <= cs->limit;
    if (!good)
        soft_raise_code(c, X86_GP, ext);
}

/* DPL is kept in a null SS too: CPL is always SS.DPL (soft_mode_update). */
struct x86_segment soft_stack_null(uint16_t selector, uint8_t cpl)
{
    return (struct x86_segment){
        .selector = selector,
        .attributes = (uint16_t)(cpl << 5),
    };
}

struct x86_segment soft_stack_segment(struct soft_vcpu *c, uint16_t selector, uint8_t cpl,
                                      uint8_t vector, uint32_t ext)
{
    struct soft_descriptor d;

    if (soft_selector_is_null(selector))
        soft_raise_code(c, vector, ext);
    d = soft_descriptor_get(c, selector, vector, ext);
    if ((selector & 3) != cpl || !soft_attributes_are_writable(d.attributes) ||
        soft_descriptor_dpl(&d) != cpl)
        soft_descriptor_fault(c, vector, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_SSV, &d);
    soft_descriptor_type_set(c, &d, SOFT_SEG_ACCESSED);
    return soft_descriptor_segment(&d);
}

struct soft_stack soft_stack_of(const struct x86_segment *ss, uint64_t rsp, uint8_t cpl, bool flat)
{
    struct soft_stack stack = {.ss = *ss, .rsp = rsp, .cpl = cpl, .flat = flat};

    if (flat)
        stack.mask = UINT64_MAX;
    else
        stack.mask = ss->attributes & X86_SEG_DB ? UINT32_MAX : UINT16_MAX;
    return stack;
}

struct soft_stack soft_stack_current(const struct soft_vcpu *c, uint32_t ext)
{
    struct soft_stack stack =
        soft_stack_of(&c->seg[X86_SS], c->gpr[X86_RSP], c->cpl, c->code_size == X86_CODE_64);

    stack.code = ext;
    return stack;
}

static uint64_t stack_address(struct soft_vcpu *c, const struct soft_stack *stack, uint64_t offset,
                              unsigned size)
{
    if (stack->flat) {
        if (!soft_is_canonical(offset) || !soft_is_canonical(offset + size - 1))
            soft_raise_code(c, X86_SSV, stack->code);
        return offset;
    }
    if (!soft_segment_contains(&stack->ss, offset, size))
        soft_raise_code(c, X86_SSV, stack->code);
    return (uint32_t)(stack->ss.base + offset);
}

/* An access to an inner ring's stack is an implicit supervisor access, which SMAP always holds
 * (SDM vol. 3, 4.6); one to the current stack is the program's own. */
static void stack_probe(struct soft_vcpu *c, const struct soft_stack *stack, uint64_t linear,
                        unsigned length)
{
    if (stack->cpl == c->cpl)
        soft_probe(c, linear, length, SOFT_WRITE);
    else
        soft_probe_as(c, stack->cpl, linear, length, SOFT_WRITE);
}

/* In the order of the pushes, so that CR2 and the error code are those of the first that fails; one
 * probe for each page. */
void soft_stack_reserve(struct soft_vcpu *c, const struct soft_stack *stack, unsigned count,
                        unsigned size)
{
    uint64_t rsp = stack->rsp;
    uint64_t probed = 1; /* no page begins there */

    for (unsigned i = 0; i < count; i++) {
        rsp = (rsp - size) & stack->mask;
        uint64_t linear = stack_address(c, stack, rsp, size);
        uint64_t page = linear & ~(GUEST_PAGE_SIZE - 1);

        if (page == probed && ((linear + size - 1) & ~(GUEST_PAGE_SIZE - 1)) == page)
            continue;
        stack_probe(c, stack, linear, size);
        probed = page;
    }
}

void soft_stack_push(struct soft_vcpu *c, struct soft_stack *stack, uint64_t value, unsigned size)
{
    uint64_t offset = (stack->rsp - size) & stack->mask;
    uint64_t linear = stack_address(c, stack, offset, size);

    if (stack->cpl == c->cpl)
        soft_store(c, linear, value, size);
    else
        soft_store_as(c, stack->cpl, linear, value, size);
    stack->rsp = (stack->rsp & ~stack->mask) | offset;
}

void soft_stack_commit(struct soft_vcpu *c, const struct soft_stack *stack)
{
    c->seg[X86_SS] = stack->ss;
    c->gpr[X86_RSP] = stack->mask == UINT32_MAX ? (uint32_t)stack->rsp : stack->rsp;
}

uint64_t soft_stack_peek(struct soft_vcpu *c, unsigned offset, unsigned size)
{
    uint64_t rsp = (c->gpr[X86_RSP] + offset) & soft_stack_mask(c);

    return soft_load(c, soft_linear(c, X86_SS, rsp, size, SOFT_READ), size);
}

void soft_stack_drop(struct soft_vcpu *c, unsigned bytes)
{
    soft_stack_set(c, c->gpr[X86_RSP] + bytes);
}
