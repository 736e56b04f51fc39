/*
 * The x86-64 instruction decoder: see decode.h. Tables by opcode, one routine per part of an
 * instruction (prefixes, opcode, ModRM and SIB, immediate), in the order of the bytes.
 * Input is guest memory: every byte sequence is possible, none is trusted. No libc.
 */
#include "cpu/x86/decode.h"

#include <stddef.h>

#include "cpu/x86/state.h"

/* What an opcode asks of the decoder. */
#define MODRM    0x000001u
#define BYTE     0x000002u /* byte operands */
#define WORD     0x000004u /* always 16-bit operands */
#define D64      0x000008u /* 64-bit by default in 64-bit mode, 16-bit with 66 */
#define F64      0x000010u /* 64-bit in 64-bit mode, 66 ignored (near branches, Intel) */
#define NATIVE   0x000020u /* 64-bit in 64-bit mode, 32-bit elsewhere (MOV CR) */
#define I64      0x000040u /* #UD in 64-bit mode */
#define LOCKS    0x000080u /* may have LOCK when RM is memory */
#define IB       0x000100u /* 8-bit immediate, sign-extended */
#define IBZ      0x000200u /* 8-bit immediate, zero-extended */
#define IW       0x000400u /* 16-bit immediate, zero-extended */
#define IZ       0x000800u /* 16- or 32-bit immediate, sign-extended */
#define IV       0x001000u /* immediate of the operand's size, up to 64 bits */
#define IFAR     0x002000u /* far pointer */
#define MEM      0x004000u /* RM must be memory */
#define REG      0x008000u /* RM is a register whatever mod says (MOV CR) */
#define RMREG    0x010000u /* RM must be a register */
#define ZREG     0x020000u /* RM is the register in the opcode's low bits */
#define ACC      0x040000u /* the register operand is the accumulator */
#define CL       0x080000u /* counted by CL */
#define ONE      0x100000u /* counted by 1 */
#define MOFFS    0x200000u /* memory operand given by an address-sized offset */
#define DWORDMIN 0x400000u /* 66 does not shrink the operand (a mandatory prefix) */
#define O64      0x800000u /* #UD outside 64-bit mode */

struct entry {
    uint16_t op;
    uint8_t form;
    uint32_t flags;
};

/* Pseudo operations: the entry is chosen by ModRM or by prefix. */
enum { GROUP = 0x400 };
enum group {
    G1_BYTE = GROUP,
    G1_Z,
    G1_IB,
    G1A,
    G2_BYTE_IB,
    G2_IB,
    G2_BYTE_1,
    G2_1,
    G2_BYTE_CL,
    G2_CL,
    G3_BYTE,
    G3,
    G4,
    G5,
    G6,
    G8,
    G11_BYTE,
    G11,
    GROUP_END
};

#define OP(name)   X86_OP_##name
#define FORM(name) X86_FORM_##name
#define NONE(name, flags)                                                                          \
    {                                                                                              \
        OP(name), FORM(NONE), flags                                                                \
    }
#define E_G(name, flags)                                                                           \
    {                                                                                              \
        OP(name), FORM(RM_REG), MODRM | (flags)                                                    \
    }
#define G_E(name, flags)                                                                           \
    {                                                                                              \
        OP(name), FORM(REG_RM), MODRM | (flags)                                                    \
    }
#define E_I(name, flags)                                                                           \
    {                                                                                              \
        OP(name), FORM(RM_IMM), MODRM | (flags)                                                    \
    }
#define E(name, flags)                                                                             \
    {                                                                                              \
        OP(name), FORM(RM), MODRM | (flags)                                                        \
    }
#define G_E_I(name, flags)                                                                         \
    {                                                                                              \
        OP(name), FORM(REG_RM_IMM), MODRM | (flags)                                                \
    }
#define I(name, flags)                                                                             \
    {                                                                                              \
        OP(name), FORM(IMM), flags                                                                 \
    }
#define Z(name, flags)                                                                             \
    {                                                                                              \
        OP(name), FORM(RM), ZREG | (flags)                                                         \
    }
#define Z_I(name, flags)                                                                           \
    {                                                                                              \
        OP(name), FORM(RM_IMM), ZREG | (flags)                                                     \
    }
#define A_I(name, flags)                                                                           \
    {                                                                                              \
        OP(name), FORM(RM_IMM), ACC | (flags)                                                      \
    }
#define GRP(name, flags)                                                                           \
    {                                                                                              \
        name, FORM(NONE), MODRM | (flags)                                                          \
    }
#define BAD                                                                                        \
    {                                                                                              \
        OP(INVALID), FORM(NONE), 0                                                                 \
    }

#define ALU_ROW(name, lock)                                                                        \
    E_G(name, BYTE | (lock)), E_G(name, lock), G_E(name, BYTE), G_E(name, 0),                      \
        A_I(name, BYTE | IB), A_I(name, IZ)
#define EIGHT(x) x, x, x, x, x, x, x, x

