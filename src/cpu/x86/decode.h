/*
 * The x86-64 instruction decoder: bytes to one `struct x86_insn`, for interpreter, translator and
 * the bare-metal hypervisor. Needs no libc. Trusts nothing: any bytes give an instruction, #UD or
 * "more bytes wanted".
 * Source: AMD APM vol. 3 and Intel SDM vol. 2, appendix A (opcode maps); Intel's behaviour where
 * the two differ (66 on near branches in 64-bit mode is ignored, 67 changes the address size only).
 */
#ifndef FREEHOLD_CPU_X86_DECODE_H
#define FREEHOLD_CPU_X86_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define X86_INSN_BYTES_MAX 15

/* The operation, one name for all encodings of it. VECTOR covers MMX, SSE, AVX and AVX-512 (see
 * vector.h), X87 the escapes D8 to DF. */
/* clang-format never settles on this list. */
/* clang-format off */
#define X86_OPS(X)                                                                                 \
    X(INVALID) X(ADD) X(OR) X(ADC) X(SBB) X(AND) X(SUB) X(XOR) X(CMP) X(TEST) X(INC) X(DEC)        \
    X(NOT) X(NEG) X(MUL) X(IMUL1) X(IMUL2) X(IMUL3) X(DIV) X(IDIV) X(ROL) X(ROR) X(RCL) X(RCR)     \
    X(SHL) X(SHR) X(SAR) X(SHLD) X(SHRD) X(BT) X(BTS) X(BTR) X(BTC) X(BSF) X(BSR) X(TZCNT)         \
    X(LZCNT) X(POPCNT) X(BSWAP) X(MOVBE) X(CRC32) X(XADD) X(CMPXCHG) X(CMPXCHG8B) X(XCHG) X(MOV)   \
    X(MOVZX8) X(MOVZX16) X(MOVSX8) X(MOVSX16) X(MOVSXD) X(LEA) X(CMOV) X(SETCC) X(PUSH) X(POP)     \
    X(PUSHA) X(POPA) X(PUSHF) X(POPF) X(LAHF) X(SAHF) X(CBW) X(CWD) X(ENTER) X(LEAVE) X(XLAT)      \
    X(DAA) X(DAS) X(AAA) X(AAS) X(AAM) X(AAD) X(SALC) X(BOUND) X(ARPL) X(INTO) X(INT3) X(INT)      \
    X(INT1) X(IRET) X(CALL) X(CALL_IND) X(CALL_FAR) X(CALL_FAR_IND) X(JMP) X(JMP_IND) X(JMP_FAR)   \
    X(JMP_FAR_IND) X(RET) X(RETF) X(JCC) X(LOOP) X(LOOPE) X(LOOPNE) X(JCXZ) X(MOVS) X(CMPS)        \
    X(STOS) X(LODS) X(SCAS) X(INS) X(OUTS) X(IN) X(OUT) X(CLI) X(STI) X(CLC) X(STC) X(CMC) X(CLD)  \
    X(STD) X(HLT) X(NOP) X(PAUSE) X(MOV_FROM_SEG) X(MOV_TO_SEG) X(PUSH_SEG) X(POP_SEG)             \
    X(LOAD_FAR) X(SGDT) X(SIDT) X(LGDT) X(LIDT) X(SLDT) X(STR) X(LLDT) X(LTR) X(VERR) X(VERW)      \
    X(LAR) X(LSL) X(SMSW) X(LMSW) X(CLTS) X(INVLPG) X(INVPCID) X(INVD) X(WBINVD) X(SYSCALL)        \
    X(SYSRET) X(SYSENTER) X(SYSEXIT) X(SWAPGS) X(RDTSC) X(RDTSCP) X(RDPMC) X(RDMSR) X(WRMSR)       \
    X(CPUID) X(MOV_FROM_CR) X(MOV_TO_CR) X(MOV_FROM_DR) X(MOV_TO_DR) X(XGETBV) X(XSETBV) X(RDPKRU) X(WRPKRU)           \
    X(FXSAVE) X(FXRSTOR) X(XSAVE) X(XRSTOR) X(XSAVEOPT) X(XSAVEC) X(LDMXCSR) X(STMXCSR) X(LFENCE)  \
    X(MFENCE) X(SFENCE) X(CLFLUSH) X(PREFETCH) X(RDRAND) X(RDSEED) X(RDPID) X(RDFSBASE)            \
    X(RDGSBASE) X(WRFSBASE) X(WRGSBASE) X(UD) X(VMCALL) X(CLAC) X(STAC) X(SERIALIZE) X(MOVNTI)     \
    X(ADCX) X(ADOX) X(ANDN) X(BEXTR) X(BLSR) X(BLSMSK) X(BLSI) X(BZHI) X(MULX) X(PDEP) X(PEXT)     \
    X(RORX) X(SARX) X(SHLX) X(SHRX) X(MONITOR) X(MWAIT) X(FWAIT) X(X87) X(VECTOR)
