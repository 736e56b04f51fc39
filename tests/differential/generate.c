/*
 * Random instruction sequences: see generate.h. Here is how instructions are put together; what
 * they are is in integer_code.c and vector_code.c.
 */
#include "generate.h"

#include <string.h>

#include "encode.h"

#define CHUNKS_MAX 32
#define FIXUPS_MAX (2 * CHUNKS_MAX)
#define CHUNK_ROOM 1024 /* bytes: no chunk and no item of straight code is longer */

/* A place that holds the address of a chunk, relative or absolute. */
struct fixup {
    uint32_t at;
    uint8_t chunk;
    bool absolute; /* 32 bits either way */
    bool checked;
};

struct program {
    struct generator *g;
    unsigned chunks;
    uint64_t checked[CHUNKS_MAX], plain[CHUNKS_MAX]; /* addresses: before and behind the check */
    struct fixup fixups[FIXUPS_MAX];
    unsigned fixup_count;
};

uint64_t generator_pointer(struct generator *g)
{
    int32_t edge;

    do
        edge = choose_edge(g);
    while (edge < -0x800); /* the cells lie there */
    return DATA_MIDDLE + (uint64_t)(int64_t)edge;
}

uint64_t generator_stack(struct generator *g)
{
    static const uint64_t bottoms[] = {DATA_BASE + 0x1000, DATA_BASE + 0x5000, DATA_BASE + 0x7000};

    if (g->returns || !one_in(g, 8))
        return STACK_TOP - (one_in(g, 8) ? below(g, 16) : 0);
    return bottoms[below(g, 3)] + below(g, 24);
}

static uint64_t here(const struct generator *g)
{
    return CODE_BASE + g->length;
}

static void generate_one(struct generator *g)
{
    if (one_in(g, 7))
        generate_vector(g);
    else
        generate_integer(g);
}

/* The pointer register moves by a few bytes: LEA reg, [reg + disp8], or ADD or SUB reg, imm8. */
static void pointer_move(struct generator *g)
{
    uint8_t reg = g->pointer;

    if (one_in(g, 2)) {
        put(g, 0x48 | reg >> 3, 1);
        put(g, 0x83, 1);
        put(g, (one_in(g, 2) ? 0xc0 : 0xe8) | (reg & 7u), 1);
    } else {
        put(g, 0x48 | (reg > 7 ? 5 : 0), 1);
        put(g, 0x8d, 1);
        put(g, 0x40 | (reg & 7u) << 3 | (reg & 7u), 1);
        if ((reg & 7) == RSP)
            put(g, 0x24, 1);
    }
    put(g, below(g, 16) - 8, 1);
    g->count++;
}

/* The pointer register moves on, or elsewhere. */
static void generate_pointer(struct generator *g)
{
    if (one_in(g, 3))
        pointer_move(g);
    else
        put_pointer(g, g->pointer, generator_pointer(g));
}

/* A load, a store or arithmetic, some bytes from the pointer register. */
static void member_emit(struct generator *g)
{
    static const uint8_t opcodes[] = {0x8b, 0x8b, 0x89, 0x89, 0x03, 0x01, 0x3b, 0x31, 0x87, 0x13};
    struct encoding e = {.opcode = opcodes[below(g, sizeof opcodes)],
                         .reg = free_register(g),
                         .wide = one_in(g, 2),
                         .memory = true,
                         .index = NO_INDEX,
                         .base = g->pointer,
                         .kind = BASE_POINTER,
                         .displacement = (int32_t)below(g, one_in(g, 6) ? 200 : 48) - 24};

    emit(g, &e);
}

/* Accesses to one object, often across a page's end: the translator checks them together. The
 * pointer moves between some of them. */
static void generate_object(struct generator *g)
{
    unsigned members = 2 + below(g, 6);

    if (!one_in(g, 3))
        put_pointer(g, g->pointer, generator_pointer(g));
    while (members-- > 0) {
        member_emit(g);
        if (one_in(g, 4))
            pointer_move(g);
        else if (one_in(g, 4))
            generate_flags(g);
        else if (one_in(g, 12))
            generate_one(g);
    }
}

/* Flags are set, and soon after something is likely to fault: they must be right by then, even if
 * no instruction behind reads them. */
static void generate_fault(struct generator *g)
{
    unsigned edge_rate = g->edge_rate;

    for (unsigned i = 0; i <= below(g, 3); i++)
        generate_flags(g);
    g->edge_rate = 1;
    generate_one(g);
    g->edge_rate = edge_rate;
    generate_flags(g);
}

