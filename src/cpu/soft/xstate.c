/*
 * FXSAVE, FXRSTOR, the XSAVE family, LDMXCSR and STMXCSR.
 *
 * Source: Intel SDM vol. 1, 10.5 (FXSAVE), chapter 13 (XSAVE: layouts in 13.4, operation in 13.7 to
 * 13.10). The x87 part of the image is kept as FXSAVE64 has it; vector registers are whole.
 * Threads: a vCPU's own. Images come from the guest: copied once, checked, then loaded.
 */
#include "cpu/soft/vector.h"

#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_VALID   0xffffu
#define LEGACY_BYTES  512u
#define HEADER_BYTES  64u
#define XMM_BYTES     16u
#define COMPACTED     (UINT64_C(1) << 63)
#define X87_USED      160u /* bytes of the legacy area that are x87's (with MXCSR's 8) */

enum component { X87, SSE, AVX, OPMASK = 5, ZMM_HI256, HI16_ZMM, PKRU = 9, COMPONENTS };

/* Offsets in the standard format are Intel's (CPUID leaf 0DH). */
static const struct {
    uint16_t offset, size;
} layout[COMPONENTS] = {[AVX] = {576, 256},
                        [OPMASK] = {1088, 64},
                        [ZMM_HI256] = {1152, 512},
                        [HI16_ZMM] = {1664, 1024},
                        [PKRU] = {2688, 8}};

_Static_assert(2688 + 8 <= X86_XSAVE_BYTES, "the image holds all components");

#define KNOWN                                                                                      \
    ((uint64_t)(X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512 | X86_XCR0_PKRU))

/* -- components to and from bytes -- */

static void component_get(const struct soft_vcpu *c, unsigned component, uint8_t *to)
{
    const struct soft_vector *v = &c->vector;

    for (unsigned i = 0; i < 16; i++) {
        if (component == AVX)
            memcpy(to + 16 * i, v->zmm[i] + 16, 16);
        else if (component == ZMM_HI256)
            memcpy(to + 32 * i, v->zmm[i] + 32, 32);
        else if (component == HI16_ZMM)
            memcpy(to + 64 * i, v->zmm[16 + i], 64);
    }
    if (component == OPMASK)
        memcpy(to, v->opmask, sizeof v->opmask);
    if (component == PKRU)
        memcpy(to, (uint32_t[2]){c->pkru, 0}, 8);
}

/* `from` NULL: the initial state, zero. Outside 64-bit mode only registers 0 to 7 are loaded. */
static void component_set(struct soft_vcpu *c, unsigned component, const uint8_t *from,
                          unsigned registers)
{
    static const uint8_t zero[1024];
    struct soft_vector *v = &c->vector;

    c->vector_changed = true;
    if (!from)
        from = zero;
    for (unsigned i = 0; i < registers; i++) {
        if (component == AVX)
            memcpy(v->zmm[i] + 16, from + 16 * i, 16);
        else if (component == ZMM_HI256)
            memcpy(v->zmm[i] + 32, from + 32 * i, 32);
        else if (component == HI16_ZMM && registers == 16)
            memcpy(v->zmm[16 + i], from + 64 * i, 64);
    }
    if (component == OPMASK)
        memcpy(v->opmask, from, sizeof v->opmask);
    if (component == PKRU) {
        uint32_t pkru;

        memcpy(&pkru, from, 4);
        soft_pkru_set(c, pkru);
    }
}

static bool all_zero(const uint8_t *bytes, unsigned length)
{
    for (unsigned i = 0; i < length; i++) {
        if (bytes[i])
            return false;
    }
    return true;
}

static void x87_init(struct soft_vector *v)
{
    memset(v->fxsave, 0, X87_USED);
    x87_word_set(v->fxsave, FXSAVE_FCW, 0x37f);
}

static bool x87_is_initial(const struct soft_vector *v)
{
    return x87_word(v->fxsave, FXSAVE_FCW) == 0x37f && all_zero(v->fxsave + 2, FXSAVE_MXCSR - 2) &&
           all_zero(v->fxsave + FXSAVE_ST, X87_USED - FXSAVE_ST);
}

