/*
 * Random operands, and the encoding of one instruction: see encode.h. Encodings: Intel SDM vol. 2.
 */
#include "encode.h"

#include <string.h>

uint64_t generator_random(struct generator *g)
{
    /* splitmix64 */
    uint64_t z = g->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

unsigned below(struct generator *g, unsigned limit)
{
    return (unsigned)(generator_random(g) >> 32) % limit;
}

bool one_in(struct generator *g, unsigned n)
{
    return below(g, n) == 0;
}

bool is_reserved(const struct generator *g, uint8_t number)
{
    return number == RSP || number >= R14 || (g->pointer && number == g->pointer) ||
           (g->kept >> number & 1);
}

uint8_t free_register(struct generator *g)
{
    uint8_t number;

    do
        number = (uint8_t)below(g, 14);
    while (is_reserved(g, number));
    return number;
}

uint8_t any_register(struct generator *g)
{
    return (uint8_t)below(g, 16);
}

uint64_t interesting(struct generator *g)
{
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      UINT64_C(0x80000000),
                                      0xffffffff,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX};

    return one_in(g, 2) ? values[below(g, sizeof values / sizeof *values)] : generator_random(g);
}

void put(struct generator *g, uint64_t value, unsigned bytes)
{
    memcpy(g->code + g->length, &value, bytes);
    g->length += bytes;
}

void put_pointer(struct generator *g, uint8_t reg, uint64_t value)
{
    put(g, 0x48 | (reg > 7), 1);
    put(g, 0xb8 | (reg & 7), 1);
    put(g, value, 8);
    g->count++;
}

/* -- encoding -- */

static uint8_t rex_bits(const struct encoding *e)
{
    uint8_t base = e->kind == BASE_R15 ? R15 : e->kind == BASE_POINTER ? e->base : 0;
    bool base_high = (e->memory ? base : e->rm) > 7;
    bool index_high = e->memory && e->index > 7;

    return (uint8_t)((e->wide ? 8 : 0) | (e->reg > 7 ? 4 : 0) | (index_high ? 2 : 0) |
                     (base_high ? 1 : 0));
}

static void put_prefixes(struct generator *g, const struct encoding *e)
{
    if (e->short_address)
        put(g, 0x67, 1);
    if (e->vex)
        return;
    if (e->prefix66)
        put(g, 0x66, 1);
    if (e->prefix_f)
        put(g, e->prefix_f, 1);
    if (e->lock)
        put(g, 0xf0, 1);
}

static void put_opcode(struct generator *g, const struct encoding *e)
{
    uint8_t rex = rex_bits(e);

    if (e->vex) {
        put(g, 0xc4, 1);
        put(g, (uint8_t)((~rex & 7) << 5 | e->map), 1);
        put(g, (uint8_t)((e->wide ? 0x80 : 0) | (~e->vvvv & 15) << 3 | e->l << 2 | e->pp), 1);
        put(g, e->opcode, 1);
        return;
    }
    if (rex || e->byte_registers)
        put(g, 0x40 | rex, 1);
    if (e->map)
        put(g, 0x0f, 1);
    if (e->map == 2)
        put(g, 0x38, 1);
    if (e->map == 3)
        put(g, 0x3a, 1);
    put(g, e->opcode, 1);
}

/* ModRM, SIB where it is needed, and an 8-bit displacement. */
static void put_base(struct generator *g, const struct encoding *e)
{
    uint8_t reg = (uint8_t)((e->reg & 7) << 3), base = e->base & 7;

    if (e->index == NO_INDEX && base != RSP) {
        put(g, 0x40 | reg | base, 1);
    } else {
        put(g, 0x40 | reg | 4, 1);
        put(g, (uint8_t)(e->scale << 6 | (e->index & 7) << 3 | base), 1);
    }
    put(g, (uint8_t)e->displacement, 1);
}