/* clang-format off */
static const struct entry one_byte[256] = {
    [0x00] = ALU_ROW(ADD, LOCKS), [0x06] = NONE(PUSH_SEG, I64), NONE(POP_SEG, I64),
    [0x08] = ALU_ROW(OR, LOCKS), [0x0e] = NONE(PUSH_SEG, I64),
    [0x10] = ALU_ROW(ADC, LOCKS), [0x16] = NONE(PUSH_SEG, I64), NONE(POP_SEG, I64),
    [0x18] = ALU_ROW(SBB, LOCKS), [0x1e] = NONE(PUSH_SEG, I64), NONE(POP_SEG, I64),
    [0x20] = ALU_ROW(AND, LOCKS), [0x27] = NONE(DAA, I64),
    [0x28] = ALU_ROW(SUB, LOCKS), [0x2f] = NONE(DAS, I64),
    [0x30] = ALU_ROW(XOR, LOCKS), [0x37] = NONE(AAA, I64),
    [0x38] = ALU_ROW(CMP, 0), [0x3f] = NONE(AAS, I64),
    [0x40] = EIGHT(Z(INC, I64)), [0x48] = EIGHT(Z(DEC, I64)),
    [0x50] = EIGHT(Z(PUSH, D64)), [0x58] = EIGHT(Z(POP, D64)),
    [0x60] = NONE(PUSHA, I64), NONE(POPA, I64), G_E(BOUND, I64 | MEM), E_G(ARPL, I64 | WORD),
    [0x68] = I(PUSH, D64 | IZ), G_E_I(IMUL3, IZ), I(PUSH, D64 | IB), G_E_I(IMUL3, IB),
    [0x6c] = NONE(INS, BYTE), NONE(INS, 0), NONE(OUTS, BYTE), NONE(OUTS, 0),
    [0x70] = EIGHT(I(JCC, F64 | IB)), [0x78] = EIGHT(I(JCC, F64 | IB)),
    [0x80] = GRP(G1_BYTE, BYTE | IB), GRP(G1_Z, IZ), GRP(G1_BYTE, BYTE | IB | I64), GRP(G1_IB, IB),
    [0x84] = E_G(TEST, BYTE), E_G(TEST, 0), E_G(XCHG, BYTE | LOCKS), E_G(XCHG, LOCKS),
    [0x88] = E_G(MOV, BYTE), E_G(MOV, 0), G_E(MOV, BYTE), G_E(MOV, 0),
    [0x8c] = E_G(MOV_FROM_SEG, 0), G_E(LEA, MEM), G_E(MOV_TO_SEG, WORD), GRP(G1A, D64),
    [0x90] = EIGHT(Z(XCHG, 0)),
    [0x98] = NONE(CBW, 0), NONE(CWD, 0), NONE(CALL_FAR, I64 | IFAR), NONE(FWAIT, 0),
    [0x9c] = NONE(PUSHF, D64), NONE(POPF, D64), NONE(SAHF, 0), NONE(LAHF, 0),
    [0xa0] = {OP(MOV), FORM(REG_RM), BYTE | MOFFS}, {OP(MOV), FORM(REG_RM), MOFFS},
    {OP(MOV), FORM(RM_REG), BYTE | MOFFS}, {OP(MOV), FORM(RM_REG), MOFFS},
    [0xa4] = NONE(MOVS, BYTE), NONE(MOVS, 0), NONE(CMPS, BYTE), NONE(CMPS, 0),
    [0xa8] = A_I(TEST, BYTE | IB), A_I(TEST, IZ), NONE(STOS, BYTE), NONE(STOS, 0),
    [0xac] = NONE(LODS, BYTE), NONE(LODS, 0), NONE(SCAS, BYTE), NONE(SCAS, 0),
    [0xb0] = EIGHT(Z_I(MOV, BYTE | IB)), [0xb8] = EIGHT(Z_I(MOV, IV)),
    [0xc0] = GRP(G2_BYTE_IB, BYTE | IBZ), GRP(G2_IB, IBZ), I(RET, F64 | IW), NONE(RET, F64),
    [0xc4] = G_E(LOAD_FAR, I64 | MEM), G_E(LOAD_FAR, I64 | MEM), GRP(G11_BYTE, BYTE | IB),
    GRP(G11, IZ),
    [0xc8] = I(ENTER, D64 | IW), NONE(LEAVE, D64), I(RETF, IW), NONE(RETF, 0),
    [0xcc] = NONE(INT3, 0), I(INT, IBZ), NONE(INTO, I64), NONE(IRET, 0),
    [0xd0] = GRP(G2_BYTE_1, BYTE), GRP(G2_1, 0), GRP(G2_BYTE_CL, BYTE), GRP(G2_CL, 0),
    [0xd4] = I(AAM, I64 | BYTE | IBZ), I(AAD, I64 | BYTE | IBZ), NONE(SALC, I64), NONE(XLAT, BYTE),
    [0xd8] = EIGHT(E(X87, 0)),
    [0xe0] = I(LOOPNE, F64 | IB), I(LOOPE, F64 | IB), I(LOOP, F64 | IB), I(JCXZ, F64 | IB),
    [0xe4] = I(IN, BYTE | IBZ), I(IN, IBZ), I(OUT, BYTE | IBZ), I(OUT, IBZ),
    [0xe8] = I(CALL, F64 | IZ), I(JMP, F64 | IZ), NONE(JMP_FAR, I64 | IFAR), I(JMP, F64 | IB),
    [0xec] = NONE(IN, BYTE), NONE(IN, 0), NONE(OUT, BYTE), NONE(OUT, 0),
    [0xf1] = NONE(INT1, 0), [0xf4] = NONE(HLT, 0), NONE(CMC, 0), GRP(G3_BYTE, BYTE), GRP(G3, 0),
    [0xf8] = NONE(CLC, 0), NONE(STC, 0), NONE(CLI, 0), NONE(STI, 0), NONE(CLD, 0), NONE(STD, 0),
    GRP(G4, BYTE), GRP(G5, 0)};
/* clang-format on */

#define G1_ROW(imm)                                                                                \
    {                                                                                              \
        E_I(ADD, LOCKS | imm), E_I(OR, LOCKS | imm), E_I(ADC, LOCKS | imm), E_I(SBB, LOCKS | imm), \
            E_I(AND, LOCKS | imm), E_I(SUB, LOCKS | imm), E_I(XOR, LOCKS | imm), E_I(CMP, imm)     \
    }
#define G2_ROW(make, f)                                                                            \
    {                                                                                              \
        make(ROL, f), make(ROR, f), make(RCL, f), make(RCR, f), make(SHL, f), make(SHR, f),        \
            make(SHL, f), make(SAR, f)                                                             \
    }
#define G3_ROW(f, imm)                                                                             \
    {                                                                                              \
        E_I(TEST, f | imm), E_I(TEST, f | imm), E(NOT, f | LOCKS), E(NEG, f | LOCKS), E(MUL, f),   \
            E(IMUL1, f), E(DIV, f), E(IDIV, f)                                                     \
    }

