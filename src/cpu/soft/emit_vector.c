/*
 * The translator's own vector instructions: see emit.h. Source: Intel SDM vol. 2, the instructions'
 * pages.
 */
#include "cpu/soft/emit.h"

#include "cpu/soft/emit_encoding.h"

#define OPCODE(...) ((struct encoding){__VA_ARGS__})

/* Registers from 16 on and 64 bytes need EVEX. */
static void kind_set(struct encoding *c, unsigned reg, unsigned bytes, bool evex)
{
    evex |= reg >= 16 || bytes == 64;
    c->vex = evex ? X86_VEX_EVEX : X86_VEX_VEX;
    c->vector_length = bytes == 64 ? 2 : bytes == 32 ? 1 : 0;
    c->p3 = (uint8_t)(c->vector_length << 5);
    c->reg = (uint8_t)reg;
}

/* VMOVDQU, VMOVDQU64 */
void emit_vector_state(struct emit *e, unsigned reg, unsigned bytes, int32_t disp, bool load)
{
    struct encoding c = OPCODE(.map = 1, .pp = 2, .opcode = load ? 0x6f : 0x7f,
                               .addressing = AT_STATE, .disp = disp);

    kind_set(&c, reg, bytes, false);
    c.wide = c.vex == X86_VEX_EVEX;
    encoding_put(e, &c);
}

/* VMOVD or VMOVQ, else VPINSRD or VPINSRQ */
void emit_element_load(struct emit *e, unsigned reg, const struct emit_element *element)
{
    struct encoding c = OPCODE(.map = 1, .pp = 1, .opcode = 0x6e, .addressing = AT_BASE,
                               .rm = (uint8_t)element->base, .wide = element->size == 8);

    if (element->at != 0) {
        c.map = 3;
        c.opcode = 0x22;
        c.vvvv = (uint8_t)reg;
        c.immediate = element->at;
        c.immediate_bytes = 1;
    }
    kind_set(&c, reg, 16, element->evex);
    encoding_put(e, &c);
}

/* VINSERTI128, VINSERTI32X4 */
void emit_lane_insert(struct emit *e, unsigned reg, unsigned from, const struct emit_lane *lane)
{
    struct encoding c =
        OPCODE(.map = 3, .pp = 1, .opcode = 0x38, .addressing = AT_REGISTER, .rm = (uint8_t)from,
               .vvvv = (uint8_t)reg, .immediate = lane->at, .immediate_bytes = 1);

    kind_set(&c, reg, lane->bytes, lane->evex);
    encoding_put(e, &c);
}

/* VPXOR */
void emit_vector_clear(struct emit *e, unsigned reg)
{
    struct encoding c = OPCODE(.map = 1, .pp = 1, .opcode = 0xef, .addressing = AT_REGISTER,
                               .rm = (uint8_t)reg, .vvvv = (uint8_t)reg);

    kind_set(&c, reg, 16, false);
    encoding_put(e, &c);
}

/* VMOVMSKPS, VMOVMSKPD */
void emit_signs(struct emit *e, enum host_register to, unsigned reg, unsigned size, unsigned bytes)
{
    struct encoding c = OPCODE(.map = 1, .pp = size == 8, .opcode = 0x50, .addressing = AT_REGISTER,
                               .rm = (uint8_t)reg);

    kind_set(&c, to, bytes, false);
    encoding_put(e, &c);
}

/* KMOVQ */
void emit_opmask_state(struct emit *e, unsigned opmask, int32_t disp, bool load)
{
    encoding_put(e,
                 &OPCODE(.vex = X86_VEX_VEX, .map = 1, .wide = true, .opcode = load ? 0x90 : 0x91,
                         .addressing = AT_STATE, .reg = (uint8_t)opmask, .disp = disp));
}

/* KMOVW */
void emit_mov_reg_opmask(struct emit *e, enum host_register to, unsigned opmask)
{
    encoding_put(e, &OPCODE(.vex = X86_VEX_VEX, .map = 1, .opcode = 0x93, .reg = (uint8_t)to,
                            .rm = (uint8_t)opmask, .addressing = AT_REGISTER));
}

/* KXORW, which clears bits 16 and up, too */
void emit_opmask_clear(struct emit *e, unsigned opmask)
{
    encoding_put(e, &OPCODE(.vex = X86_VEX_VEX, .vector_length = 1, .map = 1, .opcode = 0x47,
                            .reg = (uint8_t)opmask, .rm = (uint8_t)opmask, .vvvv = (uint8_t)opmask,
                            .addressing = AT_REGISTER));
}
