/*
 * Random instruction sequences: see generate.h. One small routine per group of instructions; each
 * writes its bytes with random operand size, registers and addressing form. Encodings: Intel SDM
 * vol. 2.
 */
#include "generate.h"

#include <string.h>

#include "cpu/x86/vector.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R14 = 14, R15 = 15 };

/* One instruction in the making. */
struct encoding {
    uint8_t prefix66, prefix_f, lock; /* 0 or the byte; prefix_f: F2 or F3 */
    bool wide;                        /* REX.W */
    bool byte_registers;              /* REX is forced so that SPL to DIL are meant */
    uint8_t map;                      /* 0, 1 (0F), 2 (0F38), 3 (0F3A) */
    uint8_t opcode;
    uint8_t reg, rm;
    bool memory;
    uint8_t index, scale; /* memory: index R14 or none (4) */
    uint8_t kind;         /* memory: enum address */
    int32_t displacement;
    uint8_t vex; /* 0: legacy; else VEX */
    uint8_t vvvv, pp, l;
    bool short_address;
    unsigned immediate_bytes;
    uint64_t immediate;
};

enum address { BASE_R15, BASE_RSP, ABSOLUTE, RIP_RELATIVE };

uint64_t generator_random(struct generator *g)
{
    /* splitmix64 */
    uint64_t z = g->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static unsigned below(struct generator *g, unsigned limit)
{
    return (unsigned)(generator_random(g) >> 32) % limit;
}

static bool one_in(struct generator *g, unsigned n)
{
    return below(g, n) == 0;
}

static uint8_t free_register(struct generator *g)
{
    static const uint8_t registers[] = {0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13};

    return registers[below(g, sizeof registers)];
}

static uint8_t any_register(struct generator *g)
{
    return (uint8_t)below(g, 16);
}

static uint64_t interesting(struct generator *g)
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

static void put(struct generator *g, uint64_t value, unsigned bytes)
{
    memcpy(g->code + g->length, &value, bytes);
    g->length += bytes;
}

/* -- encoding -- */

static uint8_t rex_bits(const struct encoding *e)
{
    bool base_high = e->memory ? e->kind == BASE_R15 : e->rm > 7;
    bool index_high = e->memory && e->index == R14;

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

static void put_memory(struct generator *g, const struct encoding *e)
{
    uint8_t reg = (uint8_t)((e->reg & 7) << 3);
    uint64_t absolute = DATA_MIDDLE + (uint64_t)(int64_t)e->displacement;

    switch (e->kind) {
    case BASE_R15:
        if (e->index == 4) {
            put(g, 0x80 | reg | 7, 1);
        } else {
            put(g, 0x80 | reg | 4, 1);
            put(g, (uint8_t)(e->scale << 6 | 6 << 3 | 7), 1);
        }
        put(g, (uint32_t)e->displacement, 4);
        break;
    case BASE_RSP:
        put(g, 0x40 | reg | 4, 1);
        put(g, (uint8_t)(e->scale << 6 | (e->index == 4 ? 4 : 6) << 3 | 4), 1);
        put(g, (uint8_t)(e->displacement & 0x3f), 1);
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

static void emit(struct generator *g, const struct encoding *e)
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

/* Makes RM a random memory operand, aligned to `align` where that is not 1. */
static void choose_memory(struct generator *g, struct encoding *e, unsigned align)
{
    e->memory = true;
    e->kind = (uint8_t)below(g, 4);
    e->index = 4;
    e->displacement = (int32_t)below(g, 0x1f00);
    /* Now and then across the end of the window: a page fault. */
    if (one_in(g, 400))
        e->displacement = (int32_t)(DATA_BYTES - 0x1000) - (int32_t)below(g, 16);
    e->displacement -= one_in(g, 4) ? 0x800 : 0;
    if (align > 1 && e->kind == BASE_RSP)
        e->kind = BASE_R15;
    e->displacement &= -(int32_t)align;
    if (align == 1 && e->kind <= BASE_RSP && one_in(g, 3)) {
        e->index = R14;
        e->scale = (uint8_t)below(g, 4);
    }
    e->short_address = one_in(g, 12) && e->kind != RIP_RELATIVE;
}

/* Operand size: 0 byte, 1 word, 2 dword, 3 qword. */
static unsigned choose_size(struct generator *g, struct encoding *e)
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

/* Byte operands without REX may name AH to BH, never SPL (which would move the stack). */
static void fix_byte_register(struct generator *g, uint8_t *number)
{
    while (*number == RSP || *number >= R14)
        *number = free_register(g);
}

static void choose_operands(struct generator *g, struct encoding *e, bool writes_rm)
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

static void set_immediate(struct generator *g, struct encoding *e, unsigned size)
{
    e->immediate = interesting(g);
    e->immediate_bytes = size == 0 ? 1 : size == 1 ? 2 : 4;
}

/* -- groups -- */

static void gen_alu(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    bool to_reg = one_in(g, 2);
    unsigned op = below(g, 8);

    e.opcode = (uint8_t)(op << 3 | (to_reg ? 2 : 0) | (size != 0));
    choose_operands(g, &e, !to_reg);
    if (e.memory && !to_reg && op != 7 && one_in(g, 5))
        e.lock = 0xf0;
    emit(g, &e);
}

static void gen_alu_immediate(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    uint8_t op = (uint8_t)below(g, 8);

    e.opcode = size == 0 ? 0x80 : one_in(g, 2) ? 0x83 : 0x81;
    choose_operands(g, &e, true);
    if (size == 0 && e.rm == RSP)
        e.rm = RAX;
    e.reg = op;
    set_immediate(g, &e, e.opcode == 0x81 ? size : 0);
    emit(g, &e);
}

static void gen_test_not_neg(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    uint8_t op = one_in(g, 3) ? 0 : (uint8_t)(2 + below(g, 2));

    e.opcode = size == 0 ? 0xf6 : 0xf7;
    choose_operands(g, &e, true);
    e.reg = op;
    if (op == 0)
        set_immediate(g, &e, size);
    emit(g, &e);
}

static void gen_inc_dec(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);

    e.opcode = size == 0 ? 0xfe : 0xff;
    choose_operands(g, &e, true);
    e.reg = (uint8_t)below(g, 2);
    if (e.memory && one_in(g, 4))
        e.lock = 0xf0;
    emit(g, &e);
}

/* CMP reg, reg: gives the flags a value that the manual defines. */
static void define_flags(struct generator *g)
{
    struct encoding e = {
        .wide = true, .opcode = 0x39, .reg = any_register(g), .rm = any_register(g)};

    emit(g, &e);
}

/* Keeps what is defined of the flags (LAHF) and hides an undefined OF. */
static void hide_overflow(struct generator *g)
{
    put(g, 0x9f, 1);
    g->count++;
    define_flags(g);
}

static void gen_shift(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    unsigned form = below(g, 3);
    static const uint8_t opcodes[] = {0xc0, 0xd0, 0xd2};

    e.opcode = (uint8_t)(opcodes[form] | (size != 0));
    choose_operands(g, &e, true);
    e.reg = (uint8_t)below(g, 8);
    if (form == 0) {
        e.immediate = below(g, 256);
        e.immediate_bytes = 1;
    }
    emit(g, &e);
    if (form == 0)
        hide_overflow(g);
}

static void gen_shift_double(struct generator *g)
{
    struct encoding e = {.map = 1};

    if (choose_size(g, &e) == 0)
        e.byte_registers = false;
    e.opcode = one_in(g, 2) ? 0xa4 : 0xac;
    choose_operands(g, &e, true);
    /* 16 bits shifted by more than 16: the result is undefined. */
    e.immediate = below(g, e.prefix66 ? 17 : 256);
    e.immediate_bytes = 1;
    e.reg = any_register(g);
    e.rm = free_register(g);
    emit(g, &e);
    hide_overflow(g);
}

static void gen_bit(struct generator *g)
{
    struct encoding e = {.map = 1};

    if (choose_size(g, &e) == 0)
        e.byte_registers = false;
    if (one_in(g, 2)) {
        e.opcode = (uint8_t)(0xa3 + 8 * below(g, 4));
        choose_operands(g, &e, true);
        e.reg = e.memory ? R14 : any_register(g);
        e.rm = free_register(g);
    } else {
        uint8_t op = (uint8_t)(4 + below(g, 4));

        e.opcode = 0xba;
        choose_operands(g, &e, true);
        e.rm = free_register(g);
        e.reg = op;
        e.immediate = below(g, 256);
        e.immediate_bytes = 1;
    }
    emit(g, &e);
}

static void gen_scan(struct generator *g)
{
    static const uint8_t opcodes[] = {0xbc, 0xbd, 0xb8};
    struct encoding e = {.map = 1};
    unsigned which = below(g, 3);

    if (choose_size(g, &e) == 0)
        e.byte_registers = false;
    e.opcode = opcodes[which];
    if (which == 2 || (g->bmi && one_in(g, 2)))
        e.prefix_f = 0xf3;
    choose_operands(g, &e, false);
    e.reg = free_register(g);
    e.rm = any_register(g);
    emit(g, &e);
}

static void gen_multiply(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    unsigned form = below(g, 3);

    if (form == 0) {
        e.opcode = size == 0 ? 0xf6 : 0xf7;
        choose_operands(g, &e, true);
        e.reg = (uint8_t)(4 + below(g, 2));
    } else {
        e.byte_registers = false;
        e.map = form == 1 ? 1 : 0;
        e.opcode = form == 1 ? 0xaf : one_in(g, 2) ? 0x69 : 0x6b;
        choose_operands(g, &e, false);
        e.reg = free_register(g);
        e.rm = any_register(g);
        if (form == 2)
            set_immediate(g, &e, e.opcode == 0x69 ? (size == 1 ? 1 : 2) : 0);
    }
    emit(g, &e);
    define_flags(g);
}

/* Mostly with a small dividend, so that most divisions have a result. */
static void gen_divide(struct generator *g)
{
    struct encoding e = {0}, zero = {.opcode = 0x31, .reg = RDX, .rm = RDX};
    unsigned size = choose_size(g, &e);

    if (!one_in(g, 16))
        emit(g, &zero);
    e.opcode = size == 0 ? 0xf6 : 0xf7;
    choose_operands(g, &e, true);
    e.reg = (uint8_t)(6 + below(g, 2));
    if (size == 0 && !one_in(g, 16)) {
        struct encoding extend = {.map = 1, .opcode = 0xb6, .reg = RAX, .rm = RAX};

        emit(g, &extend);
    }
    emit(g, &e);
    define_flags(g);
}

static void gen_move(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);
    bool to_reg = one_in(g, 2);

    e.opcode = (uint8_t)(0x88 | (to_reg ? 2 : 0) | (size != 0));
    choose_operands(g, &e, !to_reg);
    emit(g, &e);
}

static void gen_move_immediate(struct generator *g)
{
    struct encoding e = {0};
    unsigned size = choose_size(g, &e);

    if (size == 3 && one_in(g, 2)) {
        uint8_t reg = free_register(g);

        put(g, 0x48 | (reg > 7), 1);
        put(g, 0xb8 | (reg & 7), 1);
        put(g, interesting(g), 8);
        g->count++;
        return;
    }
    e.opcode = size == 0 ? 0xc6 : 0xc7;
    choose_operands(g, &e, true);
    e.reg = 0;
    set_immediate(g, &e, size);
    emit(g, &e);
}

static void gen_extend(struct generator *g)
{
    static const uint8_t opcodes[] = {0xb6, 0xb7, 0xbe, 0xbf};
    struct encoding e = {.map = 1};

    if (choose_size(g, &e) == 0)
        e.byte_registers = false;
    e.opcode = opcodes[below(g, 4)];
    e.reg = free_register(g);
    e.rm = any_register(g);
    if (one_in(g, 2))
        choose_memory(g, &e, 1);
    else if (one_in(g, 4)) { /* MOVSXD */
        e.map = 0;
        e.opcode = 0x63;
    }
    emit(g, &e);
}

static void gen_lea(struct generator *g)
{
    struct encoding e = {.opcode = 0x8d};

    if (choose_size(g, &e) == 0)
        e.byte_registers = false;
    choose_memory(g, &e, 1);
    e.reg = free_register(g);
    emit(g, &e);
}

static void gen_exchange(struct generator *g)
{
    static const struct {
        uint8_t map, opcode;
    } forms[] = {{0, 0x86}, {1, 0xc0}, {1, 0xb0}}; /* XCHG, XADD, CMPXCHG */
    struct encoding e = {0};
    unsigned size = choose_size(g, &e), form = below(g, 3);

    e.map = forms[form].map;
    e.opcode = (uint8_t)(forms[form].opcode | (size != 0));
    choose_operands(g, &e, true);
    e.reg = free_register(g);
    e.rm = free_register(g);
    if (size == 0) {
        fix_byte_register(g, &e.reg);
        fix_byte_register(g, &e.rm);
    }
    if (e.memory && one_in(g, 3))
        e.lock = 0xf0;
    emit(g, &e);
}

static void gen_exchange_wide(struct generator *g)
{
    struct encoding e = {.map = 1, .opcode = 0xc7, .reg = 1};

    e.wide = one_in(g, 2);
    choose_memory(g, &e, one_in(g, 30) ? 1 : 16);
    if (one_in(g, 2))
        e.lock = 0xf0;
    emit(g, &e);
}

static void gen_conditional(struct generator *g)
{
    struct encoding e = {.map = 1};

    if (one_in(g, 2)) {
        e.opcode = (uint8_t)(0x90 + below(g, 16));
        e.byte_registers = true;
        e.rm = free_register(g);
        if (one_in(g, 2))
            choose_memory(g, &e, 1);
    } else {
        if (choose_size(g, &e) == 0)
            e.byte_registers = false;
        e.opcode = (uint8_t)(0x40 + below(g, 16));
        e.reg = free_register(g);
        e.rm = any_register(g);
        if (one_in(g, 2))
            choose_memory(g, &e, 1);
    }
    emit(g, &e);
}

static void gen_stack(struct generator *g)
{
    uint8_t reg = free_register(g);
    struct encoding e = {.opcode = 0xff, .reg = 6};

    switch (below(g, 5)) {
    case 0:
        put(g, 0x6a, 1);
        put(g, below(g, 256), 1);
        break;
    case 1: /* PUSHF; POP reg */
        put(g, 0x9c, 1);
        g->count++;
        break;
    case 2:
        choose_memory(g, &e, 1);
        emit(g, &e);
        e.opcode = 0x8f;
        e.reg = 0;
        emit(g, &e);
        return;
    case 3:
        put(g, 0x66, 1);
        put(g, 0x50, 1);
        put(g, 0x66, 1);
        put(g, 0x58 | (reg & 7) % 4, 1);
        g->count += 2;
        return;
    default:
        put(g, 0x40 | (reg > 7), 1);
        put(g, 0x50 | (reg & 7), 1);
    }
    reg = free_register(g);
    put(g, 0x40 | (reg > 7), 1);
    put(g, 0x58 | (reg & 7), 1);
    g->count += 2;
}

static void gen_single_byte(struct generator *g)
{
    static const uint8_t opcodes[] = {0x98, 0x99, 0xf5, 0xf8, 0xf9, 0x9e, 0x9f, 0x90, 0xfc};
    unsigned size = below(g, 3);

    if (size == 1)
        put(g, 0x66, 1);
    if (size == 2)
        put(g, 0x48, 1);
    put(g, opcodes[below(g, sizeof opcodes)], 1);
    g->count++;
}

static void gen_swap(struct generator *g)
{
    uint8_t reg = free_register(g);

    put(g, 0x40 | (one_in(g, 2) ? 8 : 0) | (reg > 7), 1);
    put(g, 0x0f, 1);
    put(g, 0xc8 | (reg & 7), 1);
    g->count++;
}

static void gen_movbe_crc(struct generator *g)
{
    struct encoding e = {.map = 2, .reg = free_register(g), .rm = any_register(g)};
    unsigned size = choose_size(g, &e);

    if (g->movbe && one_in(g, 2)) {
        e.byte_registers = false;
        e.opcode = one_in(g, 2) ? 0xf0 : 0xf1;
        choose_memory(g, &e, 1);
    } else {
        e.prefix_f = 0xf2;
        e.opcode = size == 0 ? 0xf0 : 0xf1;
        if (one_in(g, 2))
            choose_memory(g, &e, 1);
        else if (size == 0)
            fix_byte_register(g, &e.rm);
    }
    emit(g, &e);
}

static void gen_bmi(struct generator *g)
{
    static const struct {
        uint8_t map, opcode, pp, reg; /* reg 0xff: a register */
    } forms[] = {
        {2, 0xf2, 0, 0xff}, {2, 0xf3, 0, 1},    {2, 0xf3, 0, 2},    {2, 0xf3, 0, 3},
        {2, 0xf5, 0, 0xff}, {2, 0xf5, 2, 0xff}, {2, 0xf5, 3, 0xff}, {2, 0xf6, 3, 0xff},
        {2, 0xf7, 0, 0xff}, {2, 0xf7, 1, 0xff}, {2, 0xf7, 2, 0xff}, {2, 0xf7, 3, 0xff},
        {3, 0xf0, 3, 0xff},
    };
    unsigned form = below(g, sizeof forms / sizeof *forms);
    struct encoding e = {.vex = 1,
                         .map = forms[form].map,
                         .opcode = forms[form].opcode,
                         .pp = forms[form].pp,
                         .wide = one_in(g, 2)};

    if (!g->bmi)
        return;
    e.reg = forms[form].reg == 0xff ? free_register(g) : forms[form].reg;
    e.rm = any_register(g);
    e.vvvv = free_register(g);
    if (form == 12) {
        e.vvvv = 0;
        e.immediate = below(g, 256);
        e.immediate_bytes = 1;
    }
    if (one_in(g, 2))
        choose_memory(g, &e, 1);
    emit(g, &e);
    define_flags(g);
}

static void gen_adx(struct generator *g)
{
    struct encoding e = {.map = 2,
                         .opcode = 0xf6,
                         .reg = free_register(g),
                         .rm = any_register(g),
                         .wide = one_in(g, 2)};

    if (!g->adx)
        return;
    if (one_in(g, 2))
        e.prefix66 = 0x66;
    else
        e.prefix_f = 0xf3;
    if (one_in(g, 2))
        choose_memory(g, &e, 1);
    emit(g, &e);
}

static void put_pointer(struct generator *g, uint8_t reg, uint64_t value)
{
    put(g, 0x48, 1);
    put(g, 0xb8 | reg, 1);
    put(g, value, 8);
    g->count++;
}

/* String instructions, with their registers set up for it; the direction flag is cleared behind. */
static void gen_string(struct generator *g)
{
    static const uint8_t opcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    uint8_t opcode = opcodes[below(g, sizeof opcodes)];
    unsigned size = below(g, 4);
    bool near_end = one_in(g, 40);
    bool backwards = one_in(g, 3);

    put_pointer(g, RSI, DATA_MIDDLE + below(g, 0x1000));
    put_pointer(g, RDI,
                near_end ? DATA_BASE + DATA_BYTES - below(g, 64) : DATA_MIDDLE + below(g, 0x1000));
    put_pointer(g, RCX, one_in(g, 8) ? 0 : below(g, 200));
    put(g, backwards ? 0xfd : 0xfc, 1);
    if (one_in(g, 8))
        put(g, 0x67, 1);
    if (size == 1)
        put(g, 0x66, 1);
    if (!one_in(g, 4))
        put(g, one_in(g, 2) ? 0xf3 : 0xf2, 1);
    if (size == 3)
        put(g, 0x48, 1);
    put(g, opcode | (size != 0), 1);
    put(g, 0xfc, 1);
    g->count += 3;
}

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

static bool writes_fixed(const struct x86_vector_operand *operand)
{
    return operand->class == X86_CLASS_GPR && (operand->access & X86_OPERAND_WRITE) &&
           (operand->number == RSP || operand->number >= R14);
}

/* Whether the bytes are a vector instruction whose only memory is its plain operand. */
static bool vector_usable(const struct generator *g, const uint8_t *b, struct x86_insn *insn)
{
    struct x86_vector_insn v;

    if (x86_decode(insn, X86_CODE_64, b, X86_INSN_BYTES_MAX) != X86_DECODE_OK ||
        insn->op != X86_OP_VECTOR || !x86_vector_describe(insn, g->feature, &v))
        return false;
    if (v.memory_access && v.memory != X86_MEMORY_PLAIN)
        return false;
    if (v.unit == X86_UNIT_MMX || v.reg.class == X86_CLASS_MMX || v.rm.class == X86_CLASS_MMX ||
        (v.flags & X86_VECTOR_ENTERS_MMX))
        return false;
    return !writes_fixed(&v.reg) && !writes_fixed(&v.rm) && !writes_fixed(&v.vvvv);
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
            b[n++] = (uint8_t)(below(g, 4) << 6);
            b[n++] = (uint8_t)below(g, 0x1f);
            n += 2;
        }
        b[n] = (uint8_t)(bits >> 32);
        if (!vector_usable(g, b, &insn))
            continue;
        memcpy(g->code + g->length, b, insn.length);
        g->length += insn.length;
        g->count++;
        return;
    }
}

