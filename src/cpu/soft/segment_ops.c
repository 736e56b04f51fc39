/*
 * Instructions on segment registers and descriptor tables.
 *
 * Source: Intel SDM vol. 2 (MOV, PUSH, POP, LDS, LLDT, LTR, SLDT, STR, VERR, LAR, LSL, ARPL, SGDT,
 * LGDT, RDFSBASE, SWAPGS), vol. 3, 5.10 and 6.8.3 (MOV SS); UMIP: vol. 3, 2.5.
 * Threads: the vCPU's own. Operands and descriptors are the guest's.
 */
#include "cpu/soft/control.h"

#define ARITH_ZF 0x4000u /* in soft_vcpu.arith */

/* -- operands -- */

static uint16_t word_operand(struct soft_vcpu *c, const struct soft_op *op)
{
    if (op->insn.memory)
        return soft_load16(c, soft_operand(c, op, 2, SOFT_READ));
    return (uint16_t)c->gpr[op->insn.rm];
}

static void register_write(struct soft_vcpu *c, unsigned reg, uint64_t value, unsigned size)
{
    if (size == 2)
        c->gpr[reg] = (c->gpr[reg] & ~UINT64_C(0xffff)) | (value & 0xffff);
    else
        c->gpr[reg] = size == 4 ? (uint32_t)value : value;
}

/* A selector or other word: 16 bits to memory, zero-extended to the operand size in a register. */
static void word_store(struct soft_vcpu *c, const struct soft_op *op, uint16_t value)
{
    if (op->insn.memory)
        soft_store16(c, soft_operand(c, op, 2, SOFT_WRITE), value);
    else
        register_write(c, op->insn.rm, value, op->insn.operand_size);
}

static void zero_flag_set(struct soft_vcpu *c, bool on)
{
    c->arith = (uint16_t)(on ? c->arith | ARITH_ZF : c->arith & ~ARITH_ZF);
}

static void protected_require(struct soft_vcpu *c)
{
    if (soft_is_real(c) || soft_is_v86(c))
        soft_raise(c, X86_UD);
}

static void umip_check(struct soft_vcpu *c)
{
    if ((c->cr4 & X86_CR4_UMIP) && c->cpl != 0)
        soft_raise_code(c, X86_GP, 0);
}

/* -- segment registers -- */

/* SDM vol. 3, 6.8.3: after a load of SS by MOV or POP, interrupts and #DB wait for one more
 * instruction, but of several such loads in a row only the first one counts. */
static void stack_shadow(struct soft_vcpu *c, unsigned segment)
{
    if (segment != X86_SS || (c->stepping && c->under_mov_ss))
        return;
    c->shadow = true;
    c->shadow_debug = true;
}

void soft_op_mov_to_seg(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned segment = op->insn.reg & 7;

    soft_segment_load(c, segment, word_operand(c, op));
    stack_shadow(c, segment);
}

void soft_op_mov_from_seg(struct soft_vcpu *c, const struct soft_op *op)
{
    word_store(c, op, c->seg[op->insn.reg & 7].selector);
}

/* Recent processors move 16 bits when the operand size is 32, and leave the rest of the stack slot
 * as it was (SDM vol. 2, PUSH). */
void soft_op_push_seg(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint16_t selector = c->seg[op->insn.reg & 7].selector;
    uint64_t rsp = (c->gpr[X86_RSP] - size) & soft_stack_mask(c);

    if (size != 4) {
        soft_push(c, selector, size);
        return;
    }
    soft_store16(c, soft_linear(c, X86_SS, rsp, 2, SOFT_WRITE), selector);
    soft_stack_set(c, rsp);
}

void soft_op_pop_seg(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned segment = op->insn.reg & 7;
    unsigned size = op->insn.operand_size;
    uint64_t mask = soft_stack_mask(c);
    uint64_t rsp = c->gpr[X86_RSP];
    uint64_t popped = (rsp + size) & mask;

    soft_segment_load(c, segment, (uint16_t)soft_stack_peek(c, 0, size));
    /* By the width of the stack that was popped, not of an SS just loaded. */
    c->gpr[X86_RSP] = mask == UINT16_MAX ? (rsp & ~mask) | popped : popped;
    stack_shadow(c, segment);
}

static unsigned far_segment(const struct x86_insn *insn)
{
    if (insn->map == 0)
        return insn->opcode == 0xc4 ? X86_ES : X86_DS;
    switch (insn->opcode) {
    case 0xb2:
        return X86_SS;
    case 0xb4:
        return X86_FS;
    default:
        return X86_GS;
    }
}

void soft_op_load_far(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t linear = soft_operand(c, op, size + 2, SOFT_READ);
    uint64_t offset = soft_load(c, linear, size);
    uint16_t selector = soft_load16(c, (linear + size) & c->address_mask);

    soft_segment_load(c, far_segment(&op->insn), selector);
    register_write(c, op->insn.reg, offset, size);
}