static bool component_in_use(const struct soft_vcpu *c, unsigned component)
{
    uint8_t bytes[1024];

    if (component == X87)
        return !x87_is_initial(&c->vector);
    if (component == SSE) {
        for (unsigned i = 0; i < 16; i++) {
            if (!all_zero(c->vector.zmm[i], XMM_BYTES))
                return true;
        }
        return false;
    }
    component_get(c, component, bytes);
    return !all_zero(bytes, layout[component].size);
}

/* -- the legacy area -- */

static unsigned visible_registers(const struct soft_vcpu *c)
{
    return c->code_size == X86_CODE_64 ? 16 : 8;
}

/* The x87 part: with REX.W FIP and FDP have 64 bits, else 32 and a selector (here 0). */
static void x87_get(const struct soft_vcpu *c, uint8_t *to, bool wide)
{
    memcpy(to, c->vector.fxsave, FXSAVE_MXCSR);
    to[FXSAVE_FTW + 1] = 0;
    if (!wide) {
        memset(to + FXSAVE_FIP + 4, 0, 4);
        memset(to + FXSAVE_FDP + 4, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(to + FXSAVE_ST + 16 * i, c->vector.fxsave + FXSAVE_ST + 16 * i, 10);
        memset(to + FXSAVE_ST + 16 * i + 10, 0, 6);
    }
}

static void x87_set(struct soft_vcpu *c, const uint8_t *from, bool wide)
{
    uint8_t *image = c->vector.fxsave;

    memcpy(image, from, FXSAVE_MXCSR);
    image[FXSAVE_FTW + 1] = 0;
    x87_word_set(image, FXSAVE_FCW, (x87_word(from, FXSAVE_FCW) & 0x1f3fu) | 0x40);
    x87_word_set(image, FXSAVE_FOP, x87_word(from, FXSAVE_FOP) & 0x7ffu);
    if (!wide) {
        memset(image + FXSAVE_FIP + 4, 0, 4);
        memset(image + FXSAVE_FDP + 4, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(image + FXSAVE_ST + 16 * i, from + FXSAVE_ST + 16 * i, 10);
        memset(image + FXSAVE_ST + 16 * i + 10, 0, 6);
    }
    x87_summary_update(image);
}

static void mxcsr_get(const struct soft_vcpu *c, uint8_t *legacy)
{
    const uint32_t words[2] = {c->vector.mxcsr, MXCSR_VALID};

    memcpy(legacy + FXSAVE_MXCSR, words, sizeof words);
}

static uint32_t mxcsr_in(const uint8_t *legacy)
{
    uint32_t mxcsr;

    memcpy(&mxcsr, legacy + FXSAVE_MXCSR, 4);
    return mxcsr;
}

static void xmm_get(const struct soft_vcpu *c, uint8_t *legacy, unsigned registers)
{
    for (unsigned i = 0; i < registers; i++)
        memcpy(legacy + FXSAVE_XMM + XMM_BYTES * i, c->vector.zmm[i], XMM_BYTES);
}

static void xmm_set(struct soft_vcpu *c, const uint8_t *legacy, unsigned registers)
{
    for (unsigned i = 0; i < registers; i++)
        memcpy(c->vector.zmm[i], legacy + FXSAVE_XMM + XMM_BYTES * i, XMM_BYTES);
}

/* -- FXSAVE, FXRSTOR, MXCSR -- */

static uint64_t aligned_operand(struct soft_vcpu *c, const struct soft_op *op, unsigned size,
                                enum soft_access access)
{
    uint64_t linear = soft_operand(c, op, size, access);

    if (linear & (size == LEGACY_BYTES ? 15 : 63))
        soft_raise_code(c, X86_GP, 0);
    return linear;
}

static bool wide_pointers(const struct soft_op *op)
{
    return (op->insn.rex & X86_REX_W) != 0;
}

static void fxsave_run(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t image[LEGACY_BYTES];
    uint64_t linear;

    if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    linear = aligned_operand(c, op, LEGACY_BYTES, SOFT_WRITE);
    x87_get(c, image, wide_pointers(op));
    mxcsr_get(c, image);
    xmm_get(c, image, visible_registers(c));
    /* What is not defined is not written: the last 48 bytes belong to the program. */
    soft_store_bytes(c, linear, image, FXSAVE_XMM + XMM_BYTES * visible_registers(c));
}

static void fxrstor_run(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t image[LEGACY_BYTES];

    if (c->cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    soft_load_bytes(c, aligned_operand(c, op, LEGACY_BYTES, SOFT_READ), image, LEGACY_BYTES);
    if (mxcsr_in(image) & ~MXCSR_VALID)
        soft_raise_code(c, X86_GP, 0);
    x87_set(c, image, wide_pointers(op));
    c->vector.mxcsr = mxcsr_in(image);
    xmm_set(c, image, visible_registers(c));
    soft_code_mode_changed(c); /* MXCSR may unmask exceptions */
}

static void mxcsr_check(struct soft_vcpu *c, const struct soft_op *op)
{
    bool ud;

    if (op->insn.vex == X86_VEX_NONE)
        ud = (c->cr0 & X86_CR0_EM) || !(c->cr4 & X86_CR4_OSFXSR);
    else
        ud = !(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & 6) != 6 || op->insn.vvvv != 0 ||
             soft_is_real(c) || soft_is_v86(c) || !c->vm->cpuid->feature[X86_FEATURE_AVX];
    if (ud)
        soft_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
}

static void ldmxcsr_run(struct soft_vcpu *c, const struct soft_op *op)
{
    uint32_t value;

    mxcsr_check(c, op);
    value = soft_load32(c, soft_operand(c, op, 4, SOFT_READ));
    if (value & ~MXCSR_VALID)
        soft_raise_code(c, X86_GP, 0);
    c->vector.mxcsr = value;
    soft_code_mode_changed(c); /* MXCSR may unmask exceptions */
}

static void stmxcsr_run(struct soft_vcpu *c, const struct soft_op *op)
{
    mxcsr_check(c, op);
    soft_store32(c, soft_operand(c, op, 4, SOFT_WRITE), c->vector.mxcsr);
}

/* -- the XSAVE family -- */

static void xsave_check(struct soft_vcpu *c)
{
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    if (c->cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
}

static uint64_t requested(const struct soft_vcpu *c)
{
    uint64_t mask = (uint32_t)c->gpr[X86_RDX] << 16;

    mask = mask << 16 | (uint32_t)c->gpr[X86_RAX];
    return mask & c->xcr0;
}

static uint64_t components_in_use(const struct soft_vcpu *c, uint64_t of)
{
    uint64_t in_use = 0;

    for (unsigned i = 0; i < COMPONENTS; i++) {
        if (of >> i & 1 && component_in_use(c, i))
            in_use |= UINT64_C(1) << i;
    }
    return in_use;
}

/* Offset in a compacted image; no component here wants 64-byte alignment but for its size. */
static unsigned compacted_offset(uint64_t in_image, unsigned component)
{
    unsigned offset = LEGACY_BYTES + HEADER_BYTES;

    for (unsigned i = AVX; i < component; i++) {
        if (in_image >> i & 1)
            offset += layout[i].size;
    }
    return offset;
}

static unsigned component_offset(uint64_t xcomp, unsigned component)
{
    return xcomp & COMPACTED ? compacted_offset(xcomp, component) : layout[component].offset;
}

static unsigned image_bytes(uint64_t xcomp, uint64_t components)
{
    unsigned end = LEGACY_BYTES + HEADER_BYTES;

    for (unsigned i = AVX; i < COMPONENTS; i++) {
        if (components >> i & 1)
            end = component_offset(xcomp, i) + layout[i].size;
    }
    return end;
}

/* What XSAVE, XSAVEOPT and XSAVEC write: `saved` components of those asked for. */
struct save {
    uint64_t linear, asked, saved, xcomp;
    bool wide;
};

static void save_legacy(struct soft_vcpu *c, const struct save *s)
{
    uint8_t image[LEGACY_BYTES];
    bool mxcsr = s->xcomp & COMPACTED ? s->saved >> SSE & 1 : (s->asked & 6) != 0;

    mxcsr_get(c, image);
    if (s->saved >> X87 & 1) {
        x87_get(c, image, s->wide);
        soft_store_bytes(c, s->linear, image, FXSAVE_MXCSR);
        soft_store_bytes(c, s->linear + FXSAVE_ST, image + FXSAVE_ST, FXSAVE_XMM - FXSAVE_ST);
    }
    if (mxcsr)
        soft_store_bytes(c, s->linear + FXSAVE_MXCSR, image + FXSAVE_MXCSR, 8);
    if (s->saved >> SSE & 1) {
        unsigned bytes = XMM_BYTES * visible_registers(c);
        xmm_get(c, image, visible_registers(c));
        soft_store_bytes(c, s->linear + FXSAVE_XMM, image + FXSAVE_XMM, bytes);
    }
}

static void save_header(struct soft_vcpu *c, const struct save *s, uint64_t in_use)
{
    uint64_t header[8] = {0};

    if (s->xcomp & COMPACTED) {
        header[0] = in_use;
        header[1] = s->xcomp;
        soft_store_bytes(c, s->linear + LEGACY_BYTES, header, 16);
        return;
    }
    header[0] = soft_load64(c, s->linear + LEGACY_BYTES);
    soft_store64(c, s->linear + LEGACY_BYTES, (header[0] & ~s->asked) | in_use);
}

static void save_run(struct soft_vcpu *c, const struct save *s, uint64_t in_use)
{
    unsigned total = image_bytes(s->xcomp, s->asked);
    uint8_t bytes[1024];

    soft_probe(c, s->linear, total, SOFT_WRITE);
    save_legacy(c, s);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        if (!(s->saved >> i & 1))
            continue;
        component_get(c, i, bytes);
        soft_store_bytes(c, s->linear + component_offset(s->xcomp, i), bytes, layout[i].size);
    }
    save_header(c, s, in_use);
}

static void xsave_run(struct soft_vcpu *c, const struct soft_op *op)
{
    struct save s = {.wide = wide_pointers(op)};
    uint64_t in_use;

    xsave_check(c);
    s.asked = requested(c);
    s.linear = aligned_operand(c, op, image_bytes(0, s.asked), SOFT_WRITE);
    in_use = components_in_use(c, s.asked);
    s.saved = s.asked;
    if (op->insn.op == X86_OP_XSAVEOPT)
        s.saved = in_use;
    if (op->insn.op == X86_OP_XSAVEC) {
        s.xcomp = COMPACTED | s.asked;
        if (s.asked >> SSE & 1 && c->vector.mxcsr != MXCSR_DEFAULT)
            in_use |= UINT64_C(1) << SSE;
        s.saved = in_use;
    }
    save_run(c, &s, in_use);
}

struct restore {
    uint64_t asked, present, xcomp;
    bool wide;
};

/* SDM vol. 1, 13.8: what XRSTOR refuses. */
static bool header_valid(const struct soft_vcpu *c, const uint64_t header[8])
{
    uint64_t xstate = header[0], xcomp = header[1];
    unsigned reserved_from = xcomp & COMPACTED ? 2 : 1;

    for (unsigned i = reserved_from; i < (xcomp & COMPACTED ? 8 : 3); i++) {
        if (header[i])
            return false;
    }
    if (!(xcomp & COMPACTED))
        return !(xstate & ~c->xcr0);
    return c->vm->cpuid->feature[X86_FEATURE_XSAVEC] && !(xcomp & ~COMPACTED & ~c->xcr0) &&
           !(xstate & ~xcomp);
}

static void restore_legacy(struct soft_vcpu *c, const struct restore *r, const uint8_t *image)
{
    static const uint8_t zero[LEGACY_BYTES];
    bool present = r->present >> SSE & 1;

    if (r->asked >> X87 & 1) {
        if (r->present >> X87 & 1)
            x87_set(c, image, r->wide);
        else
            x87_init(&c->vector);
    }
    if (r->asked >> SSE & 1)
        xmm_set(c, present ? image : zero, visible_registers(c));
    if (r->xcomp & COMPACTED) {
        if (r->asked >> SSE & 1)
            c->vector.mxcsr = present ? mxcsr_in(image) : MXCSR_DEFAULT;
    } else if (r->asked & 6) {
        c->vector.mxcsr = mxcsr_in(image);
    }
}

/* Is MXCSR read from the image? Then it must be valid. */
static bool mxcsr_loaded(const struct restore *r)
{
    if (r->xcomp & COMPACTED)
        return r->asked & r->present & 1u << SSE;
    return (r->asked & 6) != 0;
}

static void xrstor_run(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t image[X86_XSAVE_BYTES];
    uint64_t header[8], linear;
    struct restore r = {.wide = wide_pointers(op)};
    unsigned total;

    xsave_check(c);
    r.asked = requested(c);
    linear = aligned_operand(c, op, LEGACY_BYTES + HEADER_BYTES, SOFT_READ);
    soft_load_bytes(c, linear, image, LEGACY_BYTES + HEADER_BYTES);
    memcpy(header, image + LEGACY_BYTES, sizeof header);
    if (!header_valid(c, header))
        soft_raise_code(c, X86_GP, 0);
    r.present = header[0];
    r.xcomp = header[1];
    total = image_bytes(r.xcomp, r.asked & r.present);
    if (total > LEGACY_BYTES + HEADER_BYTES)
        soft_load_bytes(c, linear + LEGACY_BYTES + HEADER_BYTES,
                        image + LEGACY_BYTES + HEADER_BYTES, total - LEGACY_BYTES - HEADER_BYTES);
    if (mxcsr_loaded(&r) && mxcsr_in(image) & ~MXCSR_VALID)
        soft_raise_code(c, X86_GP, 0);
    restore_legacy(c, &r, image);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        if (r.asked >> i & 1)
            component_set(c, i, r.present >> i & 1 ? image + component_offset(r.xcomp, i) : NULL,
                          visible_registers(c));
    }
    soft_code_mode_changed(c); /* MXCSR may unmask exceptions */
}

soft_handler *xstate_handler(const struct soft_vm *vm, const struct x86_insn *insn)
{
    const bool *feature = vm->cpuid->feature;

    if (insn->prefixes & X86_PREFIX_LOCK)
        return NULL;
    switch (insn->op) {
    case X86_OP_FXSAVE:
        return fxsave_run;
    case X86_OP_FXRSTOR:
        return fxrstor_run;
    case X86_OP_LDMXCSR:
        return ldmxcsr_run;
    case X86_OP_STMXCSR:
        return stmxcsr_run;
    case X86_OP_XSAVE:
        return feature[X86_FEATURE_XSAVE] ? xsave_run : NULL;
    case X86_OP_XSAVEOPT:
        return feature[X86_FEATURE_XSAVEOPT] ? xsave_run : NULL;
    case X86_OP_XSAVEC:
        return feature[X86_FEATURE_XSAVEC] ? xsave_run : NULL;
    case X86_OP_XRSTOR:
        return feature[X86_FEATURE_XSAVE] ? xrstor_run : NULL;
    default:
        return NULL;
    }
}

/* -- the whole state -- */

void soft_xsave_get(const struct soft_vcpu *c, uint8_t image[X86_XSAVE_BYTES])
{
    uint64_t in_use = 0;

    memset(image, 0, X86_XSAVE_BYTES);
    x87_get(c, image, true);
    mxcsr_get(c, image);
    xmm_get(c, image, 16);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        if (layout[i].size)
            component_get(c, i, image + layout[i].offset);
    }
    in_use = components_in_use(c, KNOWN);
    memcpy(image + LEGACY_BYTES, &in_use, sizeof in_use);
}

bool soft_xsave_set(struct soft_vcpu *c, const uint8_t image[X86_XSAVE_BYTES])
{
    static const uint8_t zero[LEGACY_BYTES];
    uint64_t header[8];

    memcpy(header, image + LEGACY_BYTES, sizeof header);
    if (header[0] & ~KNOWN || header[1] || header[2] || mxcsr_in(image) & ~MXCSR_VALID)
        return false;
    if (header[0] & X86_XCR0_X87)
        x87_set(c, image, true);
    else
        x87_init(&c->vector);
    xmm_set(c, header[0] & X86_XCR0_SSE ? image : zero, 16);
    c->vector.mxcsr = mxcsr_in(image);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        if (layout[i].size)
            component_set(c, i, header[0] >> i & 1 ? image + layout[i].offset : NULL, 16);
    }
    return true;
}
