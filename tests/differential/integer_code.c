/*
 * Random integer instructions, see encode.h: one small routine per group, each of which writes its
 * bytes with random operand size, registers and addressing form.
 */
#include "encode.h"

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
    if (form == 0 && e.reg < 2) /* rotates: see integer_sized.inc */
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

        put_pointer(g, reg, interesting(g));
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

    switch (below(g, 6)) {
    case 4: /* PUSHF; XOR DWORD [RSP], flags; POPF: arithmetic ones and DF */
        put(g, 0x9c, 1);
        put(g, 0x243481, 3);
        put(g, below(g, 0x1000) & 0xcd5, 4);
        put(g, 0x9d, 1);
        g->count += 3;
        return;
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

/* In the window, or where up to 200 elements may run into the end of what is allowed. */
static uint64_t string_pointer(struct generator *g, bool backwards)
{
    static const uint64_t ends[] = {0x2000, 0x1000 * DATA_UNMAPPED, 0x1000 * DATA_READ_ONLY,
                                    DATA_BYTES};
    static const uint64_t beginnings[] = {0x1000 * (DATA_UNMAPPED + 1),
                                          0x1000 * (DATA_READ_ONLY + 1)};
    uint64_t distance = below(g, 300);

    if (!one_in(g, g->edge_rate / 8 + 2))
        return DATA_MIDDLE + below(g, 0x1000);
    return DATA_BASE +
           (backwards ? beginnings[below(g, 2)] + distance : ends[below(g, 4)] - distance);
}

/* String instructions, with their registers set up for it; the direction flag is cleared behind. */
static void gen_string(struct generator *g)
{
    static const uint8_t opcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    uint8_t opcode = opcodes[below(g, sizeof opcodes)];
    unsigned size = below(g, 4);
    bool backwards = one_in(g, 3);

    put_pointer(g, RSI, string_pointer(g, backwards));
    put_pointer(g, RDI, string_pointer(g, backwards));
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
    gen_string,        gen_inc_dec,
    gen_test_not_neg,  gen_shift_double,
    gen_exchange_wide, gen_single_byte,
};

void generate_integer(struct generator *g)
{
    groups[below(g, sizeof groups / sizeof *groups)](g);
}

void generate_flags(struct generator *g)
{
    static void (*const setters[])(struct generator * g) = {
        gen_alu, gen_alu_immediate, gen_test_not_neg, gen_inc_dec, gen_adx, gen_exchange,
    };

    setters[below(g, sizeof setters / sizeof *setters)](g);
}
