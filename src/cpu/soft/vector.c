/*
 * MMX, SSE and AVX instructions: checks, memory operands, execution by a stub on the host's unit,
 * SIMD floating-point exceptions, and the few that C carries out itself (gathers, MASKMOV, EMMS,
 * VZEROUPPER).
 * Source: Intel SDM vol. 2, 2.4 (exception classes) and instruction pages; vol. 1, 11.5 (SIMD
 * floating-point exceptions), 9.5 (MMX and x87 state).
 * Threads: a vCPU's own; the stubs are shared. Guest registers and memory are only data here.
 */
#include "cpu/soft/vector.h"

#include <errno.h>
#include <stdlib.h>

#define MXCSR_FLAGS 0x003fu
#define MXCSR_MASKS 0x1f80u
#define MXCSR_FTZ   0x8000u
#define MXCSR_PRE   0x0007u /* IE, DE, ZE: found before the operation */
#define MXCSR_UE    0x0010u

/* One execution of one instruction. */
struct run {
    struct soft_vcpu *c;
    const struct soft_op *op;
    const struct x86_vector_insn *v;
    void *destination; /* of the register result, NULL: none or a general register */
    uint64_t linear;   /* of the memory operand */
    uint64_t enabled;  /* elements that a mask lets through */
    uint32_t raised;   /* SIMD floating-point flags */
    _Alignas(64) uint8_t result[64];
    struct stub_frame frame;
};

/* soft_op.extra: register numbers of reg, vvvv and rm. */
static unsigned number_reg(const struct soft_op *op)
{
    return op->extra & 31;
}

static unsigned number_vvvv(const struct soft_op *op)
{
    return op->extra >> 5 & 31;
}

static unsigned number_rm(const struct soft_op *op)
{
    return op->extra >> 10 & 31;
}

/* -- checks -- */

static void state_check(struct soft_vcpu *c, const struct x86_vector_insn *v)
{
    uint64_t needed = v->unit == X86_UNIT_EVEX ? X86_XCR0_AVX512 | 6 : 6;
    bool ud;

    if (v->unit == X86_UNIT_MMX)
        ud = (c->cr0 & X86_CR0_EM) != 0;
    else if (v->unit == X86_UNIT_SSE)
        ud = (c->cr0 & X86_CR0_EM) || !(c->cr4 & X86_CR4_OSFXSR);
    else
        ud = !(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & needed) != needed || soft_is_real(c) ||
             soft_is_v86(c);
    if (ud)
        soft_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
    if (v->flags & (X86_VECTOR_ENTERS_MMX | X86_VECTOR_EMMS))
        x87_pending_check(c);
}

/* -- memory operands -- */

static uint64_t element_load(const uint8_t *from, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, from, size);
    return value;
}

static uint64_t low_bits(unsigned count)
{
    return count >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
}

/* Several elements of a result may come from one in memory: it is read if any of them is. */
static uint64_t opmask_elements(const struct run *r)
{
    const struct x86_vector_insn *v = r->v;
    uint64_t bits = low_bits(v->mask_bits);
    unsigned count = v->memory_bytes / v->element;

    if (v->opmask)
        bits &= r->c->vector.opmask[r->op->insn.evex_p3 & 7];
    for (unsigned i = v->mask_bits; i > count; i /= 2)
        bits = (bits | bits >> i / 2) & low_bits(i / 2);
    return bits;
}

/* Which elements a VMASKMOV, an opmask or nothing at all lets through. */
static uint64_t enabled_elements(const struct run *r)
{
    const struct x86_vector_insn *v = r->v;
    const uint8_t *mask = r->c->vector.zmm[number_vvvv(r->op)];
    uint64_t bits = 0;

    if (v->memory != X86_MEMORY_BY_SIGN)
        return opmask_elements(r);
    for (unsigned i = 0; i < v->memory_bytes / v->element; i++)
        bits |= (uint64_t)(mask[(i + 1) * v->element - 1] >> 7) << i;
    return bits;
}

