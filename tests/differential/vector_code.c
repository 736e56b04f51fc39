/*
 * Random vector and x87 instructions, see encode.h.
 */
#include <string.h>

#include "cpu/x86/vector.h"
#include "encode.h"

/* -- x87, SSE2 and AVX: a sample; the unit test of vector.c goes through its whole table -- */

static void gen_sse(struct generator *g)
{
    static const uint8_t integer[] = {0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
                                      0x6a, 0x6b, 0x6c, 0x6d, 0x6f, 0x74, 0x75, 0x76, 0xd4, 0xd5,
                                      0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xe3,
                                      0xe4, 0xe5, 0xeb, 0xef, 0xf4, 0xf5, 0xf6, 0xf8, 0xfa, 0xfe};
    static const uint8_t floating[] = {0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f};
    struct encoding e = {.map = 1, .reg = any_register(g), .rm = any_register(g)};
    bool is_float = one_in(g, 2);

    e.opcode = is_float ? floating[below(g, sizeof floating)] : integer[below(g, sizeof integer)];
    e.pp = is_float ? (uint8_t)below(g, 4) : 1;
    if (one_in(g, 2))
        choose_memory(g, &e, 16);
    if (g->avx && one_in(g, 2)) {
        e.vex = 1;
        e.l = e.pp < 2 ? (uint8_t)below(g, 2) : 0;
        e.vvvv = e.opcode == 0x6f || (e.opcode == 0x51 && e.pp < 2) ? 0 : any_register(g);
        if (e.l && e.memory)
            e.displacement &= -32;
    } else {
        e.prefix66 = e.pp == 1 ? 0x66 : 0;
        e.prefix_f = e.pp == 2 ? 0xf3 : e.pp == 3 ? 0xf2 : 0;
    }
    emit(g, &e);
}

/* -- any vector instruction of the tables -- */

enum { STYLE_LEGACY, STYLE_VEX, STYLE_EVEX };

struct vector_form {
    uint8_t style, map, opcode, pp, w, l, reg, rm, vvvv, mask;
    bool memory;
};

static unsigned put_vector_prefix(uint8_t *b, const struct vector_form *f)
{
    static const uint8_t prefixes[4] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t escapes[4] = {0, 0, 0x38, 0x3a};
    uint8_t r = f->reg & 8 ? 0 : 0x80, base = f->rm & 8 ? 0 : 0x20;
    unsigned n = 0;

    if (f->style == STYLE_VEX) {
        b[n++] = 0xc4;
        b[n++] = r | 0x40 | base | f->map;
        b[n++] = (uint8_t)(f->w << 7 | (~f->vvvv & 15) << 3 | (f->l & 1) << 2 | f->pp);
    } else if (f->style == STYLE_EVEX) {
        b[n++] = 0x62;
        b[n++] = r | 0x40 | base | 0x10 | f->map;
        b[n++] = (uint8_t)(f->w << 7 | (~f->vvvv & 15) << 3 | 4 | f->pp);
        b[n++] = (uint8_t)(f->l << 5 | 8 | f->mask);
    } else {
        if (f->pp)
            b[n++] = prefixes[f->pp];
        b[n++] = (uint8_t)(0x40 | f->w << 3 | (f->reg & 8 ? 4 : 0) | (f->rm & 8 ? 1 : 0));
        b[n++] = 0x0f;
        if (escapes[f->map])
            b[n++] = escapes[f->map];
    }
    b[n++] = f->opcode;
    return n;
}

static bool writes_fixed(const struct generator *g, const struct x86_vector_operand *operand)
{
    return operand->class == X86_CLASS_GPR && (operand->access & X86_OPERAND_WRITE) &&
           is_reserved(g, operand->number);
}

static bool is_masked_store(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    return insn->vex == X86_VEX_VEX && v->memory != X86_MEMORY_PLAIN &&
           (v->memory_access & X86_OPERAND_WRITE);
}

/* Whether the bytes are a vector instruction whose only memory is its operand. */
static bool vector_usable(const struct generator *g, const uint8_t *b, struct x86_insn *insn)
{
    struct x86_vector_insn v;

    if (x86_decode(insn, X86_CODE_64, b, X86_INSN_BYTES_MAX) != X86_DECODE_OK ||
        insn->op != X86_OP_VECTOR || !x86_vector_describe(insn, g->feature, &v))
        return false;
    if (v.memory_access && v.memory > X86_MEMORY_COMPRESSED)
        return false; /* gen_gather() makes those */
    /* Of an element across two pages the host names no place that the manual knows, nor always of
     * VMASKMOV's store into a second page. */
    if (v.memory != X86_MEMORY_PLAIN && (insn->displacement & (v.element - 1)))
        return false;
    if (is_masked_store(insn, &v) && (insn->displacement & 0xfff) + v.memory_bytes > 0x1000)
        return false;
    return !writes_fixed(g, &v.reg) && !writes_fixed(g, &v.rm) && !writes_fixed(g, &v.vvvv);
}

