/*
 * Random loops of one block that walk through memory by constant steps, see encode.h: what a
 * translator may run many iterations of at once. They begin near ends of pages, and meet what is
 * not mapped or not to be written.
 */
#include "encode.h"

#define POINTERS       2
#define ITERATIONS_MAX 320

/* What ends a loop. */
enum end {
    END_POINTER_REGISTER, /* CMP of the first pointer with the bound; JNE */
    END_POINTER_IMMEDIATE,
    END_DEC,
    END_SUB,
    END_UP, /* CMP of the counter, which goes up or down, with the bound; JNE, JL, JA... */
    END_DOWN,
    END_KINDS
};

struct loop {
    enum end end;
    uint8_t pointer[POINTERS], counter, bound, table;
    int32_t step[POINTERS];
    int32_t at[POINTERS]; /* from DATA_MIDDLE */
    unsigned iterations;
};

static bool is_taken(const struct generator *g, uint8_t number)
{
    return is_reserved(g, number) || number <= RDX;
}

/* A register that nothing else in the loop writes. */
static uint8_t keep_register(struct generator *g)
{
    uint8_t number;

    do
        number = (uint8_t)below(g, 14);
    while (is_taken(g, number));
    g->kept |= (uint16_t)(1u << number);
    return number;
}

static void put_op(struct generator *g, uint8_t opcode, uint8_t digit, uint8_t reg)
{
    put(g, 0x48 | (reg > 7), 1);
    put(g, opcode, 1);
    put(g, 0xc0 | (unsigned)digit << 3 | (reg & 7u), 1);
    g->count++;
}

/* ADD, SUB or LEA */
static void put_step(struct generator *g, uint8_t reg, int32_t step)
{
    if (one_in(g, 3)) {
        put(g, 0x48 | (reg > 7 ? 5 : 0), 1);
        put(g, 0x8d, 1);
        put(g, 0x80 | (reg & 7u) << 3 | (reg & 7u), 1);
        if ((reg & 7) == RSP)
            put(g, 0x24, 1);
        g->count++;
    } else {
        bool sub = one_in(g, 2);

        put_op(g, 0x81, sub ? 5 : 0, reg);
        step = sub ? -step : step;
    }
    put(g, (uint32_t)step, 4);
}

static void loop_choose(struct generator *g, struct loop *loop)
{
    static const int32_t steps[] = {1,  4,  8,   8,   16,  16,   16,   24,
                                    32, 64, 100, 256, 512, 1000, 1040, 1536};

    *loop = (struct loop){.iterations = 1 + below(g, one_in(g, 3) ? ITERATIONS_MAX : 40)};
    for (unsigned i = 0; i < POINTERS; i++) {
        int32_t edge = (int32_t)below(g, 8) * 0x1000 - 0x800;

        loop->pointer[i] = keep_register(g);
        loop->step[i] = steps[below(g, sizeof steps / sizeof *steps)];
        if (one_in(g, 4))
            loop->step[i] = one_in(g, 3) ? 0 : -loop->step[i];
        loop->at[i] = edge + (int32_t)below(g, 0x1000);
        if (!one_in(g, 3))
            loop->at[i] &= -64;
    }
    loop->counter = keep_register(g);
    loop->bound = keep_register(g);
    loop->table = keep_register(g);
    loop->end = (enum end)below(g, END_KINDS);
    if (loop->end <= END_POINTER_IMMEDIATE && loop->step[0] == 0)
        loop->end = END_SUB;
}

/* Through a pointer: [pointer + disp8], now and then with an index. */
static void loop_memory(struct generator *g, const struct loop *loop, struct encoding *e)
{
    e->memory = true;
    e->kind = BASE_POINTER;
    e->base = loop->pointer[below(g, POINTERS)];
    e->index = one_in(g, 5) ? R14 : NO_INDEX;
    e->scale = (uint8_t)below(g, 4);
    e->displacement = one_in(g, 2) ? 16 * ((int32_t)below(g, 4) - 1) : (int32_t)below(g, 48) - 16;
}