/* A branch over what follows: Jcc, JMP, JRCXZ or LOOP. */
static void generate_branch(struct generator *g)
{
    static const uint8_t always[] = {0xeb, 0xe3, 0xe2, 0xe1, 0xe0};
    uint8_t opcode =
        one_in(g, 4) ? always[below(g, sizeof always)] : (uint8_t)(0x70 + below(g, 16));
    size_t at;

    put(g, opcode, 1);
    put(g, 0, 1);
    g->count++;
    at = g->length;
    generate_one(g);
    if (g->length - at < 128)
        g->code[at - 1] = (uint8_t)(g->length - at);
}

static void generate_item(struct generator *g)
{
    if (one_in(g, 8))
        generate_branch(g);
    else if (g->pointer && one_in(g, 12))
        generate_pointer(g);
    else if (g->pointer && one_in(g, 12))
        generate_object(g);
    else if (g->edge_rate < 100 && one_in(g, 12))
        generate_fault(g);
    else if (!g->returns && one_in(g, 24))
        generate_loop(g);
    else
        generate_one(g);
}

static void exit_jump(struct generator *g)
{
    put(g, 0xe9, 1);
    put(g, EXIT_BASE - (here(g) + 4), 4);
}

/* -- programs -- */

/* An instruction of `opcode` with the cell as its absolute memory operand. */
static void cell_op(struct generator *g, uint8_t opcode, uint8_t reg, uint64_t cell)
{
    put(g, 0x48, 1);
    put(g, opcode, 1);
    put(g, (unsigned)reg << 3 | 4, 1);
    put(g, 0x25, 1);
    put(g, cell, 4);
    g->count++;
}

/* Leaves when the fuel is used up; one form keeps all flags. */
static void check_emit(struct generator *g)
{
    if (one_in(g, 2)) {
        cell_op(g, 0xff, 1, DATA_FUEL); /* DEC */
        put(g, 0x0575, 2);              /* JNZ over the jump */
        exit_jump(g);
        return;
    }
    cell_op(g, 0x89, RCX, DATA_SAVED);
    cell_op(g, 0x8b, RCX, DATA_FUEL);
    put(g, 0xff498d48, 4); /* LEA RCX, [RCX - 1] */
    cell_op(g, 0x89, RCX, DATA_FUEL);
    put(g, 0x02e3, 2); /* JRCXZ to the exit */
    put(g, 0x05eb, 2); /* JMP over it */
    exit_jump(g);
    cell_op(g, 0x8b, RCX, DATA_SAVED);
}

static void fixup_add(struct program *p, unsigned chunk, bool absolute, bool checked)
{
    struct generator *g = p->g;

    p->fixups[p->fixup_count++] = (struct fixup){.at = (uint32_t)g->length,
                                                 .chunk = (uint8_t)chunk,
                                                 .absolute = absolute,
                                                 .checked = checked};
    put(g, 0, 4);
}

static void fixups_apply(const struct program *p)
{
    for (unsigned i = 0; i < p->fixup_count; i++) {
        const struct fixup *f = &p->fixups[i];
        uint64_t to = f->checked ? p->checked[f->chunk] : p->plain[f->chunk];
        uint32_t value = (uint32_t)(f->absolute ? to : to - (CODE_BASE + f->at + 4));

        memcpy(p->g->code + f->at, &value, 4);
    }
}

/* Jumps to itself or backward are checked, so that they end. */
static unsigned target_choose(struct program *p, unsigned chunk, bool *checked)
{
    unsigned target = below(p->g, p->chunks);

    *checked = target <= chunk || one_in(p->g, 4);
    return target;
}

static void end_conditional(struct program *p, unsigned chunk)
{
    struct generator *g = p->g;
    bool checked;
    unsigned target = target_choose(p, chunk, &checked);

    put(g, 0x0f, 1);
    put(g, 0x80 | below(g, 16), 1);
    fixup_add(p, target, false, checked);
    g->count++;
}

static void end_jump(struct program *p, unsigned chunk)
{
    bool checked;
    unsigned target = target_choose(p, chunk, &checked);

    put(p->g, 0xe9, 1);
    fixup_add(p, target, false, checked);
    p->g->count++;
}

static void end_call(struct program *p, unsigned chunk)
{
    (void)chunk;
    put(p->g, 0xe8, 1);
    fixup_add(p, below(p->g, p->chunks), false, true);
    p->g->count++;
}