/* The i-th element in memory; compressed ones lie without gaps from the first on. */
static void masked_prepare(struct run *r)
{
    const struct x86_vector_insn *v = r->v;

    r->enabled = enabled_elements(r);
    if (v->memory == X86_MEMORY_COMPRESSED)
        r->enabled = low_bits((unsigned)__builtin_popcountll(r->enabled));
}

static void masked_probe(struct run *r, enum soft_access access)
{
    for (uint64_t left = r->enabled; left; left &= left - 1) {
        unsigned at = (unsigned)__builtin_ctzll(left) * r->v->element;
        soft_probe(r->c, r->linear + at, r->v->element, access);
    }
}

/* Bytes from the first on, if the enabled elements are just those; else 0. Compressed ones are. */
static unsigned whole_bytes(const struct run *r)
{
    unsigned count = (unsigned)__builtin_popcountll(r->enabled);

    return r->enabled == low_bits(count) ? count * r->v->element : 0;
}

static void masked_load(struct run *r)
{
    unsigned size = r->v->element, whole = whole_bytes(r);

    if (whole) {
        soft_load_bytes(r->c, r->linear, r->frame.memory, whole);
        return;
    }
    for (uint64_t left = r->enabled; left; left &= left - 1) {
        unsigned at = (unsigned)__builtin_ctzll(left) * size;
        uint64_t value = soft_load(r->c, r->linear + at, size);
        memcpy(r->frame.memory + at, &value, size);
    }
}

static void masked_store(struct run *r)
{
    unsigned size = r->v->element, whole = whole_bytes(r);

    if (whole) {
        soft_store_bytes(r->c, r->linear, r->frame.memory, whole);
        return;
    }
    masked_probe(r, SOFT_WRITE);
    for (uint64_t left = r->enabled; left; left &= left - 1) {
        unsigned at = (unsigned)__builtin_ctzll(left) * size;
        soft_store(r->c, r->linear + at, element_load(r->frame.memory + at, size), size);
    }
}

/* VEXTRACTF32X4 and its kin must be allowed to store all of their operand, whatever the mask (class
 * E6NF). */
static bool is_extraction(const struct x86_insn *insn)
{
    return insn->vex == X86_VEX_EVEX && insn->map == 3 && (insn->opcode & 0xdd) == 0x19;
}

static void masked_begin(struct run *r, enum soft_access access)
{
    const struct x86_vector_insn *v = r->v;

    masked_prepare(r);
    memset(r->frame.memory, 0, 64);
    if (is_extraction(&r->op->insn))
        soft_probe(r->c, soft_operand(r->c, r->op, v->memory_bytes, access), v->memory_bytes,
                   access);
    if (r->enabled == 0)
        return;
    r->linear = soft_operand(r->c, r->op, v->memory_bytes, access);
    if (v->aligned && r->linear & (v->memory_bytes - 1u))
        soft_raise_code(r->c, X86_GP, 0);
    if (access == SOFT_READ)
        masked_load(r);
}

static void memory_begin(struct run *r)
{
    const struct x86_vector_insn *v = r->v;
    unsigned size = v->memory_bytes;
    enum soft_access access = v->memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;

    if (v->memory != X86_MEMORY_PLAIN) {
        masked_begin(r, access);
        return;
    }
    r->linear = soft_operand(r->c, r->op, size, access);
    if (v->aligned && r->linear & (size - 1u))
        soft_raise_code(r->c, X86_GP, 0);
    if (access == SOFT_WRITE)
        return;
    if (size == 8) {
        uint64_t value = soft_load64(r->c, r->linear);
        memcpy(r->frame.memory, &value, 8);
    } else if (size == 4) {
        uint32_t value = soft_load32(r->c, r->linear);
        memcpy(r->frame.memory, &value, 4);
    } else {
        soft_load_bytes(r->c, r->linear, r->frame.memory, size);
    }
}