static void loop_vector(struct generator *g, const struct loop *loop)
{
    static const struct {
        uint8_t prefix66, prefix_f, opcode;
    } ops[] = {{0, 0, 0x10},    {0, 0, 0x11},    {0, 0, 0x28},    {0, 0, 0x29},
               {0x66, 0, 0x6f}, {0x66, 0, 0x7f}, {0, 0xf3, 0x6f}, {0, 0xf3, 0x7f},
               {0, 0xf2, 0x10}, {0, 0xf2, 0x11}, {0, 0xf3, 0x58}, {0x66, 0, 0xfe},
               {0x66, 0, 0xef}, {0, 0, 0x59},    {0, 0xf2, 0x59}, {0x66, 0, 0xd7}};
    unsigned which = below(g, sizeof ops / sizeof *ops);
    struct encoding e = {.map = 1,
                         .opcode = ops[which].opcode,
                         .prefix66 = ops[which].prefix66,
                         .prefix_f = ops[which].prefix_f,
                         .reg = any_register(g),
                         .rm = any_register(g)};

    if (e.opcode == 0xd7)
        e.reg = free_register(g);
    else if (!one_in(g, 4))
        loop_memory(g, loop, &e);
    emit(g, &e);
}

static void loop_integer(struct generator *g, const struct loop *loop)
{
    static const uint8_t ops[] = {0x8b, 0x89, 0x03, 0x01, 0x33, 0x31, 0x3b, 0x39, 0x13, 0x85};
    struct encoding e = {.opcode = ops[below(g, sizeof ops)], .reg = free_register(g)};

    e.opcode = (uint8_t)(e.opcode - (one_in(g, 6) ? 1 : 0));
    if (e.opcode & 1)
        e.wide = one_in(g, 2);
    else
        fix_byte_register(g, &e.reg);
    loop_memory(g, loop, &e);
    emit(g, &e);
}

/* An element of a table, by an index that is at most 255. */
static void loop_table(struct generator *g, const struct loop *loop)
{
    static const uint8_t ops[] = {0x8b, 0x03, 0x33, 0x3b, 0x13, 0x8a};
    struct encoding e = {.opcode = ops[below(g, sizeof ops)],
                         .reg = free_register(g),
                         .memory = true,
                         .kind = BASE_POINTER,
                         .base = loop->table,
                         .index = free_register(g),
                         .displacement = 8 * (int32_t)below(g, 3)};

    if (e.index == NO_INDEX)
        return;
    if (one_in(g, 3)) {
        put_op(g, 0x83, 4, e.index); /* AND */
        put(g, below(g, 128), 1);
    } else {
        emit(g, &(struct encoding){
                    .map = 1, .opcode = 0xb6, .reg = e.index, .rm = (uint8_t)below(g, 4)});
    }
    e.wide = (e.opcode & 1) && one_in(g, 2);
    e.scale = (e.opcode & 1) ? (uint8_t)(2 + e.wide) : (uint8_t)below(g, 4);
    if (e.opcode == 0x8a)
        e.reg = RAX;
    emit(g, &e);
}

/* Loads and stores in turn keep the stack's height. */
static void loop_x87(struct generator *g, const struct loop *loop)
{
    struct encoding e = {.opcode = one_in(g, 2) ? 0xdd : 0xd9};

    loop_memory(g, loop, &e);
    emit(g, &e);
    put(g, 0xc8d8 + 0x100 * below(g, 8), 2); /* FMUL ST(i) */
    g->count++;
    e.reg = 3;
    loop_memory(g, loop, &e);
    emit(g, &e);
}

static void loop_item(struct generator *g, const struct loop *loop)
{
    switch (below(g, 9)) {
    case 0:
        generate_flags(g);
        break;
    case 8:
        loop_table(g, loop);
        break;
    case 1:
        loop_x87(g, loop);
        break;
    case 2:
    case 3:
    case 4:
        loop_integer(g, loop);
        break;
    default:
        loop_vector(g, loop);
    }
}

