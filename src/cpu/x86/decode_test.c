/*
 * Checks the decoder against Zydis, an independent one, on random instructions in 16-, 32- and
 * 64-bit code: both must agree whether an instruction exists, on its length, its address size and
 * its memory operand. Vector and x87 instructions are checked for length here, and for all else in
 * vector_test.c. Truncated input must ask for more at every length below the instruction's own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <Zydis/Zydis.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/state.h"

#define ROUNDS     3000000
#define COMPLAINTS 40

struct check {
    uint64_t random;
    ZydisDecoder decoder[3]; /* by enum x86_code_size */
    unsigned passed, failed, skipped;
};

static uint64_t random64(struct check *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

/* Instructions that no CPU model of ours has, or that the engine leaves undefined on purpose. */
static bool offered(const ZydisDecodedInstruction *z)
{
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_MOVBE:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_PAUSE:
    case ZYDIS_ISA_EXT_SMAP:
    case ZYDIS_ISA_EXT_RDTSCP:
    case ZYDIS_ISA_EXT_RDWRFSGS:
    case ZYDIS_ISA_EXT_XSAVE:
    case ZYDIS_ISA_EXT_XSAVEC:
    case ZYDIS_ISA_EXT_XSAVEOPT:
    case ZYDIS_ISA_EXT_INVPCID:
        break;
    default:
        return false;
    }
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_RSM: /* no system management mode */
    case ZYDIS_MNEMONIC_XABORT:
        return false;
    default:
        return true;
    }
}

static bool is_vector(const struct x86_insn *insn)
{
    return insn->op == X86_OP_VECTOR || insn->op == X86_OP_X87;
}

static unsigned register_number(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return X86_REG_NONE;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return X86_REG_RIP;
    return (unsigned)ZydisRegisterGetId(reg);
}

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *z,
                                                 const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < z->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return &operands[i];
    }
    return NULL;
}

static const char *compare_memory(const struct x86_insn *insn, const ZydisDecodedOperand *memory)
{
    if (!memory)
        return insn->memory ? "a memory operand that is none" : NULL;
    if (!insn->memory)
        return "no memory operand";
    if (register_number(memory->mem.base) != insn->base)
        return "base";
    if (register_number(memory->mem.index) != insn->index)
        return "index";
    if (insn->index != X86_REG_NONE && memory->mem.scale != 1u << insn->scale)
        return "scale";
    uint64_t mask =
        insn->address_size == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * insn->address_size) - 1;
    if (((uint64_t)memory->mem.disp.value ^ (uint64_t)insn->displacement) & mask)
        return "displacement";
    if (register_number(memory->mem.segment) != insn->segment)
        return "segment";
    return NULL;
}

/* String instructions, XLAT and the like name their memory implicitly: they have no ModRM. */
static bool names_memory(const struct x86_insn *insn)
{
    return insn->modrm_offset != 0 || insn->memory;
}

/* LEA's segment means nothing; 3E before an indirect branch is Zydis' NOTRACK. */
static bool segment_is_moot(const struct x86_insn *insn)
{
    return insn->op == X86_OP_LEA || insn->op == X86_OP_NOP || insn->op == X86_OP_JMP_IND ||
           insn->op == X86_OP_CALL_IND;
}

/* A SIB byte without a base (mod 0, base 5) stays without one under REX.B (SDM vol. 2, table 2-3);
 * Zydis 3 takes R13D for it when the address size is 32. */
static bool base_is_moot(const struct x86_insn *insn)
{
    return insn->base == X86_REG_NONE && insn->address_size == 4 && (insn->rex & X86_REX_B);
}

static const char *compare(const struct x86_insn *insn, const ZydisDecodedInstruction *z,
                           const ZydisDecodedOperand *operands)
{
    const char *what;

    if (z->length != insn->length)
        return "length";
    if (is_vector(insn))
        return NULL;
    if (z->address_width != 8u * insn->address_size)
        return "address size";
    if (names_memory(insn)) {
        what = compare_memory(insn, memory_operand(z, operands));
        if (what && !(strcmp(what, "segment") == 0 && segment_is_moot(insn)) &&
            !(strcmp(what, "base") == 0 && base_is_moot(insn)))
            return what;
    }
    return NULL;
}

