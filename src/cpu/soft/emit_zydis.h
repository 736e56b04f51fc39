/*
 * Zydis, an independent decoder, as the emitter's tests ask it.
 */
#ifndef FREEHOLD_CPU_SOFT_EMIT_ZYDIS_H
#define FREEHOLD_CPU_SOFT_EMIT_ZYDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <Zydis/Zydis.h>

struct zydis {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

static inline bool decode_zydis(const ZydisDecoder *decoder, const uint8_t *bytes, size_t length,
                                struct zydis *z)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, length, &z->insn, z->operand));
}

/* General registers as Zydis names them. */
static inline bool is_general(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

static inline unsigned number_of(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return (unsigned)(whole - ZYDIS_REGISTER_RAX);
}

#endif