/* clang-format on */

enum x86_op {
#define X86_OP_ENUM(name) X86_OP_##name,
    X86_OPS(X86_OP_ENUM)
#undef X86_OP_ENUM
        X86_OP_COUNT
};

/* Where the operands lie. RM is a register (insn->rm) or memory (insn->memory); accumulator and
 * opcode-embedded registers are given as RM without memory; MOFFS as memory without a base. */
enum x86_form {
    X86_FORM_NONE,
    X86_FORM_RM_REG, /* destination RM, source REG */
    X86_FORM_REG_RM,
    X86_FORM_RM_IMM,
    X86_FORM_RM, /* RM alone (shifts by 1 and by CL: see x86_insn.immediate, .by_cl) */
    X86_FORM_REG_RM_IMM,
    X86_FORM_IMM /* immediate, or a branch displacement relative to the next instruction */
};

enum x86_code_size { X86_CODE_16, X86_CODE_32, X86_CODE_64 };

#define X86_PREFIX_LOCK  0x01u
#define X86_PREFIX_REP   0x02u /* F3 (the last of F2 and F3 wins) */
#define X86_PREFIX_REPNE 0x04u /* F2 */
#define X86_PREFIX_66    0x08u
#define X86_PREFIX_67    0x10u
#define X86_PREFIX_SEG   0x20u /* an effective segment override */

#define X86_REX_B        0x01u
#define X86_REX_X        0x02u
#define X86_REX_R        0x04u
#define X86_REX_W        0x08u
#define X86_REX          0x40u /* a REX prefix is there: byte registers 4 to 7 are SPL to DIL */

#define X86_REG_NONE     16 /* no base or index */
#define X86_REG_RIP      17 /* base: relative to the next instruction */

enum x86_vex { X86_VEX_NONE, X86_VEX_VEX, X86_VEX_EVEX };

struct x86_insn {
    uint64_t immediate;   /* sign-extended; far pointers: offset | selector << 32; ENTER: size |
                             level << 16 */
    int64_t displacement; /* EVEX's 8-bit form is already scaled by vector.c, not here */
    uint16_t op;          /* enum x86_op */
    uint8_t form;         /* enum x86_form */
    uint8_t length;       /* bytes */
    uint8_t operand_size; /* 1, 2, 4 or 8 bytes */
    uint8_t address_size; /* 2, 4 or 8 */
    uint8_t prefixes;     /* X86_PREFIX_* */
    uint8_t rex;          /* X86_REX_*, also filled from VEX and EVEX (without X86_REX) */
    uint8_t map;          /* 0 one byte, 1 0F, 2 0F38, 3 0F3A, 5 and 6 EVEX */
    uint8_t opcode;
    uint8_t modrm;
    uint8_t modrm_offset;  /* of the ModRM byte within the instruction, 0: none */
    bool memory;           /* the RM operand is in memory */
    bool by_cl;            /* a shift or rotate counted by CL */
    uint8_t reg, rm;       /* with REX.R, REX.B */
    uint8_t base, index;   /* register, X86_REG_NONE or X86_REG_RIP */
    uint8_t scale;         /* shift count 0 to 3 */
    uint8_t segment;       /* enum x86_seg_index of the memory operand */
    uint8_t vex;           /* enum x86_vex */
    uint8_t vvvv;          /* register number, not inverted (EVEX: with V') */
    uint8_t pp;            /* VEX/EVEX 0 none, 1 66, 2 F3, 3 F2; legacy: by the prefixes */
    uint8_t vector_length; /* 0 128, 1 256, 2 512 bits (EVEX: L'L as encoded) */
    uint8_t evex_p3;       /* third EVEX payload byte: z L'L b V' aaa, 0 otherwise */
    uint8_t evex_r;        /* EVEX R' (bit 4 of reg), 0 or 16 */
    uint8_t bytes[X86_INSN_BYTES_MAX];
};

enum x86_decode_result {
    X86_DECODE_OK,
    X86_DECODE_MORE,    /* `available` bytes are not enough */
    X86_DECODE_UD,      /* #UD; insn->length is what was read */
    X86_DECODE_TOO_LONG /* over 15 bytes: #GP(0) */
};

enum x86_decode_result x86_decode(struct x86_insn *insn, enum x86_code_size code_size,
                                  const uint8_t *bytes, size_t available);

const char *x86_op_name(enum x86_op op);

#endif
