/*
 * Encoded instructions and the translator's own ones: see emit.h. One description of an encoded
 * instruction (struct encoding) serves the small assembler here, which fills it from its
 * arguments, and emit_guest.c, which fills it from a decoded instruction.
 */
#include "cpu/soft/emit.h"

#include <stddef.h>
#include <string.h>

#include "cpu/soft/emit_encoding.h"

#define INSN_ROOM 32u /* over the longest encoding */

/* -- bytes -- */

static void put(struct emit *e, const void *bytes, unsigned count)
{
    if (e->full || (uintptr_t)(e->end - e->at) < count) {
        e->full = true;
        return;
    }
    memcpy(e->at, bytes, count);
    e->at += count;
}

#define PUT(e, ...) put(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint8_t bit(unsigned number, unsigned n, unsigned to)
{
    return (uint8_t)((number >> n & 1) << to);
}

/* REX.RXB, as 4, 2 and 1. */
static uint8_t rex_bits(const struct encoding *c)
{
    uint8_t bits = 0;

    if (c->addressing != NO_MODRM && c->addressing != IN_OPCODE)
        bits |= bit(c->reg, 3, 2);
    if (c->addressing == AT_INDEX && c->index != HOST_NONE)
        bits |= bit(c->index, 3, 1);
    if (c->addressing != NO_MODRM && c->addressing != AT_STATE && c->rm != HOST_NONE)
        bits |= bit(c->rm, 3, 0);
    return bits;
}

/* The bytes of one instruction on their way, with room for INSN_ROOM. */
static void add(uint8_t **at, uint8_t byte)
{
    *(*at)++ = byte;
}

/* `count` of 8 bytes: what lies behind them comes next. */
static void add_value(uint8_t **at, uint64_t value, unsigned count)
{
    memcpy(*at, &value, sizeof value);
    *at += count;
}

static bool put_legacy(uint8_t **at, const struct encoding *c)
{
    static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};
    uint8_t rex = (uint8_t)(rex_bits(c) | (c->wide ? 8 : 0));

    if (c->no_rex && (rex || c->rex))
        return false;
    if (c->addressing == AT_STATE || c->addressing == AT_ENTRY)
        add(at, 0x65);
    if (c->lock)
        add(at, 0xf0);
    if (c->size_16 && c->pp != 1)
        add(at, 0x66);
    if (c->pp)
        add(at, mandatory[c->pp]);
    if (rex || c->rex)
        add(at, (uint8_t)(0x40 | rex));
    if (c->map > 0)
        add(at, 0x0f);
    if (c->map > 1)
        add(at, (uint8_t)(c->map == 2 ? 0x38 : 0x3a));
    return true;
}

/* SDM vol. 2, 2.3.5: R, X, B and vvvv are inverted. */
static void put_vex(uint8_t **at, const struct encoding *c)
{
    uint8_t bits = (uint8_t)(~rex_bits(c) & 7);
    uint8_t last = (uint8_t)((~c->vvvv & 15) << 3 | (c->vector_length & 1) << 2 | c->pp);

    if (c->map == 1 && !c->wide && (bits & 3) == 3) {
        add(at, 0xc5);
        add(at, (uint8_t)((bits & 4) << 5 | last));
        return;
    }
    add(at, 0xc4);
    add(at, (uint8_t)(bits << 5 | c->map));
    add(at, (uint8_t)((c->wide ? 0x80 : 0) | last));
}

/* SDM vol. 2, 2.7: R' and, for a register in rm, X are bit 4 of the numbers. */
static void put_evex(uint8_t **at, const struct encoding *c)
{
    uint8_t bits = (uint8_t)(rex_bits(c) << 5 | bit(c->reg, 4, 4));

    if (c->addressing == AT_REGISTER)
        bits |= bit(c->rm, 4, 6);
    add(at, 0x62);
    add(at, (uint8_t)((~bits & 0xf0) | c->map));
    add(at, (uint8_t)((c->wide ? 0x80 : 0) | (~c->vvvv & 15) << 3 | 4 | c->pp));
    add(at, (uint8_t)((c->p3 & 0xf7) | (c->vvvv & 16 ? 0 : 8)));
}

