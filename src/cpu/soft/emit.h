/*
 * The translator's emitter: encodes the guest's instructions anew with other general registers and
 * another address, and assembles the few host instructions that the translator adds of its own.
 *
 * An emitter is a place in a buffer. When an instruction does not fit, `full` is set and nothing
 * more is written; the caller looks once, at the end.
 * Threads: pure functions of their arguments. Needs no libc but memcpy().
 * Trusts: the decoder and x86_vector_describe(), never the guest's bytes: what is written is built
 * from the decoded fields, and no instruction whose reach [base] does not bound is encoded.
 * Source: Intel SDM vol. 2, chapter 2 (encodings), appendix A (opcode maps).
 */
#ifndef FREEHOLD_CPU_SOFT_EMIT_H
#define FREEHOLD_CPU_SOFT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/vector.h"

struct emit {
    uint8_t *at;
    const uint8_t *end;
    bool full; /* something did not fit */
};

enum host_register {
    HOST_RAX,
    HOST_RCX,
    HOST_RDX,
    HOST_RBX,
    HOST_RSP,
    HOST_RBP,
    HOST_RSI,
    HOST_RDI,
    HOST_R8,
    HOST_R9,
    HOST_R10,
    HOST_R11,
    HOST_R12,
    HOST_R13,
    HOST_R14,
    HOST_R15,
    HOST_NONE /* no base, no index */
};

/* -- the guest's instructions -- */

/* Masks of general registers by number. Explicit: ModRM, the opcode's low bits, VEX.vvvv, and the
 * accumulator where a short form of the opcode stands for it (ADD AL, imm; XCHG; MOV moffs).
 * Implicit: all others, which cannot be renamed. A memory operand's base and index are not
 * counted, but RSI, RDI, RBX (XLAT) and RSP are where the instruction implies the address.
 * A write that keeps a part of the register, or that may not happen, counts as a read too. */
struct emit_registers {
    uint16_t read, written, implicit_read, implicit_written;
    bool high_byte; /* names AH, CH, DH or BH */
};

/* `vector` is wanted for VECTOR and X87 only, NULL otherwise. */
void emit_registers_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                       struct emit_registers *out);

/* Host registers for the guest's, and where the memory operand is: at [base + (index << scale) +
 * disp]. Base and index may be HOST_NONE, index not RSP. */
struct emit_rename {
    uint8_t gpr[16];
    uint8_t memory_base, memory_index, memory_scale;
    int32_t memory_disp;
};

/*
 * Encodes `insn` for 64-bit mode with its explicit registers renamed and its memory operand at
 * another place. Implicit registers stay what they are; string instructions take host addresses in
 * RSI and RDI and a 64-bit count. NOPs become 90. Segments, 67 and prefixes without meaning go.
 * False, and nothing written, for what cannot be encoded so:
 *  - AH to BH with a register that needs REX, or renamed to other than RAX, RCX, RDX, RBX;
 *  - 32-bit PUSH and POP, and instructions that 64-bit mode does not have;
 *  - bit tests of memory by a register, gathers, scatters, MASKMOV, XLAT: [base] does not bound
 *    what they touch;
 *  - FSTENV, FSAVE and their loads: they would show the guest the host's instruction addresses;
 *  - control transfers, I/O, system instructions, state saves, PUSHF, POPF, ENTER, LEAVE, CLD and
 *    STD: those are never the guest's to run on the host.
 * PUSH and POP use the host's RSP.
 */
bool emit_insn(struct emit *e, const struct x86_insn *insn, const struct x86_vector_insn *vector,
               const struct emit_rename *rename);

/* -- the translator's own: 64-bit operations, or 32 or 16 bits by suffix -- */

enum emit_alu { EMIT_ADD = 0, EMIT_OR = 1, EMIT_AND = 4, EMIT_SUB = 5, EMIT_XOR = 6, EMIT_CMP = 7 };
enum emit_shift { EMIT_SHL = 4, EMIT_SHR = 5, EMIT_SAR = 7 };