static void memory_end(struct run *r)
{
    if (r->v->memory == X86_MEMORY_PLAIN)
        soft_store_bytes(r->c, r->linear, r->frame.memory, r->v->memory_bytes);
    else
        masked_store(r);
}

/* -- registers -- */

/* MMn is physical register n; the image counts from the top of the stack. */
static uint8_t *mmx_register(struct soft_vcpu *c, unsigned number)
{
    unsigned slot = (number - x87_top(c->vector.fxsave)) & 7;

    return c->vector.fxsave + FXSAVE_ST + 16 * slot;
}

static void *register_at(struct run *r, const struct x86_vector_operand *operand, unsigned number)
{
    struct soft_vcpu *c = r->c;

    if (operand->class == X86_CLASS_MMX)
        return mmx_register(c, number);
    if (operand->class == X86_CLASS_MASK)
        return &c->vector.opmask[number];
    return c->vector.zmm[number];
}

static void *operand_set(struct run *r, const struct x86_vector_operand *operand, unsigned number)
{
    void *at;

    if (operand->class == X86_CLASS_NONE)
        return NULL;
    if (operand->class == X86_CLASS_GPR) {
        if (operand->access & X86_OPERAND_READ)
            r->frame.rax = r->c->gpr[number];
        return NULL;
    }
    at = register_at(r, operand, number);
    if (operand->access & X86_OPERAND_WRITE)
        r->destination = at;
    return at;
}

/* Results go where they belong at once, unless an exception could still keep them back. */
static void registers_set(struct run *r)
{
    const struct x86_vector_insn *v = r->v;
    const struct soft_op *op = r->op;

    r->frame.reg = operand_set(r, &v->reg, number_reg(op));
    r->frame.vvvv = operand_set(r, &v->vvvv, number_vvvv(op));
    r->frame.rm = operand_set(r, &v->rm, number_rm(op));
    if (v->fourth.class) {
        unsigned number = v->flags & X86_VECTOR_FOURTH ? op->insn.immediate >> 4 & 15 : 0;
        r->frame.fourth = operand_set(r, &v->fourth, number);
    }
    if (v->opmask)
        r->frame.opmask = &r->c->vector.opmask[op->insn.evex_p3 & 7];
    if (v->flags & X86_VECTOR_RAX_RDX) {
        r->frame.rax = r->c->gpr[X86_RAX];
        r->frame.rdx = r->c->gpr[X86_RDX];
    }
    r->frame.out = r->destination;
    if (v->flags & (X86_VECTOR_MXCSR | X86_VECTOR_ENTERS_MMX))
        r->frame.out = r->result;
}

static void gpr_write(struct soft_vcpu *c, unsigned number, uint64_t value)
{
    c->gpr[number] = c->code_size == X86_CODE_64 ? value : (uint32_t)value;
}

/* SDM vol. 1, 9.5.1: TOP becomes 0 and all tags valid. The image counts registers from TOP. */
static void mmx_enter(struct soft_vcpu *c)
{
    c->vector.fxsave[FXSAVE_FTW] = 0xff;
    if (x87_top(c->vector.fxsave) != 0)
        x87_top_set(c->vector.fxsave, 0);
}

static void mmx_commit(struct run *r)
{
    uint8_t *at;

    mmx_enter(r->c);
    if (r->v->reg.class == X86_CLASS_MMX && r->v->reg.access & X86_OPERAND_WRITE)
        at = mmx_register(r->c, number_reg(r->op));
    else if (r->v->rm.class == X86_CLASS_MMX && r->v->rm.access & X86_OPERAND_WRITE)
        at = mmx_register(r->c, number_rm(r->op));
    else
        return;
    memcpy(at, r->result, 8);
    x87_word_set(at, 8, 0xffff);
    r->destination = NULL;
}