static void end_return(struct program *p, unsigned chunk)
{
    struct generator *g = p->g;

    (void)chunk;
    if (one_in(g, 6)) { /* to where nobody called from */
        put(g, 0x68, 1);
        fixup_add(p, below(g, p->chunks), true, true);
        g->count++;
    }
    if (one_in(g, 12)) { /* LEA RSP, [RSP + 8]: to the caller's caller */
        put(g, 0x24648d48, 4);
        put(g, 8, 1);
        g->count++;
    }
    if (one_in(g, 6)) {
        put(g, 0xc2, 1);
        put(g, 8 * below(g, 3), 2);
    } else {
        put(g, 0xc3, 1);
    }
    g->count++;
}

/* JMP or CALL through a register, now and then to no address. */
static void end_register(struct program *p, unsigned chunk)
{
    struct generator *g = p->g;
    uint8_t reg = free_register(g);
    bool call = one_in(g, 2);

    (void)chunk;
    if (one_in(g, 20)) {
        put_pointer(g, reg, generator_random(g) >> 1 | UINT64_C(1) << 62);
    } else {
        put(g, 0x40 | (reg > 7), 1); /* MOV r32, imm32 */
        put(g, 0xb8 | (reg & 7), 1);
        fixup_add(p, below(g, p->chunks), true, true);
    }
    put(g, 0x40 | (reg > 7), 1);
    put(g, 0xff, 1);
    put(g, (call ? 0xd0 : 0xe0) | (reg & 7), 1);
    g->count += 2;
}

/* JMP or CALL through the table, whose index the generator does not know. */
static void end_table(struct program *p, unsigned chunk)
{
    struct generator *g = p->g;
    struct encoding e = {.opcode = 0xff, .reg = one_in(g, 2) ? 4 : 2, .memory = true};

    (void)chunk;
    e.kind = (uint8_t)(one_in(g, 2) ? ABSOLUTE : BASE_R15);
    e.index = e.kind == BASE_R15 ? R14 : NO_INDEX;
    e.scale = 3;
    e.displacement = (int32_t)(DATA_TABLE - DATA_MIDDLE + 8 * below(g, TABLE_ENTRIES - 15));
    emit(g, &e);
}

static void end_nothing(struct program *p, unsigned chunk)
{
    (void)p;
    (void)chunk;
}

static void chunk_emit(struct program *p, unsigned chunk, unsigned limit)
{
    static void (*const ends[])(struct program * p, unsigned chunk) = {
        end_nothing, end_nothing, end_conditional, end_conditional, end_conditional, end_jump,
        end_call,    end_call,    end_return,      end_return,      end_register,    end_table,
    };
    struct generator *g = p->g;
    unsigned items = below(g, 7);
    size_t skip = 0;

    if (one_in(g, 3)) { /* what comes from above does not pass the check */
        put(g, 0xeb, 1);
        put(g, 0, 1);
        skip = g->length;
    }
    p->checked[chunk] = here(g);
    check_emit(g);
    if (skip)
        g->code[skip - 1] = (uint8_t)(g->length - skip);
    p->plain[chunk] = here(g);
    while (items-- > 0 && g->count < limit)
        generate_item(g);
    if (g->count < limit)
        ends[below(g, sizeof ends / sizeof *ends)](p, chunk);
}

static void generate_program(struct generator *g, unsigned instructions, unsigned limit)
{
    struct program p = {.g = g, .chunks = 2 + instructions / 16};
    unsigned chunk = 0;

    if (p.chunks > CHUNKS_MAX)
        p.chunks = CHUNKS_MAX;
    while (chunk < p.chunks && g->count < limit && g->length + CHUNK_ROOM < g->capacity)
        chunk_emit(&p, chunk++, limit);
    for (; chunk < p.chunks; chunk++)
        p.checked[chunk] = p.plain[chunk] = here(g);
    exit_jump(g);
    fixups_apply(&p);
    for (unsigned i = 0; i < TABLE_ENTRIES; i++)
        g->table[i] = p.checked[i % p.chunks];
}

static void generate_straight(struct generator *g, unsigned instructions, unsigned limit)
{
    while (g->count < instructions && g->count < limit && g->length + CHUNK_ROOM < g->capacity)
        generate_item(g);
    exit_jump(g);
}

void generate(struct generator *g, unsigned instructions, unsigned limit)
{
    static const unsigned edge_rates[] = {400, 40, 8};
    static const uint8_t pointers[] = {0, 0, 0, RBP, 9, 10, 12, 13};

    g->start = one_in(g, 2) ? 0 : below(g, 4096);
    g->length = g->start;
    g->count = 0;
    g->edge_rate = edge_rates[below(g, 3)];
    g->pointer = pointers[below(g, sizeof pointers)];
    g->returns = one_in(g, 2);
    memset(g->table, 0, sizeof g->table);
    if (g->returns)
        generate_program(g, instructions, limit);
    else
        generate_straight(g, instructions, limit);
}