/* Of two registers. */
static void put_cmp(struct generator *g, uint8_t first, uint8_t second, bool wide)
{
    put(g, (wide ? 0x48 : 0x40) | (second > 7 ? 4 : 0) | (first > 7), 1);
    put(g, 0x39, 1);
    put(g, 0xc0 | (second & 7u) << 3 | (first & 7u), 1);
    g->count++;
}

/* The counter goes by one, and is compared; gives a condition under which the loop ends. */
static uint8_t put_count(struct generator *g, const struct loop *loop)
{
    static const uint8_t below_bound[] = {0x82, 0x86, 0x8c, 0x8e}; /* JB, JBE, JL, JLE */
    static const uint8_t above_bound[] = {0x87, 0x8f, 0x8d};       /* JA, JG, JGE */
    const bool up = loop->end == END_UP, wide = one_in(g, 2), swap = one_in(g, 2);
    unsigned n = below(g, up ? 4 : 3);

    put_op(g, 0xff, up ? 0 : 1, loop->counter); /* INC, DEC */
    if (!one_in(g, 2) && !wide)
        g->code[g->length - 3] &= 0xf7; /* of 32 bits */
    put_cmp(g, swap ? loop->bound : loop->counter, swap ? loop->counter : loop->bound, wide);
    if (up && one_in(g, 3))
        return 0x85; /* JNE */
    if (!swap)
        return up ? below_bound[n] : above_bound[n];
    return up ? (const uint8_t[]){0x87, 0x83, 0x8f, 0x8d}[n]
              : (const uint8_t[]){0x82, 0x8c, 0x8e}[n];
}

/* The comparison and the jump back; whatever happens, the loop ends. */
static void loop_end(struct generator *g, const struct loop *loop, size_t begin)
{
    uint8_t jump = 0x85; /* JNE */

    switch (loop->end) {
    case END_POINTER_REGISTER:
        put_cmp(g, loop->pointer[0], loop->bound, true);
        break;
    case END_POINTER_IMMEDIATE:
        put_op(g, 0x81, 7, loop->pointer[0]);
        put(g, DATA_MIDDLE + (uint64_t)(loop->at[0] + (int32_t)loop->iterations * loop->step[0]),
            4);
        break;
    case END_DEC:
        put_op(g, 0xff, 1, loop->counter);
        break;
    case END_SUB:
        put_op(g, 0x83, 5, loop->counter);
        put(g, 1, 1);
        break;
    default:
        jump = put_count(g, loop);
    }
    put(g, 0x0f | (unsigned)jump << 8, 2);
    put(g, begin - (g->length + 4), 4);
    g->count++;
}

static uint64_t bound_of(struct generator *g, const struct loop *loop)
{
    if (loop->end == END_UP)
        return loop->iterations;
    if (loop->end == END_DOWN)
        return below(g, 3);
    return DATA_MIDDLE +
           (uint64_t)(int64_t)(loop->at[0] + (int32_t)loop->iterations * loop->step[0]);
}

void generate_loop(struct generator *g)
{
    const uint16_t kept = g->kept;
    unsigned items = 1 + below(g, 5);
    struct loop loop;
    size_t begin;

    loop_choose(g, &loop);
    for (unsigned i = 0; i < POINTERS; i++)
        put_pointer(g, loop.pointer[i], DATA_MIDDLE + (uint64_t)(int64_t)loop.at[i]);
    put_pointer(g, loop.counter, loop.end == END_UP ? 0 : loop.iterations);
    put_pointer(g, loop.bound, bound_of(g, &loop));
    put_pointer(g, loop.table,
                DATA_MIDDLE + 0x1000 * (uint64_t)below(g, 4) -
                    (one_in(g, 2) ? 8 : 1) * below(g, 256));
    begin = g->length;
    for (unsigned i = 0; i < items + POINTERS; i++) {
        if (i % 2 == 1 && i / 2 < POINTERS)
            put_step(g, loop.pointer[i / 2], loop.step[i / 2]);
        else
            loop_item(g, &loop);
    }
    loop_end(g, &loop, begin);
    g->kept = kept;
}