static void complain(struct check *c, enum x86_code_size size, const uint8_t *bytes,
                     const char *name, const char *what)
{
    if (c->failed++ >= COMPLAINTS)
        return;
    printf("failed: %u-bit:", size == X86_CODE_16 ? 16 : size == X86_CODE_32 ? 32 : 64);
    for (unsigned i = 0; i < 15; i++)
        printf(" %02x", bytes[i]);
    printf(": %s: %s\n", name, what);
}

static bool truncation_asks(enum x86_code_size size, const uint8_t *bytes, unsigned length)
{
    struct x86_insn insn;

    for (unsigned have = 0; have < length; have++) {
        if (x86_decode(&insn, size, bytes, have) != X86_DECODE_MORE)
            return false;
    }
    return true;
}

static void check_one(struct check *c, enum x86_code_size size, const uint8_t bytes[16])
{
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction z;
    struct x86_insn insn;
    const char *what = NULL, *name;
    enum x86_decode_result ours = x86_decode(&insn, size, bytes, 15);
    bool known = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->decoder[size], bytes, 15, &z, operands));

    if (known && (z.mnemonic == ZYDIS_MNEMONIC_JKZD || z.mnemonic == ZYDIS_MNEMONIC_JKNZD)) {
        c->skipped++;
        return;
    }
    /* MPX's opcodes are NOPs on processors without it; Zydis knows only those with it. */
    if (ours == X86_DECODE_OK && insn.map == 1 && (insn.opcode & 0xfe) == 0x1a) {
        c->skipped++;
        return;
    }
    if (known && !offered(&z) && !(ours == X86_DECODE_OK && is_vector(&insn))) {
        c->skipped++;
        return;
    }
    if (ours == X86_DECODE_OK && is_vector(&insn) && !known) {
        c->skipped++; /* the vector table decides */
        return;
    }
    name = known ? ZydisMnemonicGetString(z.mnemonic) : x86_op_name(insn.op);
    if (known != (ours == X86_DECODE_OK))
        what = known ? "is missing" : "does not exist";
    else if (known)
        what = compare(&insn, &z, operands);
    if (!what && known && !truncation_asks(size, bytes, insn.length))
        what = "a shorter input is taken for whole";
    if (what)
        complain(c, size, bytes, name, what);
    else
        c->passed++;
}

/* Random bytes, with the interesting ones (prefixes, 0F, VEX) at the front more often. */
static void bytes_fill(struct check *c, uint8_t bytes[16])
{
    static const uint8_t front[] = {0x0f, 0x0f, 0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x41,
                                    0x67, 0x2e, 0x64, 0xc4, 0xc5, 0x0f, 0x4f, 0x36};
    uint64_t low = random64(c), high = random64(c);
    unsigned prefixes = (unsigned)(random64(c) >> 40) % 4;

    memcpy(bytes, &low, 8);
    memcpy(bytes + 8, &high, 8);
    for (unsigned i = 0; i < prefixes; i++)
        bytes[i] = front[(random64(c) >> 30) % sizeof front];
}

int main(int argc, char **argv)
{
    struct check c = {.random = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 88172645463325252u};
    uint8_t bytes[16];

    ZydisDecoderInit(&c.decoder[X86_CODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c.decoder[X86_CODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c.decoder[X86_CODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned i = 0; i < ROUNDS; i++) {
        bytes_fill(&c, bytes);
        check_one(&c, (enum x86_code_size)(i % 3), bytes);
    }
    printf("%u instructions of extensions that no model has were left out\n", c.skipped);
    printf("%u instructions agree, %u differ\n", c.passed, c.failed);
    printf("%d passed, %d failed\n", c.failed == 0, c.failed != 0);
    return c.failed ? 1 : 0;
}