static const struct entry groups[GROUP_END - GROUP][8] = {
    [G1_BYTE - GROUP] = G1_ROW(BYTE | IB),
    [G1_Z - GROUP] = G1_ROW(IZ),
    [G1_IB - GROUP] = G1_ROW(IB),
    [G1A - GROUP] = {E(POP, D64), BAD, BAD, BAD, BAD, BAD, BAD, BAD},
    [G2_BYTE_IB - GROUP] = G2_ROW(E_I, BYTE | IBZ),
    [G2_IB - GROUP] = G2_ROW(E_I, IBZ),
    [G2_BYTE_1 - GROUP] = G2_ROW(E, BYTE | ONE),
    [G2_1 - GROUP] = G2_ROW(E, ONE),
    [G2_BYTE_CL - GROUP] = G2_ROW(E, BYTE | CL),
    [G2_CL - GROUP] = G2_ROW(E, CL),
    [G3_BYTE - GROUP] = G3_ROW(BYTE, IB),
    [G3 - GROUP] = G3_ROW(0, IZ),
    [G4 - GROUP] = {E(INC, BYTE | LOCKS), E(DEC, BYTE | LOCKS), BAD, BAD, BAD, BAD, BAD, BAD},
    [G5 - GROUP] = {E(INC, LOCKS), E(DEC, LOCKS), E(CALL_IND, F64), E(CALL_FAR_IND, MEM),
                    E(JMP_IND, F64), E(JMP_FAR_IND, MEM), E(PUSH, D64), BAD},
    [G6 - GROUP] = {E(SLDT, 0), E(STR, 0), E(LLDT, WORD), E(LTR, WORD), E(VERR, WORD),
                    E(VERW, WORD), BAD, BAD},
    [G8 - GROUP] = {BAD, BAD, BAD, BAD, E_I(BT, IBZ), E_I(BTS, LOCKS | IBZ), E_I(BTR, LOCKS | IBZ),
                    E_I(BTC, LOCKS | IBZ)},
    [G11_BYTE - GROUP] = {E_I(MOV, BYTE | IB), BAD, BAD, BAD, BAD, BAD, BAD, BAD},
    [G11 - GROUP] = {E_I(MOV, IZ), BAD, BAD, BAD, BAD, BAD, BAD, BAD},
};

#define VEC                                                                                        \
    {                                                                                              \
        OP(VECTOR), FORM(NONE), MODRM                                                              \
    }
#define VEC_IB                                                                                     \
    {                                                                                              \
        OP(VECTOR), FORM(NONE), MODRM | IBZ                                                        \
    }
#define HINT E(NOP, 0)

/* 0F xx. Opcodes absent here or decided by more than one byte: see two_byte_entry(). */
/* clang-format off */
static const struct entry two_byte[256] = {
    [0x00] = GRP(G6, 0), [0x02] = G_E(LAR, 0), G_E(LSL, 0),
    [0x05] = NONE(SYSCALL, 0), NONE(CLTS, 0), NONE(SYSRET, 0), NONE(INVD, 0), NONE(WBINVD, 0),
    [0x0b] = NONE(UD, 0), [0x0d] = E(PREFETCH, 0),
    [0x10] = EIGHT(VEC), [0x18] = EIGHT(HINT),
    [0x20] = E_G(MOV_FROM_CR, NATIVE | REG), E_G(MOV_FROM_DR, NATIVE | REG),
    E_G(MOV_TO_CR, NATIVE | REG), E_G(MOV_TO_DR, NATIVE | REG),
    [0x28] = EIGHT(VEC),
    [0x30] = NONE(WRMSR, 0), NONE(RDTSC, 0), NONE(RDMSR, 0), NONE(RDPMC, 0), NONE(SYSENTER, 0),
    NONE(SYSEXIT, 0),
    [0x40] = EIGHT(G_E(CMOV, 0)), EIGHT(G_E(CMOV, 0)),
    [0x50] = EIGHT(VEC), EIGHT(VEC), EIGHT(VEC), EIGHT(VEC),
    [0x70] = VEC_IB, VEC_IB, VEC_IB, VEC_IB, VEC, VEC, VEC, NONE(VECTOR, 0),
    [0x78] = BAD, BAD, BAD, BAD, VEC, VEC, VEC, VEC,
    [0x80] = EIGHT(I(JCC, F64 | IZ)), EIGHT(I(JCC, F64 | IZ)),
    [0x90] = EIGHT(E(SETCC, BYTE)), EIGHT(E(SETCC, BYTE)),
    [0xa0] = NONE(PUSH_SEG, D64), NONE(POP_SEG, D64), NONE(CPUID, 0), E_G(BT, 0),
    {OP(SHLD), FORM(RM_REG), MODRM | IBZ}, E_G(SHLD, CL),
    [0xa8] = NONE(PUSH_SEG, D64), NONE(POP_SEG, D64), BAD /* RSM */, E_G(BTS, LOCKS),
    {OP(SHRD), FORM(RM_REG), MODRM | IBZ}, E_G(SHRD, CL), [0xaf] = G_E(IMUL2, 0),
    [0xb0] = E_G(CMPXCHG, BYTE | LOCKS), E_G(CMPXCHG, LOCKS), G_E(LOAD_FAR, MEM),
    E_G(BTR, LOCKS), G_E(LOAD_FAR, MEM), G_E(LOAD_FAR, MEM), G_E(MOVZX8, 0), G_E(MOVZX16, 0),
    [0xb9] = E(UD, 0), GRP(G8, IBZ), E_G(BTC, LOCKS),
    [0xbe] = G_E(MOVSX8, 0), G_E(MOVSX16, 0),
    [0xc0] = E_G(XADD, BYTE | LOCKS), E_G(XADD, LOCKS), VEC_IB, [0xc4] = VEC_IB, VEC_IB, VEC_IB,
    [0xc8] = EIGHT(Z(BSWAP, 0)),
    [0xd0] = EIGHT(VEC), EIGHT(VEC), EIGHT(VEC), EIGHT(VEC), EIGHT(VEC),
    [0xf8] = VEC, VEC, VEC, VEC, VEC, VEC, VEC, E(UD, 0)};
