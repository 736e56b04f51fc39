/*
 * What every x87, MMX, SSE, AVX and AVX-512 instruction reads and writes: the one description that
 * the interpreter's stubs and the translator work from. Needs no libc.
 *
 * The instruction itself is always executed by the host's own unit; what must be known here is
 * which registers and how much memory it touches, what it needs, and when it is #UD.
 * Source: Intel SDM vol. 2 (instruction pages and appendix A), vol. 1 chapters 8 to 15.
 * Threads: const data only. Trusts nothing: any decoded instruction gives an answer.
 */
#ifndef FREEHOLD_CPU_X86_VECTOR_H
#define FREEHOLD_CPU_X86_VECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/cpuid.h"
#include "cpu/x86/decode.h"

enum x86_vector_class {
    X86_CLASS_NONE,
    X86_CLASS_VECTOR, /* XMM, YMM, ZMM */
    X86_CLASS_MMX,
    X86_CLASS_GPR, /* 64 bits wide where gpr64 says so, else 32 */
    X86_CLASS_MASK /* k0 to k7 */
};

#define X86_OPERAND_READ  1u
#define X86_OPERAND_WRITE 2u

struct x86_vector_operand {
    uint8_t class;  /* enum x86_vector_class */
    uint8_t access; /* X86_OPERAND_*; a merging write counts as both */
    uint8_t number;
};

enum x86_vector_memory {
    X86_MEMORY_PLAIN,       /* memory_bytes at the address */
    X86_MEMORY_BY_SIGN,     /* VMASKMOV: elements whose sign bit in vvvv is set */
    X86_MEMORY_BY_OPMASK,   /* EVEX: elements whose bit in the opmask is set */
    X86_MEMORY_COMPRESSED,  /* EVEX: as many elements as the opmask has bits, without gaps */
    X86_MEMORY_GATHER,      /* VSIB; mask in vvvv (VEX) or opmask (EVEX) */
    X86_MEMORY_SCATTER,     /* VSIB */
    X86_MEMORY_STRING,      /* MASKMOVQ, MASKMOVDQU: at segment:rDI */
    X86_MEMORY_ENVIRONMENT, /* x87: 14 or 28 bytes */
    X86_MEMORY_X87_STATE    /* x87: 94 or 108 bytes */
};

enum x86_vector_unit { X86_UNIT_X87, X86_UNIT_MMX, X86_UNIT_SSE, X86_UNIT_VEX, X86_UNIT_EVEX };

#define X86_VECTOR_MXCSR       0x0001u /* obeys MXCSR, may raise SIMD floating-point exceptions */
#define X86_VECTOR_FLAGS       0x0002u /* writes all arithmetic flags */
#define X86_VECTOR_READS_FLAGS 0x0004u /* FCMOVcc: CF, PF, ZF */
#define X86_VECTOR_ENTERS_MMX  0x0008u /* TOP = 0, all tags valid; #MF if one is pending */
#define X86_VECTOR_XMM0        0x0010u /* reads XMM0 as its last operand */
#define X86_VECTOR_FOURTH      0x0020u /* register `fourth` in immediate bits 7-4 */
#define X86_VECTOR_RAX_RDX     0x0040u /* PCMPESTRx: lengths */
#define X86_VECTOR_WRITES_RCX  0x0080u /* PCMPxSTRI */
#define X86_VECTOR_IMMEDIATE   0x0100u
#define X86_VECTOR_CONTROL     0x0200u  /* x87: leaves instruction and data pointers alone */
#define X86_VECTOR_NO_WAIT     0x0400u  /* x87: does not report a pending exception */
#define X86_VECTOR_WRITES_RAX  0x0800u  /* FNSTSW AX */
#define X86_VECTOR_BROADCAST   0x1000u  /* EVEX.b with memory: one element, memory_bytes of it */
#define X86_VECTOR_EMMS        0x2000u  /* EMMS */
#define X86_VECTOR_ZERO_UPPER  0x4000u  /* VZEROUPPER */
#define X86_VECTOR_ZERO_ALL    0x8000u  /* VZEROALL */
#define X86_VECTOR_WRITES_XMM0 0x10000u /* PCMPxSTRM */
#define X86_VECTOR_ROUNDING    0x20000u /* EVEX.b without memory: rounding or exceptions given */

struct x86_vector_insn {
    struct x86_vector_operand reg, vvvv, rm, fourth;
    uint8_t unit;          /* enum x86_vector_unit */
    uint8_t vector_bytes;  /* 8 (MMX), 16, 32 or 64 */
    uint8_t memory;        /* enum x86_vector_memory */
    uint8_t memory_bytes;  /* of the whole operand */
    uint8_t memory_access; /* X86_OPERAND_*, 0: none */
    uint8_t element;       /* bytes of one element, where memory is not PLAIN */
    uint8_t index_bytes;   /* of a VSIB index element: 4 or 8 */
    uint8_t mask_bits;     /* of the opmask that govern a memory operand */
    uint8_t opmask;        /* EVEX: k1 to k7 that masks, 0: none */
    uint8_t disp8_shift;   /* EVEX: an 8-bit displacement counts units of 1 << this */
    bool zeroing;          /* EVEX.z */
    bool aligned;          /* #GP(0) unless aligned to memory_bytes */
    bool gpr64;
    uint32_t flags; /* X86_VECTOR_* */
};

/* Describes a VECTOR or X87 instruction; `feature` is the CPU model's. False: #UD. */
bool x86_vector_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                         struct x86_vector_insn *out);

/* The same for D8 to DF alone (x87.c). */
bool x86_x87_describe(const struct x86_insn *insn, struct x86_vector_insn *out);

/* EVEX encodings (evex.c). */
bool x86_evex_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                       struct x86_vector_insn *out);

/* The VEX-encoded instructions on opmasks (opmask.c). */
bool x86_opmask_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                         struct x86_vector_insn *out);

/* The vector register that a VSIB byte names as index. */
unsigned x86_vector_index(const struct x86_insn *insn);

#endif