/* ModRM, SIB and displacement of [rm + disp]: RSP and R12 want a SIB byte, RBP and R13 a
 * displacement even if it is 0. EVEX scales 8-bit displacements, and so has only 0 among them. */
static void put_base(uint8_t **at, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3), rm = c->rm & 7;
    bool short_disp = c->disp == (int8_t)c->disp && c->vex != X86_VEX_EVEX;
    unsigned bytes = c->disp == 0 && rm != HOST_RBP ? 0 : short_disp ? 1 : 4;

    add(at, (uint8_t)((bytes == 0 ? 0 : bytes == 1 ? 0x40 : 0x80) | reg | rm));
    if (rm == HOST_RSP)
        add(at, 0x24);
    add_value(at, (uint32_t)c->disp, bytes);
}

static void put_index(uint8_t **at, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3);
    uint8_t index = c->index == HOST_NONE ? HOST_RSP : c->index & 7;
    bool short_disp = c->disp == (int8_t)c->disp && c->vex != X86_VEX_EVEX;
    unsigned bytes = short_disp ? 1 : 4;

    if (c->rm == HOST_NONE) { /* mod 0 with base 5: disp32 and no base */
        add(at, (uint8_t)(reg | 4));
        add(at, (uint8_t)(c->scale << 6 | index << 3 | 5));
        add_value(at, (uint32_t)c->disp, 4);
        return;
    }
    if (c->disp == 0 && (c->rm & 7) != HOST_RBP)
        bytes = 0;
    add(at, (uint8_t)((bytes == 0 ? 0 : bytes == 1 ? 0x40 : 0x80) | reg | 4));
    add(at, (uint8_t)(c->scale << 6 | index << 3 | (c->rm & 7)));
    add_value(at, (uint32_t)c->disp, bytes);
}

static void put_operands(uint8_t **at, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3);

    switch (c->addressing) {
    case AT_REGISTER:
        add(at, (uint8_t)(0xc0 | reg | (c->rm & 7)));
        break;
    case AT_BASE:
        put_base(at, c);
        break;
    case AT_INDEX:
        put_index(at, c);
        break;
    case AT_STATE:
        add(at, (uint8_t)(reg | 4));
        add(at, 0x25);
        add_value(at, (uint32_t)c->disp, 4);
        break;
    case AT_ENTRY:
        add(at, (uint8_t)(0x80 | reg | (c->rm & 7)));
        add_value(at, (uint32_t)c->disp, 4);
        break;
    default:
        break;
    }
}

/* Where there is room for the longest, in place; else it may fit all the same. */
bool encoding_put(struct emit *e, const struct encoding *c)
{
    uint8_t buffer[INSN_ROOM];
    bool roomy = !e->full && e->end - e->at >= (ptrdiff_t)sizeof buffer;
    uint8_t *begin = roomy ? e->at : buffer, *at = begin;

    if (c->vex != X86_VEX_NONE && c->addressing == AT_STATE)
        add(&at, 0x65);
    if (c->vex == X86_VEX_VEX)
        put_vex(&at, c);
    else if (c->vex == X86_VEX_EVEX)
        put_evex(&at, c);
    else if (!put_legacy(&at, c))
        return false;
    add(&at, c->addressing == IN_OPCODE ? (uint8_t)((c->opcode & 0xf8) | (c->rm & 7)) : c->opcode);
    put_operands(&at, c);
    add_value(&at, c->immediate, c->immediate_bytes);
    if (roomy)
        e->at = at;
    else
        put(e, buffer, (unsigned)(at - begin));
    return true;
}

/* -- the small assembler -- */

static void put_state(struct emit *e, struct encoding c, enum host_register reg, int32_t disp)
{
    c.addressing = AT_STATE;
    c.reg = (uint8_t)reg;
    c.disp = disp;
    encoding_put(e, &c);
}

