/*
 * The table of flags read and written by operation, and what the operation alone does not settle:
 * conditions, counts, REP, x87 and vector instructions. See flags.h.
 */
#include "cpu/x86/flags.h"

#define CF  X86_RFLAGS_CF
#define PF  X86_RFLAGS_PF
#define AF  X86_RFLAGS_AF
#define ZF  X86_RFLAGS_ZF
#define SF  X86_RFLAGS_SF
#define OF  X86_RFLAGS_OF
#define ALL X86_RFLAGS_ARITH

enum faults {
    MAY,    /* whatever the operands are */
    MEMORY, /* if it has a memory operand */
    NEVER   /* names memory but does not access it */
};

/* The zero entry is an operation that nobody has thought about: it reads all, may change all and
 * may fault. */
struct entry {
    uint16_t read, written, maybe;
    uint8_t faults; /* enum faults */
    bool listed;
};

/* clang-format off */
#define ROW(op, read, written, maybe, faults) [X86_OP_##op] = {read, written, maybe, faults, true}

static const struct entry entries[X86_OP_COUNT] = {
    /* operation, read, written, maybe, faults */
    ROW(INVALID, ALL, 0, ALL, MAY), ROW(UD, ALL, 0, 0, MAY),
    ROW(ADD, 0, ALL, 0, MEMORY), ROW(SUB, 0, ALL, 0, MEMORY), ROW(CMP, 0, ALL, 0, MEMORY),
    ROW(ADC, CF, ALL, 0, MEMORY), ROW(SBB, CF, ALL, 0, MEMORY), ROW(NEG, 0, ALL, 0, MEMORY),
    /* AF is undefined in the manual, cleared by every processor */
    ROW(OR, 0, ALL, 0, MEMORY), ROW(AND, 0, ALL, 0, MEMORY), ROW(XOR, 0, ALL, 0, MEMORY),
    ROW(TEST, 0, ALL, 0, MEMORY), ROW(NOT, 0, 0, 0, MEMORY),
    ROW(INC, 0, ALL & ~CF, 0, MEMORY), ROW(DEC, 0, ALL & ~CF, 0, MEMORY),
    ROW(XADD, 0, ALL, 0, MEMORY), ROW(CMPXCHG, 0, ALL, 0, MEMORY),
    ROW(CMPXCHG8B, 0, ZF, 0, MEMORY),
    ROW(MUL, 0, CF | OF, SF | ZF | AF | PF, MEMORY),
    ROW(IMUL1, 0, CF | OF, SF | ZF | AF | PF, MEMORY),
    ROW(IMUL2, 0, CF | OF, SF | ZF | AF | PF, MEMORY),
    ROW(IMUL3, 0, CF | OF, SF | ZF | AF | PF, MEMORY),
    ROW(DIV, 0, 0, ALL, MAY), ROW(IDIV, 0, 0, ALL, MAY),

    /* by a count that is not 0: see shift_refine() */
    ROW(ROL, 0, CF | OF, 0, MEMORY), ROW(ROR, 0, CF | OF, 0, MEMORY),
    ROW(RCL, CF, CF | OF, 0, MEMORY), ROW(RCR, CF, CF | OF, 0, MEMORY),
    ROW(SHL, 0, ALL & ~AF, AF, MEMORY), ROW(SHR, 0, ALL & ~AF, AF, MEMORY),
    ROW(SAR, 0, ALL & ~AF, AF, MEMORY),
    ROW(SHLD, 0, ALL & ~AF, AF, MEMORY), ROW(SHRD, 0, ALL & ~AF, AF, MEMORY),

    ROW(BT, 0, CF, OF | SF | AF | PF, MEMORY), ROW(BTS, 0, CF, OF | SF | AF | PF, MEMORY),
    ROW(BTR, 0, CF, OF | SF | AF | PF, MEMORY), ROW(BTC, 0, CF, OF | SF | AF | PF, MEMORY),
    ROW(BSF, 0, ZF, ALL & ~ZF, MEMORY), ROW(BSR, 0, ZF, ALL & ~ZF, MEMORY),
    /* CF is written only where they are not BSF and BSR */
    ROW(TZCNT, 0, ZF, ALL & ~ZF, MEMORY), ROW(LZCNT, 0, ZF, ALL & ~ZF, MEMORY),
    ROW(POPCNT, 0, ALL, 0, MAY), ROW(CRC32, 0, 0, 0, MAY),
    ROW(BSWAP, 0, 0, 0, MEMORY), ROW(MOVBE, 0, 0, 0, MEMORY), ROW(XCHG, 0, 0, 0, MEMORY),
    ROW(ADCX, CF, CF, 0, MAY), ROW(ADOX, OF, OF, 0, MAY),
    ROW(ANDN, 0, ALL & ~(AF | PF), AF | PF, MAY), ROW(BLSR, 0, ALL & ~(AF | PF), AF | PF, MAY),
    ROW(BLSMSK, 0, ALL & ~(AF | PF), AF | PF, MAY), ROW(BLSI, 0, ALL & ~(AF | PF), AF | PF, MAY),
    ROW(BZHI, 0, ALL & ~(AF | PF), AF | PF, MAY),
    ROW(BEXTR, 0, CF | ZF | OF, SF | AF | PF, MAY),
    ROW(MULX, 0, 0, 0, MAY), ROW(PDEP, 0, 0, 0, MAY), ROW(PEXT, 0, 0, 0, MAY),
    ROW(RORX, 0, 0, 0, MAY), ROW(SARX, 0, 0, 0, MAY), ROW(SHLX, 0, 0, 0, MAY),
    ROW(SHRX, 0, 0, 0, MAY),

    ROW(DAA, CF | AF, ALL & ~OF, OF, MEMORY), ROW(DAS, CF | AF, ALL & ~OF, OF, MEMORY),
    ROW(AAA, AF, CF | AF, OF | SF | ZF | PF, MEMORY),
    ROW(AAS, AF, CF | AF, OF | SF | ZF | PF, MEMORY),
    ROW(AAM, 0, SF | ZF | PF, OF | AF | CF, MAY), ROW(AAD, 0, SF | ZF | PF, OF | AF | CF, MEMORY),
    ROW(SALC, CF, 0, 0, MEMORY),

    ROW(MOV, 0, 0, 0, MEMORY), ROW(MOVZX8, 0, 0, 0, MEMORY), ROW(MOVZX16, 0, 0, 0, MEMORY),
    ROW(MOVSX8, 0, 0, 0, MEMORY), ROW(MOVSX16, 0, 0, 0, MEMORY), ROW(MOVSXD, 0, 0, 0, MEMORY),
    ROW(MOVNTI, 0, 0, 0, MEMORY), ROW(LEA, 0, 0, 0, NEVER), ROW(XLAT, 0, 0, 0, MAY),
    ROW(CBW, 0, 0, 0, MEMORY), ROW(CWD, 0, 0, 0, MEMORY),
    /* by condition: see x86_flags_of() */
    ROW(CMOV, 0, 0, 0, MEMORY), ROW(SETCC, 0, 0, 0, MEMORY), ROW(JCC, 0, 0, 0, MAY),
    ROW(PUSH, 0, 0, 0, MAY), ROW(POP, 0, 0, 0, MAY), ROW(PUSHA, 0, 0, 0, MAY),
    ROW(POPA, 0, 0, 0, MAY), ROW(ENTER, 0, 0, 0, MAY), ROW(LEAVE, 0, 0, 0, MAY),
    ROW(PUSHF, ALL, 0, 0, MAY), ROW(POPF, 0, ALL, 0, MAY),
    ROW(LAHF, ALL & ~OF, 0, 0, MAY), ROW(SAHF, 0, ALL & ~OF, 0, MAY),
    ROW(CLC, 0, CF, 0, MEMORY), ROW(STC, 0, CF, 0, MEMORY), ROW(CMC, CF, CF, 0, MEMORY),
    ROW(CLD, 0, 0, 0, MEMORY), ROW(STD, 0, 0, 0, MEMORY),
    ROW(NOP, 0, 0, 0, NEVER), ROW(PREFETCH, 0, 0, 0, NEVER), ROW(PAUSE, ALL, 0, 0, MAY),
    ROW(LFENCE, 0, 0, 0, MEMORY), ROW(MFENCE, 0, 0, 0, MEMORY), ROW(SFENCE, 0, 0, 0, MEMORY),
    ROW(CLFLUSH, 0, 0, 0, MEMORY),
    ROW(CALL, 0, 0, 0, MAY), ROW(CALL_IND, 0, 0, 0, MAY), ROW(JMP, 0, 0, 0, MAY),
    ROW(JMP_IND, 0, 0, 0, MAY), ROW(RET, 0, 0, 0, MAY), ROW(LOOP, 0, 0, 0, MAY),
    ROW(LOOPE, ZF, 0, 0, MAY), ROW(LOOPNE, ZF, 0, 0, MAY), ROW(JCXZ, 0, 0, 0, MAY),

    /* once: see x86_flags_of() for REP */
    ROW(MOVS, 0, 0, 0, MAY), ROW(CMPS, 0, ALL, 0, MAY), ROW(STOS, 0, 0, 0, MAY),
    ROW(LODS, 0, 0, 0, MAY), ROW(SCAS, 0, ALL, 0, MAY),

    /* events and far transfers: a task switch saves all flags and loads others */
    ROW(INT, ALL, 0, ALL, MAY), ROW(INT1, ALL, 0, ALL, MAY), ROW(INT3, ALL, 0, ALL, MAY),
    ROW(INTO, ALL, 0, ALL, MAY), ROW(BOUND, ALL, 0, 0, MAY), ROW(IRET, ALL, ALL, 0, MAY),
    ROW(CALL_FAR, ALL, 0, ALL, MAY), ROW(CALL_FAR_IND, ALL, 0, ALL, MAY),
    ROW(JMP_FAR, ALL, 0, ALL, MAY), ROW(JMP_FAR_IND, ALL, 0, ALL, MAY),
    ROW(RETF, ALL, 0, 0, MAY),
    ROW(SYSCALL, ALL, 0, ALL, MAY), ROW(SYSRET, ALL, 0, ALL, MAY),
    ROW(SYSENTER, ALL, 0, 0, MAY), ROW(SYSEXIT, ALL, 0, 0, MAY),

    /* ports, privileged and trapping instructions */
    ROW(INS, ALL, 0, 0, MAY), ROW(OUTS, ALL, 0, 0, MAY), ROW(IN, ALL, 0, 0, MAY),
    ROW(OUT, ALL, 0, 0, MAY), ROW(CLI, ALL, 0, 0, MAY), ROW(STI, ALL, 0, 0, MAY),
    ROW(HLT, ALL, 0, 0, MAY), ROW(CLAC, ALL, 0, 0, MAY), ROW(STAC, ALL, 0, 0, MAY),
    ROW(SGDT, ALL, 0, 0, MAY), ROW(SIDT, ALL, 0, 0, MAY), ROW(LGDT, ALL, 0, 0, MAY),
    ROW(LIDT, ALL, 0, 0, MAY), ROW(SLDT, ALL, 0, 0, MAY), ROW(STR, ALL, 0, 0, MAY),
    ROW(LLDT, ALL, 0, 0, MAY), ROW(LTR, ALL, 0, 0, MAY), ROW(SMSW, ALL, 0, 0, MAY),
    ROW(LMSW, ALL, 0, 0, MAY), ROW(CLTS, ALL, 0, 0, MAY), ROW(INVLPG, ALL, 0, 0, MAY),
    ROW(INVPCID, ALL, 0, 0, MAY), ROW(INVD, ALL, 0, 0, MAY), ROW(WBINVD, ALL, 0, 0, MAY),
    ROW(SWAPGS, ALL, 0, 0, MAY), ROW(RDTSC, ALL, 0, 0, MAY), ROW(RDTSCP, ALL, 0, 0, MAY),
    ROW(RDPMC, ALL, 0, 0, MAY), ROW(RDMSR, ALL, 0, 0, MAY), ROW(WRMSR, ALL, 0, 0, MAY),
    ROW(CPUID, ALL, 0, 0, MAY), ROW(XGETBV, ALL, 0, 0, MAY), ROW(XSETBV, ALL, 0, 0, MAY),
    ROW(RDPKRU, ALL, 0, 0, MAY), ROW(WRPKRU, ALL, 0, 0, MAY),
    ROW(MONITOR, ALL, 0, 0, MAY), ROW(MWAIT, ALL, 0, 0, MAY), ROW(SERIALIZE, ALL, 0, 0, MAY),
    ROW(VMCALL, ALL, 0, ALL, MAY),
    ROW(MOV_FROM_CR, ALL, 0, ALL, MAY), ROW(MOV_TO_CR, ALL, 0, ALL, MAY),
    ROW(MOV_FROM_DR, ALL, 0, ALL, MAY), ROW(MOV_TO_DR, ALL, 0, ALL, MAY),
    ROW(ARPL, ALL, ZF, 0, MAY), ROW(VERR, ALL, ZF, 0, MAY), ROW(VERW, ALL, ZF, 0, MAY),
    ROW(LAR, ALL, ZF, 0, MAY), ROW(LSL, ALL, ZF, 0, MAY),

    /* segments loaded and stored without a transfer, and unprivileged odds and ends */
    ROW(MOV_FROM_SEG, 0, 0, 0, MEMORY), ROW(MOV_TO_SEG, 0, 0, 0, MAY),
    ROW(PUSH_SEG, 0, 0, 0, MAY), ROW(POP_SEG, 0, 0, 0, MAY), ROW(LOAD_FAR, 0, 0, 0, MAY),
    ROW(RDPID, 0, 0, 0, MAY), ROW(RDFSBASE, 0, 0, 0, MAY), ROW(RDGSBASE, 0, 0, 0, MAY),
    ROW(WRFSBASE, 0, 0, 0, MAY), ROW(WRGSBASE, 0, 0, 0, MAY),
    ROW(RDRAND, 0, ALL, 0, MAY), ROW(RDSEED, 0, ALL, 0, MAY),
    ROW(FXSAVE, 0, 0, 0, MAY), ROW(FXRSTOR, 0, 0, 0, MAY), ROW(XSAVE, 0, 0, 0, MAY),
    ROW(XRSTOR, 0, 0, 0, MAY), ROW(XSAVEOPT, 0, 0, 0, MAY), ROW(XSAVEC, 0, 0, 0, MAY),
    ROW(LDMXCSR, 0, 0, 0, MAY), ROW(STMXCSR, 0, 0, 0, MAY), ROW(FWAIT, 0, 0, 0, MAY),
    /* by encoding: see x86_flags_of() */
    ROW(X87, 0, 0, 0, MAY), ROW(VECTOR, 0, 0, 0, MAY),
};
/* clang-format on */

