/*
 * The translator's gathers and scatters. Where all elements of a gather are enabled and in the TLB,
 * they are loaded one by one; all else is a leaf's (leaf_gather.c). See translate.c and
 * doc/soft.md.
 *
 * Source: Intel SDM vol. 2, VPGATHERDD and its kin, VPSCATTERDD.
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#include "cpu/x86/vector.h"

#define ZMM(n)    (STATE(vector.zmm) + (int32_t)(64 * (n)))
#define OPMASK(n) (STATE(vector.opmask) + (int32_t)(8 * (n)))
#define LANE      16u

struct gather {
    struct translation *tr;
    const struct soft_op *op;
    const struct x86_vector_insn *v;
    unsigned count, index, opmask;
    unsigned register_bytes; /* the host's */
    bool evex;
    uint8_t *slow; /* a JNE to the leaf */
};

/* Of the register that is gathered or scattered. */
static unsigned result_bytes(const struct gather *g)
{
    unsigned bytes = g->count * g->v->element;

    return bytes < LANE ? LANE : bytes;
}

static void gather_begin(struct translation *tr, unsigned i, const struct x86_vector_insn *v,
                         struct gather *g)
{
    const struct soft_op *op = &tr->block->ops[i];

    *g = (struct gather){.tr = tr, .op = op, .v = v};
    g->count = v->vector_bytes / (v->element > v->index_bytes ? v->element : v->index_bytes);
    g->index = x86_vector_index(&op->insn);
    g->opmask = op->insn.evex_p3 & 7;
    g->evex = v->unit == X86_UNIT_EVEX;
    g->register_bytes = tr->t->wide ? 64 : 32;
}

/* What the leaf wants to see. */
static void operands_store(const struct gather *g)
{
    struct emit *e = &g->tr->e;

    emit_vector_state(e, g->index, g->register_bytes, ZMM(g->index), false);
    emit_vector_state(e, g->v->reg.number, g->register_bytes, ZMM(g->v->reg.number), false);
    if (g->evex)
        emit_opmask_state(e, g->opmask, OPMASK(g->opmask), false);
    else
        emit_vector_state(e, g->v->vvvv.number, g->register_bytes, ZMM(g->v->vvvv.number), false);
}

/* No element is left to be done. */
static void mask_clear(const struct gather *g)
{
    if (g->evex)
        emit_opmask_clear(&g->tr->e, g->opmask);
    else
        emit_vector_clear(&g->tr->e, g->v->vvvv.number);
}

/* What the leaf has done, to the registers. No flag is touched. */
static void results_load(const struct gather *g)
{
    unsigned reg = g->v->reg.number;

    if (g->v->memory == X86_MEMORY_GATHER)
        emit_vector_state(&g->tr->e, reg, result_bytes(g), ZMM(reg), true);
    mask_clear(g);
}

/* -- inline -- */

/* The first lane is put together in the result itself, the others here: in VEX's mask, which will
 * be 0, or in the index, which is in memory. */
static unsigned lane_register(const struct gather *g)
{
    return g->evex ? g->index : g->v->vvvv.number;
}

/* All elements enabled, or to the leaf. */
static void mask_check(struct gather *g)
{
    struct emit *e = &g->tr->e;
    int32_t all = (int32_t)((1u << g->count) - 1);

    if (g->evex)
        emit_mov_reg_opmask(e, HOST_R11, g->opmask);
    else
        emit_signs(e, HOST_R11, g->v->vvvv.number, g->v->element, result_bytes(g));
    emit_not32(e, HOST_R11);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, all);
    g->slow = e->at;
    struct cold *cold = tr_cold_add(g->tr, emit_jcc_rel32(e, EMIT_IF_NE), COLD_GATHER);
    cold->op = (unsigned)(g->op - g->tr->block->ops);
    cold->units = g->tr->units;
}

