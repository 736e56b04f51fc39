/*
 * See emit.h. One description of an encoded instruction (struct encoding) serves both halves: the
 * guest's instructions fill it from their decoded form, the small assembler from its arguments.
 */
#include "cpu/soft/emit.h"

#include <string.h>

#include "cpu/x86/state.h"

#define INSN_ROOM 32u /* over the longest encoding */

enum addressing {
    NO_MODRM,
    AT_REGISTER, /* ModRM.rm is register rm */
    AT_BASE,     /* [rm + disp] */
    AT_INDEX,    /* [rm + (index << scale) + disp], rm or index may be HOST_NONE */
    AT_STATE,    /* [gs:disp] */
    IN_OPCODE    /* register rm in the opcode's low bits */
};

struct encoding {
    uint8_t vex; /* enum x86_vex */
    uint8_t map, pp, opcode;
    bool lock, size_16, wide; /* F0; 66; W */
    bool rex, no_rex;         /* SPL to DIL need REX, AH to BH forbid it */
    uint8_t addressing;       /* enum addressing */
    uint8_t reg, rm;          /* register numbers, EVEX up to 31 */
    uint8_t index, scale;
    uint8_t vvvv;
    uint8_t vector_length;
    uint8_t p3; /* EVEX: z L'L b aaa, without V' */
    int32_t disp;
    uint8_t immediate_bytes;
    uint64_t immediate;
};

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

static bool put_legacy(struct emit *e, const struct encoding *c)
{
    static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};
    uint8_t rex = (uint8_t)(rex_bits(c) | (c->wide ? 8 : 0));

    if (c->no_rex && (rex || c->rex))
        return false;
    if (c->addressing == AT_STATE)
        PUT(e, 0x65);
    if (c->lock)
        PUT(e, 0xf0);
    if (c->size_16 && c->pp != 1)
        PUT(e, 0x66);
    if (c->pp)
        PUT(e, mandatory[c->pp]);
    if (rex || c->rex)
        PUT(e, (uint8_t)(0x40 | rex));
    if (c->map > 0)
        PUT(e, 0x0f);
    if (c->map > 1)
        PUT(e, (uint8_t)(c->map == 2 ? 0x38 : 0x3a));
    return true;
}

/* SDM vol. 2, 2.3.5: R, X, B and vvvv are inverted. */
static void put_vex(struct emit *e, const struct encoding *c)
{
    uint8_t bits = (uint8_t)(~rex_bits(c) & 7);
    uint8_t last = (uint8_t)((~c->vvvv & 15) << 3 | (c->vector_length & 1) << 2 | c->pp);

    if (c->map == 1 && !c->wide && (bits & 3) == 3)
        PUT(e, 0xc5, (uint8_t)((bits & 4) << 5 | last));
    else
        PUT(e, 0xc4, (uint8_t)(bits << 5 | c->map), (uint8_t)((c->wide ? 0x80 : 0) | last));
}

/* SDM vol. 2, 2.7: R' and, for a register in rm, X are bit 4 of the numbers. */
static void put_evex(struct emit *e, const struct encoding *c)
{
    uint8_t bits = (uint8_t)(rex_bits(c) << 5 | bit(c->reg, 4, 4));

    if (c->addressing == AT_REGISTER)
        bits |= bit(c->rm, 4, 6);
    PUT(e, 0x62, (uint8_t)((~bits & 0xf0) | c->map),
        (uint8_t)((c->wide ? 0x80 : 0) | (~c->vvvv & 15) << 3 | 4 | c->pp),
        (uint8_t)((c->p3 & 0xf7) | (c->vvvv & 16 ? 0 : 8)));
}

/* ModRM, SIB and displacement of [rm + disp]: RSP and R12 want a SIB byte, RBP and R13 a
 * displacement even if it is 0. EVEX scales 8-bit displacements, but has only 0 here. */
static void put_base(struct emit *e, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3), rm = c->rm & 7;
    bool short_disp = c->disp == (int8_t)c->disp;
    unsigned bytes = c->disp == 0 && rm != HOST_RBP ? 0 : short_disp ? 1 : 4;

    PUT(e, (uint8_t)((bytes == 0 ? 0 : bytes == 1 ? 0x40 : 0x80) | reg | rm));
    if (rm == HOST_RSP)
        PUT(e, 0x24);
    put(e, &c->disp, bytes);
}