static void commit(struct run *r)
{
    const struct x86_vector_insn *v = r->v;
    struct soft_vcpu *c = r->c;

    if (v->flags & X86_VECTOR_ENTERS_MMX)
        mmx_commit(r);
    if (r->destination && r->frame.out == r->result) {
        unsigned size = v->unit == X86_UNIT_SSE || v->unit == X86_UNIT_MMX ? 16 : 64;

        if (v->reg.class == X86_CLASS_MASK)
            size = 8;
        memcpy(r->destination, r->result, size);
    }
    if (v->reg.class == X86_CLASS_GPR && v->reg.access & X86_OPERAND_WRITE)
        gpr_write(c, number_reg(r->op), r->frame.rax);
    if (v->rm.class == X86_CLASS_GPR && v->rm.access & X86_OPERAND_WRITE)
        gpr_write(c, number_rm(r->op), r->frame.rax);
    if (v->flags & X86_VECTOR_WRITES_RCX)
        gpr_write(c, X86_RCX, r->frame.rax);
    if (v->flags & X86_VECTOR_FLAGS)
        c->arith = r->frame.flags;
    c->vector.mxcsr |= r->raised;
}

/* -- SIMD floating-point exceptions (SDM vol. 1, 11.5) -- */

static _Noreturn void simd_raise(struct soft_vcpu *c, uint32_t flags)
{
    c->vector.mxcsr |= flags;
    soft_raise(c, c->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
}

/* Everything was executed with exceptions masked; what would the unmasked ones have done? (DPPS and
 * DPPD multiply, then add: a processor stops after the multiplication, here the flags of both
 * are reported. With an unmasked overflow or underflow PE says whether the result would be inexact
 * with unbounded exponents; here it is as if masked. Half-precision arithmetic with unmasked
 * exceptions may also differ in which of several is reported.) */
static void simd_check(struct run *r, uint32_t unmasked, uint32_t tiny)
{
    uint32_t raised = r->raised;

    if (raised & MXCSR_PRE & unmasked)
        simd_raise(r->c, raised & MXCSR_PRE);
    raised |= tiny & unmasked;
    if (raised & unmasked)
        simd_raise(r->c, raised);
}

/* Masked, an exact tiny result raises nothing; unmasked, it is an underflow. Flush-to-zero tells,
 * for it flushes every tiny result. */
static uint32_t tiny_probe(struct run *r, const struct stub *stub, uint32_t mxcsr)
{
    uint64_t rax = r->frame.rax;

    r->frame.mxcsr = mxcsr | MXCSR_FTZ;
    stub->run(&r->frame);
    r->frame.rax = rax;
    return r->frame.mxcsr & MXCSR_UE;
}

/* VCVTPS2PH ignores flush-to-zero, but its denormal results are in sight. */
static uint32_t tiny_halves(const struct run *r)
{
    const uint8_t *result = r->v->memory_access ? r->frame.memory : r->result;
    uint64_t enabled = ~UINT64_C(0);

    if (r->v->opmask)
        enabled = r->c->vector.opmask[r->op->insn.evex_p3 & 7];
    for (unsigned i = 0; i < r->v->vector_bytes / 4u; i++) {
        unsigned half = x87_word(result, 2 * i);
        if (enabled >> i & 1 && !(half & 0x7c00) && half & 0x3ff)
            return MXCSR_UE;
    }
    return 0;
}

static bool is_to_half(const struct x86_insn *insn)
{
    return insn->map == 3 && insn->opcode == 0x1d;
}

/* VRCP14, VRSQRT14 and VREDUCE never raise underflow, but flush whatever its mask. */
static bool never_underflows(const struct x86_insn *insn)
{
    if (insn->vex != X86_VEX_EVEX)
        return false;
    return insn->map == 2 ? (insn->opcode & 0xfc) == 0x4c
                          : insn->map == 3 && (insn->opcode & 0xfe) == 0x56;
}

static void simd_run(struct run *r, const struct stub *stub)
{
    uint32_t guest = r->c->vector.mxcsr, unmasked = ~guest >> 7 & MXCSR_FLAGS, tiny = 0;
    uint32_t mxcsr = (guest & ~MXCSR_FLAGS) | MXCSR_MASKS;

    if (r->v->flags & X86_VECTOR_ROUNDING) /* exceptions are suppressed, and so masked */
        unmasked = 0;
    if (unmasked & MXCSR_UE && !never_underflows(&r->op->insn)) {
        mxcsr &= ~MXCSR_FTZ; /* FTZ acts only while underflow is masked */
        tiny = tiny_probe(r, stub, mxcsr);
    }
    r->frame.mxcsr = mxcsr;
    stub->run(&r->frame);
    r->raised = r->frame.mxcsr & MXCSR_FLAGS;
    if (unmasked & MXCSR_UE && is_to_half(&r->op->insn))
        tiny = tiny_halves(r);
    if (unmasked)
        simd_check(r, unmasked, tiny);
}

static void stub_run(struct soft_vcpu *c, const struct soft_op *op, const struct stub *stub)
{
    const struct x86_vector_insn *v = &stub->vector;
    struct run r;

    r.c = c;
    r.op = op;
    r.v = v;
    r.destination = NULL;
    r.linear = 0;
    r.raised = 0;
    state_check(c, v);
    if (v->memory_access)
        memory_begin(&r);
    registers_set(&r);
    if (v->flags & X86_VECTOR_MXCSR)
        simd_run(&r, stub);
    else
        stub->run(&r.frame);
    if (v->memory_access & X86_OPERAND_WRITE) {
        /* As CPUs do, even if the store then faults; MXCSR only by a page. */
        if (soft_is_canonical(r.linear))
            c->vector.mxcsr |= r.raised;
        if (v->flags & X86_VECTOR_ENTERS_MMX)
            x87_top_set(c->vector.fxsave, 0);
        memory_end(&r);
    }
    commit(&r);
}

static void vector_run(struct soft_vcpu *c, const struct soft_op *op)
{
    c->vector_changed = true;
    stub_run(c, op, op->stub);
}

/* -- instructions without a stub -- */

static const struct x86_vector_insn *vector_of(const struct soft_op *op)
{
    return &((const struct stub *)op->stub)->vector;
}

/* Address of the MASKMOV instructions: segment:rDI. */
static uint64_t string_linear(struct soft_vcpu *c, const struct soft_op *op, unsigned size)
{
    uint64_t offset = c->gpr[X86_RDI];

    if (op->insn.address_size == 4)
        offset = (uint32_t)offset;
    else if (op->insn.address_size == 2)
        offset = (uint16_t)offset;
    if (c->code_size != X86_CODE_64)
        return soft_linear(c, op->insn.segment, offset, size, SOFT_WRITE);
    return op->insn.segment >= X86_FS ? offset + c->seg[op->insn.segment].base : offset;
}

static void maskmov_run(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_vector_insn *v = vector_of(op);
    struct run r = {.c = c, .op = op, .v = v};
    const uint8_t *from = register_at(&r, &v->reg, number_reg(op));
    const uint8_t *mask = register_at(&r, &v->rm, number_rm(op));

    state_check(c, v);
    for (unsigned i = 0; i < v->vector_bytes; i++)
        r.enabled |= (uint64_t)(mask[i] >> 7) << i;
    memcpy(r.frame.memory, from, v->vector_bytes);
    if (r.enabled)
        r.linear = string_linear(c, op, v->vector_bytes);
    masked_store(&r);
    if (v->flags & X86_VECTOR_ENTERS_MMX)
        mmx_enter(c);
}

static void emms_run(struct soft_vcpu *c, const struct soft_op *op)
{
    state_check(c, vector_of(op));
    mmx_enter(c);
    c->vector.fxsave[FXSAVE_FTW] = 0;
}

static void vzero_run(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_vector_insn *v = vector_of(op);
    unsigned keep = v->flags & X86_VECTOR_ZERO_ALL ? 0 : 16;

    c->vector_changed = true;
    state_check(c, v);
    for (unsigned i = 0; i < (c->code_size == X86_CODE_64 ? 16 : 8); i++)
        memset(c->vector.zmm[i] + keep, 0, 64 - keep);
}

static uint64_t gather_address(struct soft_vcpu *c, const struct soft_op *op, const uint8_t *index,
                               unsigned i)
{
    const struct x86_vector_insn *v = vector_of(op);
    struct soft_op element = *op;
    int64_t value = (int64_t)element_load(index + i * v->index_bytes, v->index_bytes);

    if (v->index_bytes == 4)
        value = (int32_t)value;
    element.insn.index = X86_REG_NONE;
    element.insn.displacement +=
        (int64_t)((uint64_t)value << (op->insn.bytes[op->insn.modrm_offset + 1] >> 6));
    return soft_operand(c, &element, v->element,
                        v->memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ);
}

static unsigned gather_count(const struct x86_vector_insn *v)
{
    unsigned wider = v->element > v->index_bytes ? v->element : v->index_bytes;

    return v->vector_bytes / wider;
}

static bool gather_enabled(const struct soft_vcpu *c, const struct soft_op *op, unsigned i)
{
    const struct x86_vector_insn *v = vector_of(op);

    if (v->unit == X86_UNIT_EVEX)
        return c->vector.opmask[op->insn.evex_p3 & 7] >> i & 1;
    return c->vector.zmm[number_vvvv(op)][(i + 1) * v->element - 1] >> 7;
}

/* A mask in a vector register gets all bits of each element alike and 0 behind the vector before
 * anything can fault (SDM vol. 2, VPGATHERDD). */
static void gather_mask_normalise(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_vector_insn *v = vector_of(op);
    uint8_t *mask = c->vector.zmm[number_vvvv(op)];
    unsigned bytes = v->vector_bytes;

    for (unsigned i = 0; i < bytes / v->element; i++)
        memset(mask + i * v->element, gather_enabled(c, op, i) ? 0xff : 0, v->element);
    memset(mask + bytes, 0, 64 - bytes);
}

/* The first element that is loaded clears what is behind the vector. */
static void gather_load(struct soft_vcpu *c, const struct soft_op *op, unsigned i, uint64_t linear)
{
    const struct x86_vector_insn *v = vector_of(op);
    uint8_t *reg = c->vector.zmm[number_reg(op)];
    uint64_t value = soft_load(c, linear, v->element);

    memcpy(reg + i * v->element, &value, v->element);
    memset(reg + v->vector_bytes, 0, 64u - v->vector_bytes);
}

static void gather_done(struct soft_vcpu *c, const struct soft_op *op, unsigned i)
{
    const struct x86_vector_insn *v = vector_of(op);

    if (v->unit == X86_UNIT_EVEX)
        c->vector.opmask[op->insn.evex_p3 & 7] &= ~(UINT64_C(1) << i);
    else
        memset(c->vector.zmm[number_vvvv(op)] + i * v->element, 0, v->element);
    soft_io_commit(c);
}

/* Gathers and scatters complete element by element: a fault leaves the completed ones done and
 * out of the mask, and the instruction is started again. */
static void gather_run(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_vector_insn *v = vector_of(op);
    uint8_t *reg = c->vector.zmm[number_reg(op)];
    uint8_t index[64];
    unsigned count = gather_count(v);

    c->vector_changed = true;
    state_check(c, v);
    memcpy(index, c->vector.zmm[x86_vector_index(&op->insn)], sizeof index);
    if (v->unit != X86_UNIT_EVEX)
        gather_mask_normalise(c, op);
    for (unsigned i = 0; i < count; i++) {
        uint64_t linear;

        if (!gather_enabled(c, op, i))
            continue;
        linear = gather_address(c, op, index, i);
        if (v->memory == X86_MEMORY_SCATTER) {
            soft_store(c, linear, element_load(reg + i * v->element, v->element), v->element);
        } else {
            gather_load(c, op, i, linear);
        }
        gather_done(c, op, i);
    }
    if (v->unit == X86_UNIT_EVEX)
        c->vector.opmask[op->insn.evex_p3 & 7] = 0;
    else
        memset(c->vector.zmm[number_vvvv(op)], 0, 64);
    if (v->memory == X86_MEMORY_GATHER)
        memset(reg + count * v->element, 0, 64 - count * v->element);
}

/* -- handlers -- */

static soft_handler *handler_of(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    soft_handler *state;

    if (v->flags & X86_VECTOR_EMMS)
        return emms_run;
    if (v->flags & (X86_VECTOR_ZERO_UPPER | X86_VECTOR_ZERO_ALL))
        return vzero_run;
    if (v->memory == X86_MEMORY_GATHER || v->memory == X86_MEMORY_SCATTER)
        return gather_run;
    if (v->memory == X86_MEMORY_STRING)
        return maskmov_run;
    if (v->unit != X86_UNIT_X87)
        return vector_run;
    state = x87_state_handler(insn, v);
    return state ? state : x87_run;
}

/* The buffer is full: rebuild the stub each time. */
static void scratch_run(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct vector_vm *unit = c->vm->stubs;
    struct soft_op built = *op;
    struct x86_vector_insn v;
    struct stub stub;

    if (!x86_vector_describe(&op->insn, c->vm->cpuid->feature, &v))
        soft_raise(c, X86_UD);
    stub_scratch(unit->cache, c->index, &op->insn, &v, &stub);
    built.stub = &stub;
    handler_of(&op->insn, &v)(c, &built);
}

static soft_handler *described_handler(struct soft_vm *vm, struct soft_op *op)
{
    const struct vector_vm *unit = vm->stubs;
    struct x86_insn *insn = &op->insn;
    struct x86_vector_insn v;

    if (!x86_vector_describe(insn, vm->cpuid->feature, &v))
        return NULL;
    op->extra = (uint16_t)(v.reg.number | v.vvvv.number << 5 | v.rm.number << 10);
    if (insn->vex == X86_VEX_EVEX && insn->memory && insn->modrm >> 6 == 1)
        insn->displacement *= 1 << v.disp8_shift;
    op->stub = (void *)(uintptr_t)stub_get(unit->cache, insn, &v);
    return op->stub ? handler_of(insn, &v) : scratch_run;
}

soft_handler *soft_vector_handler(struct soft_vm *vm, struct soft_op *op)
{
    switch (op->insn.op) {
    case X86_OP_VECTOR:
    case X86_OP_X87:
        return described_handler(vm, op);
    case X86_OP_FWAIT:
        return x87_fwait;
    default:
        return xstate_handler(vm, &op->insn);
    }
}

static bool fdp_on_exception(const struct x86_cpuid *cpuid)
{
    for (unsigned i = 0; i < cpuid->count && i < X86_CPUID_LEAVES_MAX; i++) {
        const struct x86_cpuid_leaf *leaf = &cpuid->leaf[i];
        if (leaf->function == 7 && leaf->index == 0)
            return leaf->ebx >> 6 & 1;
    }
    return false;
}

int soft_vector_init(struct soft_vm *vm, struct error *err)
{
    struct vector_vm *unit = calloc(1, sizeof *unit);
    int rc;

    if (!unit)
        return error_set(err, -ENOMEM, "cannot set up vector instructions: out of memory");
    rc = stub_cache_new(vm->vcpu_count, &unit->cache, err);
    if (rc != 0) {
        free(unit);
        return rc;
    }
    unit->fdp_on_exception = fdp_on_exception(vm->cpuid);
    vm->stubs = unit;
    return 0;
}

void soft_vector_fini(struct soft_vm *vm)
{
    struct vector_vm *unit = vm->stubs;

    if (!unit)
        return;
    stub_cache_free(unit->cache);
    free(unit);
    vm->stubs = NULL;
}