/* The linear address of an element to R10. */
static void element_address(const struct gather *g, unsigned n)
{
    const struct x86_insn *insn = &g->op->insn;
    struct emit *e = &g->tr->e;
    int32_t index = ZMM(g->index) + (int32_t)(n * g->v->index_bytes);
    unsigned scale = insn->bytes[insn->modrm_offset + 1] >> 6;
    enum host_register base = HOST_NONE;

    if (g->v->index_bytes == 4)
        emit_movsxd_reg_state(e, HOST_R10, index);
    else
        emit_mov_reg_state(e, HOST_R10, index);
    if (insn->base != X86_REG_NONE) {
        base = tr_is_displaced(insn->base) ? HOST_R11 : tr_host_of(insn->base);
        if (base == HOST_R11)
            emit_mov_reg_state(e, HOST_R11, GPR(insn->base));
    }
    if (insn->address_size == 4)
        emit_lea32(e, HOST_R10, base, HOST_R10, scale, (int32_t)insn->displacement);
    else
        emit_lea(e, HOST_R10, base, HOST_R10, scale, (int32_t)insn->displacement);
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
}

static void element_emit(const struct gather *g, unsigned n)
{
    struct emit *e = &g->tr->e;
    unsigned in_lane = LANE / g->v->element, lane = n / in_lane, at = n % in_lane;
    const struct emit_element element = {
        .base = HOST_R10, .size = g->v->element, .at = (uint8_t)at, .evex = g->evex};
    const struct emit_lane whole = {
        .at = (uint8_t)lane, .bytes = (uint8_t)result_bytes(g), .evex = g->evex};
    unsigned reg = lane == 0 ? g->v->reg.number : lane_register(g);

    element_address(g, n);
    /* Above is not equal: a miss jumps to the jump of the mask. */
    emit_patch_rel32(tr_tlb_look(g->tr, SOFT_READ, g->v->element), g->slow);
    emit_element_load(e, reg, &element);
    if (lane != 0 && (at == in_lane - 1 || n == g->count - 1))
        emit_lane_insert(e, g->v->reg.number, reg, &whole);
}

/* False: not worth its length, or the host can't. */
static bool is_short(const struct gather *g)
{
    const struct translation *tr = g->tr;

    return g->v->memory == X86_MEMORY_GATHER && tr_fits32(g->op->insn.displacement) &&
           (!g->evex || tr->c->vm->cpuid->feature[X86_FEATURE_AVX512DQ]) &&
           tr->e.end - tr->e.at > TR_CODE_ROOM / 2;
}

static void inline_emit(struct gather *g)
{
    mask_check(g);
    for (unsigned n = 0; n < g->count; n++)
        element_emit(g, n);
    if (g->evex && result_bytes(g) > LANE)
        emit_vector_state(&g->tr->e, g->index, g->register_bytes, ZMM(g->index), true);
    mask_clear(g);
}

bool tr_gather(struct translation *tr, unsigned i, const struct x86_vector_insn *v)
{
    struct gather g;

    gather_begin(tr, i, v, &g);
    tr_units_load(tr, i, UNIT_VECTOR);
    tr_flags_clobber(tr);
    operands_store(&g);
    if (is_short(&g)) {
        inline_emit(&g);
        return true;
    }
    tr_leaf(tr, i, soft_leaf_gather);
    results_load(&g);
    return true;
}

/* The registers as they were, then the leaf. */
void tr_gather_cold(struct translation *tr, const struct cold *cold)
{
    struct x86_vector_insn v;
    struct emit *e = &tr->e;
    struct gather g;
    uint8_t *declined;
    unsigned lanes;

    if (!x86_vector_describe(&tr->block->ops[cold->op].insn, tr->c->vm->cpuid->feature, &v))
        return;
    gather_begin(tr, cold->op, &v, &g);
    lanes = lane_register(&g);
    emit_vector_state(e, v.reg.number, g.register_bytes, ZMM(v.reg.number), true);
    emit_vector_state(e, lanes, g.register_bytes, ZMM(lanes), true);
    tr_flags_cook(tr, cold->recipe);
    tr_leaf_call(tr, cold->op, soft_leaf_gather);
    declined = emit_jcc_rel32(e, EMIT_IF_E);
    results_load(&g);
    emit_patch_rel32(emit_jmp_rel32(e), cold->back);
    emit_patch_rel32(declined, e->at);
}