static void put_index(struct emit *e, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3);
    uint8_t index = c->index == HOST_NONE ? HOST_RSP : c->index & 7;
    bool short_disp = c->disp == (int8_t)c->disp;
    unsigned bytes = short_disp ? 1 : 4;

    if (c->rm == HOST_NONE) { /* mod 0 with base 5: disp32 and no base */
        PUT(e, (uint8_t)(reg | 4), (uint8_t)(c->scale << 6 | index << 3 | 5));
        put(e, &c->disp, 4);
        return;
    }
    if (c->disp == 0 && (c->rm & 7) != HOST_RBP)
        bytes = 0;
    PUT(e,
        (uint8_t)((bytes == 0   ? 0
                   : bytes == 1 ? 0x40
                                : 0x80) |
                  reg | 4),
        (uint8_t)(c->scale << 6 | index << 3 | (c->rm & 7)));
    put(e, &c->disp, bytes);
}

static void put_operands(struct emit *e, const struct encoding *c)
{
    uint8_t reg = (uint8_t)((c->reg & 7) << 3);

    switch (c->addressing) {
    case AT_REGISTER:
        PUT(e, (uint8_t)(0xc0 | reg | (c->rm & 7)));
        break;
    case AT_BASE:
        put_base(e, c);
        break;
    case AT_INDEX:
        put_index(e, c);
        break;
    case AT_STATE:
        PUT(e, (uint8_t)(reg | 4), 0x25);
        put(e, &c->disp, 4);
        break;
    default:
        break;
    }
}

/* Whole, or not at all. */
static bool put_encoding(struct emit *e, const struct encoding *c)
{
    uint8_t buffer[INSN_ROOM];
    struct emit own = {.at = buffer, .end = buffer + sizeof buffer};

    if (c->vex == X86_VEX_VEX)
        put_vex(&own, c);
    else if (c->vex == X86_VEX_EVEX)
        put_evex(&own, c);
    else if (!put_legacy(&own, c))
        return false;
    PUT(&own, (uint8_t)(c->addressing == IN_OPCODE ? (c->opcode & 0xf8) | (c->rm & 7) : c->opcode));
    put_operands(&own, c);
    put(&own, &c->immediate, c->immediate_bytes);
    put(e, buffer, (unsigned)(own.at - buffer));
    return true;
}

/* -- what the guest's instructions do with general registers -- */

#define R          X86_OPERAND_READ
#define W          X86_OPERAND_WRITE
#define RW         (R | W)

#define RAX        (1u << X86_RAX)
#define RCX        (1u << X86_RCX)
#define RDX        (1u << X86_RDX)
#define RBX        (1u << X86_RBX)
#define RSP        (1u << X86_RSP)
#define RBP        (1u << X86_RBP)
#define RSI        (1u << X86_RSI)
#define RDI        (1u << X86_RDI)
#define R11        (1u << 11)

#define RUN        0x01u /* emit_insn() may encode it */
#define NATIVE     0x02u /* 64-bit without W */
#define ANY_SIZE   0x04u /* 66 means nothing */
#define MANDATORY  0x08u /* the F3, F2 or 66 prefix is a part of it */
#define REG_OTHER  0x10u /* ModRM.reg is no general register */
#define REP_COUNTS 0x20u /* REP, REPNE */
#define MERGES     0x40u /* implicit writes of less than 32 bits keep the rest */

/* `first` and `second` are the operands in the order of the form, so RM alone is `first`. */
struct effect {
    uint8_t first, second, vvvv, flags;
    uint16_t read, written; /* implicit */
};

