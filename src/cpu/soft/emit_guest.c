/*
 * The guest's instructions for the translator: what each does with general registers, and how it
 * is encoded anew. See emit.h; source: Intel SDM vol. 2, the instructions' pages.
 */
#include "cpu/soft/emit.h"

#include "cpu/soft/emit_encoding.h"
#include "cpu/x86/state.h"

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
    [X86_OP_RDPKRU] = {0, 0, 0, 0, RCX, RAX | RDX},
    [X86_OP_WRPKRU] = {0, 0, 0, 0, RAX | RCX | RDX, 0},
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

static void name_of_operand(const struct x86_vector_operand *operand, struct name *name)
{
    name->access = operand->access;
    name->number = operand->number;
    name->present = operand->class == X86_CLASS_GPR;
    name->byte = false;
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

/* Filled where the caller has it: a struct given back would be read before its bytes are there. */
static void names_of(const struct x86_insn *insn, const struct x86_vector_insn *vector,
                     struct names *names)
{
    const struct effect *effect = &effects[insn->op];
    bool bytes = insn->operand_size == 1, first = reg_is_first(insn);

    if (is_vector(insn)) {
        name_of_operand(&vector->reg, &names->reg);
        name_of_operand(&vector->rm, &names->rm);
        name_of_operand(&vector->vvvv, &names->vvvv);
        return;
    }
    names->reg.present = reg_is_named(insn) && !(effect->flags & REG_OTHER);
    names->reg.access = first ? effect->first : effect->second;
    names->reg.number = insn->reg;
    names->reg.byte = bytes && insn->op != X86_OP_CRC32;
    names->rm.present = rm_is_named(insn);
    names->rm.access = first ? effect->second : effect->first;
    names->rm.number = insn->rm;
    names->rm.byte = bytes || insn->op == X86_OP_MOVZX8 || insn->op == X86_OP_MOVSX8;
    names->vvvv.present = effect->vvvv != 0;
    names->vvvv.access = effect->vvvv;
    names->vvvv.number = insn->vvvv & 15;
    names->vvvv.byte = false;
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
    struct names names;

    names_of(insn, vector, &names);
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
    struct names names;

    names_of(insn, vector, &names);
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

static void memory_encode(const struct emit_rename *rename, struct encoding *c)
{
    c->rm = rename->memory_base;
    c->index = rename->memory_index;
    c->scale = rename->memory_scale;
    c->disp = rename->memory_disp;
    if (c->rm == HOST_NONE || c->index != HOST_NONE)
        c->addressing = AT_INDEX;
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
        emit_nops(e, 1);
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
        memory_encode(rename, &c);
    c.immediate_bytes = (uint8_t)immediate_bytes(&c, insn->operand_size);
    return encoding_put(e, &c);
}
