/*
 * Between emit.c and emit_guest.c: an instruction for 64-bit mode, ready to be written.
 * Threads: pure functions. Source: Intel SDM vol. 2, chapter 2.
 */
#ifndef FREEHOLD_CPU_SOFT_EMIT_ENCODING_H
#define FREEHOLD_CPU_SOFT_EMIT_ENCODING_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/soft/emit.h"

enum addressing {
    NO_MODRM,
    AT_REGISTER, /* ModRM.rm is register rm */
    AT_BASE,     /* [rm + disp] */
    AT_INDEX,    /* [rm + (index << scale) + disp], rm or index may be HOST_NONE */
    AT_STATE,    /* [gs:disp] */
    AT_ENTRY,    /* [gs:rm + disp], disp of 32 bits */
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

/* Writes it whole, or not at all. False: it wants AH to BH and REX together. */
bool encoding_put(struct emit *e, const struct encoding *c);

#endif