/* clang-format off */
static const struct effect effects[X86_OP_COUNT] = {
    [X86_OP_ADD] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_OR] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_ADC] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_SBB] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_AND] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_SUB] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_XOR] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_CMP] = {R, R, 0, RUN, 0, 0},
    [X86_OP_TEST] = {R, R, 0, RUN, 0, 0},
    [X86_OP_INC] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_DEC] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_NOT] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_NEG] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_MUL] = {R, 0, 0, RUN | MERGES, RAX, RAX | RDX},
    [X86_OP_IMUL1] = {R, 0, 0, RUN | MERGES, RAX, RAX | RDX},
    [X86_OP_IMUL2] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_IMUL3] = {W, R, 0, RUN, 0, 0},
    [X86_OP_DIV] = {R, 0, 0, RUN | MERGES, RAX | RDX, RAX | RDX},
    [X86_OP_IDIV] = {R, 0, 0, RUN | MERGES, RAX | RDX, RAX | RDX},
    [X86_OP_ROL] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_ROR] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_RCL] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_RCR] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_SHL] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_SHR] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_SAR] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_SHLD] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_SHRD] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_BT] = {R, R, 0, RUN, 0, 0},
    [X86_OP_BTS] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_BTR] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_BTC] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_BSF] = {RW, R, 0, RUN, 0, 0}, /* a source of 0 leaves the destination */
    [X86_OP_BSR] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_TZCNT] = {W, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_LZCNT] = {W, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_POPCNT] = {W, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_BSWAP] = {RW, 0, 0, RUN, 0, 0},
    [X86_OP_MOVBE] = {W, R, 0, RUN, 0, 0},
    [X86_OP_CRC32] = {RW, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_XADD] = {RW, RW, 0, RUN, 0, 0},
    [X86_OP_CMPXCHG] = {RW, R, 0, RUN, RAX, RAX},
    [X86_OP_CMPXCHG8B] = {RW, 0, 0, RUN | ANY_SIZE, RAX | RCX | RDX | RBX, RAX | RDX},
    [X86_OP_XCHG] = {RW, RW, 0, RUN, 0, 0},
    [X86_OP_MOV] = {W, R, 0, RUN, 0, 0},
    [X86_OP_MOVZX8] = {W, R, 0, RUN, 0, 0},
    [X86_OP_MOVZX16] = {W, R, 0, RUN, 0, 0},
    [X86_OP_MOVSX8] = {W, R, 0, RUN, 0, 0},
    [X86_OP_MOVSX16] = {W, R, 0, RUN, 0, 0},
    [X86_OP_MOVSXD] = {W, R, 0, RUN, 0, 0},
    [X86_OP_LEA] = {W, 0, 0, RUN, 0, 0},
    [X86_OP_CMOV] = {RW, R, 0, RUN, 0, 0},
    [X86_OP_SETCC] = {W, 0, 0, RUN, 0, 0},
    [X86_OP_PUSH] = {R, 0, 0, RUN | NATIVE, RSP, RSP},
    [X86_OP_POP] = {W, 0, 0, RUN | NATIVE, RSP, RSP},
    [X86_OP_PUSHA] = {0, 0, 0, 0, 0xff, RSP},
    [X86_OP_POPA] = {0, 0, 0, MERGES, RSP, 0xff},
    [X86_OP_PUSHF] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_POPF] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_LAHF] = {0, 0, 0, RUN | ANY_SIZE, RAX, RAX},
    [X86_OP_SAHF] = {0, 0, 0, RUN | ANY_SIZE, RAX, 0},
    [X86_OP_CBW] = {0, 0, 0, RUN, RAX, RAX},
    [X86_OP_CWD] = {0, 0, 0, RUN | MERGES, RAX, RDX},
    [X86_OP_ENTER] = {0, 0, 0, 0, RSP | RBP, RSP | RBP},
    [X86_OP_LEAVE] = {0, 0, 0, 0, RSP | RBP, RSP | RBP},
    [X86_OP_XLAT] = {0, 0, 0, 0, RAX | RBX, RAX},
    [X86_OP_DAA] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_DAS] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_AAA] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_AAS] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_AAM] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_AAD] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_SALC] = {0, 0, 0, 0, RAX, RAX},
    [X86_OP_BOUND] = {R, 0, 0, 0, 0, 0},
    [X86_OP_ARPL] = {RW, R, 0, 0, 0, 0},
    [X86_OP_INTO] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_INT3] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_INT] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_INT1] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_IRET] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_CALL] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_CALL_IND] = {R, 0, 0, 0, RSP, RSP},
    [X86_OP_CALL_FAR] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_CALL_FAR_IND] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_JMP_IND] = {R, 0, 0, 0, 0, 0},
    [X86_OP_RET] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_RETF] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_LOOP] = {0, 0, 0, 0, RCX, RCX},
    [X86_OP_LOOPE] = {0, 0, 0, 0, RCX, RCX},
    [X86_OP_LOOPNE] = {0, 0, 0, 0, RCX, RCX},
    [X86_OP_JCXZ] = {0, 0, 0, 0, RCX, 0},
    [X86_OP_MOVS] = {0, 0, 0, RUN | REP_COUNTS, RSI | RDI, RSI | RDI},
    [X86_OP_CMPS] = {0, 0, 0, RUN | REP_COUNTS, RSI | RDI, RSI | RDI},
    [X86_OP_STOS] = {0, 0, 0, RUN | REP_COUNTS, RAX | RDI, RDI},
    [X86_OP_LODS] = {0, 0, 0, RUN | REP_COUNTS | MERGES, RSI, RAX | RSI},
    [X86_OP_SCAS] = {0, 0, 0, RUN | REP_COUNTS, RAX | RDI, RDI},
    [X86_OP_INS] = {0, 0, 0, REP_COUNTS, RDX | RDI, RDI},
    [X86_OP_OUTS] = {0, 0, 0, REP_COUNTS, RDX | RSI, RSI},
    [X86_OP_IN] = {0, 0, 0, MERGES, 0, RAX},
    [X86_OP_OUT] = {0, 0, 0, 0, RAX, 0},
    [X86_OP_CLC] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_STC] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_CMC] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_NOP] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_PAUSE] = {0, 0, 0, RUN | ANY_SIZE | MANDATORY, 0, 0},
    [X86_OP_MOV_FROM_SEG] = {W, 0, 0, REG_OTHER, 0, 0},
    [X86_OP_MOV_TO_SEG] = {0, R, 0, REG_OTHER, 0, 0},
    [X86_OP_PUSH_SEG] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_POP_SEG] = {0, 0, 0, 0, RSP, RSP},
    [X86_OP_LOAD_FAR] = {W, 0, 0, 0, 0, 0},
    [X86_OP_SLDT] = {W, 0, 0, 0, 0, 0},
    [X86_OP_STR] = {W, 0, 0, 0, 0, 0},
    [X86_OP_LLDT] = {R, 0, 0, 0, 0, 0},
    [X86_OP_LTR] = {R, 0, 0, 0, 0, 0},
    [X86_OP_VERR] = {R, 0, 0, 0, 0, 0},
    [X86_OP_VERW] = {R, 0, 0, 0, 0, 0},
    [X86_OP_LAR] = {RW, R, 0, 0, 0, 0},
    [X86_OP_LSL] = {RW, R, 0, 0, 0, 0},
    [X86_OP_SMSW] = {W, 0, 0, 0, 0, 0},
    [X86_OP_LMSW] = {R, 0, 0, 0, 0, 0},
    [X86_OP_INVPCID] = {R, 0, 0, 0, 0, 0},
    [X86_OP_SYSCALL] = {0, 0, 0, 0, 0, RCX | R11},
    [X86_OP_SYSRET] = {0, 0, 0, 0, RCX | R11, 0},
    [X86_OP_SYSENTER] = {0, 0, 0, 0, 0, RSP},
    [X86_OP_SYSEXIT] = {0, 0, 0, 0, RCX | RDX, RSP},
    [X86_OP_RDTSC] = {0, 0, 0, 0, 0, RAX | RDX},
    [X86_OP_RDTSCP] = {0, 0, 0, 0, 0, RAX | RDX | RCX},
    [X86_OP_RDPMC] = {0, 0, 0, 0, RCX, RAX | RDX},
    [X86_OP_RDMSR] = {0, 0, 0, 0, RCX, RAX | RDX},
    [X86_OP_WRMSR] = {0, 0, 0, 0, RAX | RCX | RDX, 0},
    [X86_OP_CPUID] = {0, 0, 0, 0, RAX | RCX, RAX | RBX | RCX | RDX},
    [X86_OP_MOV_FROM_CR] = {W, 0, 0, REG_OTHER, 0, 0},
    [X86_OP_MOV_TO_CR] = {R, 0, 0, REG_OTHER, 0, 0},
    [X86_OP_MOV_FROM_DR] = {W, 0, 0, REG_OTHER, 0, 0},
    [X86_OP_MOV_TO_DR] = {R, 0, 0, REG_OTHER, 0, 0},
    [X86_OP_XGETBV] = {0, 0, 0, 0, RCX, RAX | RDX},
    [X86_OP_XSETBV] = {0, 0, 0, 0, RAX | RCX | RDX, 0},
    [X86_OP_XSAVE] = {0, 0, 0, 0, RAX | RDX, 0},
    [X86_OP_XRSTOR] = {0, 0, 0, 0, RAX | RDX, 0},
    [X86_OP_XSAVEOPT] = {0, 0, 0, 0, RAX | RDX, 0},
    [X86_OP_XSAVEC] = {0, 0, 0, 0, RAX | RDX, 0},
    [X86_OP_LDMXCSR] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_STMXCSR] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_LFENCE] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_MFENCE] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_SFENCE] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_CLFLUSH] = {0, 0, 0, RUN | ANY_SIZE | MANDATORY, 0, 0},
    [X86_OP_PREFETCH] = {0, 0, 0, RUN | ANY_SIZE, 0, 0},
    [X86_OP_RDRAND] = {W, 0, 0, RUN, 0, 0},
    [X86_OP_RDSEED] = {W, 0, 0, RUN, 0, 0},
    [X86_OP_RDPID] = {W, 0, 0, 0, 0, 0},
    [X86_OP_RDFSBASE] = {W, 0, 0, 0, 0, 0},
    [X86_OP_RDGSBASE] = {W, 0, 0, 0, 0, 0},
    [X86_OP_WRFSBASE] = {R, 0, 0, 0, 0, 0},
    [X86_OP_WRGSBASE] = {R, 0, 0, 0, 0, 0},
    [X86_OP_VMCALL] = {0, 0, 0, 0, RAX | RBX | RCX | RDX | RSI, RAX}, /* hypercalls, as KVM's */
    [X86_OP_MOVNTI] = {W, R, 0, RUN, 0, 0},
    [X86_OP_ADCX] = {RW, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_ADOX] = {RW, R, 0, RUN | MANDATORY, 0, 0},
    [X86_OP_ANDN] = {W, R, R, RUN, 0, 0},
    [X86_OP_BEXTR] = {W, R, R, RUN, 0, 0},
    [X86_OP_BLSR] = {R, 0, W, RUN, 0, 0},
    [X86_OP_BLSMSK] = {R, 0, W, RUN, 0, 0},
    [X86_OP_BLSI] = {R, 0, W, RUN, 0, 0},
    [X86_OP_BZHI] = {W, R, R, RUN, 0, 0},
    [X86_OP_MULX] = {W, R, W, RUN, RDX, 0},
    [X86_OP_PDEP] = {W, R, R, RUN, 0, 0},
    [X86_OP_PEXT] = {W, R, R, RUN, 0, 0},
    [X86_OP_RORX] = {W, R, 0, RUN, 0, 0},
    [X86_OP_SARX] = {W, R, R, RUN, 0, 0},
    [X86_OP_SHLX] = {W, R, R, RUN, 0, 0},
    [X86_OP_SHRX] = {W, R, R, RUN, 0, 0},
    [X86_OP_MONITOR] = {0, 0, 0, 0, RAX | RCX | RDX, 0},
    [X86_OP_MWAIT] = {0, 0, 0, 0, RAX | RCX, 0},
    [X86_OP_X87] = {0, 0, 0, RUN, 0, 0},
    [X86_OP_VECTOR] = {0, 0, 0, RUN, 0, 0},
};
/* clang-format on */

