/*
 * x87 instructions: by stub on the host's unit, on the guest's FXSAVE64 image; environment and
 * state instructions in C, since FIP and FDP must be the guest's.
 * Source: Intel SDM vol. 1, chapter 8 (8.1.8 to 8.1.10 pointers and formats, 8.7 exceptions).
 * Threads: a vCPU's own. Trusts nothing of the image but MXCSR, which each stub overwrites.
 */
#include "cpu/soft/vector.h"

#define X87_FCW_MASKS 0x3fu
#define X87_PRE_STORE 0x19u /* IE, OE, UE: unmasked, they keep a store from happening */
#define X87_BYTES     160   /* of the image that x87 and MMX use */

static void unit_check(struct soft_vcpu *c, bool waits)
{
    if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    if (waits)
        x87_pending_check(c);
}

void x87_fwait(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    if ((c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
        soft_raise(c, X86_NM);
    x87_pending_check(c);
}

/* Whether exceptions are masked is a part of the code's mode. */
static void masks_changed(struct soft_vcpu *c, unsigned old_fcw)
{
    if ((old_fcw ^ x87_word(c->vector.fxsave, FXSAVE_FCW)) & X87_FCW_MASKS)
        soft_code_mode_changed(c);
}

struct pointers {
    uint64_t fip, fdp;
    uint16_t fop;
};

static struct pointers pointers_get(const uint8_t *image)
{
    struct pointers p = {.fop = x87_word(image, FXSAVE_FOP)};

    memcpy(&p.fip, image + FXSAVE_FIP, 8);
    memcpy(&p.fdp, image + FXSAVE_FDP, 8);
    return p;
}

static void pointers_set(uint8_t *image, const struct pointers *p)
{
    x87_word_set(image, FXSAVE_FOP, p->fop);
    memcpy(image + FXSAVE_FIP, &p->fip, 8);
    memcpy(image + FXSAVE_FDP, &p->fdp, 8);
}

/* The opcode is recorded by unmasked exceptions only, the data pointer by all where CPUID says
 * so (SDM vol. 1, 8.1.8, 8.1.9.1). */
static void pointers_advance(const struct soft_vcpu *c, const struct soft_op *op,
                             const uint8_t *image, struct pointers *p)
{
    const struct vector_vm *unit = c->vm->stubs;
    bool exception = (image[FXSAVE_FSW] & X87_FSW_ES) != 0;

    p->fip = soft_rip_current(c);
    if (exception)
        p->fop = (uint16_t)((op->insn.opcode & 7) << 8 | op->insn.modrm);
    if (op->insn.memory && (exception || !unit->fdp_on_exception))
        p->fdp = soft_effective(c, op);
}

/* An exception that CR0.NE = 0 makes us ignore would trap on the host: run with it masked. */
static void run_ignoring(const struct stub *stub, struct stub_frame *frame)
{
    uint8_t *image = frame->image;
    unsigned fcw = x87_word(image, FXSAVE_FCW);

    x87_word_set(image, FXSAVE_FCW, fcw | X87_FCW_MASKS);
    x87_summary_update(image);
    stub->run(frame);
    if (!(stub->vector.flags & X86_VECTOR_CONTROL) || stub->vector.memory_access != 1)
        x87_word_set(image, FXSAVE_FCW, fcw); /* all but FLDCW */
    x87_summary_update(image);
}

static void image_run(struct soft_vcpu *c, const struct soft_op *op, struct stub_frame *frame)
{
    const struct stub *stub = op->stub;
    uint8_t *image = frame->image;
    struct pointers p = pointers_get(image);

    frame->flags = c->arith;
    if (image[FXSAVE_FSW] & X87_FSW_ES && !(stub->vector.flags & X86_VECTOR_NO_WAIT))
        run_ignoring(stub, frame);
    else
        stub->run(frame);
    if (!(stub->vector.flags & X86_VECTOR_CONTROL))
        pointers_advance(c, op, image, &p);
    pointers_set(image, &p);
}

/* The image changes only when the store has succeeded; an unmasked exception forgoes the store. */
static void store_run(struct soft_vcpu *c, const struct soft_op *op, struct stub_frame *frame)
{
    const struct x86_vector_insn *v = &((const struct stub *)op->stub)->vector;
    uint64_t linear = soft_operand(c, op, v->memory_bytes, SOFT_WRITE);
    _Alignas(64) uint8_t image[512];
    unsigned unmasked;

    memcpy(image, c->vector.fxsave, X87_BYTES);
    memset(image + X87_BYTES, 0, sizeof image - X87_BYTES);
    frame->image = image;
    image_run(c, op, frame);
    unmasked = x87_word(image, FXSAVE_FSW) & ~(unsigned)x87_word(image, FXSAVE_FCW);
    if ((v->flags & X86_VECTOR_CONTROL) || !(unmasked & X87_PRE_STORE))
        soft_store_bytes(c, linear, frame->memory, v->memory_bytes);
    memcpy(c->vector.fxsave, image, X87_BYTES);
}

void x87_run(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_vector_insn *v = &((const struct stub *)op->stub)->vector;
    struct stub_frame frame;
    unsigned size = v->memory_bytes, fcw = x87_word(c->vector.fxsave, FXSAVE_FCW);

    unit_check(c, !(v->flags & X86_VECTOR_NO_WAIT));
    frame.image = c->vector.fxsave;
    if (v->memory_access == X86_OPERAND_WRITE) {
        store_run(c, op, &frame);
        return;
    }
    if (v->memory_access)
        soft_load_bytes(c, soft_operand(c, op, size, SOFT_READ), frame.memory, size);
    image_run(c, op, &frame);
    masks_changed(c, fcw);
    if (v->flags & X86_VECTOR_FLAGS)
        c->arith = frame.flags;
    if (v->flags & X86_VECTOR_WRITES_RAX)
        c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~UINT64_C(0xffff)) | (frame.rax & 0xffff);
}

/* -- environment and state -- */

static void image_init(uint8_t *image)
{
    x87_top_set(image, 0);
    memset(image, 0, FXSAVE_MXCSR);
    x87_word_set(image, FXSAVE_FCW, 0x37f);
}

static void fninit_run(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned fcw = x87_word(c->vector.fxsave, FXSAVE_FCW);

    (void)op;
    unit_check(c, false);
    image_init(c->vector.fxsave);
    masks_changed(c, fcw);
}

/* 0 valid, 1 zero, 2 special (SDM vol. 1, 8.1.7). */
static unsigned tag_of(const uint8_t *st)
{
    unsigned exponent = x87_word(st, 8) & 0x7fff;
    uint64_t mantissa;

    memcpy(&mantissa, st, 8);
    if (exponent == 0)
        return mantissa == 0 ? 1 : 2;
    return exponent != 0x7fff && mantissa >> 63 ? 0 : 2;
}

static unsigned tags_get(const uint8_t *image)
{
    unsigned tags = 0, top = x87_top(image);

    for (unsigned i = 0; i < 8; i++) {
        unsigned slot = (i - top) & 7, tag = 3;

        if (image[FXSAVE_FTW] >> i & 1)
            tag = tag_of(image + FXSAVE_ST + 16 * slot);
        tags |= tag << 2 * i;
    }
    return tags;
}

static void tags_set(uint8_t *image, unsigned tags)
{
    unsigned bits = 0;

    for (unsigned i = 0; i < 8; i++) {
        if ((tags >> 2 * i & 3) != 3)
            bits |= 1u << i;
    }
    image[FXSAVE_FTW] = (uint8_t)bits;
    image[FXSAVE_FTW + 1] = 0;
}

static bool real_format(const struct soft_vcpu *c)
{
    return soft_is_real(c) || soft_is_v86(c);
}

/* SDM vol. 1, figures 8-9 to 8-12; the selectors are 0 (CPUID.7.EBX bit 13). */
static void environment_store16(const struct soft_vcpu *c, const uint8_t *image, uint8_t *to)
{
    struct pointers p = pointers_get(image);
    bool real = real_format(c);
    const unsigned words[7] = {x87_word(image, FXSAVE_FCW),
                               x87_word(image, FXSAVE_FSW),
                               tags_get(image),
                               (unsigned)p.fip & 0xffff,
                               real ? (unsigned)(p.fip >> 16 & 15) << 12 | (p.fop & 0x7ff) : 0,
                               (unsigned)p.fdp & 0xffff,
                               real ? (unsigned)(p.fdp >> 16 & 15) << 12 : 0};

    for (unsigned i = 0; i < 7; i++)
        x87_word_set(to, 2 * i, words[i]);
}

static void environment_store32(const struct soft_vcpu *c, const uint8_t *image, uint8_t *to)
{
    struct pointers p = pointers_get(image);
    uint32_t fip = (uint32_t)p.fip, fdp = (uint32_t)p.fdp, fop = p.fop & 0x7ffu;
    bool real = real_format(c);
    const uint32_t words[7] = {0xffff0000u | x87_word(image, FXSAVE_FCW),
                               0xffff0000u | x87_word(image, FXSAVE_FSW),
                               0xffff0000u | tags_get(image),
                               real ? 0xffff0000u | (fip & 0xffff) : fip,
                               real ? fip >> 16 << 12 | fop : fop << 16,
                               real ? 0xffff0000u | (fdp & 0xffff) : fdp,
                               real ? fdp >> 16 << 12 : 0xffff0000u};

    memcpy(to, words, sizeof words);
}

static void environment_load16(const struct soft_vcpu *c, uint8_t *image, const uint8_t *from)
{
    struct pointers p = {.fip = x87_word(from, 6), .fdp = x87_word(from, 10)};

    if (real_format(c)) {
        p.fop = x87_word(from, 8) & 0x7ff;
        p.fip |= (uint64_t)(x87_word(from, 8) >> 12) << 16;
        p.fdp |= (uint64_t)(x87_word(from, 12) >> 12) << 16;
    }
    x87_word_set(image, FXSAVE_FCW, x87_word(from, 0));
    x87_word_set(image, FXSAVE_FSW, x87_word(from, 2));
    tags_set(image, x87_word(from, 4));
    pointers_set(image, &p);
}

static void environment_load32(const struct soft_vcpu *c, uint8_t *image, const uint8_t *from)
{
    uint32_t words[7];
    struct pointers p;

    memcpy(words, from, sizeof words);
    p = (struct pointers){.fip = words[3], .fdp = words[5], .fop = words[4] >> 16 & 0x7ff};
    if (real_format(c)) {
        p.fop = words[4] & 0x7ff;
        p.fip = (words[3] & 0xffff) | (words[4] >> 12 & 0xffff) << 16;
        p.fdp = (words[5] & 0xffff) | (words[6] >> 12 & 0xffff) << 16;
    }
    x87_word_set(image, FXSAVE_FCW, words[0]);
    x87_word_set(image, FXSAVE_FSW, (uint16_t)words[1]);
    tags_set(image, words[2]);
    pointers_set(image, &p);
}

/* FNSTENV and FNSAVE. */
static void environment_store_run(struct soft_vcpu *c, const struct soft_op *op)
{
    bool state = op->insn.opcode == 0xdd, small = op->insn.operand_size == 2;
    unsigned environment = small ? 14 : 28, size = environment + (state ? 80 : 0);
    uint8_t *image = c->vector.fxsave;
    uint8_t bytes[108];
    unsigned fcw;
    uint64_t linear;

    unit_check(c, false);
    linear = soft_operand(c, op, size, SOFT_WRITE);
    if (small)
        environment_store16(c, image, bytes);
    else
        environment_store32(c, image, bytes);
    for (unsigned i = 0; state && i < 8; i++)
        memcpy(bytes + environment + 10 * i, image + FXSAVE_ST + 16 * i, 10);
    soft_store_bytes(c, linear, bytes, size);
    fcw = x87_word(image, FXSAVE_FCW);
    if (state)
        image_init(image);
    else
        x87_word_set(image, FXSAVE_FCW, fcw | X87_FCW_MASKS);
    x87_summary_update(image);
    masks_changed(c, fcw);
}

/* FLDENV and FRSTOR. */
static void environment_load_run(struct soft_vcpu *c, const struct soft_op *op)
{
    bool state = op->insn.opcode == 0xdd, small = op->insn.operand_size == 2;
    unsigned environment = small ? 14 : 28, size = environment + (state ? 80 : 0);
    uint8_t *image = c->vector.fxsave;
    uint8_t bytes[108];
    unsigned fcw = x87_word(image, FXSAVE_FCW);

    unit_check(c, true);
    soft_load_bytes(c, soft_operand(c, op, size, SOFT_READ), bytes, size);
    if (!state) /* FRSTOR loads the registers in the new order itself */
        x87_top_set(image, x87_word(bytes, small ? 2 : 4) >> 11 & 7);
    if (small)
        environment_load16(c, image, bytes);
    else
        environment_load32(c, image, bytes);
    for (unsigned i = 0; state && i < 8; i++)
        memcpy(image + FXSAVE_ST + 16 * i, bytes + environment + 10 * i, 10);
    x87_word_set(image, FXSAVE_FCW, (x87_word(image, FXSAVE_FCW) & 0x1f3fu) | 0x40);
    x87_summary_update(image);
    masks_changed(c, fcw);
}

soft_handler *x87_state_handler(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    if (v->memory == X86_MEMORY_ENVIRONMENT || v->memory == X86_MEMORY_X87_STATE)
        return v->memory_access == X86_OPERAND_WRITE ? environment_store_run : environment_load_run;
    return insn->opcode == 0xdb && insn->modrm == 0xe3 ? fninit_run : NULL;
}