static void put_register(struct emit *e, struct encoding c, unsigned reg, unsigned rm)
{
    c.addressing = AT_REGISTER;
    c.reg = (uint8_t)reg;
    c.rm = (uint8_t)rm;
    encoding_put(e, &c);
}

static void put_memory(struct emit *e, struct encoding c, enum host_register reg,
                       enum host_register base)
{
    c.addressing = AT_BASE;
    c.reg = (uint8_t)reg;
    c.rm = (uint8_t)base;
    encoding_put(e, &c);
}

#define OPCODE(...) ((struct encoding){__VA_ARGS__})

/* op reg, rm of each of the eight */
static uint8_t alu_opcode(enum emit_alu op)
{
    return (uint8_t)(op << 3 | 3);
}

void emit_mov_reg_state(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0x8b, .wide = true), reg, disp);
}

void emit_mov_reg_state32(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0x8b), reg, disp);
}

void emit_movsxd_reg_state(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0x63, .wide = true), reg, disp);
}

void emit_mov_reg_state16(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.map = 1, .opcode = 0xb7), reg, disp);
}

void emit_cmovae_reg_state(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.map = 1, .opcode = 0x43, .wide = true), reg, disp);
}

void emit_mov_state_reg(struct emit *e, int32_t disp, enum host_register reg)
{
    put_state(e, OPCODE(.opcode = 0x89, .wide = true), reg, disp);
}

void emit_mov_state_reg32(struct emit *e, int32_t disp, enum host_register reg)
{
    put_state(e, OPCODE(.opcode = 0x89), reg, disp);
}

void emit_mov_state_reg16(struct emit *e, int32_t disp, enum host_register reg)
{
    put_state(e, OPCODE(.opcode = 0x89, .size_16 = true), reg, disp);
}

void emit_mov_state_imm32(struct emit *e, int32_t disp, uint32_t value)
{
    put_state(e, OPCODE(.opcode = 0xc7, .immediate = value, .immediate_bytes = 4), 0, disp);
}

void emit_mov_state_imm64(struct emit *e, int32_t disp, int32_t value)
{
    put_state(
        e, OPCODE(.opcode = 0xc7, .immediate = (uint32_t)value, .immediate_bytes = 4, .wide = true),
        0, disp);
}

void emit_inc_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0xff, .wide = true), 0, disp);
}

void emit_dec_state32(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0xff), (enum host_register)1, disp);
}

void emit_cmp_state32_imm8(struct emit *e, int32_t disp, int8_t value)
{
    put_state(e, OPCODE(.opcode = 0x83, .immediate = (uint8_t)value, .immediate_bytes = 1),
              (enum host_register)EMIT_CMP, disp);
}

void emit_sub_state_imm8(struct emit *e, int32_t disp, int8_t value)
{
    put_state(
        e, OPCODE(.opcode = 0x83, .wide = true, .immediate = (uint8_t)value, .immediate_bytes = 1),
        (enum host_register)EMIT_SUB, disp);
}

void emit_bt_state16(struct emit *e, int32_t disp, unsigned bit)
{
    put_state(
        e,
        OPCODE(.map = 1, .opcode = 0xba, .size_16 = true, .immediate = bit, .immediate_bytes = 1),
        (enum host_register)4, disp);
}

static void put_entry(struct emit *e, struct encoding c, unsigned reg, enum host_register at)
{
    c.addressing = AT_ENTRY;
    c.reg = (uint8_t)reg;
    c.rm = (uint8_t)at;
    encoding_put(e, &c);
}

void emit_mov_reg_entry(struct emit *e, enum host_register reg, enum host_register at, int32_t disp)
{
    put_entry(e, OPCODE(.opcode = 0x8b, .wide = true, .disp = disp), reg, at);
}

void emit_alu_reg_entry(struct emit *e, enum emit_alu op, enum host_register reg,
                        enum host_register at, int32_t disp)
{
    put_entry(e, OPCODE(.opcode = alu_opcode(op), .wide = true, .disp = disp), reg, at);
}