/* A general register that an instruction names, or none. */
struct name {
    uint8_t access; /* X86_OPERAND_*; none: 0 */
    uint8_t number; /* as encoded: 4 to 7 may be AH to BH */
    bool present, byte;
};

struct names {
    struct name reg, rm, vvvv;
};

static bool is_vector(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

static struct name name_of_operand(const struct x86_vector_operand *operand)
{
    return (struct name){.access = operand->access,
                         .number = operand->number,
                         .present = operand->class == X86_CLASS_GPR};
}

/* Operands where ModRM.reg comes first, and where it names a register at all. */
static bool reg_is_first(const struct x86_insn *insn)
{
    return insn->form == X86_FORM_REG_RM || insn->form == X86_FORM_REG_RM_IMM;
}

/* The accumulator of the one-byte XCHG is its reg. */
static bool reg_is_named(const struct x86_insn *insn)
{
    return insn->form == X86_FORM_RM_REG || reg_is_first(insn) || insn->op == X86_OP_XCHG;
}

static bool rm_is_named(const struct x86_insn *insn)
{
    return insn->form != X86_FORM_NONE && insn->form != X86_FORM_IMM && !insn->memory;
}

static struct names names_of(const struct x86_insn *insn, const struct x86_vector_insn *vector)
{
    const struct effect *effect = &effects[insn->op];
    bool bytes = insn->operand_size == 1;
    struct names names = {0};

    if (is_vector(insn)) {
        names.reg = name_of_operand(&vector->reg);
        names.rm = name_of_operand(&vector->rm);
        names.vvvv = name_of_operand(&vector->vvvv);
        return names;
    }
    if (reg_is_named(insn) && !(effect->flags & REG_OTHER))
        names.reg = (struct name){.access = reg_is_first(insn) ? effect->first : effect->second,
                                  .number = insn->reg,
                                  .present = true,
                                  .byte = bytes && insn->op != X86_OP_CRC32};
    if (rm_is_named(insn))
        names.rm =
            (struct name){.access = reg_is_first(insn) ? effect->second : effect->first,
                          .number = insn->rm,
                          .present = true,
                          .byte = bytes || insn->op == X86_OP_MOVZX8 || insn->op == X86_OP_MOVSX8};
    if (effect->vvvv)
        names.vvvv =
            (struct name){.access = effect->vvvv, .number = insn->vvvv & 15, .present = true};
    return names;
}

static bool is_high_byte(const struct x86_insn *insn, const struct name *name)
{
    return name->present && name->byte && !(insn->rex & X86_REX) && name->number >= 4 &&
           name->number < 8;
}

/* Bytes of an explicit register that a write changes. */
static unsigned written_bytes(const struct x86_insn *insn)
{
    return insn->op == X86_OP_CRC32 || is_vector(insn) ? 4 : insn->operand_size;
}

static void name_count(const struct x86_insn *insn, const struct name *name,
                       struct emit_registers *out)
{
    bool high = is_high_byte(insn, name);
    uint16_t mask = (uint16_t)(1u << ((high ? name->number - 4 : name->number) & 15));

    if (!name->present || !name->access)
        return;
    out->high_byte |= high;
    if (name->access & W)
        out->written |= mask;
    if ((name->access & R) || written_bytes(insn) < 4)
        out->read |= mask;
}

static void implicit_count(const struct x86_insn *insn, struct emit_registers *out)
{
    const struct effect *effect = &effects[insn->op];
    bool muldiv = insn->op == X86_OP_MUL || insn->op == X86_OP_IMUL1 || insn->op == X86_OP_DIV ||
                  insn->op == X86_OP_IDIV;
    uint16_t keep = muldiv && insn->operand_size == 1 ? (uint16_t)~RDX : UINT16_MAX;

    out->implicit_read = effect->read & keep;
    out->implicit_written = effect->written & keep;
    if ((effect->flags & REP_COUNTS) && (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE))) {
        out->implicit_read |= RCX | effect->written; /* a count of 0 writes nothing */
        out->implicit_written |= RCX;
    }
    if ((effect->flags & MERGES) && insn->operand_size < 4)
        out->implicit_read |= out->implicit_written;
    if (insn->by_cl)
        out->implicit_read |= RCX;
    if ((insn->op == X86_OP_IN || insn->op == X86_OP_OUT) && insn->form == X86_FORM_NONE)
        out->implicit_read |= RDX;
}