static int32_t vector_displacement(struct generator *g)
{
    if (!one_in(g, g->edge_rate))
        return (int32_t)below(g, 0x1f00) & -64;
    return one_in(g, 2) ? choose_edge(g) : choose_edge(g) & -64;
}

static void gen_vector(struct generator *g)
{
    for (unsigned tries = 0; tries < 30; tries++) {
        uint64_t bits = generator_random(g);
        uint8_t b[32] = {0};
        struct x86_insn insn;
        struct vector_form f = {.style = (uint8_t)below(g, 3),
                                .map = (uint8_t)(1 + below(g, 3)),
                                .opcode = (uint8_t)bits,
                                .pp = (bits >> 8) & 3,
                                .w = (bits >> 10) & 1,
                                .l = (bits >> 11) & 3,
                                .reg = (bits >> 13) & 15,
                                .rm = (bits >> 17) & 15,
                                .vvvv = one_in(g, 2) ? 0 : (bits >> 21) & 15,
                                .mask = one_in(g, 2) ? 0 : (bits >> 25) & 7,
                                .memory = (bits >> 28) & 1};

        if (f.memory)
            f.rm = R15;
        unsigned n = put_vector_prefix(b, &f);
        b[n++] = (uint8_t)((f.memory ? 0x80 : 0xc0) | (f.reg & 7) << 3 | (f.rm & 7));
        if (f.memory) {
            int32_t displacement = vector_displacement(g);

            memcpy(b + n, &displacement, 4);
            n += 4;
        }
        b[n] = (uint8_t)(bits >> 32);
        if (!vector_usable(g, b, &insn) || insn.memory != f.memory || insn.map != f.map)
            continue; /* the opcode may have been an escape to another map */
        memcpy(g->code + g->length, b, insn.length);
        g->length += insn.length;
        g->count++;
        return;
    }
}

/* -- gathers, scatters, MASKMOVDQU: what they touch depends on vector registers -- */

/* VEX or EVEX with a second source; rm a register unless `e->memory`. */
struct vector_op {
    bool evex, wide;
    uint8_t map, pp, opcode, l, reg, vvvv, rm, mask;
};

static void put_vector_op(struct generator *g, const struct vector_op *op, bool sib)
{
    struct vector_form f = {.style = op->evex ? STYLE_EVEX : STYLE_VEX,
                            .map = op->map,
                            .opcode = op->opcode,
                            .pp = op->pp,
                            .w = op->wide,
                            .l = op->l,
                            .reg = op->reg,
                            .rm = op->rm,
                            .vvvv = op->vvvv,
                            .mask = op->mask};
    uint8_t b[16];
    unsigned n = put_vector_prefix(b, &f);

    for (unsigned i = 0; i < n; i++)
        put(g, b[i], 1);
    if (!sib)
        put(g, 0xc0 | (op->reg & 7u) << 3 | (op->rm & 7u), 1);
}

/* VMOVDQU or VMOVDQU64 of random data. */
static void put_random_vector(struct generator *g, bool evex, uint8_t l, uint8_t reg)
{
    put_vector_op(g,
                  &(struct vector_op){.evex = evex,
                                      .wide = evex,
                                      .map = 1,
                                      .pp = 2,
                                      .opcode = 0x6f,
                                      .l = l,
                                      .reg = reg,
                                      .rm = R15},
                  true);
    put(g, 0x80 | (reg & 7u) << 3 | 7, 1);
    put(g, below(g, 0x1f00) & ~63u, 4);
}

struct gather {
    bool evex, scatter, quad_index, quad;
    uint8_t l, reg, index, mask, scale;
};

/* Indices of about 10 bits when scaled, of both signs where the CPU can shift so. */
static void put_indices(struct generator *g, const struct gather *s)
{
    unsigned shift = (s->quad_index ? 64u : 32u) - 10u + s->scale;
    bool keep_sign = !s->quad_index || s->evex;

    put_random_vector(g, s->evex, s->l, s->index);
    put_vector_op(g,
                  &(struct vector_op){.evex = s->evex,
                                      .wide = s->evex && s->quad_index,
                                      .map = 1,
                                      .pp = 1,
                                      .opcode = s->quad_index && !keep_sign ? 0x73 : 0x72,
                                      .l = s->l,
                                      .reg = keep_sign ? 4 : 2,
                                      .vvvv = s->index,
                                      .rm = s->index},
                  false);
    put(g, shift, 1);
}

/* All elements, or some at random. */
static void put_mask(struct generator *g, const struct gather *s)
{
    struct vector_op all = {
        .map = 1, .pp = 1, .opcode = 0x76, .l = 1, .reg = s->mask, .vvvv = s->mask, .rm = s->mask};
    struct vector_op all_opmask = {.map = 1,
                                   .wide = true,
                                   .opcode = 0x46,
                                   .l = 1,
                                   .reg = s->mask,
                                   .vvvv = s->mask,
                                   .rm = s->mask};

    if (!one_in(g, 3))
        put_vector_op(g, s->evex ? &all_opmask : &all, false); /* KXNORQ, VPCMPEQD */
    else if (!s->evex)
        put_random_vector(g, false, 1, s->mask);
}