/* Conditions, as the low four bits of Jcc. */
enum emit_condition {
    EMIT_IF_O,
    EMIT_IF_NO,
    EMIT_IF_B,
    EMIT_IF_AE,
    EMIT_IF_E,
    EMIT_IF_NE,
    EMIT_IF_BE,
    EMIT_IF_A,
    EMIT_IF_S,
    EMIT_IF_NS,
    EMIT_IF_P,
    EMIT_IF_NP,
    EMIT_IF_L,
    EMIT_IF_GE,
    EMIT_IF_LE,
    EMIT_IF_G
};

/* State: [gs:disp]. Loads of 16 and 32 bits clear the rest of the register; no flag changes. */
void emit_mov_reg_state(struct emit *e, enum host_register reg, int32_t disp);
void emit_mov_reg_state32(struct emit *e, enum host_register reg, int32_t disp);
void emit_mov_reg_state16(struct emit *e, enum host_register reg, int32_t disp);
void emit_cmovae_reg_state(struct emit *e, enum host_register reg, int32_t disp);
void emit_mov_state_reg(struct emit *e, int32_t disp, enum host_register reg);
void emit_mov_state_reg32(struct emit *e, int32_t disp, enum host_register reg);
void emit_mov_state_reg16(struct emit *e, int32_t disp, enum host_register reg);
void emit_mov_state_imm32(struct emit *e, int32_t disp, uint32_t value); /* 32-bit store */
void emit_mov_state_imm64(struct emit *e, int32_t disp, int32_t value);  /* 64-bit, sign-extended */
void emit_inc_state(struct emit *e, int32_t disp);                       /* 64 bits; not CF */
void emit_dec_state32(struct emit *e, int32_t disp);
void emit_sub_state_imm8(struct emit *e, int32_t disp, int8_t value);
void emit_cmp_state32_imm8(struct emit *e, int32_t disp, int8_t value);
void emit_bt_state16(struct emit *e, int32_t disp, unsigned bit); /* CF = this bit */

void emit_movsxd_reg_state(struct emit *e, enum host_register reg, int32_t disp);

/* Tables in the state: [gs:at + disp]. `at` is neither RSP nor R12. */
void emit_mov_reg_entry(struct emit *e, enum host_register reg, enum host_register at,
                        int32_t disp);
void emit_alu_reg_entry(struct emit *e, enum emit_alu op, enum host_register reg,
                        enum host_register at, int32_t disp);
void emit_jmp_entry(struct emit *e, enum host_register at, int32_t disp);
void emit_call_entry(struct emit *e, enum host_register at, int32_t disp);

/* dst = base + (index << scale) + disp; base and index may be HOST_NONE, index not RSP. emit_lea32
 * cuts the result to 32 bits, as an address size of 4 does. */
void emit_lea(struct emit *e, enum host_register dst, enum host_register base,
              enum host_register index, unsigned scale, int32_t disp);
void emit_lea32(struct emit *e, enum host_register dst, enum host_register base,
                enum host_register index, unsigned scale, int32_t disp);

void emit_mov_reg_reg(struct emit *e, enum host_register dst, enum host_register src);
void emit_mov_reg_reg32(struct emit *e, enum host_register dst, enum host_register src);
void emit_mov_reg_imm64(struct emit *e, enum host_register reg, uint64_t value); /* shortest */
/* With 8 bytes of 0, to be changed later: gives their place, or NULL when the buffer is full. */
uint8_t *emit_mov_reg_patched64(struct emit *e, enum host_register reg);
void emit_movzx16(struct emit *e, enum host_register dst, enum host_register src);
void emit_movzx8(struct emit *e, enum host_register dst, enum host_register src);

void emit_alu_reg_imm(struct emit *e, enum emit_alu op, enum host_register reg, int32_t value);
void emit_alu_reg_imm32(struct emit *e, enum emit_alu op, enum host_register reg, int32_t value);
void emit_test_reg_imm(struct emit *e, enum host_register reg, int32_t value);
void emit_alu_reg_reg(struct emit *e, enum emit_alu op, enum host_register dst,
                      enum host_register src);
void emit_alu_reg_reg32(struct emit *e, enum emit_alu op, enum host_register dst,
                        enum host_register src);
void emit_alu_reg_state(struct emit *e, enum emit_alu op, enum host_register reg, int32_t disp);
void emit_alu_reg_state32(struct emit *e, enum emit_alu op, enum host_register reg, int32_t disp);
void emit_add_reg_mem(struct emit *e, enum host_register reg, enum host_register base,
                      int32_t disp);