static void vector_implicit_count(const struct x86_vector_insn *vector, struct emit_registers *out)
{
    if (vector->flags & X86_VECTOR_RAX_RDX)
        out->implicit_read |= RAX | RDX;
    if (vector->flags & X86_VECTOR_WRITES_RCX)
        out->implicit_written |= RCX;
    if (vector->flags & X86_VECTOR_WRITES_RAX) { /* AX */
        out->implicit_read |= RAX;
        out->implicit_written |= RAX;
    }
    if (vector->memory == X86_MEMORY_STRING)
        out->implicit_read |= RDI;
}

void emit_registers_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                       struct emit_registers *out)
{
    struct names names = names_of(insn, vector);

    *out = (struct emit_registers){0};
    name_count(insn, &names.reg, out);
    name_count(insn, &names.rm, out);
    name_count(insn, &names.vvvv, out);
    implicit_count(insn, out);
    if (is_vector(insn))
        vector_implicit_count(vector, out);
}

/* -- the guest's instructions, encoded anew -- */

/* Whether [base] bounds what the instruction touches, and 64-bit mode has it. */
static bool may_encode(const struct x86_insn *insn, const struct x86_vector_insn *vector)
{
    const struct effect *effect = &effects[insn->op];

    if (!(effect->flags & RUN))
        return false;
    if (is_vector(insn))
        return vector->memory <= X86_MEMORY_COMPRESSED;
    if (insn->op >= X86_OP_BT && insn->op <= X86_OP_BTC)
        return !(insn->memory && insn->form == X86_FORM_RM_REG);
    return !((effect->flags & NATIVE) && insn->operand_size == 4);
}