/* -- LDT and task registers -- */

/* The upper half of a 16-byte system descriptor, as the base's bits 63-32. */
static uint64_t system_base_upper(struct soft_vcpu *c, const struct soft_descriptor *d)
{
    uint64_t upper = soft_descriptor_upper(c, d);

    if ((upper >> 40) & 0x1f)
        soft_descriptor_fault(c, X86_GP, d);
    return upper << 32;
}

static struct soft_descriptor system_descriptor(struct soft_vcpu *c, uint16_t selector)
{
    if (selector & 4)
        soft_selector_fault(c, X86_GP, selector, 0);
    return soft_descriptor_get(c, selector, X86_GP, 0);
}

static struct x86_segment system_segment(struct soft_vcpu *c, const struct soft_descriptor *d)
{
    struct x86_segment segment = soft_descriptor_segment(d);

    if (c->long_mode) {
        segment.base |= system_base_upper(c, d);
        if (!soft_is_canonical(segment.base))
            soft_descriptor_fault(c, X86_GP, d);
    }
    return segment;
}

void soft_op_lldt(struct soft_vcpu *c, const struct soft_op *op)
{
    struct soft_descriptor d;
    uint16_t selector;

    protected_require(c);
    soft_require_cpl0(c);
    soft_serialize();
    selector = word_operand(c, op);
    if (soft_selector_is_null(selector)) {
        c->ldtr = (struct x86_segment){.selector = selector};
        return;
    }
    d = system_descriptor(c, selector);
    if (!soft_descriptor_is_system(&d) || soft_descriptor_type(&d) != SOFT_TYPE_LDT)
        soft_descriptor_fault(c, X86_GP, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_NP, &d);
    c->ldtr = system_segment(c, &d);
}

void soft_op_ltr(struct soft_vcpu *c, const struct soft_op *op)
{
    struct soft_descriptor d;
    struct x86_segment tr;
    uint16_t selector;
    unsigned type;

    protected_require(c);
    soft_require_cpl0(c);
    soft_serialize();
    selector = word_operand(c, op);
    if (soft_selector_is_null(selector))
        soft_raise_code(c, X86_GP, 0);
    d = system_descriptor(c, selector);
    type = soft_descriptor_type(&d);
    if (!soft_descriptor_is_system(&d) ||
        (type != SOFT_TYPE_TSS32 && (c->long_mode || type != SOFT_TYPE_TSS16)))
        soft_descriptor_fault(c, X86_GP, &d);
    if (!soft_descriptor_present(&d))
        soft_descriptor_fault(c, X86_NP, &d);
    tr = system_segment(c, &d);
    soft_descriptor_type_set(c, &d, 2); /* busy */
    tr.attributes = d.attributes;
    c->tr = tr;
}

void soft_op_sldt(struct soft_vcpu *c, const struct soft_op *op)
{
    protected_require(c);
    umip_check(c);
    word_store(c, op, c->ldtr.selector);
}

void soft_op_str(struct soft_vcpu *c, const struct soft_op *op)
{
    protected_require(c);
    umip_check(c);
    word_store(c, op, c->tr.selector);
}

/* -- looking at descriptors -- */

/* Whether code at CPL with this RPL may know of the segment. */
static bool is_visible(const struct soft_vcpu *c, const struct soft_descriptor *d)
{
    unsigned dpl = soft_descriptor_dpl(d);

    if (soft_attributes_are_conforming(d->attributes))
        return true;
    return dpl >= c->cpl && dpl >= (d->selector & 3u);
}

static bool visible_find(struct soft_vcpu *c, const struct soft_op *op, struct soft_descriptor *d)
{
    uint16_t selector;

    protected_require(c);
    selector = word_operand(c, op);
    return !soft_selector_is_null(selector) && soft_descriptor_find(c, selector, d) &&
           is_visible(c, d);
}

void soft_op_verr(struct soft_vcpu *c, const struct soft_op *op)
{
    struct soft_descriptor d;

    zero_flag_set(
        c, visible_find(c, op, &d) && !soft_descriptor_is_system(&d) &&
               (!soft_attributes_are_code(d.attributes) || (d.attributes & SOFT_SEG_READABLE)));
}

void soft_op_verw(struct soft_vcpu *c, const struct soft_op *op)
{
    struct soft_descriptor d;

    zero_flag_set(c, visible_find(c, op, &d) && soft_attributes_are_writable(d.attributes));
}

/* System types that LAR and LSL know, as a bit map (SDM vol. 2, tables 3-53 and 3-56). */
static bool system_type_in(const struct soft_descriptor *d, uint16_t types)
{
    return !soft_descriptor_is_system(d) || ((types >> soft_descriptor_type(d)) & 1);
}