static int32_t gather_displacement(struct generator *g, const struct gather *s)
{
    int32_t displacement = 0x400 + (int32_t)below(g, 0x2000);

    if (one_in(g, g->edge_rate))
        displacement = choose_edge(g);
    if (s->scatter && displacement < 0x200) /* the cells lie below */
        displacement = 0x400;
    return displacement;
}

static void put_gather(struct generator *g, const struct gather *s)
{
    uint8_t opcode = (uint8_t)(s->quad_index | (s->scatter ? 0xa0 : 0x90) | (one_in(g, 2) ? 2 : 0));
    bool narrow = one_in(g, 8);

    if (narrow)
        put(g, 0x67, 1);
    put_vector_op(g,
                  &(struct vector_op){.evex = s->evex,
                                      .wide = s->quad,
                                      .map = 2,
                                      .pp = 1,
                                      .opcode = opcode,
                                      .l = s->l,
                                      .reg = s->reg,
                                      .vvvv = s->evex ? 0 : s->mask,
                                      .mask = s->evex ? s->mask : 0,
                                      .rm = R15},
                  true);
    if (s->index & 8) /* VEX.X */
        g->code[g->length - (s->evex ? 4 : 3)] &= 0xbf;
    put(g, 0x84 | (s->reg & 7u) << 3, 1);
    put(g, (uint8_t)(s->scale << 6 | (s->index & 7) << 3 | 7), 1);
    put(g, (uint32_t)gather_displacement(g, s), 4);
}

static void gen_gather(struct generator *g)
{
    bool evex = g->feature[X86_FEATURE_AVX512VL] && one_in(g, 2);
    struct gather s = {.evex = evex,
                       .scatter = evex && one_in(g, 2),
                       .quad_index = one_in(g, 2),
                       .quad = one_in(g, 2),
                       .l = (uint8_t)below(g, evex ? 3 : 2),
                       .reg = any_register(g),
                       .scale = (uint8_t)below(g, 4)};

    if (!g->feature[X86_FEATURE_AVX2])
        return;
    s.index = (uint8_t)((s.reg + 1 + below(g, 7)) & 15);
    s.mask = evex ? (uint8_t)(1 + below(g, 7)) : (uint8_t)((s.reg + 9 + below(g, 7)) & 15);
    put_indices(g, &s);
    put_mask(g, &s);
    put_gather(g, &s);
    g->count++;
}

static void gen_x87(struct generator *g)
{
    struct encoding e = {0};

    if (one_in(g, 2)) {
        static const uint8_t loads[][2] = {{0xd9, 0}, {0xdd, 0}, {0xdb, 0}, {0xdf, 0}, {0xdd, 3},
                                           {0xd9, 3}, {0xdb, 3}, {0xdb, 5}, {0xdb, 7}, {0xd8, 0},
                                           {0xdc, 1}, {0xda, 4}, {0xde, 6}, {0xdf, 5}, {0xdd, 1},
                                           {0xd9, 7}, {0xdd, 7}, {0xd9, 2}, {0xdf, 1}, {0xdd, 2}};
        unsigned which = below(g, sizeof loads / sizeof *loads);

        e.opcode = loads[which][0];
        e.reg = loads[which][1];
        /* 80 bits across the window's end: the host stores a part before it faults. */
        choose_memory(g, &e, 16);
    } else {
        static const uint8_t ops[][2] = {
            {0xd8, 0xc0}, {0xd8, 0xc8}, {0xd8, 0xe0}, {0xd8, 0xf0}, {0xd9, 0xc0}, {0xd9, 0xc8},
            {0xd9, 0xe8}, {0xd9, 0xfa}, {0xd9, 0xe0}, {0xd9, 0xe1}, {0xdc, 0xc0}, {0xde, 0xc0},
            {0xdd, 0xd0}, {0xdb, 0xe8}, {0xd9, 0xf6}, {0xd9, 0xf7}, {0xda, 0xc0}, {0xdb, 0xd0},
            {0xdf, 0xf0}, {0xdb, 0xf0}, {0xdd, 0xe0}, {0xd9, 0xee}, {0xd9, 0xfc}, {0xdd, 0xc0},
            {0xdb, 0xe3}, {0xdf, 0xe0}, {0xd9, 0xe5}, {0xd9, 0xe4}, {0x0f, 0x77}};
        unsigned which = below(g, sizeof ops / sizeof *ops);
        uint8_t last = ops[which][1];
        bool whole =
            ops[which][0] >= 0xdb && (last == 0xe3 || (ops[which][0] == 0xdf && last == 0xe0));
        bool stack = (last & 0xf) == 0 || last == 0xc8 || last == 0xe8;

        put(g, ops[which][0], 1);
        put(g, stack && !whole && last != 0x77 ? last + below(g, 8) % 7 : last, 1);
        g->count++;
        return;
    }
    emit(g, &e);
}

void generate_vector(struct generator *g)
{
    static void (*const groups[])(struct generator * g) = {gen_sse,    gen_sse,    gen_vector,
                                                           gen_vector, gen_gather, gen_x87};

    groups[below(g, sizeof groups / sizeof *groups)](g);
}
