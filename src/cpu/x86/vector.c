/*
 * The table of MMX, SSE and AVX instructions (legacy and VEX encodings), and its interpretation.
 * Needs no libc. Source: Intel SDM vol. 2, instruction pages; appendix A for the maps.
 *
 * One line covers an instruction's legacy and VEX encodings and, by its prefix mask, its PS, PD, SS
 * and SD (or MMX and XMM) forms. Lines are sorted by map and opcode; the first that fits is it.
 */
#include "cpu/x86/vector.h"

#include <stddef.h>

/* Mandatory prefixes, by insn->pp. */
#define NP  0x1u
#define P66 0x2u
#define PF3 0x4u
#define PF2 0x8u
#define PSD (NP | P66)
#define ALL (NP | P66 | PF3 | PF2)

/* What ModRM must be. */
#define ANY      0x00u
#define DIGIT(n) (0x08u | (n))
#define MEM      0x10u
#define REG      0x20u

/* Operands, as VEX encodings have them; legacy ones read what they write where vvvv is named. */
enum shape {
    RM,    /* reg = f(rm) */
    RVM,   /* reg = f(vvvv, rm) */
    RWVM,  /* reg = f(reg, vvvv, rm) */
    RWM,   /* reg = f(reg, rm), also under VEX */
    MR,    /* rm = f(reg) */
    MVR,   /* rm = f(vvvv, reg) */
    CMP,   /* flags or memory = f(reg, rm) */
    VM,    /* vvvv = f(rm); legacy: rm = f(rm) */
    GM,    /* general register reg = f(rm) */
    RG,    /* reg = f(general rm) */
    RVG,   /* reg = f(vvvv, general rm) */
    GR,    /* general rm = f(reg) */
    XN,    /* vector reg = f(MMX rm) */
    XNRW,  /* vector reg = f(reg, MMX rm) */
    NX,    /* MMX reg = f(vector rm) */
    GATHER /* reg, vvvv (mask) = f(reg, vvvv, VSIB memory) */
};

/* Bytes of the memory operand. */
enum size {
    M0,
    M1,
    M2,
    M4,
    M8,
    M10,
    M16,
    M32,
    MV,  /* the vector's length */
    MV2, /* a half, a quarter, an eighth of it */
    MV4,
    MV8,
    MPP, /* prefix none, 66: the vector; F3: 4; F2: 8 */
    MW,  /* 4 or 8 by W */
    MDD, /* MOVDDUP: 8, or 32 in 256 bits */
    MUL, /* MMX unpack low: 4, else the vector */
    MSH  /* shift count: 16, or 8 for MMX */
};

/* What the VEX encoding needs, and its lengths. */
enum vex_rule {
    V_NO,
    V_AVX,
    V_128,
    V_256,
    V_LIG,
    V_INT, /* AVX in 128 bits, AVX2 in 256 */
    V_AVX2,
    V_2_256,
    V_FMA,
    V_FMALIG,
    V_F16C,
    V_AES,
    V_CLMUL,
    V_GFNI,
    V_VNNI
};

enum width { WIG, W0, W1 };

#define NONE X86_FEATURE_NONE
#define SSE3 X86_FEATURE_SSE3
#define SSSE X86_FEATURE_SSSE3
#define SS41 X86_FEATURE_SSE41
#define SS42 X86_FEATURE_SSE42
#define VEXO 0xffu /* no legacy encoding */

/* Flags: the public ones and these. */
#define MX   0x01000000u /* without prefix: on MMX registers; VEX needs 66 */
#define AL   0x02000000u /* aligned under VEX too */
#define UN   0x04000000u /* never needs alignment */
#define SIGN 0x08000000u /* X86_MEMORY_BY_SIGN */
#define DI   0x10000000u /* X86_MEMORY_STRING */
#define Q64  0x20000000u /* VSIB with 8-byte indexes */
#define BM   0x40000000u /* register form needs AVX2 */
#define NW   0x80000000u /* W does not widen the general register */
#define IM   X86_VECTOR_IMMEDIATE
#define FP   X86_VECTOR_MXCSR
#define FL   X86_VECTOR_FLAGS
#define I4   (X86_VECTOR_FOURTH | X86_VECTOR_IMMEDIATE)
#define X0   X86_VECTOR_XMM0
#define EM   X86_VECTOR_ENTERS_MMX
#define AD   X86_VECTOR_RAX_RDX
#define WC   X86_VECTOR_WRITES_RCX
#define WX   X86_VECTOR_WRITES_XMM0

struct entry {
    uint8_t map, opcode, pp, modrm, shape, size, legacy, vex, width;
    uint32_t flags;
};