static void gen_x87(struct generator *g)
{
    struct encoding e = {0};

    if (one_in(g, 2)) {
        static const uint8_t loads[][2] = {{0xd9, 0}, {0xdd, 0}, {0xdb, 0}, {0xdf, 0}, {0xdd, 3},
                                           {0xd9, 3}, {0xdb, 3}, {0xdb, 5}, {0xdb, 7}, {0xd8, 0},
                                           {0xdc, 1}, {0xda, 4}, {0xde, 6}, {0xdf, 5}, {0xdd, 1}};
        unsigned which = below(g, sizeof loads / sizeof *loads);

        e.opcode = loads[which][0];
        e.reg = loads[which][1];
        /* 80 bits across the window's end: the host stores a part before it faults. */
        choose_memory(g, &e, 16);
    } else {
        static const uint8_t ops[][2] = {{0xd8, 0xc0}, {0xd8, 0xc8}, {0xd8, 0xe0}, {0xd8, 0xf0},
                                         {0xd9, 0xc0}, {0xd9, 0xc8}, {0xd9, 0xe8}, {0xd9, 0xfa},
                                         {0xd9, 0xe0}, {0xd9, 0xe1}, {0xdc, 0xc0}, {0xde, 0xc0},
                                         {0xdd, 0xd0}, {0xdb, 0xe8}, {0xd9, 0xf6}, {0xd9, 0xf7}};
        unsigned which = below(g, sizeof ops / sizeof *ops);
        uint8_t last = ops[which][1];

        put(g, ops[which][0], 1);
        put(g, (last & 0xf) == 0 || last == 0xc8 || last == 0xe8 ? last + below(g, 8) % 7 : last,
            1);
        g->count++;
        return;
    }
    emit(g, &e);
}