void emit_jmp_entry(struct emit *e, enum host_register at, int32_t disp)
{
    put_entry(e, OPCODE(.opcode = 0xff, .disp = disp), 4, at);
}

void emit_call_entry(struct emit *e, enum host_register at, int32_t disp)
{
    put_entry(e, OPCODE(.opcode = 0xff, .disp = disp), 2, at);
}

static void put_lea(struct emit *e, struct encoding c, enum host_register dst,
                    enum host_register base)
{
    c.opcode = 0x8d;
    c.reg = (uint8_t)dst;
    c.rm = (uint8_t)base;
    c.addressing = c.index == HOST_NONE && base != HOST_NONE ? AT_BASE : AT_INDEX;
    encoding_put(e, &c);
}

void emit_lea(struct emit *e, enum host_register dst, enum host_register base,
              enum host_register index, unsigned scale, int32_t disp)
{
    put_lea(e, OPCODE(.wide = true, .index = (uint8_t)index, .scale = (uint8_t)scale, .disp = disp),
            dst, base);
}

void emit_lea32(struct emit *e, enum host_register dst, enum host_register base,
                enum host_register index, unsigned scale, int32_t disp)
{
    put_lea(e, OPCODE(.index = (uint8_t)index, .scale = (uint8_t)scale, .disp = disp), dst, base);
}

void emit_mov_reg_reg(struct emit *e, enum host_register dst, enum host_register src)
{
    put_register(e, OPCODE(.opcode = 0x8b, .wide = true), dst, src);
}

void emit_mov_reg_reg32(struct emit *e, enum host_register dst, enum host_register src)
{
    put_register(e, OPCODE(.opcode = 0x8b), dst, src);
}

void emit_mov_reg_imm64(struct emit *e, enum host_register reg, uint64_t value)
{
    struct encoding c = {.opcode = 0xb8,
                         .addressing = IN_OPCODE,
                         .rm = (uint8_t)reg,
                         .immediate = value,
                         .immediate_bytes = 4};

    if (value > UINT32_MAX) {
        c.wide = true;
        if (value >= UINT64_C(0xffffffff80000000)) { /* a sign-extended 32-bit one */
            c.opcode = 0xc7;
            c.addressing = AT_REGISTER;
        } else {
            c.immediate_bytes = 8;
        }
    }
    encoding_put(e, &c);
}

uint8_t *emit_mov_reg_patched64(struct emit *e, enum host_register reg)
{
    struct encoding c = {.opcode = 0xb8,
                         .wide = true,
                         .addressing = IN_OPCODE,
                         .rm = (uint8_t)reg,
                         .immediate_bytes = 8};

    encoding_put(e, &c);
    return e->full ? NULL : e->at - 8;
}

void emit_movzx16(struct emit *e, enum host_register dst, enum host_register src)
{
    put_register(e, OPCODE(.map = 1, .opcode = 0xb7), dst, src);
}

void emit_movzx8(struct emit *e, enum host_register dst, enum host_register src)
{
    put_register(e, OPCODE(.map = 1, .opcode = 0xb6, .rex = src >= HOST_RSP), dst, src);
}

static void put_alu_imm(struct emit *e, struct encoding c, enum emit_alu op, unsigned reg)
{
    bool small = c.immediate == (uint64_t)(int8_t)c.immediate;

    c.opcode = small ? 0x83 : 0x81;
    c.immediate_bytes = small ? 1 : 4;
    put_register(e, c, op, reg);
}

void emit_alu_reg_imm(struct emit *e, enum emit_alu op, enum host_register reg, int32_t value)
{
    put_alu_imm(e, OPCODE(.wide = true, .immediate = (uint64_t)(int64_t)value), op, reg);
}

void emit_alu_reg_imm32(struct emit *e, enum emit_alu op, enum host_register reg, int32_t value)
{
    put_alu_imm(e, OPCODE(.immediate = (uint64_t)(int64_t)value), op, reg);
}