static bool in_range(unsigned value, unsigned from, unsigned to)
{
    return value >= from && value <= to;
}

/* Bytes of the immediate that follows a one-byte opcode, as it is or as it will be encoded. */
static unsigned immediate_bytes_one(const struct encoding *c, unsigned operand_size)
{
    unsigned full = operand_size == 8 ? 4 : operand_size;

    switch (c->opcode) {
    case 0x69:
    case 0x68:
    case 0x81:
    case 0xa9:
    case 0xc7:
        return full;
    case 0x6a:
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xa8:
    case 0xc0:
    case 0xc1:
    case 0xc6:
        return 1;
    case 0xf6:
    case 0xf7:
        return (c->reg & 7) < 2 ? full : 0;
    default:
        if (in_range(c->opcode, 0xb0, 0xbf))
            return operand_size;
        return c->opcode < 0x40 && in_range(c->opcode & 7, 4, 5) ? full : 0;
    }
}

static unsigned immediate_bytes(const struct encoding *c, unsigned operand_size)
{
    switch (c->map) {
    case 0:
        return immediate_bytes_one(c, operand_size);
    case 1:
        return in_range(c->opcode, 0x70, 0x73) || in_range(c->opcode, 0xc4, 0xc6) ||
               c->opcode == 0xc2 ||
               (c->vex == X86_VEX_NONE &&
                (c->opcode == 0xa4 || c->opcode == 0xac || c->opcode == 0xba));
    case 3:
        return 1;
    default:
        return 0;
    }
}

