/*
 * The state of a vCPU after RESET, INIT and a start-up IPI.
 * Source: AMD APM vol. 2, table 14-1; Intel SDM vol. 3, table 10-1 and 9.4. No libc.
 */
#include "cpu/x86/state.h"

#define DATA_SEGMENT (X86_SEG_P | X86_SEG_S | 3)  /* read, write, accessed */
#define CODE_SEGMENT (X86_SEG_P | X86_SEG_S | 11) /* read, accessed */
#define LDT_SEGMENT  (X86_SEG_P | 2)
#define TSS_SEGMENT  (X86_SEG_P | 11) /* busy 32-bit */

static struct x86_segment real_segment(uint16_t attributes)
{
    return (struct x86_segment){.limit = 0xffff, .attributes = attributes};
}

/* What power-on sets and INIT keeps. */
static void reset_kept(struct x86_state *state)
{
    static const uint8_t x87_control[] = {0x7f, 0x03};

    state->xcr0 = X86_XCR0_X87;
    state->pat = UINT64_C(0x0007040600070406);
    state->xsave[0] = x87_control[0]; /* FCW 0x037f (FNINIT's; power-on's 0x40 suits nobody) */
    state->xsave[1] = x87_control[1];
    state->xsave[24] = 0x80; /* MXCSR 0x1f80 */
    state->xsave[25] = 0x1f;
    state->misc_enable = 1; /* fast strings */
}

static void reset_segments(struct x86_state *state)
{
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        state->seg[i] = real_segment(DATA_SEGMENT);
    state->seg[X86_CS] = real_segment(CODE_SEGMENT);
    state->seg[X86_CS].selector = 0xf000;
    state->seg[X86_CS].base = 0xffff0000;
    state->ldtr = real_segment(LDT_SEGMENT);
    state->tr = real_segment(TSS_SEGMENT);
    state->gdtr = (struct x86_table){.limit = 0xffff};
    state->idtr = (struct x86_table){.limit = 0xffff};
}

void x86_state_reset(struct x86_state *state, bool first, uint32_t cpuid_signature)
{
    uint64_t caching = first ? X86_CR0_CD | X86_CR0_NW : state->cr0 & (X86_CR0_CD | X86_CR0_NW);

    if (first) {
        *state = (struct x86_state){0};
        reset_kept(state);
    }
    for (unsigned i = 0; i < X86_GPR_COUNT; i++)
        state->gpr[i] = 0;
    state->gpr[X86_RDX] = cpuid_signature;
    state->rip = 0xfff0;
    state->rflags = X86_RFLAGS_ONE;
    reset_segments(state);
    state->cr0 = X86_CR0_ET | caching;
    state->cr2 = 0;
    state->cr3 = 0;
    state->cr4 = 0;
    state->cr8 = 0;
    state->efer = 0;
    for (unsigned i = 0; i < 4; i++)
        state->dr[i] = 0;
    state->dr6 = 0xffff0ff0;
    state->dr7 = 0x400;
    state->halted = false;
    state->nmi_blocked = false;
    state->interrupt_shadow = false;
    state->tsc_deadline = 0;
}

void x86_state_startup(struct x86_state *state, uint8_t vector)
{
    state->seg[X86_CS].selector = (uint16_t)(vector << 8);
    state->seg[X86_CS].base = (uint64_t)vector << 12;
    state->rip = 0;
    state->halted = false;
}

const char *x86_exception_name(unsigned vector)
{
    static const char *const names[] = {"DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM",
                                        "DF", "9",  "TS",  "NP", "SS", "GP", "PF", "15",
                                        "MF", "AC", "MC",  "XM", "VE", "CP"};

    return vector < sizeof names / sizeof names[0] ? names[vector] : "?";
}