/* What a condition (the low four bits of Jcc's, SETcc's and CMOVcc's opcode) depends on. */
static uint16_t condition_flags(unsigned condition)
{
    static const uint16_t reads[8] = {OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF};

    return reads[condition >> 1 & 7];
}

static void flags_doubt(struct x86_flags *flags, unsigned doubtful)
{
    flags->maybe = (uint16_t)(flags->maybe | (flags->written & doubtful));
    flags->written = (uint16_t)(flags->written & ~doubtful);
}

/* A count of 0 leaves all flags; OF is defined for a count of 1 alone; CF is undefined where SHL or
 * SHR, and everything where SHLD or SHRD, move more bits than there are. */
static void shift_refine(const struct x86_insn *insn, struct x86_flags *flags)
{
    unsigned bits = 8u * insn->operand_size;
    unsigned count = (unsigned)insn->immediate & (bits == 64 ? 63 : 31);

    if (insn->by_cl || count == 0)
        flags_doubt(flags, ALL);
    if (count != 1)
        flags_doubt(flags, OF);
    if ((insn->op == X86_OP_SHL || insn->op == X86_OP_SHR) && count >= bits)
        flags_doubt(flags, CF);
    if ((insn->op == X86_OP_SHLD || insn->op == X86_OP_SHRD) && count > bits)
        flags_doubt(flags, ALL);
}