/* clang-format on */

struct reader {
    struct x86_insn *insn;
    enum x86_code_size code_size;
    const uint8_t *bytes;
    size_t available;
    size_t at;
    enum x86_decode_result trouble; /* the first that happened */
    bool operand_prefix, address_prefix;
    uint8_t mod;
};

static void reader_fail(struct reader *r, enum x86_decode_result why)
{
    if (r->trouble == X86_DECODE_OK)
        r->trouble = why;
}

/* Whether `count` bytes more are there and belong to the instruction. */
static bool may_read(struct reader *r, unsigned count)
{
    if (r->at + count <= X86_INSN_BYTES_MAX && r->at + count <= r->available)
        return true;
    reader_fail(r, r->at + count > X86_INSN_BYTES_MAX ? X86_DECODE_TOO_LONG : X86_DECODE_MORE);
    return false;
}

/* 1, 2, 4 or 8 */
static uint64_t read_bytes(struct reader *r, unsigned count)
{
    uint64_t value = 0;

    if (!may_read(r, count))
        return 0;
    switch (count) {
    case 1:
        value = r->bytes[r->at];
        break;
    case 2:
        __builtin_memcpy(&value, r->bytes + r->at, 2);
        break;
    case 4:
        __builtin_memcpy(&value, r->bytes + r->at, 4);
        break;
    default:
        __builtin_memcpy(&value, r->bytes + r->at, 8);
    }
    r->at += count;
    return value;
}

static uint8_t read_byte(struct reader *r)
{
    return may_read(r, 1) ? r->bytes[r->at++] : 0;
}

static uint64_t read_signed(struct reader *r, unsigned count)
{
    uint64_t value = read_bytes(r, count);
    unsigned shift = 64 - 8 * count;

    return (uint64_t)((int64_t)(value << shift) >> shift);
}

static void segment_override(struct reader *r, uint8_t segment)
{
    /* ES, CS, SS and DS are ignored in 64-bit mode, and do not undo an FS or GS before them. */
    if (r->code_size == X86_CODE_64 && segment < X86_FS)
        return;
    r->insn->segment = segment;
    r->insn->prefixes |= X86_PREFIX_SEG;
}

/* One legacy prefix; false: `byte` is none. */
static bool prefix_take(struct reader *r, uint8_t byte)
{
    struct x86_insn *insn = r->insn;

    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
        segment_override(r, (byte >> 3) & 3);
        return true;
    case 0x64:
    case 0x65:
        segment_override(r, (uint8_t)(X86_FS + (byte & 1)));
        return true;
    case 0x66:
        insn->prefixes |= X86_PREFIX_66;
        return true;
    case 0x67:
        insn->prefixes |= X86_PREFIX_67;
        return true;
    case 0xf0:
        insn->prefixes |= X86_PREFIX_LOCK;
        return true;
    case 0xf2:
    case 0xf3:
        insn->prefixes &= (uint8_t) ~(X86_PREFIX_REP | X86_PREFIX_REPNE);
        insn->prefixes |= byte == 0xf3 ? X86_PREFIX_REP : X86_PREFIX_REPNE;
        return true;
    default:
        return false;
    }
}

/* Reads the prefixes and gives the first byte that is none. REX counts only right before it. */
static uint8_t prefixes_read(struct reader *r)
{
    for (;;) {
        uint8_t byte = read_byte(r);

        if (r->trouble != X86_DECODE_OK)
            return 0;
        if (prefix_take(r, byte)) {
            r->insn->rex = 0;
        } else if (r->code_size == X86_CODE_64 && (byte & 0xf0) == 0x40) {
            r->insn->rex = (uint8_t)(X86_REX | (byte & 0x0f));
        } else {
            return byte;
        }
    }
}

static void sizes_set(struct reader *r, uint32_t flags)
{
    struct x86_insn *insn = r->insn;
    bool prefix = (insn->prefixes & X86_PREFIX_66) != 0 && !(flags & DWORDMIN);
    bool address_prefix = (insn->prefixes & X86_PREFIX_67) != 0;

    if (r->code_size == X86_CODE_64) {
        insn->address_size = address_prefix ? 4 : 8;
        insn->operand_size = prefix ? 2 : 4;
        if (insn->rex & X86_REX_W)
            insn->operand_size = 8;
        else if ((flags & D64) && !prefix)
            insn->operand_size = 8;
        if (flags & (F64 | NATIVE))
            insn->operand_size = 8;
    } else {
        bool big = r->code_size == X86_CODE_32;

        insn->address_size = big != address_prefix ? 4 : 2;
        insn->operand_size = big != prefix ? 4 : 2;
        if ((flags & (NATIVE | DWORDMIN)) || insn->vex != X86_VEX_NONE)
            insn->operand_size = 4;
    }
    if (flags & BYTE)
        insn->operand_size = 1;
    if (flags & WORD)
        insn->operand_size = 2;
}

static void segment_default(struct x86_insn *insn, uint8_t segment)
{
    if (!(insn->prefixes & X86_PREFIX_SEG))
        insn->segment = segment;
}