void soft_op_lar(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t types = c->long_mode ? 0x1a04 : 0x1a3e;
    struct soft_descriptor d;
    bool good = visible_find(c, op, &d) && system_type_in(&d, types);

    if (good)
        register_write(c, op->insn.reg, (d.raw >> 32) & 0x00f0ff00, op->insn.operand_size);
    zero_flag_set(c, good);
}

void soft_op_lsl(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t types = c->long_mode ? 0x0a04 : 0x0a0e;
    struct soft_descriptor d;
    bool good = visible_find(c, op, &d) && system_type_in(&d, types);

    if (good)
        register_write(c, op->insn.reg, soft_descriptor_segment(&d).limit, op->insn.operand_size);
    zero_flag_set(c, good);
}

void soft_op_arpl(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t rpl = c->gpr[op->insn.reg] & 3;
    uint16_t value;
    bool raise;

    protected_require(c);
    /* As a store even when nothing changes: both are accesses to a read-modify-write operand. */
    if (op->insn.memory) {
        uint64_t linear = soft_operand(c, op, 2, SOFT_WRITE);

        soft_probe(c, linear, 2, SOFT_WRITE);
        value = soft_load16(c, linear);
        raise = (value & 3) < rpl;
        if (raise)
            soft_store16(c, linear, (uint16_t)((value & 0xfffcu) | rpl));
    } else {
        value = (uint16_t)c->gpr[op->insn.rm];
        raise = (value & 3) < rpl;
        if (raise)
            register_write(c, op->insn.rm, (value & 0xfffcu) | rpl, 2);
    }
    zero_flag_set(c, raise);
}

/* -- descriptor table registers -- */

/* All 32 bits of the base are stored whatever the operand size, as processors since the 386 do. */
static void table_store(struct soft_vcpu *c, const struct soft_op *op,
                        const struct x86_table *table)
{
    unsigned length = c->code_size == X86_CODE_64 ? 10 : 6;
    uint8_t bytes[10];
    uint64_t linear;

    umip_check(c);
    memcpy(bytes, &table->limit, 2);
    memcpy(bytes + 2, &table->base, 8);
    linear = soft_operand(c, op, length, SOFT_WRITE);
    soft_store_bytes(c, linear, bytes, length);
}

static void table_load(struct soft_vcpu *c, const struct soft_op *op, struct x86_table *table)
{
    unsigned length = c->code_size == X86_CODE_64 ? 10 : 6;
    uint8_t bytes[10] = {0};
    struct x86_table loaded;

    soft_require_cpl0(c);
    soft_load_bytes(c, soft_operand(c, op, length, SOFT_READ), bytes, length);
    memcpy(&loaded.limit, bytes, 2);
    memcpy(&loaded.base, bytes + 2, 8);
    if (c->code_size != X86_CODE_64 && op->insn.operand_size == 2)
        loaded.base &= 0xffffff;
    if (!soft_is_canonical(loaded.base))
        soft_raise_code(c, X86_GP, 0);
    *table = loaded;
    soft_serialize();
}

void soft_op_sgdt(struct soft_vcpu *c, const struct soft_op *op)
{
    table_store(c, op, &c->gdtr);
}

void soft_op_sidt(struct soft_vcpu *c, const struct soft_op *op)
{
    table_store(c, op, &c->idtr);
}

void soft_op_lgdt(struct soft_vcpu *c, const struct soft_op *op)
{
    table_load(c, op, &c->gdtr);
}

void soft_op_lidt(struct soft_vcpu *c, const struct soft_op *op)
{
    table_load(c, op, &c->idtr);
}

/* -- bases of FS and GS -- */

static struct x86_segment *base_segment(struct soft_vcpu *c, const struct soft_op *op)
{
    if (c->code_size != X86_CODE_64 || !(c->cr4 & X86_CR4_FSGSBASE))
        soft_raise(c, X86_UD);
    return &c->seg[op->insn.modrm & 8 ? X86_GS : X86_FS]; /* 0F AE /0 and /2, /1 and /3 */
}

void soft_op_rdbase(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t base = base_segment(c, op)->base;

    register_write(c, op->insn.rm, base, op->insn.operand_size);
}

void soft_op_wrbase(struct soft_vcpu *c, const struct soft_op *op)
{
    struct x86_segment *segment = base_segment(c, op);
    uint64_t base = c->gpr[op->insn.rm];

    if (op->insn.operand_size != 8)
        base = (uint32_t)base;
    if (!soft_is_canonical(base))
        soft_raise_code(c, X86_GP, 0);
    segment->base = base;
}

void soft_op_swapgs(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t base = c->seg[X86_GS].base;

    (void)op;
    if (c->code_size != X86_CODE_64)
        soft_raise(c, X86_UD);
    soft_require_cpl0(c);
    c->seg[X86_GS].base = c->kernel_gs_base;
    c->kernel_gs_base = base;
}
