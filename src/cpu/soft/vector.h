/*
 * What vector.c, x87.c and xstate.c share.
 */
#ifndef FREEHOLD_CPU_SOFT_VECTOR_H
#define FREEHOLD_CPU_SOFT_VECTOR_H

#include "cpu/soft/soft.h"
#include "cpu/soft/stub.h"

/* soft_vm.stubs */
struct vector_vm {
    struct stub_cache *cache;
    bool fdp_on_exception; /* CPUID.7.EBX bit 6: the x87 data pointer is set by exceptions only */
};

#define X87_FSW_ES 0x0080u
#define X87_FSW_B  0x8000u

/* Fields of the FXSAVE64 image. */
#define FXSAVE_FCW   0
#define FXSAVE_FSW   2
#define FXSAVE_FTW   4 /* one bit per physical register: not empty */
#define FXSAVE_FOP   6
#define FXSAVE_FIP   8
#define FXSAVE_FDP   16
#define FXSAVE_MXCSR 24
#define FXSAVE_ST    32
#define FXSAVE_XMM   160

static inline uint16_t x87_word(const uint8_t *image, unsigned at)
{
    uint16_t value;

    memcpy(&value, image + at, 2);
    return value;
}

static inline void x87_word_set(uint8_t *image, unsigned at, unsigned value)
{
    uint16_t word = (uint16_t)value;

    memcpy(image + at, &word, 2);
}

static inline unsigned x87_top(const uint8_t *image)
{
    return x87_word(image, FXSAVE_FSW) >> 11 & 7;
}

/* A new TOP leaves the physical registers alone; the image counts from TOP. */
static inline void x87_top_set(uint8_t *image, unsigned top)
{
    unsigned by = (top - x87_top(image)) & 7;
    uint8_t old[128];

    memcpy(old, image + FXSAVE_ST, sizeof old);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + FXSAVE_ST + 16 * i, old + 16 * ((i + by) & 7), 16);
    x87_word_set(image, FXSAVE_FSW, (x87_word(image, FXSAVE_FSW) & ~0x3800u) | top << 11);
}

/* Makes ES and B agree with the exceptions and their masks. */
static inline void x87_summary_update(uint8_t *image)
{
    unsigned fsw = x87_word(image, FXSAVE_FSW) & ~(X87_FSW_ES | X87_FSW_B);

    if (fsw & ~x87_word(image, FXSAVE_FCW) & 0x3f)
        fsw |= X87_FSW_ES | X87_FSW_B;
    x87_word_set(image, FXSAVE_FSW, fsw);
}

/* #MF if an unmasked exception waits. With CR0.NE = 0 a PC would raise IRQ 13; here such
 * exceptions are ignored, as with IGNNE# asserted. */
static inline void x87_pending_check(struct soft_vcpu *c)
{
    if ((c->vector.fxsave[FXSAVE_FSW] & X87_FSW_ES) && (c->cr0 & X86_CR0_NE))
        soft_raise(c, X86_MF);
}

soft_handler x87_run; /* D8 to DF with a stub */
soft_handler x87_fwait;
/* Instructions that C carries out on the image: environment, state, FNINIT. NULL: by stub. */
soft_handler *x87_state_handler(const struct x86_insn *insn, const struct x86_vector_insn *v);
/* xstate.c; NULL: not offered, #UD */
soft_handler *xstate_handler(const struct soft_vm *vm, const struct x86_insn *insn);

#endif