/* 16-bit addressing: Intel SDM vol. 2, table 2-1. */
static void memory_16(struct reader *r, uint8_t rm)
{
    static const uint8_t base[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                    X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t index[8] = {X86_RSI,      X86_RDI,      X86_RSI,      X86_RDI,
                                     X86_REG_NONE, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE};
    struct x86_insn *insn = r->insn;

    if (r->mod == 0 && rm == 6) {
        insn->displacement = (int64_t)read_signed(r, 2);
        return;
    }
    insn->base = base[rm];
    insn->index = index[rm];
    if (base[rm] == X86_RBP)
        segment_default(insn, X86_SS);
    if (r->mod == 1)
        insn->displacement = (int64_t)read_signed(r, 1);
    else if (r->mod == 2)
        insn->displacement = (int64_t)read_signed(r, 2);
}

static void sib_read(struct reader *r)
{
    struct x86_insn *insn = r->insn;
    uint8_t sib = read_byte(r);
    uint8_t index = (uint8_t)(((sib >> 3) & 7) | (insn->rex & X86_REX_X ? 8 : 0));

    insn->scale = sib >> 6;
    insn->index = index == X86_RSP ? X86_REG_NONE : index;
    if ((sib & 7) == 5 && r->mod == 0) {
        insn->displacement = (int64_t)read_signed(r, 4);
        return;
    }
    insn->base = (uint8_t)((sib & 7) | (insn->rex & X86_REX_B ? 8 : 0));
}

/* 32- and 64-bit addressing: tables 2-2 and 2-3. */
static void memory_32(struct reader *r, uint8_t rm)
{
    struct x86_insn *insn = r->insn;

    if (rm == 4) {
        sib_read(r);
    } else if (rm == 5 && r->mod == 0) {
        insn->displacement = (int64_t)read_signed(r, 4);
        if (r->code_size == X86_CODE_64)
            insn->base = X86_REG_RIP;
    } else {
        insn->base = (uint8_t)(rm | (insn->rex & X86_REX_B ? 8 : 0));
    }
    if (insn->base == X86_RSP || insn->base == X86_RBP)
        segment_default(insn, X86_SS);
    if (r->mod == 1)
        insn->displacement = (int64_t)read_signed(r, 1);
    else if (r->mod == 2)
        insn->displacement = (int64_t)read_signed(r, 4);
}

static void modrm_read(struct reader *r)
{
    struct x86_insn *insn = r->insn;

    insn->modrm_offset = (uint8_t)r->at;
    insn->modrm = read_byte(r);
    r->mod = insn->modrm >> 6;
    insn->reg = (uint8_t)(((insn->modrm >> 3) & 7) | (insn->rex & X86_REX_R ? 8 : 0));
    insn->rm = (uint8_t)((insn->modrm & 7) | (insn->rex & X86_REX_B ? 8 : 0));
}

static void memory_read(struct reader *r, uint32_t flags)
{
    struct x86_insn *insn = r->insn;

    if (flags & REG)
        return;
    insn->memory = r->mod != 3;
    if (!insn->memory)
        return;
    if (insn->address_size == 2)
        memory_16(r, insn->modrm & 7);
    else
        memory_32(r, insn->modrm & 7);
}

static void immediate_read(struct reader *r, uint32_t flags)
{
    struct x86_insn *insn = r->insn;
    unsigned wide = insn->operand_size == 2 ? 2 : 4;

    if (flags & IW)
        insn->immediate = read_bytes(r, 2);
    if (flags & IB)
        insn->immediate = read_signed(r, 1);
    if (flags & IBZ)
        insn->immediate = read_bytes(r, 1);
    if (flags & IZ)
        insn->immediate = read_signed(r, wide);
    if (flags & IV)
        insn->immediate = read_signed(r, insn->operand_size);
    if (flags & IFAR) {
        insn->immediate = read_bytes(r, wide);
        insn->immediate |= read_bytes(r, 2) << 32;
    }
    if (insn->op == X86_OP_ENTER)
        insn->immediate |= read_bytes(r, 1) << 16;
    if (flags & MOFFS)
        insn->displacement = (int64_t)read_bytes(r, insn->address_size);
}

/* 0F 01: by the whole ModRM byte when it names registers. */
static struct entry entry_0f01(const struct reader *r)
{
    static const struct entry memory_form[8] = {E(SGDT, 0),    E(SIDT, 0),  E(LGDT, 0),
                                                E(LIDT, 0),    E(SMSW, 0),  BAD,
                                                E(LMSW, WORD), E(INVLPG, 0)};
    static const struct {
        uint8_t modrm;
        struct entry entry;
    } register_form[] = {
        {0xc1, E(VMCALL, 0)}, {0xc8, E(MONITOR, 0)}, {0xc9, E(MWAIT, 0)},
        {0xca, E(CLAC, 0)},   {0xcb, E(STAC, 0)},    {0xd0, E(XGETBV, 0)},
        {0xd1, E(XSETBV, 0)}, {0xd9, E(VMCALL, 0)},  {0xe8, E(SERIALIZE, 0)},
        {0xee, E(RDPKRU, 0)}, {0xef, E(WRPKRU, 0)},  {0xf8, E(SWAPGS, O64)},
        {0xf9, E(RDTSCP, 0)},
    };
    uint8_t modrm = r->insn->modrm;
    unsigned reg = (modrm >> 3) & 7;

    if (r->mod != 3 || reg == 4 || reg == 6)
        return memory_form[reg];
    for (unsigned i = 0; i < sizeof register_form / sizeof *register_form; i++) {
        /* Those before F8 are other instructions, or none, with a 66, F3 or F2 prefix. */
        if (register_form[i].modrm == modrm && (r->insn->pp == 0 || modrm >= 0xf8))
            return register_form[i].entry;
    }
    return (struct entry)BAD;
}

static struct entry entry_0fae(const struct reader *r)
{
    static const struct entry memory_form[8] = {E(FXSAVE, 0),   E(FXRSTOR, 0), E(LDMXCSR, 0),
                                                E(STMXCSR, 0),  E(XSAVE, 0),   E(XRSTOR, 0),
                                                E(XSAVEOPT, 0), E(CLFLUSH, 0)};
    static const struct entry base_form[8] = {E(RDFSBASE, O64 | DWORDMIN),
                                              E(RDGSBASE, O64 | DWORDMIN),
                                              E(WRFSBASE, O64 | DWORDMIN),
                                              E(WRGSBASE, O64 | DWORDMIN),
                                              BAD,
                                              BAD,
                                              BAD,
                                              BAD};
    static const struct entry fence_form[8] = {BAD, BAD,          BAD,          BAD,
                                               BAD, E(LFENCE, 0), E(MFENCE, 0), E(SFENCE, 0)};
    unsigned reg = (r->insn->modrm >> 3) & 7;
    unsigned pp = r->insn->pp;

    if (r->mod != 3) {
        if (pp == 0)
            return memory_form[reg];
        if (pp == 1 && reg >= 6) /* CLWB, CLFLUSHOPT */
            return memory_form[7];
        return (struct entry)BAD;
    }
    if (pp == 2)
        return base_form[reg];
    return pp == 0 ? fence_form[reg] : (struct entry)BAD;
}

static struct entry entry_0fc7(const struct reader *r)
{
    unsigned reg = (r->insn->modrm >> 3) & 7;
    unsigned pp = r->insn->pp;

    if (r->mod != 3) {
        if (reg == 1)
            return (struct entry)E(CMPXCHG8B, LOCKS);
        return reg == 4 && pp == 0 ? (struct entry)E(XSAVEC, 0) : (struct entry)BAD;
    }
    if (reg == 6 && pp <= 1)
        return (struct entry)E(RDRAND, 0);
    if (reg == 7 && pp <= 1)
        return (struct entry)E(RDSEED, 0);
    return reg == 7 && pp == 2 ? (struct entry)E(RDPID, NATIVE) : (struct entry)BAD;
}

/* Opcodes of 0F that prefixes or ModRM decide. */
static struct entry two_byte_entry(const struct reader *r)
{
    unsigned pp = r->insn->pp;

    switch (r->insn->opcode) {
    case 0x01:
        return entry_0f01(r);
    case 0xae:
        return entry_0fae(r);
    case 0xc7:
        return entry_0fc7(r);
    case 0xb8:
        return pp == 2 ? (struct entry)G_E(POPCNT, 0) : (struct entry)BAD;
    case 0xbc:
        return pp == 2 ? (struct entry)G_E(TZCNT, 0) : (struct entry)G_E(BSF, 0);
    case 0xbd:
        return pp == 2 ? (struct entry)G_E(LZCNT, 0) : (struct entry)G_E(BSR, 0);
    case 0xc3:
        return pp == 0 ? (struct entry)E_G(MOVNTI, MEM | DWORDMIN) : (struct entry)BAD;
    default:
        return two_byte[r->insn->opcode];
    }
}

static struct entry three_byte_entry(const struct reader *r)
{
    unsigned pp = r->insn->pp;

    if (r->insn->map == 3)
        return (struct entry)VEC_IB;
    switch (r->insn->opcode) {
    case 0x82:
        return pp == 1 ? (struct entry)G_E(INVPCID, NATIVE | MEM) : (struct entry)BAD;
    case 0xf0:
        if (pp == 3)
            return (struct entry){OP(CRC32), FORM(REG_RM), MODRM | BYTE};
        return pp <= 1 ? (struct entry)G_E(MOVBE, MEM) : (struct entry)BAD;
    case 0xf1:
        if (pp == 3)
            return (struct entry)G_E(CRC32, 0);
        return pp <= 1 ? (struct entry)E_G(MOVBE, MEM) : (struct entry)BAD;
    case 0xf6:
        if (pp == 1)
            return (struct entry)G_E(ADCX, DWORDMIN);
        return pp == 2 ? (struct entry)G_E(ADOX, DWORDMIN) : (struct entry)BAD;
    default:
        return (struct entry)VEC;
    }
}

/* VEX: the few integer instructions; all else is VECTOR. */
static struct entry vex_entry(const struct reader *r)
{
    static const struct entry by_pp[4][4] = {
        {G_E(BZHI, 0), BAD, G_E(PEXT, 0), G_E(PDEP, 0)},           /* F5 */
        {BAD, BAD, BAD, G_E(MULX, 0)},                             /* F6 */
        {G_E(BEXTR, 0), G_E(SHLX, 0), G_E(SARX, 0), G_E(SHRX, 0)}, /* F7 */
    };
    static const struct entry group17[8] = {BAD, E(BLSR, 0), E(BLSMSK, 0), E(BLSI, 0),
                                            BAD, BAD,        BAD,          BAD};
    const struct x86_insn *insn = r->insn;
    unsigned op = insn->opcode;

    if (insn->map == 2 && op >= 0xf2 && op <= 0xf7) {
        if (insn->vector_length != 0 || op == 0xf4)
            return (struct entry)BAD;
        if (op == 0xf2)
            return insn->pp == 0 ? (struct entry)G_E(ANDN, 0) : (struct entry)BAD;
        if (op == 0xf3)
            return insn->pp == 0 ? group17[(insn->modrm >> 3) & 7] : (struct entry)BAD;
        return by_pp[op - 0xf5][insn->pp];
    }
    if (insn->map == 3 && op == 0xf0) {
        bool good = insn->pp == 3 && insn->vector_length == 0 && insn->vvvv == 0;

        return good ? (struct entry)G_E_I(RORX, IBZ) : (struct entry)BAD;
    }
    if (insn->map == 1 && op == 0xae) {
        unsigned reg = (insn->modrm >> 3) & 7;

        if (r->mod == 3 || insn->pp != 0 || insn->vector_length != 0 || insn->vvvv != 0 ||
            (reg != 2 && reg != 3))
            return (struct entry)BAD;
        return reg == 2 ? (struct entry)E(LDMXCSR, 0) : (struct entry)E(STMXCSR, 0);
    }
    if (insn->map == 1 && op == 0x77)
        return (struct entry)NONE(VECTOR, 0);
    if (insn->map == 3 || (insn->map == 1 && ((op >= 0x70 && op <= 0x73) || op == 0xc2 ||
                                              (op >= 0xc4 && op <= 0xc6))))
        return (struct entry)VEC_IB;
    return (struct entry)VEC;
}

static bool vex_allowed(const struct reader *r)
{
    return !(r->insn->rex & X86_REX) && !(r->insn->prefixes & (X86_PREFIX_66 | X86_PREFIX_REP |
                                                               X86_PREFIX_REPNE | X86_PREFIX_LOCK));
}

/* C4, C5: Intel SDM vol. 2, 2.3.5. */
static void vex_read(struct reader *r, bool three_bytes)
{
    struct x86_insn *insn = r->insn;
    uint8_t first = read_byte(r);
    uint8_t last = first;

    if (!vex_allowed(r))
        reader_fail(r, X86_DECODE_UD);
    insn->vex = X86_VEX_VEX;
    insn->map = 1;
    insn->rex = first & 0x80 ? 0 : X86_REX_R;
    if (three_bytes) {
        last = read_byte(r);
        insn->map = first & 0x1f;
        insn->rex |= (uint8_t)((first & 0x40 ? 0 : X86_REX_X) | (first & 0x20 ? 0 : X86_REX_B) |
                               (last & 0x80 ? X86_REX_W : 0));
        if (insn->map == 0 || insn->map > 3)
            reader_fail(r, X86_DECODE_UD);
    }
    if (r->code_size != X86_CODE_64)
        insn->rex = 0;
    insn->vvvv = (uint8_t)((~last >> 3) & 15);
    insn->vector_length = (last >> 2) & 1;
    insn->pp = last & 3;
    if (r->code_size != X86_CODE_64) {
        /* W is ignored by the integer instructions outside 64-bit mode but selects among vector
         * ones; vvvv has 8 registers there. */
        insn->vvvv &= 7;
        if (three_bytes && (last & 0x80))
            insn->rex = X86_REX_W;
    }
    insn->opcode = read_byte(r);
}

/* 62: Intel SDM vol. 2, 2.7. */
static void evex_read(struct reader *r)
{
    struct x86_insn *insn = r->insn;
    uint8_t p0 = read_byte(r), p1 = read_byte(r), p2 = read_byte(r);

    if (!vex_allowed(r) || (p0 & 0x08) || !(p1 & 0x04))
        reader_fail(r, X86_DECODE_UD);
    insn->vex = X86_VEX_EVEX;
    insn->map = p0 & 7;
    insn->rex = (uint8_t)((p0 & 0x80 ? 0 : X86_REX_R) | (p0 & 0x40 ? 0 : X86_REX_X) |
                          (p0 & 0x20 ? 0 : X86_REX_B) | (p1 & 0x80 ? X86_REX_W : 0));
    insn->evex_r = p0 & 0x10 ? 0 : 16;
    insn->vvvv = (uint8_t)(((~p1 >> 3) & 15) | (p2 & 0x08 ? 0 : 16));
    insn->pp = p1 & 3;
    insn->vector_length = (p2 >> 5) & 3;
    insn->evex_p3 = p2;
    if (r->code_size != X86_CODE_64) {
        insn->rex &= X86_REX_W;
        insn->evex_r = 0;
        insn->vvvv &= 7;
    }
    if (insn->map == 0 || insn->map == 4 || insn->map == 7)
        reader_fail(r, X86_DECODE_UD);
    insn->opcode = read_byte(r);
}

/* C4, C5 and 62 are LES, LDS and BOUND outside 64-bit mode unless ModRM would name registers. */
static bool vex_follows(struct reader *r)
{
    if (r->code_size == X86_CODE_64)
        return true;
    if (r->at >= r->available) {
        reader_fail(r, r->at < X86_INSN_BYTES_MAX ? X86_DECODE_MORE : X86_DECODE_TOO_LONG);
        return false;
    }
    return r->bytes[r->at] >= 0xc0;
}

static void legacy_opcode_read(struct reader *r, uint8_t byte)
{
    struct x86_insn *insn = r->insn;

    if (insn->prefixes & X86_PREFIX_REP)
        insn->pp = 2;
    else if (insn->prefixes & X86_PREFIX_REPNE)
        insn->pp = 3;
    else if (insn->prefixes & X86_PREFIX_66)
        insn->pp = 1;
    insn->opcode = byte;
    if (byte != 0x0f)
        return;
    insn->map = 1;
    insn->opcode = read_byte(r);
    if (insn->opcode == 0x38 || insn->opcode == 0x3a) {
        insn->map = insn->opcode == 0x38 ? 2 : 3;
        insn->opcode = read_byte(r);
    }
}

static void opcode_read(struct reader *r, uint8_t byte)
{
    if ((byte == 0xc4 || byte == 0xc5) && vex_follows(r))
        vex_read(r, byte == 0xc4);
    else if (byte == 0x62 && vex_follows(r))
        evex_read(r);
    else
        legacy_opcode_read(r, byte);
}

/* Whether a ModRM byte follows, where the entry itself depends on it. */
static bool entry_needs_modrm(const struct x86_insn *insn)
{
    if (insn->vex != X86_VEX_NONE)
        return !(insn->vex == X86_VEX_VEX && insn->map == 1 && insn->opcode == 0x77);
    if (insn->map == 0)
        return (one_byte[insn->opcode].flags & MODRM) != 0;
    if (insn->map > 1)
        return true;
    switch (insn->opcode) {
    case 0x01:
    case 0xae:
    case 0xc7:
    case 0xb8:
    case 0xbc:
    case 0xbd:
    case 0xc3:
        return true;
    default:
        return (two_byte[insn->opcode].flags & MODRM) != 0;
    }
}

static struct entry entry_find(const struct reader *r)
{
    const struct x86_insn *insn = r->insn;
    struct entry entry;

    if (insn->vex == X86_VEX_VEX)
        return vex_entry(r);
    if (insn->vex == X86_VEX_EVEX) {
        bool immediate = insn->map == 3 ||
                         (insn->map == 1 &&
                          ((insn->opcode >= 0x70 && insn->opcode <= 0x73) || insn->opcode == 0xc2 ||
                           (insn->opcode >= 0xc4 && insn->opcode <= 0xc6)));
        return immediate ? (struct entry)VEC_IB : (struct entry)VEC;
    }
    if (insn->map == 0)
        entry = one_byte[insn->opcode];
    else if (insn->map == 1)
        entry = two_byte_entry(r);
    else
        entry = three_byte_entry(r);
    if (entry.op >= GROUP) {
        uint32_t kept = entry.flags & I64; /* 82 */

        entry = groups[entry.op - GROUP][(insn->modrm >> 3) & 7];
        entry.flags |= kept;
    }
    return entry;
}

/* Encodings whose meaning the tables leave open. */
static void entry_refine(struct reader *r, struct entry *entry)
{
    struct x86_insn *insn = r->insn;

    if (insn->vex != X86_VEX_NONE)
        return;
    if (entry->op == X86_OP_XCHG && insn->opcode == 0x90 && !(insn->rex & X86_REX_B)) {
        entry->op = insn->prefixes & X86_PREFIX_REP ? X86_OP_PAUSE : X86_OP_NOP;
        entry->form = X86_FORM_NONE;
    }
    if (entry->op == X86_OP_ARPL && r->code_size == X86_CODE_64)
        *entry = (struct entry)G_E(MOVSXD, 0);
    if (entry->op == X86_OP_MOV_FROM_SEG || entry->op == X86_OP_MOV_TO_SEG) {
        insn->reg &= 7;
        if (insn->reg > X86_GS || (entry->op == X86_OP_MOV_TO_SEG && insn->reg == X86_CS))
            reader_fail(r, X86_DECODE_UD);
    }
}

static void operands_set(struct reader *r, const struct entry *entry)
{
    struct x86_insn *insn = r->insn;
    uint32_t flags = entry->flags;

    if (flags & ZREG)
        insn->rm = (uint8_t)((insn->opcode & 7) | (insn->rex & X86_REX_B ? 8 : 0));
    if (flags & ACC)
        insn->rm = X86_RAX;
    if (flags & MOFFS) {
        insn->memory = true;
        insn->reg = X86_RAX;
    }
    if (flags & ONE)
        insn->immediate = 1;
    insn->by_cl = (flags & CL) != 0;
    if (entry->op == X86_OP_PUSH_SEG || entry->op == X86_OP_POP_SEG)
        insn->reg = (insn->opcode >> 3) & 7; /* 06 ES, 0E CS, 16 SS, 1E DS, 0F A0 FS, 0F A8 GS */
}

/* CR1, CR5 to CR7 and CR9 up, DR8 up: no such register. */
static bool register_exists(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOV_TO_CR:
    case X86_OP_MOV_FROM_CR:
        return insn->reg == 0 || (insn->reg >= 2 && insn->reg <= 4) || insn->reg == 8;
    case X86_OP_MOV_TO_DR:
    case X86_OP_MOV_FROM_DR:
        return insn->reg < 8;
    default:
        return true;
    }
}