static void (*const groups[])(struct generator *g) = {
    gen_alu,           gen_alu,
    gen_alu,           gen_alu_immediate,
    gen_alu_immediate, gen_shift,
    gen_shift,         gen_bit,
    gen_scan,          gen_multiply,
    gen_divide,        gen_move,
    gen_move,          gen_move_immediate,
    gen_extend,        gen_lea,
    gen_exchange,      gen_conditional,
    gen_conditional,   gen_stack,
    gen_swap,          gen_movbe_crc,
    gen_bmi,           gen_adx,
    gen_string,        gen_sse,
    gen_vector,        gen_vector,
    gen_sse,           gen_x87,
    gen_test_not_neg,  gen_inc_dec,
    gen_shift_double,  gen_exchange_wide,
    gen_single_byte,
};

static void generate_one(struct generator *g)
{
    groups[below(g, sizeof groups / sizeof *groups)](g);
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

void generate(struct generator *g, unsigned instructions)
{
    g->length = 0;
    g->count = 0;
    while (g->count < instructions && g->length + 256 < g->capacity) {
        if (one_in(g, 8))
            generate_branch(g);
        else
            generate_one(g);
    }
    put(g, 0xe9, 1);
    put(g, EXIT_BASE - (CODE_BASE + g->length + 4), 4);
}