/* FCMOVcc reads one condition's flags; F(U)COMI(P) writes all, but where it raises an unmasked #IA
 * none, says the manual (SDM vol. 2, FCOMI), and #MF comes only with the next x87 instruction. */
static void x87_refine(const struct x86_insn *insn, struct x86_flags *flags)
{
    static const uint16_t conditions[4] = {CF, ZF, CF | ZF, PF};
    unsigned escape = insn->opcode & 7, digit = insn->modrm >> 3 & 7;

    if (insn->memory)
        return;
    if ((escape == 2 || escape == 3) && digit < 4)
        flags->read = conditions[digit];
    if ((escape == 3 || escape == 7) && (digit == 5 || digit == 6))
        flags->maybe = ALL;
}

static void vector_refine(const struct x86_vector_insn *vector, struct x86_flags *flags)
{
    if (!vector)
        *flags = (struct x86_flags){.read = ALL, .maybe = ALL};
    else if (vector->flags & X86_VECTOR_FLAGS)
        flags->written = ALL;
}

static const struct entry *entry_find(const struct x86_insn *insn)
{
    const struct entry *entry = &entries[X86_OP_INVALID];

    if (insn->op < X86_OP_COUNT && entries[insn->op].listed)
        entry = &entries[insn->op];
    return entry;
}

void x86_flags_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                  struct x86_flags *out)
{
    const struct entry *entry = entry_find(insn);

    *out = (struct x86_flags){entry->read, entry->written, entry->maybe};
    switch (insn->op) {
    case X86_OP_JCC:
    case X86_OP_CMOV:
    case X86_OP_SETCC:
        out->read = condition_flags(insn->opcode);
        break;
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        shift_refine(insn, out);
        break;
    case X86_OP_CMPS:
    case X86_OP_SCAS: /* REP may find a count of 0 */
        if (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE))
            flags_doubt(out, ALL);
        break;
    case X86_OP_X87:
        x87_refine(insn, out);
        break;
    case X86_OP_VECTOR:
        vector_refine(vector, out);
        break;
    default:
        break;
    }
}

bool x86_insn_may_fault(const struct x86_insn *insn)
{
    switch (entry_find(insn)->faults) {
    case NEVER:
        return false;
    case MEMORY:
        return insn->memory;
    default:
        return true;
    }
}