void emit_decrement(struct emit *e, enum host_register base); /* 32 bits at [base] */
void emit_xor_reg_mem(struct emit *e, enum host_register reg, enum host_register base,
                      int32_t disp);
void emit_cmp_reg_mem(struct emit *e, enum host_register reg, enum host_register base,
                      int32_t disp);
void emit_shift_imm(struct emit *e, enum emit_shift op, enum host_register reg, unsigned count);
void emit_shift_imm32(struct emit *e, enum emit_shift op, enum host_register reg, unsigned count);
/* RDX:RAX, or EDX:EAX unless `wide`. */
void emit_divide(struct emit *e, bool is_signed, bool wide, enum host_register divisor);
void emit_imul_reg_imm(struct emit *e, enum host_register reg, int32_t value);
void emit_test_reg_imm8(struct emit *e, enum host_register reg, uint8_t value); /* its low byte */
void emit_not(struct emit *e, enum host_register reg);
void emit_not32(struct emit *e, enum host_register reg);

/* reg and [base + disp]; `bytes` 1, 2, 4 or 8. A load clears the rest of the register. */
void emit_load(struct emit *e, enum host_register reg, enum host_register base, int32_t disp,
               unsigned bytes);
void emit_store(struct emit *e, enum host_register reg, enum host_register base, int32_t disp,
                unsigned bytes);

/* Give the place of the displacement, to be patched; NULL when the buffer is full. A target is an
 * address in the same view of the buffer as the place; patching place NULL does nothing. */
uint8_t *emit_jmp_rel32(struct emit *e);
uint8_t *emit_jcc_rel32(struct emit *e, enum emit_condition condition);
uint8_t *emit_call_rel32(struct emit *e);
uint8_t *emit_jrcxz_rel8(struct emit *e);
void emit_patch_rel32(uint8_t *place, const uint8_t *target);
bool emit_patch_rel8(uint8_t *place, const uint8_t *target); /* false: out of reach */

/* -- vectors (emit_vector.c); the host has AVX, for registers from 16 on and for `evex` AVX-512 --
 */

struct emit_element {
    enum host_register base; /* it is at [base] */
    uint8_t size;            /* 4 or 8 bytes */
    uint8_t at;              /* which in the register; the first clears all others */
    bool evex;
};

struct emit_lane {
    uint8_t at;    /* which 16 bytes */
    uint8_t bytes; /* of the register */
    bool evex;
};

/* The first 16, 32 or 64 bytes of a register; a load clears the rest. */
void emit_vector_state(struct emit *e, unsigned reg, unsigned bytes, int32_t disp, bool load);
void emit_element_load(struct emit *e, unsigned reg, const struct emit_element *element);
void emit_lane_insert(struct emit *e, unsigned reg, unsigned from, const struct emit_lane *lane);
void emit_vector_clear(struct emit *e, unsigned reg);
/* The sign of each element, of `size` bytes. */
void emit_signs(struct emit *e, enum host_register to, unsigned reg, unsigned size, unsigned bytes);
void emit_opmask_state(struct emit *e, unsigned opmask, int32_t disp, bool load);
void emit_mov_reg_opmask(struct emit *e, enum host_register to, unsigned opmask); /* 16 bits */
void emit_opmask_clear(struct emit *e, unsigned opmask);

void emit_fldcw_state(struct emit *e, int32_t disp);
void emit_ldmxcsr_state(struct emit *e, int32_t disp);
void emit_stmxcsr_state(struct emit *e, int32_t disp);
void emit_jmp_state(struct emit *e, int32_t disp);
void emit_call_state(struct emit *e, int32_t disp);

void emit_lahf_seto(struct emit *e);     /* AX = flags, as soft_vcpu.arith has them */
void emit_restore_flags(struct emit *e); /* and back from AX; AL is spoilt */
void emit_push(struct emit *e, enum host_register reg);
void emit_pop(struct emit *e, enum host_register reg);
void emit_jmp_reg(struct emit *e, enum host_register reg);
void emit_call_reg(struct emit *e, enum host_register reg);
void emit_ret(struct emit *e);
void emit_int3(struct emit *e);
void emit_nops(struct emit *e, unsigned bytes);

#endif