static void rules_check(struct reader *r, const struct entry *entry)
{
    const struct x86_insn *insn = r->insn;
    uint32_t flags = entry->flags;

    if (entry->op == X86_OP_INVALID || (flags & (r->code_size == X86_CODE_64 ? I64 : O64)) ||
        ((flags & MEM) && !insn->memory) || ((flags & RMREG) && insn->memory) ||
        !register_exists(insn))
        reader_fail(r, X86_DECODE_UD);
    if ((insn->prefixes & X86_PREFIX_LOCK) && !((flags & LOCKS) && insn->memory))
        reader_fail(r, X86_DECODE_UD);
}

/* All but its bytes. Word by word, each for itself: compilers make of an assignment a REP STOS,
 * which takes as long as the rest of the decoder. */
static void insn_clear(struct x86_insn *insn)
{
    typedef uint64_t __attribute__((may_alias)) word;
    volatile word *words = (volatile word *)(void *)insn;

    _Static_assert(offsetof(struct x86_insn, evex_p3) == 40, "five words");
    _Static_assert(offsetof(struct x86_insn, bytes) == 42, "two bytes, and its own");
    for (unsigned i = 0; i < 5; i++)
        words[i] = 0;
    insn->evex_p3 = 0;
    insn->evex_r = 0;
    insn->base = X86_REG_NONE;
    insn->index = X86_REG_NONE;
    insn->segment = X86_DS;
    insn->op = X86_OP_INVALID;
}