/* One-byte opcodes without ModRM that name a register: some keep it in the opcode, others have it
 * in ModRM here. */
static void short_form_encode(const struct x86_insn *insn, struct encoding *c)
{
    unsigned op = insn->opcode;

    c->addressing = AT_REGISTER;
    if (in_range(op, 0x40, 0x4f)) { /* INC, DEC: REX in 64-bit mode */
        c->opcode = 0xff;
        c->reg = op >> 3 & 1;
    } else if (in_range(op, 0x90, 0x97)) { /* 90 would be a NOP */
        c->opcode = 0x87;
    } else if (in_range(op, 0xa0, 0xa3)) { /* A0 to A3 are 8A, 8B, 88, 89 */
        c->opcode = (uint8_t)(0x88 | ((op & 3) ^ 2));
        c->addressing = AT_BASE;
    } else if (op < 0x40 && c->rm != HOST_RAX) {
        c->opcode = 0x80 | (op & 1);
        c->reg = op >> 3 & 7;
    } else if (in_range(op, 0xa8, 0xa9) && c->rm != HOST_RAX) {
        c->opcode = 0xf6 | (op & 1);
        c->reg = 0;
    } else {
        c->addressing = op < 0x40 || in_range(op, 0xa8, 0xa9) ? NO_MODRM : IN_OPCODE;
    }
}

static bool name_encode(const struct x86_insn *insn, const struct name *name,
                        const struct emit_rename *rename, struct encoding *c, uint8_t *number)
{
    if (!name->present)
        return true;
    if (is_high_byte(insn, name)) {
        uint8_t host = rename->gpr[name->number - 4];

        c->no_rex = true;
        *number = host + 4;
        return host < 4;
    }
    *number = rename->gpr[name->number & 15];
    if (name->byte && *number >= 4)
        c->rex = true;
    return true;
}

static bool names_encode(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                         const struct emit_rename *rename, struct encoding *c)
{
    struct names names = names_of(insn, vector);

    return name_encode(insn, &names.reg, rename, c, &c->reg) &&
           name_encode(insn, &names.rm, rename, c, &c->rm) &&
           name_encode(insn, &names.vvvv, rename, c, &c->vvvv);
}

/* What x87, MMX, SSE, AVX and AVX-512 instructions need beside general registers. */
static void vector_encode(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                          struct encoding *c)
{
    bool x87 = vector->unit == X86_UNIT_X87;

    if (vector->reg.class != X86_CLASS_NONE)
        c->reg = vector->reg.number;
    if (vector->rm.class != X86_CLASS_NONE)
        c->rm = vector->rm.number;
    c->vvvv = vector->vvvv.class == X86_CLASS_NONE ? 0 : vector->vvvv.number;
    c->pp = x87 ? 0 : insn->pp;
    c->wide = !x87 && (insn->rex & X86_REX_W);
    if (vector->flags & X86_VECTOR_FOURTH)
        c->immediate = (uint64_t)vector->fourth.number << 4 | (insn->immediate & 15);
}

