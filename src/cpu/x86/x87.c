/*
 * The x87 escapes D8 to DF, described. Needs no libc.
 * Source: Intel SDM vol. 2, appendix A.5 (escape opcode tables).
 */
#include "cpu/x86/vector.h"

/* Memory forms: bytes in the low bits, whether written, and what is special. */
#define BYTES  0x00ffu
#define STORE  0x0100u
#define KEEP   0x0200u /* X86_VECTOR_CONTROL */
#define NOWAIT 0x0400u
#define ENV    0x0800u
#define STATE  0x1000u

/* clang-format off */
static const uint16_t memory_forms[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, 0, 4 | STORE, 4 | STORE, 28 | ENV | KEEP, 2 | KEEP, 28 | ENV | STORE | KEEP | NOWAIT,
     2 | STORE | KEEP | NOWAIT},
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, 4 | STORE, 4 | STORE, 4 | STORE, 0, 10, 0, 10 | STORE},
    {8, 8, 8, 8, 8, 8, 8, 8},
    {8, 8 | STORE, 8 | STORE, 8 | STORE, 108 | STATE | KEEP, 0,
     108 | STATE | STORE | KEEP | NOWAIT, 2 | STORE | KEEP | NOWAIT},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {2, 2 | STORE, 2 | STORE, 2 | STORE, 10, 8, 10 | STORE, 8 | STORE},
};

/* Register forms: bit n of [escape][digit] is set where ModRM.rm = n exists. The undocumented
 * aliases (DC D0+ FCOM2, DD C8+ FXCH4, DF C0+ FFREEP ...) exist on every processor. */
static const uint8_t register_forms[8][8] = {
    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    {0xff, 0xff, 0x01, 0xff, 0x33, 0x7f, 0xff, 0xff},
    {0xff, 0xff, 0xff, 0xff, 0x00, 0x02, 0x00, 0x00},
    {0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x00},
    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00},
    {0xff, 0xff, 0xff, 0x02, 0xff, 0xff, 0xff, 0xff},
    {0xff, 0xff, 0xff, 0xff, 0x01, 0xff, 0xff, 0x00},
};
/* clang-format on */

static bool memory_describe(unsigned escape, const struct x86_insn *insn,
                            struct x86_vector_insn *out)
{
    unsigned form = memory_forms[escape][insn->modrm >> 3 & 7];

    if (form == 0)
        return false;
    out->memory_bytes = (uint8_t)(form & BYTES);
    out->memory_access = form & STORE ? X86_OPERAND_WRITE : X86_OPERAND_READ;
    if (form & KEEP)
        out->flags |= X86_VECTOR_CONTROL;
    if (form & NOWAIT)
        out->flags |= X86_VECTOR_NO_WAIT;
    if (form & (ENV | STATE)) {
        out->memory = form & ENV ? X86_MEMORY_ENVIRONMENT : X86_MEMORY_X87_STATE;
        if (insn->operand_size == 2)
            out->memory_bytes = (uint8_t)(out->memory_bytes - 14);
    }
    return true;
}

static bool register_describe(unsigned escape, const struct x86_insn *insn,
                              struct x86_vector_insn *out)
{
    unsigned digit = insn->modrm >> 3 & 7, number = insn->modrm & 7;

    if (!(register_forms[escape][digit] >> number & 1))
        return false;
    if ((escape == 2 || escape == 3) && digit < 4) /* FCMOVcc */
        out->flags |= X86_VECTOR_READS_FLAGS;
    if ((escape == 3 || escape == 7) && (digit == 5 || digit == 6)) /* F(U)COMI(P) */
        out->flags |= X86_VECTOR_FLAGS;
    if (escape == 3 && digit == 4) /* FNCLEX, FNINIT and their 8087 companions */
        out->flags |= X86_VECTOR_CONTROL | X86_VECTOR_NO_WAIT;
    if (escape == 7 && digit == 4) /* FNSTSW AX */
        out->flags |= X86_VECTOR_CONTROL | X86_VECTOR_NO_WAIT | X86_VECTOR_WRITES_RAX;
    return true;
}

bool x86_x87_describe(const struct x86_insn *insn, struct x86_vector_insn *out)
{
    unsigned escape = insn->opcode & 7;

    *out = (struct x86_vector_insn){.unit = X86_UNIT_X87, .vector_bytes = 8};
    if (insn->prefixes & X86_PREFIX_LOCK)
        return false;
    return insn->memory ? memory_describe(escape, insn, out) : register_describe(escape, insn, out);
}