/* As many as it has; what lies behind them says nothing. */
static void bytes_keep(const struct reader *r)
{
    struct x86_insn *insn = r->insn;

    insn->length = (uint8_t)r->at;
    if (r->available >= sizeof insn->bytes) {
        __builtin_memcpy(insn->bytes, r->bytes, sizeof insn->bytes);
        return;
    }
    for (size_t i = 0; i < r->at; i++)
        insn->bytes[i] = r->bytes[i];
}

enum x86_decode_result x86_decode(struct x86_insn *insn, enum x86_code_size code_size,
                                  const uint8_t *bytes, size_t available)
{
    struct reader r = {
        .insn = insn, .code_size = code_size, .bytes = bytes, .available = available};
    struct entry entry = BAD;

    insn_clear(insn);
    opcode_read(&r, prefixes_read(&r));
    if (r.trouble == X86_DECODE_OK && entry_needs_modrm(insn))
        modrm_read(&r);
    if (r.trouble == X86_DECODE_OK) {
        entry = entry_find(&r);
        entry_refine(&r, &entry);
        sizes_set(&r, entry.flags);
        insn->op = entry.op;
        insn->form = entry.form;
        if (insn->modrm_offset != 0)
            memory_read(&r, entry.flags);
        operands_set(&r, &entry);
        immediate_read(&r, entry.flags);
        if (r.trouble == X86_DECODE_OK)
            rules_check(&r, &entry);
    }
    bytes_keep(&r);
    return r.trouble;
}

const char *x86_op_name(enum x86_op op)
{
    static const char *const names[] = {
#define X86_OP_NAME(name) #name,
        X86_OPS(X86_OP_NAME)
#undef X86_OP_NAME
    };

    return op < X86_OP_COUNT ? names[op] : "?";
}