void emit_test_reg_imm(struct emit *e, enum host_register reg, int32_t value)
{
    put_register(e,
                 OPCODE(.opcode = 0xf7, .wide = true, .immediate_bytes = 4,
                        .immediate = (uint64_t)(int64_t)value),
                 0, reg);
}

void emit_alu_reg_reg(struct emit *e, enum emit_alu op, enum host_register dst,
                      enum host_register src)
{
    put_register(e, OPCODE(.opcode = alu_opcode(op), .wide = true), dst, src);
}

void emit_alu_reg_reg32(struct emit *e, enum emit_alu op, enum host_register dst,
                        enum host_register src)
{
    put_register(e, OPCODE(.opcode = alu_opcode(op)), dst, src);
}

void emit_alu_reg_state(struct emit *e, enum emit_alu op, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = alu_opcode(op), .wide = true), reg, disp);
}

void emit_alu_reg_state32(struct emit *e, enum emit_alu op, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = alu_opcode(op)), reg, disp);
}

void emit_add_reg_mem(struct emit *e, enum host_register reg, enum host_register base, int32_t disp)
{
    put_memory(e, OPCODE(.opcode = alu_opcode(EMIT_ADD), .wide = true, .disp = disp), reg, base);
}

void emit_decrement(struct emit *e, enum host_register base)
{
    put_memory(e, OPCODE(.opcode = 0xff), (enum host_register)1, base);
}

void emit_xor_reg_mem(struct emit *e, enum host_register reg, enum host_register base, int32_t disp)
{
    put_memory(e, OPCODE(.opcode = alu_opcode(EMIT_XOR), .wide = true, .disp = disp), reg, base);
}

void emit_cmp_reg_mem(struct emit *e, enum host_register reg, enum host_register base, int32_t disp)
{
    put_memory(e, OPCODE(.opcode = alu_opcode(EMIT_CMP), .wide = true, .disp = disp), reg, base);
}

static void put_shift(struct emit *e, struct encoding c, enum emit_shift op, unsigned reg)
{
    c.opcode = c.immediate == 1 ? 0xd1 : 0xc1;
    c.immediate_bytes = c.immediate != 1;
    put_register(e, c, op, reg);
}

void emit_shift_imm(struct emit *e, enum emit_shift op, enum host_register reg, unsigned count)
{
    put_shift(e, OPCODE(.wide = true, .immediate = count), op, reg);
}

void emit_shift_imm32(struct emit *e, enum emit_shift op, enum host_register reg, unsigned count)
{
    put_shift(e, OPCODE(.immediate = count), op, reg);
}

void emit_divide(struct emit *e, bool is_signed, bool wide, enum host_register divisor)
{
    put_register(e, OPCODE(.opcode = 0xf7, .wide = wide), is_signed ? 7 : 6, divisor);
}

void emit_imul_reg_imm(struct emit *e, enum host_register reg, int32_t value)
{
    put_register(
        e, OPCODE(.opcode = 0x69, .wide = true, .immediate = (uint32_t)value, .immediate_bytes = 4),
        reg, reg);
}

void emit_test_reg_imm8(struct emit *e, enum host_register reg, uint8_t value)
{
    put_register(
        e, OPCODE(.opcode = 0xf6, .rex = reg >= HOST_RSP, .immediate = value, .immediate_bytes = 1),
        0, reg);
}

void emit_not(struct emit *e, enum host_register reg)
{
    put_register(e, OPCODE(.opcode = 0xf7, .wide = true), 2, reg);
}

void emit_not32(struct emit *e, enum host_register reg)
{
    put_register(e, OPCODE(.opcode = 0xf7), 2, reg);
}

void emit_load(struct emit *e, enum host_register reg, enum host_register base, int32_t disp,
               unsigned bytes)
{
    struct encoding c = {.opcode = 0x8b, .wide = bytes == 8, .disp = disp};

    if (bytes < 4) {
        c.map = 1;
        c.opcode = bytes == 1 ? 0xb6 : 0xb7;
    }
    put_memory(e, c, reg, base);
}