static void put_memory(struct generator *g, const struct encoding *e)
{
    uint8_t reg = (uint8_t)((e->reg & 7) << 3);
    uint64_t absolute = DATA_MIDDLE + (uint64_t)(int64_t)e->displacement;

    switch (e->kind) {
    case BASE_R15:
        if (e->index == NO_INDEX) {
            put(g, 0x80 | reg | 7, 1);
        } else {
            put(g, 0x80 | reg | 4, 1);
            put(g, (uint8_t)(e->scale << 6 | 6 << 3 | 7), 1);
        }
        put(g, (uint32_t)e->displacement, 4);
        break;
    case BASE_POINTER:
        put_base(g, e);
        break;
    case BASE_RSP:
        put(g, 0x40 | reg | 4, 1);
        put(g, (uint8_t)(e->scale << 6 | (e->index & 7) << 3 | 4), 1);
        put(g, (uint8_t)e->displacement, 1);
        break;
    case ABSOLUTE:
        put(g, reg | 4, 1);
        put(g, 0x25, 1);
        put(g, absolute, 4);
        break;
    default:
        put(g, reg | 5, 1);
        /* From the end of the instruction: the immediate, if any, follows. */
        put(g, absolute - (CODE_BASE + g->length + 4 + e->immediate_bytes), 4);
    }
}

void emit(struct generator *g, const struct encoding *e)
{
    put_prefixes(g, e);
    put_opcode(g, e);
    if (e->memory)
        put_memory(g, e);
    else
        put(g, (uint8_t)(0xc0 | (e->reg & 7) << 3 | (e->rm & 7)), 1);
    put(g, e->immediate, e->immediate_bytes);
    g->count++;
}

/* Distances from DATA_MIDDLE at which a page ends: inside the window, and where what is allowed
 * changes there. */
static const int32_t inner_edges[] = {0, 0x1000, 0x4800};
static const int32_t outer_edges[] = {-0x1000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};

int32_t choose_edge(struct generator *g)
{
    int32_t edge = one_in(g, 3) ? inner_edges[below(g, 3)] : outer_edges[below(g, 6)];

    /* No store below the window comes to the cells at its beginning. */
    return edge + (one_in(g, 4) ? (int32_t)below(g, 64) - 64 : (int32_t)below(g, 24) - 16);
}

static void choose_displacement(struct generator *g, struct encoding *e)
{
    switch (e->kind) {
    case BASE_POINTER:
        e->displacement = (int32_t)below(g, 48) - 16;
        break;
    case BASE_RSP:
        /* Below what is on the stack where that may be a return address. */
        e->displacement = g->returns ? (int32_t)below(g, 64) - 128 : (int32_t)below(g, 64);
        break;
    default:
        if (one_in(g, g->edge_rate))
            e->displacement = choose_edge(g);
        else
            e->displacement = (int32_t)below(g, 0x1f00) - (one_in(g, 4) ? 0x800 : 0);
    }
}

void choose_memory(struct generator *g, struct encoding *e, unsigned align)
{
    e->memory = true;
    e->index = NO_INDEX;
    e->base = g->pointer;
    e->kind = (uint8_t)below(g, 4);
    if (align > 1 && e->kind == BASE_RSP)
        e->kind = BASE_R15;
    if (align == 1 && g->pointer && one_in(g, 3))
        e->kind = BASE_POINTER;
    choose_displacement(g, e);
    e->displacement &= -(int32_t)align;
    if (align == 1 && (e->kind == BASE_R15 || (e->kind == BASE_RSP && !g->returns)) &&
        one_in(g, 3)) {
        e->index = R14;
        e->scale = (uint8_t)below(g, 4);
    }
    e->short_address = one_in(g, 12) && e->kind != RIP_RELATIVE;
}

unsigned choose_size(struct generator *g, struct encoding *e)
{
    unsigned size = below(g, 4);

    if (size == 0)
        e->byte_registers = one_in(g, 2);
    if (size == 1)
        e->prefix66 = 0x66;
    if (size == 3)
        e->wide = true;
    return size;
}

void fix_byte_register(struct generator *g, uint8_t *number)
{
    while (is_reserved(g, *number) ||
           (*number >= RSP && *number <= RDI && is_reserved(g, *number - RSP)))
        *number = free_register(g);
}

void choose_operands(struct generator *g, struct encoding *e, bool writes_rm)
{
    e->reg = writes_rm ? any_register(g) : free_register(g);
    e->rm = writes_rm ? free_register(g) : any_register(g);
    if (one_in(g, 2))
        choose_memory(g, e, 1);
    if (e->opcode % 2 == 0 && !e->wide && !e->prefix66) {
        fix_byte_register(g, &e->reg);
        fix_byte_register(g, &e->rm);
    }
}

void set_immediate(struct generator *g, struct encoding *e, unsigned size)
{
    e->immediate = interesting(g);
    e->immediate_bytes = size == 0 ? 1 : size == 1 ? 2 : 4;
}