static void integer_encode(const struct x86_insn *insn, struct encoding *c)
{
    unsigned flags = effects[insn->op].flags;

    c->lock = (insn->prefixes & X86_PREFIX_LOCK) != 0;
    c->size_16 = insn->operand_size == 2 && !(flags & ANY_SIZE) && insn->vex == X86_VEX_NONE;
    c->wide = insn->operand_size == 8 && !(flags & NATIVE);
    if (insn->op == X86_OP_CRC32)
        c->wide = (insn->rex & X86_REX_W) != 0;
    if ((flags & MANDATORY) || insn->vex != X86_VEX_NONE)
        c->pp = insn->pp;
    else if (flags & REP_COUNTS)
        c->pp = insn->prefixes & X86_PREFIX_REP ? 2 : insn->prefixes & X86_PREFIX_REPNE ? 3 : 0;
    if (insn->map == 0 && insn->opcode == 0x82)
        c->opcode = 0x80;
}

bool emit_insn(struct emit *e, const struct x86_insn *insn, const struct x86_vector_insn *vector,
               const struct emit_rename *rename)
{
    struct encoding c = {.vex = insn->vex,
                         .map = insn->map,
                         .opcode = insn->opcode,
                         .reg = insn->modrm >> 3 & 7,
                         .rm = insn->modrm & 7,
                         .vector_length = insn->vector_length,
                         .p3 = insn->evex_p3,
                         .immediate = insn->immediate};

    if (!may_encode(insn, vector))
        return false;
    if (insn->op == X86_OP_NOP || (insn->op == X86_OP_PREFETCH && !insn->memory)) {
        PUT(e, 0x90);
        return true;
    }
    if (is_vector(insn))
        vector_encode(insn, vector, &c);
    else
        integer_encode(insn, &c);
    if (!names_encode(insn, vector, rename, &c))
        return false;
    if (insn->modrm_offset != 0)
        c.addressing = insn->memory ? AT_BASE : AT_REGISTER;
    else if (!is_vector(insn) && (insn->memory || rm_is_named(insn)))
        short_form_encode(insn, &c);
    if (c.addressing == AT_BASE)
        c.rm = rename->memory_base;
    c.immediate_bytes = (uint8_t)immediate_bytes(&c, insn->operand_size);
    return put_encoding(e, &c);
}

/* -- the small assembler -- */

static void put_state(struct emit *e, struct encoding c, enum host_register reg, int32_t disp)
{
    c.addressing = AT_STATE;
    c.reg = (uint8_t)reg;
    c.disp = disp;
    put_encoding(e, &c);
}

static void put_register(struct emit *e, struct encoding c, unsigned reg, unsigned rm)
{
    c.addressing = AT_REGISTER;
    c.reg = (uint8_t)reg;
    c.rm = (uint8_t)rm;
    put_encoding(e, &c);
}

static void put_memory(struct emit *e, struct encoding c, enum host_register reg,
                       enum host_register base)
{
    c.addressing = AT_BASE;
    c.reg = (uint8_t)reg;
    c.rm = (uint8_t)base;
    put_encoding(e, &c);
}

#define OPCODE(...) ((struct encoding){__VA_ARGS__})

void emit_mov_reg_state(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0x8b, .wide = true), reg, disp);
}

void emit_mov_reg_state32(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.opcode = 0x8b), reg, disp);
}

void emit_mov_reg_state16(struct emit *e, enum host_register reg, int32_t disp)
{
    put_state(e, OPCODE(.map = 1, .opcode = 0xb7), reg, disp);
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

static void put_lea(struct emit *e, struct encoding c, enum host_register dst,
                    enum host_register base)
{
    c.opcode = 0x8d;
    c.reg = (uint8_t)dst;
    c.rm = (uint8_t)base;
    c.addressing = c.index == HOST_NONE && base != HOST_NONE ? AT_BASE : AT_INDEX;
    put_encoding(e, &c);
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
    put_encoding(e, &c);
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

/* op reg, rm of each of the eight */
static uint8_t alu_opcode(enum emit_alu op)
{
    return (uint8_t)(op << 3 | 3);
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