void emit_store(struct emit *e, enum host_register reg, enum host_register base, int32_t disp,
                unsigned bytes)
{
    struct encoding c = {.opcode = bytes == 1 ? 0x88 : 0x89,
                         .wide = bytes == 8,
                         .size_16 = bytes == 2,
                         .rex = bytes == 1 && reg >= HOST_RSP,
                         .disp = disp};

    put_memory(e, c, reg, base);
}

static uint8_t *place_of(const struct emit *e, unsigned bytes)
{
    return e->full ? NULL : e->at - bytes;
}

uint8_t *emit_jmp_rel32(struct emit *e)
{
    PUT(e, 0xe9, 0, 0, 0, 0);
    return place_of(e, 4);
}

uint8_t *emit_jcc_rel32(struct emit *e, enum emit_condition condition)
{
    PUT(e, 0x0f, (uint8_t)(0x80 | condition), 0, 0, 0, 0);
    return place_of(e, 4);
}

uint8_t *emit_call_rel32(struct emit *e)
{
    PUT(e, 0xe8, 0, 0, 0, 0);
    return place_of(e, 4);
}

uint8_t *emit_jrcxz_rel8(struct emit *e)
{
    PUT(e, 0xe3, 0);
    return place_of(e, 1);
}

void emit_patch_rel32(uint8_t *place, const uint8_t *target)
{
    if (!place)
        return;
    int32_t distance = (int32_t)(target - (place + 4));
    memcpy(place, &distance, 4);
}

bool emit_patch_rel8(uint8_t *place, const uint8_t *target)
{
    if (!place)
        return true;
    int64_t distance = target - (place + 1);
    if (distance != (int8_t)distance)
        return false;
    *place = (uint8_t)distance;
    return true;
}

void emit_fldcw_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0xd9), 5, disp);
}

void emit_ldmxcsr_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.map = 1, .opcode = 0xae), 2, disp);
}

void emit_stmxcsr_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.map = 1, .opcode = 0xae), 3, disp);
}

void emit_jmp_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0xff), 4, disp);
}

void emit_call_state(struct emit *e, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0xff), 2, disp);
}

void emit_lahf_seto(struct emit *e)
{
    PUT(e, 0x9f, 0x0f, 0x90, 0xc0);
}

/* AL is 0 or 1: adding 7F overflows when it is 1. SAHF leaves OF. */
void emit_restore_flags(struct emit *e)
{
    PUT(e, 0x04, 0x7f, 0x9e);
}

static void put_one(struct emit *e, uint8_t opcode, enum host_register reg)
{
    struct encoding c = {.opcode = opcode, .addressing = IN_OPCODE, .rm = (uint8_t)reg};

    encoding_put(e, &c);
}

void emit_push(struct emit *e, enum host_register reg)
{
    put_one(e, 0x50, reg);
}

void emit_pop(struct emit *e, enum host_register reg)
{
    put_one(e, 0x58, reg);
}

void emit_jmp_reg(struct emit *e, enum host_register reg)
{
    put_register(e, OPCODE(.opcode = 0xff), 4, reg);
}

void emit_call_reg(struct emit *e, enum host_register reg)
{
    put_register(e, OPCODE(.opcode = 0xff), 2, reg);
}

void emit_ret(struct emit *e)
{
    PUT(e, 0xc3);
}

void emit_int3(struct emit *e)
{
    PUT(e, 0xcc);
}

/* The forms of SDM vol. 2, NOP, table 4-12, without 66 of 66. */
void emit_nops(struct emit *e, unsigned bytes)
{
    static const uint8_t nops[8][8] = {
        {0x90},
        {0x66, 0x90},
        {0x0f, 0x1f, 0x00},
        {0x0f, 0x1f, 0x40, 0x00},
        {0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
        {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
    };

    for (; bytes > 0 && !e->full; bytes -= bytes < 8 ? bytes : 8)
        put(e, nops[(bytes < 8 ? bytes : 8) - 1], bytes < 8 ? bytes : 8);
}