/* clang-format off */
static const struct entry entries[] = {
    {1, 0x10, PSD, ANY, RM, MV, NONE, V_AVX, WIG, UN},            /* MOVUPS, MOVUPD */
    {1, 0x10, PF3|PF2, MEM, RM, MPP, NONE, V_LIG, WIG, 0},        /* MOVSS, MOVSD */
    {1, 0x10, PF3|PF2, REG, RVM, M0, NONE, V_LIG, WIG, 0},
    {1, 0x11, PSD, ANY, MR, MV, NONE, V_AVX, WIG, UN},
    {1, 0x11, PF3|PF2, MEM, MR, MPP, NONE, V_LIG, WIG, 0},
    {1, 0x11, PF3|PF2, REG, MVR, M0, NONE, V_LIG, WIG, 0},
    {1, 0x12, PSD, MEM, RVM, M8, NONE, V_128, WIG, 0},            /* MOVLPS, MOVLPD */
    {1, 0x12, NP, REG, RVM, M0, NONE, V_128, WIG, 0},             /* MOVHLPS */
    {1, 0x12, PF3, ANY, RM, MV, SSE3, V_AVX, WIG, 0},             /* MOVSLDUP */
    {1, 0x12, PF2, ANY, RM, MDD, SSE3, V_AVX, WIG, 0},            /* MOVDDUP */
    {1, 0x13, PSD, MEM, MR, M8, NONE, V_128, WIG, 0},
    {1, 0x14, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},            /* UNPCKLPS */
    {1, 0x15, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},
    {1, 0x16, PSD, MEM, RVM, M8, NONE, V_128, WIG, 0},            /* MOVHPS */
    {1, 0x16, NP, REG, RVM, M0, NONE, V_128, WIG, 0},             /* MOVLHPS */
    {1, 0x16, PF3, ANY, RM, MV, SSE3, V_AVX, WIG, 0},             /* MOVSHDUP */
    {1, 0x17, PSD, MEM, MR, M8, NONE, V_128, WIG, 0},
    {1, 0x28, PSD, ANY, RM, MV, NONE, V_AVX, WIG, AL},            /* MOVAPS */
    {1, 0x29, PSD, ANY, MR, MV, NONE, V_AVX, WIG, AL},
    {1, 0x2a, NP, MEM, XNRW, M8, NONE, V_NO, WIG, FP},            /* CVTPI2PS: memory is not MMX */
    {1, 0x2a, NP, REG, XNRW, M0, NONE, V_NO, WIG, FP|EM},
    {1, 0x2a, P66, MEM, XN, M8, NONE, V_NO, WIG, 0},              /* CVTPI2PD */
    {1, 0x2a, P66, REG, XN, M0, NONE, V_NO, WIG, EM},
    {1, 0x2a, PF3|PF2, ANY, RVG, MW, NONE, V_LIG, WIG, FP},       /* CVTSI2SS */
    {1, 0x2b, PSD, MEM, MR, MV, NONE, V_AVX, WIG, AL},            /* MOVNTPS */
    {1, 0x2c, NP, ANY, NX, M8, NONE, V_NO, WIG, FP|EM},           /* CVTTPS2PI */
    {1, 0x2c, P66, ANY, NX, M16, NONE, V_NO, WIG, FP|EM},
    {1, 0x2c, PF3|PF2, ANY, GM, MPP, NONE, V_LIG, WIG, FP},       /* CVTTSS2SI */
    {1, 0x2d, NP, ANY, NX, M8, NONE, V_NO, WIG, FP|EM},
    {1, 0x2d, P66, ANY, NX, M16, NONE, V_NO, WIG, FP|EM},
    {1, 0x2d, PF3|PF2, ANY, GM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x2e, NP, ANY, CMP, M4, NONE, V_LIG, WIG, FP|FL},         /* UCOMISS */
    {1, 0x2e, P66, ANY, CMP, M8, NONE, V_LIG, WIG, FP|FL},
    {1, 0x2f, NP, ANY, CMP, M4, NONE, V_LIG, WIG, FP|FL},
    {1, 0x2f, P66, ANY, CMP, M8, NONE, V_LIG, WIG, FP|FL},
    {1, 0x50, PSD, REG, GM, M0, NONE, V_AVX, WIG, NW},            /* MOVMSKPS */
    {1, 0x51, PSD, ANY, RM, MV, NONE, V_AVX, WIG, FP},            /* SQRTPS */
    {1, 0x51, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x52, NP, ANY, RM, MV, NONE, V_AVX, WIG, 0},              /* RSQRTPS */
    {1, 0x52, PF3, ANY, RVM, M4, NONE, V_LIG, WIG, 0},
    {1, 0x53, NP, ANY, RM, MV, NONE, V_AVX, WIG, 0},              /* RCPPS */
    {1, 0x53, PF3, ANY, RVM, M4, NONE, V_LIG, WIG, 0},
    {1, 0x54, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},            /* ANDPS */
    {1, 0x55, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},
    {1, 0x56, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},
    {1, 0x57, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, 0},
    {1, 0x58, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* ADDPS */
    {1, 0x58, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x59, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* MULPS */
    {1, 0x59, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x5a, NP, ANY, RM, MV2, NONE, V_AVX, WIG, FP},            /* CVTPS2PD */
    {1, 0x5a, P66, ANY, RM, MV, NONE, V_AVX, WIG, FP},
    {1, 0x5a, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x5b, NP|P66|PF3, ANY, RM, MV, NONE, V_AVX, WIG, FP},     /* CVTDQ2PS */
    {1, 0x5c, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* SUBPS */
    {1, 0x5c, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x5d, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* MINPS */
    {1, 0x5d, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x5e, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* DIVPS */
    {1, 0x5e, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x5f, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP},           /* MAXPS */
    {1, 0x5f, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP},
    {1, 0x60, PSD, ANY, RVM, MUL, NONE, V_INT, WIG, MX},          /* PUNPCKLBW */
    {1, 0x61, PSD, ANY, RVM, MUL, NONE, V_INT, WIG, MX},
    {1, 0x62, PSD, ANY, RVM, MUL, NONE, V_INT, WIG, MX},
    {1, 0x63, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},           /* PACKSSWB */
    {1, 0x64, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},           /* PCMPGTB */
    {1, 0x65, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x66, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x67, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},           /* PACKUSWB */
    {1, 0x68, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x69, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x6a, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x6b, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x6c, P66, ANY, RVM, MV, NONE, V_INT, WIG, 0},            /* PUNPCKLQDQ */
    {1, 0x6d, P66, ANY, RVM, MV, NONE, V_INT, WIG, 0},
    {1, 0x6e, PSD, ANY, RG, MW, NONE, V_128, WIG, MX},            /* MOVD, MOVQ */
    {1, 0x6f, NP, ANY, RM, MV, NONE, V_NO, WIG, MX},
    {1, 0x6f, P66, ANY, RM, MV, NONE, V_AVX, WIG, AL},            /* MOVDQA */
    {1, 0x6f, PF3, ANY, RM, MV, NONE, V_AVX, WIG, UN},            /* MOVDQU */
    {1, 0x70, PSD, ANY, RM, MV, NONE, V_INT, WIG, MX|IM},         /* PSHUFW, PSHUFD */
    {1, 0x70, PF3|PF2, ANY, RM, MV, NONE, V_INT, WIG, IM},        /* PSHUFHW, PSHUFLW */
    {1, 0x71, PSD, REG|DIGIT(2), VM, M0, NONE, V_INT, WIG, MX|IM}, /* PSRLW */
    {1, 0x71, PSD, REG|DIGIT(4), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x71, PSD, REG|DIGIT(6), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x72, PSD, REG|DIGIT(2), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x72, PSD, REG|DIGIT(4), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x72, PSD, REG|DIGIT(6), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x73, PSD, REG|DIGIT(2), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x73, P66, REG|DIGIT(3), VM, M0, NONE, V_INT, WIG, IM},   /* PSRLDQ */
    {1, 0x73, PSD, REG|DIGIT(6), VM, M0, NONE, V_INT, WIG, MX|IM},
    {1, 0x73, P66, REG|DIGIT(7), VM, M0, NONE, V_INT, WIG, IM},
    {1, 0x74, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},           /* PCMPEQB */
    {1, 0x75, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x76, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0x7c, P66, ANY, RVM, MV, SSE3, V_AVX, WIG, FP},           /* HADDPD */
    {1, 0x7c, PF2, ANY, RVM, MV, SSE3, V_AVX, WIG, FP},
    {1, 0x7d, P66, ANY, RVM, MV, SSE3, V_AVX, WIG, FP},
    {1, 0x7d, PF2, ANY, RVM, MV, SSE3, V_AVX, WIG, FP},
    {1, 0x7e, PSD, ANY, GR, MW, NONE, V_128, WIG, MX},            /* MOVD, MOVQ */
    {1, 0x7e, PF3, ANY, RM, M8, NONE, V_128, WIG, 0},
    {1, 0x7f, NP, ANY, MR, MV, NONE, V_NO, WIG, MX},
    {1, 0x7f, P66, ANY, MR, MV, NONE, V_AVX, WIG, AL},
    {1, 0x7f, PF3, ANY, MR, MV, NONE, V_AVX, WIG, UN},
    {1, 0xc2, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, FP|IM},        /* CMPPS */
    {1, 0xc2, PF3|PF2, ANY, RVM, MPP, NONE, V_LIG, WIG, FP|IM},
    {1, 0xc4, PSD, ANY, RVG, M2, NONE, V_128, WIG, MX|IM|NW},     /* PINSRW */
    {1, 0xc5, PSD, REG, GM, M0, NONE, V_128, WIG, MX|IM|NW},      /* PEXTRW */
    {1, 0xc6, PSD, ANY, RVM, MV, NONE, V_AVX, WIG, IM},           /* SHUFPS */
    {1, 0xd0, P66|PF2, ANY, RVM, MV, SSE3, V_AVX, WIG, FP},       /* ADDSUBPD */
    {1, 0xd1, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},          /* PSRLW */
    {1, 0xd2, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xd3, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xd4, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xd5, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xd6, P66, ANY, MR, M8, NONE, V_128, WIG, 0},             /* MOVQ */
    {1, 0xd6, PF3, REG, XN, M0, NONE, V_NO, WIG, EM},             /* MOVQ2DQ */
    {1, 0xd6, PF2, REG, NX, M0, NONE, V_NO, WIG, EM},             /* MOVDQ2Q */
    {1, 0xd7, PSD, REG, GM, M0, NONE, V_INT, WIG, MX|NW},         /* PMOVMSKB */
    {1, 0xd8, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xd9, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xda, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xdb, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xdc, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xdd, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xde, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xdf, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe0, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe1, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xe2, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xe3, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe4, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe5, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe6, P66|PF2, ANY, RM, MV, NONE, V_AVX, WIG, FP},        /* CVTTPD2DQ, CVTPD2DQ */
    {1, 0xe6, PF3, ANY, RM, MV2, NONE, V_AVX, WIG, 0},            /* CVTDQ2PD */
    {1, 0xe7, NP, MEM, MR, MV, NONE, V_NO, WIG, MX},              /* MOVNTQ */
    {1, 0xe7, P66, MEM, MR, MV, NONE, V_AVX, WIG, AL},            /* MOVNTDQ */
    {1, 0xe8, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xe9, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xea, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xeb, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xec, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xed, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xee, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xef, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xf0, PF2, MEM, RM, MV, SSE3, V_AVX, WIG, UN},            /* LDDQU */
    {1, 0xf1, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xf2, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xf3, PSD, ANY, RVM, MSH, NONE, V_INT, WIG, MX},
    {1, 0xf4, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xf5, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xf6, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xf7, PSD, REG, CMP, M0, NONE, V_128, WIG, MX|DI},        /* MASKMOVQ, MASKMOVDQU */
    {1, 0xf8, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xf9, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xfa, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xfb, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xfc, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xfd, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},
    {1, 0xfe, PSD, ANY, RVM, MV, NONE, V_INT, WIG, MX},

    {2, 0x00, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},           /* PSHUFB */
    {2, 0x01, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},           /* PHADDW */
    {2, 0x02, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x03, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x04, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},           /* PMADDUBSW */
    {2, 0x05, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x06, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x07, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x08, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},           /* PSIGNB */
    {2, 0x09, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x0a, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x0b, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX},           /* PMULHRSW */
    {2, 0x0c, P66, ANY, RVM, MV, VEXO, V_AVX, W0, 0},             /* VPERMILPS */
    {2, 0x0d, P66, ANY, RVM, MV, VEXO, V_AVX, W0, 0},
    {2, 0x0e, P66, ANY, CMP, MV, VEXO, V_AVX, W0, FL},            /* VTESTPS */
    {2, 0x0f, P66, ANY, CMP, MV, VEXO, V_AVX, W0, FL},
    {2, 0x10, P66, ANY, RVM, MV, SS41, V_NO, WIG, X0},            /* PBLENDVB */
    {2, 0x13, P66, ANY, RM, MV2, VEXO, V_F16C, W0, FP},           /* VCVTPH2PS */
    {2, 0x14, P66, ANY, RVM, MV, SS41, V_NO, WIG, X0},            /* BLENDVPS */
    {2, 0x15, P66, ANY, RVM, MV, SS41, V_NO, WIG, X0},
    {2, 0x16, P66, ANY, RVM, MV, VEXO, V_2_256, W0, 0},           /* VPERMPS */
    {2, 0x17, P66, ANY, CMP, MV, SS41, V_AVX, WIG, FL},           /* PTEST */
    {2, 0x18, P66, ANY, RM, M4, VEXO, V_AVX, W0, BM},             /* VBROADCASTSS */
    {2, 0x19, P66, ANY, RM, M8, VEXO, V_256, W0, BM},
    {2, 0x1a, P66, MEM, RM, M16, VEXO, V_256, W0, 0},             /* VBROADCASTF128 */
    {2, 0x1c, PSD, ANY, RM, MV, SSSE, V_INT, WIG, MX},            /* PABSB */
    {2, 0x1d, PSD, ANY, RM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x1e, PSD, ANY, RM, MV, SSSE, V_INT, WIG, MX},
    {2, 0x20, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},            /* PMOVSXBW */
    {2, 0x21, P66, ANY, RM, MV4, SS41, V_INT, WIG, 0},
    {2, 0x22, P66, ANY, RM, MV8, SS41, V_INT, WIG, 0},
    {2, 0x23, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},
    {2, 0x24, P66, ANY, RM, MV4, SS41, V_INT, WIG, 0},
    {2, 0x25, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},
    {2, 0x28, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},            /* PMULDQ */
    {2, 0x29, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},            /* PCMPEQQ */
    {2, 0x2a, P66, MEM, RM, MV, SS41, V_INT, WIG, AL},            /* MOVNTDQA */
    {2, 0x2b, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},            /* PACKUSDW */
    {2, 0x2c, P66, MEM, RVM, MV, VEXO, V_AVX, W0, SIGN},          /* VMASKMOVPS */
    {2, 0x2d, P66, MEM, RVM, MV, VEXO, V_AVX, W0, SIGN},
    {2, 0x2e, P66, MEM, MVR, MV, VEXO, V_AVX, W0, SIGN},
    {2, 0x2f, P66, MEM, MVR, MV, VEXO, V_AVX, W0, SIGN},
    {2, 0x30, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},            /* PMOVZXBW */
    {2, 0x31, P66, ANY, RM, MV4, SS41, V_INT, WIG, 0},
    {2, 0x32, P66, ANY, RM, MV8, SS41, V_INT, WIG, 0},
    {2, 0x33, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},
    {2, 0x34, P66, ANY, RM, MV4, SS41, V_INT, WIG, 0},
    {2, 0x35, P66, ANY, RM, MV2, SS41, V_INT, WIG, 0},
    {2, 0x36, P66, ANY, RVM, MV, VEXO, V_2_256, W0, 0},           /* VPERMD */
    {2, 0x37, P66, ANY, RVM, MV, SS42, V_INT, WIG, 0},            /* PCMPGTQ */
    {2, 0x38, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},            /* PMINSB ... */
    {2, 0x39, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3a, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3b, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3c, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3d, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3e, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x3f, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},
    {2, 0x40, P66, ANY, RVM, MV, SS41, V_INT, WIG, 0},            /* PMULLD */
    {2, 0x41, P66, ANY, RM, MV, SS41, V_128, WIG, 0},             /* PHMINPOSUW */
    {2, 0x45, P66, ANY, RVM, MV, VEXO, V_AVX2, WIG, 0},           /* VPSRLVD, VPSRLVQ */
    {2, 0x46, P66, ANY, RVM, MV, VEXO, V_AVX2, W0, 0},            /* VPSRAVD */
    {2, 0x47, P66, ANY, RVM, MV, VEXO, V_AVX2, WIG, 0},           /* VPSLLVD */
    {2, 0x50, P66, ANY, RWVM, MV, VEXO, V_VNNI, W0, 0},           /* VPDPBUSD */
    {2, 0x51, P66, ANY, RWVM, MV, VEXO, V_VNNI, W0, 0},
    {2, 0x52, P66, ANY, RWVM, MV, VEXO, V_VNNI, W0, 0},
    {2, 0x53, P66, ANY, RWVM, MV, VEXO, V_VNNI, W0, 0},
    {2, 0x58, P66, ANY, RM, M4, VEXO, V_AVX2, W0, 0},             /* VPBROADCASTD */
    {2, 0x59, P66, ANY, RM, M8, VEXO, V_AVX2, W0, 0},
    {2, 0x5a, P66, MEM, RM, M16, VEXO, V_2_256, W0, 0},           /* VBROADCASTI128 */
    {2, 0x78, P66, ANY, RM, M1, VEXO, V_AVX2, W0, 0},             /* VPBROADCASTB */
    {2, 0x79, P66, ANY, RM, M2, VEXO, V_AVX2, W0, 0},
    {2, 0x8c, P66, MEM, RVM, MV, VEXO, V_AVX2, WIG, SIGN},        /* VPMASKMOVD, Q */
    {2, 0x8e, P66, MEM, MVR, MV, VEXO, V_AVX2, WIG, SIGN},
    {2, 0x90, P66, MEM, GATHER, MW, VEXO, V_AVX2, WIG, 0},        /* VPGATHERDD, DQ */
    {2, 0x91, P66, MEM, GATHER, MW, VEXO, V_AVX2, WIG, Q64},
    {2, 0x92, P66, MEM, GATHER, MW, VEXO, V_AVX2, WIG, 0},        /* VGATHERDPS, DPD */
    {2, 0x93, P66, MEM, GATHER, MW, VEXO, V_AVX2, WIG, Q64},
#define FMA_ROW(row)                                                                               \
    {2, (row) + 0x6, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0x7, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0x8, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0x9, P66, ANY, RWVM, MW, VEXO, V_FMALIG, WIG, FP},                                 \
    {2, (row) + 0xa, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0xb, P66, ANY, RWVM, MW, VEXO, V_FMALIG, WIG, FP},                                 \
    {2, (row) + 0xc, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0xd, P66, ANY, RWVM, MW, VEXO, V_FMALIG, WIG, FP},                                 \
    {2, (row) + 0xe, P66, ANY, RWVM, MV, VEXO, V_FMA, WIG, FP},                                    \
    {2, (row) + 0xf, P66, ANY, RWVM, MW, VEXO, V_FMALIG, WIG, FP}
    FMA_ROW(0x90),
    FMA_ROW(0xa0),
    FMA_ROW(0xb0),
    {2, 0xc8, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, 0},   /* SHA1NEXTE */
    {2, 0xc9, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, 0},
    {2, 0xca, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, 0},
    {2, 0xcb, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, X0},  /* SHA256RNDS2 */
    {2, 0xcc, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, 0},
    {2, 0xcd, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, 0},
    {2, 0xcf, P66, ANY, RVM, MV, X86_FEATURE_GFNI, V_GFNI, W0, 0}, /* GF2P8MULB */
    {2, 0xdb, P66, ANY, RM, MV, X86_FEATURE_AES, V_128, WIG, 0},  /* AESIMC */
    {2, 0xdc, P66, ANY, RVM, MV, X86_FEATURE_AES, V_AES, WIG, 0}, /* AESENC ... */
    {2, 0xdd, P66, ANY, RVM, MV, X86_FEATURE_AES, V_AES, WIG, 0},
    {2, 0xde, P66, ANY, RVM, MV, X86_FEATURE_AES, V_AES, WIG, 0},
    {2, 0xdf, P66, ANY, RVM, MV, X86_FEATURE_AES, V_AES, WIG, 0},

    {3, 0x00, P66, ANY, RM, MV, VEXO, V_2_256, W1, IM},           /* VPERMQ */
    {3, 0x01, P66, ANY, RM, MV, VEXO, V_2_256, W1, IM},
    {3, 0x02, P66, ANY, RVM, MV, VEXO, V_AVX2, W0, IM},           /* VPBLENDD */
    {3, 0x04, P66, ANY, RM, MV, VEXO, V_AVX, W0, IM},             /* VPERMILPS */
    {3, 0x05, P66, ANY, RM, MV, VEXO, V_AVX, W0, IM},
    {3, 0x06, P66, ANY, RVM, MV, VEXO, V_256, W0, IM},            /* VPERM2F128 */
    {3, 0x08, P66, ANY, RM, MV, SS41, V_AVX, WIG, FP|IM},         /* ROUNDPS */
    {3, 0x09, P66, ANY, RM, MV, SS41, V_AVX, WIG, FP|IM},
    {3, 0x0a, P66, ANY, RVM, M4, SS41, V_LIG, WIG, FP|IM},
    {3, 0x0b, P66, ANY, RVM, M8, SS41, V_LIG, WIG, FP|IM},
    {3, 0x0c, P66, ANY, RVM, MV, SS41, V_AVX, WIG, IM},           /* BLENDPS */
    {3, 0x0d, P66, ANY, RVM, MV, SS41, V_AVX, WIG, IM},
    {3, 0x0e, P66, ANY, RVM, MV, SS41, V_INT, WIG, IM},           /* PBLENDW */
    {3, 0x0f, PSD, ANY, RVM, MV, SSSE, V_INT, WIG, MX|IM},        /* PALIGNR */
    {3, 0x14, P66, ANY, GR, M1, SS41, V_128, WIG, IM|NW},         /* PEXTRB */
    {3, 0x15, P66, ANY, GR, M2, SS41, V_128, WIG, IM|NW},
    {3, 0x16, P66, ANY, GR, MW, SS41, V_128, WIG, IM},            /* PEXTRD, Q */
    {3, 0x17, P66, ANY, GR, M4, SS41, V_128, WIG, IM|NW},         /* EXTRACTPS */
    {3, 0x18, P66, ANY, RVM, M16, VEXO, V_256, W0, IM},           /* VINSERTF128 */
    {3, 0x19, P66, ANY, MR, M16, VEXO, V_256, W0, IM},
    {3, 0x1d, P66, ANY, MR, MV2, VEXO, V_F16C, W0, FP|IM},        /* VCVTPS2PH */
    {3, 0x20, P66, ANY, RVG, M1, SS41, V_128, WIG, IM|NW},        /* PINSRB */
    {3, 0x21, P66, ANY, RVM, M4, SS41, V_128, WIG, IM},           /* INSERTPS */
    {3, 0x22, P66, ANY, RVG, MW, SS41, V_128, WIG, IM},           /* PINSRD, Q */
    {3, 0x38, P66, ANY, RVM, M16, VEXO, V_2_256, W0, IM},         /* VINSERTI128 */
    {3, 0x39, P66, ANY, MR, M16, VEXO, V_2_256, W0, IM},
    {3, 0x40, P66, ANY, RVM, MV, SS41, V_AVX, WIG, FP|IM},        /* DPPS */
    {3, 0x41, P66, ANY, RVM, MV, SS41, V_128, WIG, FP|IM},
    {3, 0x42, P66, ANY, RVM, MV, SS41, V_INT, WIG, IM},           /* MPSADBW */
    {3, 0x44, P66, ANY, RVM, MV, X86_FEATURE_PCLMUL, V_CLMUL, WIG, IM},
    {3, 0x46, P66, ANY, RVM, MV, VEXO, V_2_256, W0, IM},          /* VPERM2I128 */
    {3, 0x4a, P66, ANY, RVM, MV, VEXO, V_AVX, W0, I4},            /* VBLENDVPS */
    {3, 0x4b, P66, ANY, RVM, MV, VEXO, V_AVX, W0, I4},
    {3, 0x4c, P66, ANY, RVM, MV, VEXO, V_INT, W0, I4},            /* VPBLENDVB */
    {3, 0x60, P66, ANY, CMP, MV, SS42, V_128, WIG, UN|IM|FL|AD|WX}, /* PCMPESTRM */
    {3, 0x61, P66, ANY, CMP, MV, SS42, V_128, WIG, UN|IM|FL|AD|WC},
    {3, 0x62, P66, ANY, CMP, MV, SS42, V_128, WIG, UN|IM|FL|WX},  /* PCMPISTRM */
    {3, 0x63, P66, ANY, CMP, MV, SS42, V_128, WIG, UN|IM|FL|WC},
    {3, 0xcc, NP, ANY, RWM, MV, X86_FEATURE_SHA, V_NO, WIG, IM},  /* SHA1RNDS4 */
    {3, 0xce, P66, ANY, RVM, MV, X86_FEATURE_GFNI, V_GFNI, W1, IM},
    {3, 0xcf, P66, ANY, RVM, MV, X86_FEATURE_GFNI, V_GFNI, W1, IM},
    {3, 0xdf, P66, ANY, RM, MV, X86_FEATURE_AES, V_128, WIG, IM}, /* AESKEYGENASSIST */
};
/* clang-format on */

/* -- the shapes -- */

#define R  X86_OPERAND_READ
#define W  X86_OPERAND_WRITE
#define XV X86_CLASS_VECTOR
#define XG X86_CLASS_GPR
#define XM X86_CLASS_MMX

struct shape_row {
    struct x86_vector_operand reg, vvvv, rm;
};

static const struct shape_row shapes[] = {
    [RM] = {{XV, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [RVM] = {{XV, W, 0}, {XV, R, 0}, {XV, R, 0}},
    [RWVM] = {{XV, R | W, 0}, {XV, R, 0}, {XV, R, 0}},
    [RWM] = {{XV, R | W, 0}, {0, 0, 0}, {XV, R, 0}},
    [MR] = {{XV, R, 0}, {0, 0, 0}, {XV, W, 0}},
    [MVR] = {{XV, R, 0}, {XV, R, 0}, {XV, W, 0}},
    [CMP] = {{XV, R, 0}, {0, 0, 0}, {XV, R, 0}},
    [VM] = {{0, 0, 0}, {XV, W, 0}, {XV, R, 0}},
    [GM] = {{XG, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [RG] = {{XV, W, 0}, {0, 0, 0}, {XG, R, 0}},
    [RVG] = {{XV, W, 0}, {XV, R, 0}, {XG, R, 0}},
    [GR] = {{XV, R, 0}, {0, 0, 0}, {XG, W, 0}},
    [XN] = {{XV, W, 0}, {0, 0, 0}, {XM, R, 0}},
    [XNRW] = {{XV, R | W, 0}, {0, 0, 0}, {XM, R, 0}},
    [NX] = {{XM, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [GATHER] = {{XV, R | W, 0}, {XV, R | W, 0}, {0, 0, 0}},
};

/* Legacy encodings have no vvvv: what they write they read too. */
static void operands_set(const struct entry *e, const struct x86_insn *insn,
                         struct x86_vector_insn *out)
{
    out->reg = shapes[e->shape].reg;
    out->vvvv = shapes[e->shape].vvvv;
    out->rm = shapes[e->shape].rm;
    if (insn->vex != X86_VEX_NONE)
        return;
    if (out->vvvv.access == W || e->shape == MVR)
        out->rm.access = R | W;
    else if (out->vvvv.access)
        out->reg.access = R | W;
    if (e->shape == MVR)
        out->rm.access = R | W;
    out->vvvv = (struct x86_vector_operand){0, 0, 0};
}

static void mmx_set(struct x86_vector_operand *operand)
{
    if (operand->class == XV)
        operand->class = XM;
}

/* -- which entry -- */

static bool modrm_fits(const struct entry *e, const struct x86_insn *insn)
{
    if ((e->modrm & MEM) && !insn->memory)
        return false;
    if ((e->modrm & REG) && insn->memory)
        return false;
    return !(e->modrm & DIGIT(0)) || (insn->modrm >> 3 & 7) == (e->modrm & 7);
}

static bool vex_fits(const struct entry *e, const struct x86_insn *insn)
{
    unsigned length = insn->vector_length;
    bool w = (insn->rex & X86_REX_W) != 0;

    if ((e->width == W0 && w) || (e->width == W1 && !w))
        return false;
    if ((e->flags & MX) && insn->pp == 0)
        return false;
    if (!shapes[e->shape].vvvv.class && insn->vvvv != 0)
        return false;
    switch (e->vex) {
    case V_NO:
        return false;
    case V_128:
        return length == 0;
    case V_256:
    case V_2_256:
        return length == 1;
    default:
        return length <= 1;
    }
}

static bool vex_offered(const struct entry *e, const struct x86_insn *insn,
                        const bool feature[X86_FEATURE_COUNT])
{
    bool wide = insn->vector_length == 1;

    if (!feature[X86_FEATURE_AVX])
        return false;
    if ((e->flags & BM) && !insn->memory && !feature[X86_FEATURE_AVX2])
        return false;
    switch (e->vex) {
    case V_INT:
        return !wide || feature[X86_FEATURE_AVX2];
    case V_AVX2:
    case V_2_256:
        return feature[X86_FEATURE_AVX2];
    case V_FMA:
    case V_FMALIG:
        return feature[X86_FEATURE_FMA];
    case V_F16C:
        return feature[X86_FEATURE_F16C];
    case V_AES:
        return feature[wide ? X86_FEATURE_VAES : X86_FEATURE_AES];
    case V_CLMUL:
        return feature[wide ? X86_FEATURE_VPCLMULQDQ : X86_FEATURE_PCLMUL];
    case V_GFNI:
        return feature[X86_FEATURE_GFNI];
    case V_VNNI:
        return feature[X86_FEATURE_AVX_VNNI];
    default: /* AES's and SSE4.2's 128-bit forms too */
        return e->legacy == VEXO || feature[e->legacy] || e->legacy == NONE;
    }
}

static bool entry_fits(const struct entry *e, const struct x86_insn *insn)
{
    if (!(e->pp & 1u << insn->pp) || !modrm_fits(e, insn))
        return false;
    return insn->vex == X86_VEX_NONE ? e->legacy != VEXO : vex_fits(e, insn);
}

/* The table is sorted by map and opcode. */
static const struct entry *entry_find(const struct x86_insn *insn)
{
    const unsigned key = (unsigned)insn->map << 8 | insn->opcode;
    size_t low = 0, high = sizeof entries / sizeof entries[0];

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (((unsigned)entries[middle].map << 8 | entries[middle].opcode) < key)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < sizeof entries / sizeof entries[0]; low++) {
        const struct entry *e = &entries[low];
        if (((unsigned)e->map << 8 | e->opcode) != key)
            break;
        if (entry_fits(e, insn))
            return e;
    }
    return NULL;
}

/* -- its operands -- */

static unsigned memory_size(const struct entry *e, const struct x86_insn *insn, unsigned vector)
{
    bool w = (insn->rex & X86_REX_W) != 0;

    switch ((enum size)e->size) {
    case M1:
        return 1;
    case M2:
        return 2;
    case M4:
        return 4;
    case M8:
        return 8;
    case M10:
        return 10;
    case M16:
        return 16;
    case M32:
        return 32;
    case MV:
        return vector;
    case MV2:
        return vector / 2;
    case MV4:
        return vector / 4;
    case MV8:
        return vector / 8;
    case MPP:
        return insn->pp == 2 ? 4 : insn->pp == 3 ? 8 : vector;
    case MW:
        return w ? 8 : 4;
    case MDD:
        return vector == 16 ? 8 : vector;
    case MUL:
        return vector == 8 ? 4 : vector;
    case MSH:
        return vector == 8 ? 8 : 16;
    default:
        return 0;
    }
}

/* VMASKMOVPS and PS gathers work on 4 bytes, PD ones on 8; the integer ones say it by W. */
static unsigned element_size(const struct entry *e, const struct x86_insn *insn)
{
    if (e->opcode >= 0x2c && e->opcode <= 0x2f)
        return e->opcode & 1 ? 8 : 4;
    return insn->rex & X86_REX_W ? 8 : 4;
}

static void memory_set(const struct entry *e, const struct x86_insn *insn,
                       struct x86_vector_insn *out)
{
    if (e->flags & DI) {
        out->memory = X86_MEMORY_STRING;
        out->memory_bytes = out->vector_bytes;
        out->memory_access = W;
        out->element = 1;
        return;
    }
    if (!insn->memory)
        return;
    out->memory_bytes = (uint8_t)memory_size(e, insn, out->vector_bytes);
    out->memory_access = out->rm.access & W ? W : R;
    out->rm.class = X86_CLASS_NONE;
    out->aligned = out->memory_bytes >= 16 &&
                   ((e->flags & AL) || (insn->vex == X86_VEX_NONE && !(e->flags & UN)));
    if (e->flags & SIGN) {
        out->memory = X86_MEMORY_BY_SIGN;
        out->element = (uint8_t)element_size(e, insn);
    } else if (e->shape == GATHER) {
        out->memory = X86_MEMORY_GATHER;
        out->element = (uint8_t)element_size(e, insn);
        out->index_bytes = e->flags & Q64 ? 8 : 4;
    }
}

static void numbers_set(const struct x86_insn *insn, struct x86_vector_insn *out)
{
    out->reg.number = out->reg.class == XM ? insn->reg & 7 : insn->reg;
    out->rm.number = out->rm.class == XM ? insn->rm & 7 : insn->rm;
    out->vvvv.number = insn->vvvv & 15;
    if (out->flags & X86_VECTOR_FOURTH)
        out->fourth = (struct x86_vector_operand){XV, R, (uint8_t)(insn->immediate >> 4 & 15)};
    if (out->flags & X86_VECTOR_XMM0)
        out->fourth = (struct x86_vector_operand){XV, R, 0};
    if (out->flags & X86_VECTOR_WRITES_XMM0)
        out->fourth = (struct x86_vector_operand){XV, W, 0};
}

unsigned x86_vector_index(const struct x86_insn *insn)
{
    unsigned index = insn->bytes[insn->modrm_offset + 1] >> 3 & 7;

    if (insn->rex & X86_REX_X)
        index += 8;
    if (insn->vex == X86_VEX_EVEX)
        index += insn->vvvv & 16u;
    return index;
}

/* SDM vol. 2, 2.4: exception class 12. */
static bool gather_valid(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    unsigned index = x86_vector_index(insn);

    if ((insn->modrm & 7) != 4 || insn->address_size == 2)
        return false;
    return index != v->reg.number && index != v->vvvv.number && v->reg.number != v->vvvv.number;
}

static void entry_describe(const struct entry *e, const struct x86_insn *insn,
                           struct x86_vector_insn *out)
{
    bool mmx = (e->flags & MX) && insn->pp == 0;

    *out = (struct x86_vector_insn){0};
    operands_set(e, insn, out);
    out->flags = e->flags & 0xffffffu;
    out->unit = insn->vex == X86_VEX_NONE ? X86_UNIT_SSE : X86_UNIT_VEX;
    out->vector_bytes = (uint8_t)(mmx ? 8 : 16 << (insn->vex ? insn->vector_length : 0));
    if (mmx) {
        mmx_set(&out->reg);
        mmx_set(&out->rm);
        out->unit = X86_UNIT_MMX;
        out->flags |= X86_VECTOR_ENTERS_MMX;
    }
    out->gpr64 = (insn->rex & X86_REX_W) && !(e->flags & NW);
    memory_set(e, insn, out);
    numbers_set(insn, out);
}

static bool empty_state_describe(const struct x86_insn *insn, struct x86_vector_insn *out)
{
    *out = (struct x86_vector_insn){.unit = X86_UNIT_MMX, .vector_bytes = 8};
    if (insn->pp != 0 || insn->vvvv != 0 || insn->vector_length > 1)
        return false;
    if (insn->vex == X86_VEX_NONE) {
        out->flags = X86_VECTOR_EMMS;
        return true;
    }
    out->unit = X86_UNIT_VEX;
    out->flags = insn->vector_length ? X86_VECTOR_ZERO_ALL : X86_VECTOR_ZERO_UPPER;
    return true;
}

bool x86_vector_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                         struct x86_vector_insn *out)
{
    const struct entry *e;

    if (insn->prefixes & X86_PREFIX_LOCK)
        return false;
    if (insn->op == X86_OP_X87)
        return x86_x87_describe(insn, out);
    if (insn->vex == X86_VEX_EVEX)
        return x86_evex_describe(insn, feature, out);
    if (insn->map == 1 && insn->opcode == 0x77)
        return empty_state_describe(insn, out) &&
               (insn->vex == X86_VEX_NONE || feature[X86_FEATURE_AVX]);
    e = entry_find(insn);
    if (!e)
        return insn->vex == X86_VEX_VEX && x86_opmask_describe(insn, feature, out);
    if (insn->vex == X86_VEX_NONE ? e->legacy != NONE && !feature[e->legacy]
                                  : !vex_offered(e, insn, feature))
        return false;
    entry_describe(e, insn, out);
    return out->memory != X86_MEMORY_GATHER || gather_valid(insn, out);
}
