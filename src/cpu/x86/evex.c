/*
 * The table of AVX-512: EVEX encodings. Needs no libc.
 * Source: Intel SDM vol. 2, instruction pages, 2.7 (EVEX) and 2.8 (exception classes).
 *
 * Lines are sorted by map and opcode; the first that fits is it. The mask's granularity is that of
 * the memory operand's elements: only those are touched in memory, but for the instructions that
 * do not suppress faults (classes with NF), which read all of it.
 */
#include <stddef.h>

#include "cpu/x86/vector.h"

#define NP       0x1u
#define P66      0x2u
#define PF3      0x4u
#define PF2      0x8u
#define PSD      (NP | P66)
#define SCA      (PF3 | PF2)

#define ANY      0x00u
#define DIGIT(n) (0x08u | (n))
#define MEM      0x10u
#define REG      0x20u

enum width { WIG, W0, W1, WPP /* W says what the prefix says: 1 for PD and SD */ };

enum shape { RM, RVM, RWVM, MR, MVR, CMP, VM, GM, RG, RVG, GR, KVM, KM, RK, GATHER, SCATTER };

enum size { M0, M1, M2, M4, M8, M16, M32, MV, MV2, MV4, MV8, MPP, MW, MDD, MCM };

enum element { E1, E2, E4, E8, EW /* 4 or 8 by W */ };

/* Vector lengths: bit n for length code n. */
#define L128   0x1u
#define LBIG   0x6u /* 256, 512 */
#define L512   0x4u
#define LALL   0x7u
#define LIG    0x8u /* a scalar: the length is ignored */

#define F512   X86_FEATURE_AVX512F
#define DQ     X86_FEATURE_AVX512DQ
#define BW     X86_FEATURE_AVX512BW
#define CD     X86_FEATURE_AVX512CD
#define VNNI   X86_FEATURE_AVX512VNNI
#define BF16   X86_FEATURE_AVX512BF16
#define BITALG X86_FEATURE_AVX512BITALG
#define POPCNT X86_FEATURE_AVX512VPOPCNTDQ
#define VBMI   X86_FEATURE_AVX512VBMI
#define VBMI2  X86_FEATURE_AVX512VBMI2
#define IFMA   X86_FEATURE_AVX512IFMA
#define GFNI   X86_FEATURE_GFNI
#define VAES   X86_FEATURE_VAES
#define CLMUL  X86_FEATURE_VPCLMULQDQ
#define FP16   X86_FEATURE_AVX512FP16

/* Flags: the public ones and these. */
#define BC  0x01000000u /* memory may be broadcast */
#define ER  0x02000000u /* registers with EVEX.b: rounding, or exceptions suppressed */
#define NM  0x04000000u /* no opmask */
#define NF  0x08000000u /* faults of masked elements are not suppressed */
#define AL  0x10000000u /* aligned */
#define CP  0x20000000u /* compressed in memory */
#define Q64 0x40000000u /* VSIB with 8-byte indexes */
#define NW  0x80000000u /* W does not widen the general register */
#define CX  0x00800000u /* complex multiplication: the destination must not be a source */
#define IM  X86_VECTOR_IMMEDIATE
#define FP  X86_VECTOR_MXCSR
#define FL  X86_VECTOR_FLAGS

struct entry {
    uint8_t map, opcode, pp, width, modrm, shape, size, element, feature, lengths;
    uint32_t flags;
};

/* clang-format off */
static const struct entry entries[] = {
    {1, 0x10, PSD, WPP, ANY, RM, MV, EW, F512, LALL, 0},
    {1, 0x10, SCA, WPP, MEM, RM, MPP, EW, F512, LIG, 0},
    {1, 0x10, SCA, WPP, REG, RVM, M0, EW, F512, LIG, 0},
    {1, 0x11, PSD, WPP, ANY, MR, MV, EW, F512, LALL, 0},
    {1, 0x11, SCA, WPP, MEM, MR, MPP, EW, F512, LIG, 0},
    {1, 0x11, SCA, WPP, REG, MVR, M0, EW, F512, LIG, 0},
    {1, 0x12, NP, W0, ANY, RVM, M8, EW, F512, L128, NM},
    {1, 0x12, P66, W1, MEM, RVM, M8, EW, F512, L128, NM},
    {1, 0x12, PF3, W0, ANY, RM, MV, EW, F512, LALL, NF},
    {1, 0x12, PF2, W1, ANY, RM, MDD, EW, F512, LALL, NF},
    {1, 0x13, PSD, WPP, MEM, MR, M8, EW, F512, L128, NM},
    {1, 0x14, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x15, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x16, NP, W0, ANY, RVM, M8, EW, F512, L128, NM},
    {1, 0x16, P66, W1, MEM, RVM, M8, EW, F512, L128, NM},
    {1, 0x16, PF3, W0, ANY, RM, MV, EW, F512, LALL, NF},
    {1, 0x17, PSD, WPP, MEM, MR, M8, EW, F512, L128, NM},
    {1, 0x28, PSD, WPP, ANY, RM, MV, EW, F512, LALL, AL},
    {1, 0x29, PSD, WPP, ANY, MR, MV, EW, F512, LALL, AL},
    {1, 0x2a, SCA, WIG, ANY, RVG, MW, EW, F512, LIG, NM|ER|FP},
    {1, 0x2b, PSD, WPP, MEM, MR, MV, EW, F512, LALL, NM|AL},
    {1, 0x2c, SCA, WIG, ANY, GM, MPP, EW, F512, LIG, NM|ER|FP},
    {1, 0x2d, SCA, WIG, ANY, GM, MPP, EW, F512, LIG, NM|ER|FP},
    {1, 0x2e, PSD, WPP, ANY, CMP, MCM, EW, F512, LIG, NM|ER|FP|FL},
    {1, 0x2f, PSD, WPP, ANY, CMP, MCM, EW, F512, LIG, NM|ER|FP|FL},
    {1, 0x51, PSD, WPP, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x51, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x54, PSD, WPP, ANY, RVM, MV, EW, DQ, LALL, BC},
    {1, 0x55, PSD, WPP, ANY, RVM, MV, EW, DQ, LALL, BC},
    {1, 0x56, PSD, WPP, ANY, RVM, MV, EW, DQ, LALL, BC},
    {1, 0x57, PSD, WPP, ANY, RVM, MV, EW, DQ, LALL, BC},
    {1, 0x58, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x58, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x59, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x59, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x5a, NP, W0, ANY, RM, MV2, EW, F512, LALL, BC|ER|FP},
    {1, 0x5a, P66, W1, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5a, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x5b, NP|P66|PF3, W0, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5b, NP, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x5c, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5c, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x5d, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5d, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x5e, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5e, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x5f, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x5f, SCA, WPP, ANY, RVM, MPP, EW, F512, LIG, ER|FP},
    {1, 0x60, P66, WIG, ANY, RVM, MV, E1, BW, LALL, NF},
    {1, 0x61, P66, WIG, ANY, RVM, MV, E2, BW, LALL, NF},
    {1, 0x62, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x63, P66, WIG, ANY, RVM, MV, E2, BW, LALL, NF},
    {1, 0x64, P66, WIG, ANY, KVM, MV, E1, BW, LALL, 0},
    {1, 0x65, P66, WIG, ANY, KVM, MV, E2, BW, LALL, 0},
    {1, 0x66, P66, W0, ANY, KVM, MV, EW, F512, LALL, BC},
    {1, 0x67, P66, WIG, ANY, RVM, MV, E2, BW, LALL, NF},
    {1, 0x68, P66, WIG, ANY, RVM, MV, E1, BW, LALL, NF},
    {1, 0x69, P66, WIG, ANY, RVM, MV, E2, BW, LALL, NF},
    {1, 0x6a, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x6b, P66, W0, ANY, RVM, MV, EW, BW, LALL, BC|NF},
    {1, 0x6c, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x6d, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {1, 0x6e, P66, WIG, ANY, RG, MW, EW, F512, L128, NM},
    {1, 0x6f, P66, WIG, ANY, RM, MV, EW, F512, LALL, AL},
    {1, 0x6f, PF3, WIG, ANY, RM, MV, EW, F512, LALL, 0},
    {1, 0x6f, PF2, W0, ANY, RM, MV, E1, BW, LALL, 0},
    {1, 0x6f, PF2, W1, ANY, RM, MV, E2, BW, LALL, 0},
    {1, 0x70, P66, W0, ANY, RM, MV, EW, F512, LALL, BC|NF|IM},
    {1, 0x70, SCA, WIG, ANY, RM, MV, E2, BW, LALL, NF|IM},
    {1, 0x71, P66, WIG, DIGIT(2), VM, MV, E2, BW, LALL, IM},
    {1, 0x71, P66, WIG, DIGIT(4), VM, MV, E2, BW, LALL, IM},
    {1, 0x71, P66, WIG, DIGIT(6), VM, MV, E2, BW, LALL, IM},
    {1, 0x72, P66, WIG, DIGIT(0), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x72, P66, WIG, DIGIT(1), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x72, P66, W0, DIGIT(2), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x72, P66, WIG, DIGIT(4), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x72, P66, W0, DIGIT(6), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x73, P66, W1, DIGIT(2), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x73, P66, W1, DIGIT(6), VM, MV, EW, F512, LALL, BC|IM},
    {1, 0x73, P66, WIG, DIGIT(3), VM, MV, E1, BW, LALL, NM|IM},
    {1, 0x73, P66, WIG, DIGIT(7), VM, MV, E1, BW, LALL, NM|IM},
    {1, 0x74, P66, WIG, ANY, KVM, MV, E1, BW, LALL, 0},
    {1, 0x75, P66, WIG, ANY, KVM, MV, E2, BW, LALL, 0},
    {1, 0x76, P66, W0, ANY, KVM, MV, EW, F512, LALL, BC},
    {1, 0x78, NP, WIG, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x78, P66, W0, ANY, RM, MV2, E4, DQ, LALL, BC|ER|FP},
    {1, 0x78, P66, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x78, SCA, WIG, ANY, GM, MPP, EW, F512, LIG, NM|ER|FP},
    {1, 0x79, NP, WIG, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x79, P66, W0, ANY, RM, MV2, E4, DQ, LALL, BC|ER|FP},
    {1, 0x79, P66, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x79, SCA, WIG, ANY, GM, MPP, EW, F512, LIG, NM|ER|FP},
    {1, 0x7a, P66, W0, ANY, RM, MV2, E4, DQ, LALL, BC|ER|FP},
    {1, 0x7a, P66, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x7a, PF3, W0, ANY, RM, MV2, E4, F512, LALL, BC|ER},
    {1, 0x7a, PF3, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x7a, PF2, W0, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0x7a, PF2, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x7b, P66, W0, ANY, RM, MV2, E4, DQ, LALL, BC|ER|FP},
    {1, 0x7b, P66, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0x7b, SCA, WIG, ANY, RVG, MW, EW, F512, LIG, NM|ER|FP},
    {1, 0x7e, P66, WIG, ANY, GR, MW, EW, F512, L128, NM},
    {1, 0x7e, PF3, W1, ANY, RM, M8, EW, F512, L128, NM},
    {1, 0x7f, P66, WIG, ANY, MR, MV, EW, F512, LALL, AL},
    {1, 0x7f, PF3, WIG, ANY, MR, MV, EW, F512, LALL, 0},
    {1, 0x7f, PF2, W0, ANY, MR, MV, E1, BW, LALL, 0},
    {1, 0x7f, PF2, W1, ANY, MR, MV, E2, BW, LALL, 0},
    {1, 0xc2, PSD, WPP, ANY, KVM, MV, EW, F512, LALL, BC|ER|FP|IM},
    {1, 0xc2, SCA, WPP, ANY, KVM, MPP, EW, F512, LIG, ER|FP|IM},
    {1, 0xc4, P66, WIG, ANY, RVG, M2, E2, BW, L128, NM|IM|NW},
    {1, 0xc5, P66, WIG, REG, GM, M0, E2, BW, L128, NM|IM|NW},
    {1, 0xc6, PSD, WPP, ANY, RVM, MV, EW, F512, LALL, BC|NF|IM},
    {1, 0xd1, P66, WIG, ANY, RVM, M16, E8, BW, LALL, NF},
    {1, 0xd2, P66, W0, ANY, RVM, M16, E8, F512, LALL, NF},
    {1, 0xd3, P66, W1, ANY, RVM, M16, E8, F512, LALL, NF},
    {1, 0xd4, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xd5, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xd6, P66, W1, ANY, MR, M8, EW, F512, L128, NM},
    {1, 0xd8, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xd9, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xda, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xdb, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xdc, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xdd, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xde, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xdf, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xe0, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xe1, P66, WIG, ANY, RVM, M16, E8, BW, LALL, NF},
    {1, 0xe2, P66, WIG, ANY, RVM, M16, E8, F512, LALL, NF},
    {1, 0xe3, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xe4, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xe5, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xe6, PF3, W0, ANY, RM, MV2, E4, F512, LALL, BC|ER},
    {1, 0xe6, PF3, W1, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP},
    {1, 0xe6, P66|PF2, W1, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {1, 0xe7, P66, W0, MEM, MR, MV, EW, F512, LALL, NM|AL},
    {1, 0xe8, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xe9, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xea, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xeb, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xec, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xed, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xee, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xef, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xf1, P66, WIG, ANY, RVM, M16, E8, BW, LALL, NF},
    {1, 0xf2, P66, W0, ANY, RVM, M16, E8, F512, LALL, NF},
    {1, 0xf3, P66, W1, ANY, RVM, M16, E8, F512, LALL, NF},
    {1, 0xf4, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xf5, P66, WIG, ANY, RVM, MV, E4, BW, LALL, NF},
    {1, 0xf6, P66, WIG, ANY, RVM, MV, E8, BW, LALL, NM},
    {1, 0xf8, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xf9, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xfa, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xfb, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC},
    {1, 0xfc, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {1, 0xfd, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {1, 0xfe, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x00, P66, WIG, ANY, RVM, MV, E1, BW, LALL, NF},
    {2, 0x04, P66, WIG, ANY, RVM, MV, E2, BW, LALL, NF},
    {2, 0x0b, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x0c, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x0d, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x10, P66, W1, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x10, PF3, W0, ANY, MR, MV2, E1, BW, LALL, 0},
    {2, 0x11, P66, W1, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x11, PF3, W0, ANY, MR, MV4, E1, F512, LALL, 0},
    {2, 0x12, P66, W1, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x12, PF3, W0, ANY, MR, MV8, E1, F512, LALL, 0},
    {2, 0x13, PF3, W0, ANY, MR, MV2, E2, F512, LALL, 0},
    {2, 0x13, P66, W0, ANY, RM, MV2, E2, F512, LALL, ER|FP},
    {2, 0x14, PF3, W0, ANY, MR, MV4, E2, F512, LALL, 0},
    {2, 0x14, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x15, PF3, W0, ANY, MR, MV2, E4, F512, LALL, 0},
    {2, 0x15, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x16, P66, WIG, ANY, RVM, MV, EW, F512, LBIG, BC|NF},
    {2, 0x18, P66, W0, ANY, RM, M4, E4, F512, LALL, 0},
    {2, 0x19, P66, W0, ANY, RM, M8, E4, DQ, LBIG, 0},
    {2, 0x19, P66, W1, ANY, RM, M8, E8, F512, LBIG, 0},
    {2, 0x1a, P66, W0, MEM, RM, M16, E4, F512, LBIG, 0},
    {2, 0x1a, P66, W1, MEM, RM, M16, E8, DQ, LBIG, 0},
    {2, 0x1b, P66, W0, MEM, RM, M32, E4, DQ, L512, 0},
    {2, 0x1b, P66, W1, MEM, RM, M32, E8, F512, L512, 0},
    {2, 0x1c, P66, WIG, ANY, RM, MV, E1, BW, LALL, 0},
    {2, 0x1d, P66, WIG, ANY, RM, MV, E2, BW, LALL, 0},
    {2, 0x1e, P66, W0, ANY, RM, MV, EW, F512, LALL, BC},
    {2, 0x1f, P66, W1, ANY, RM, MV, EW, F512, LALL, BC},
    {2, 0x20, PF3, W0, ANY, MR, MV2, E1, BW, LALL, 0},
    {2, 0x20, P66, WIG, ANY, RM, MV2, E1, BW, LALL, 0},
    {2, 0x21, PF3, W0, ANY, MR, MV4, E1, F512, LALL, 0},
    {2, 0x21, P66, WIG, ANY, RM, MV4, E1, F512, LALL, 0},
    {2, 0x22, PF3, W0, ANY, MR, MV8, E1, F512, LALL, 0},
    {2, 0x22, P66, WIG, ANY, RM, MV8, E1, F512, LALL, 0},
    {2, 0x23, PF3, W0, ANY, MR, MV2, E2, F512, LALL, 0},
    {2, 0x23, P66, WIG, ANY, RM, MV2, E2, F512, LALL, 0},
    {2, 0x24, PF3, W0, ANY, MR, MV4, E2, F512, LALL, 0},
    {2, 0x24, P66, WIG, ANY, RM, MV4, E2, F512, LALL, 0},
    {2, 0x25, PF3, W0, ANY, MR, MV2, E4, F512, LALL, 0},
    {2, 0x25, P66, W0, ANY, RM, MV2, E4, F512, LALL, 0},
    {2, 0x26, P66|PF3, W0, ANY, KVM, MV, E1, BW, LALL, 0},
    {2, 0x26, P66|PF3, W1, ANY, KVM, MV, E2, BW, LALL, 0},
    {2, 0x27, P66|PF3, WIG, ANY, KVM, MV, EW, F512, LALL, BC},
    {2, 0x28, P66, W1, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x28, PF3, WIG, REG, RK, M0, EW, BW, LALL, NM},
    {2, 0x29, P66, W1, ANY, KVM, MV, EW, F512, LALL, BC},
    {2, 0x29, PF3, WIG, REG, KM, M0, EW, BW, LALL, NM},
    {2, 0x2a, P66, W0, MEM, RM, MV, EW, F512, LALL, NM|AL},
    {2, 0x2a, PF3, W1, REG, RK, M0, EW, CD, LALL, NM},
    {2, 0x2b, P66, W0, ANY, RVM, MV, EW, BW, LALL, BC|NF},
    {2, 0x2c, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x2d, P66, WIG, ANY, RVM, MW, EW, F512, LIG, ER|FP},
    {2, 0x30, PF3, W0, ANY, MR, MV2, E1, BW, LALL, 0},
    {2, 0x30, P66, WIG, ANY, RM, MV2, E1, BW, LALL, 0},
    {2, 0x31, PF3, W0, ANY, MR, MV4, E1, F512, LALL, 0},
    {2, 0x31, P66, WIG, ANY, RM, MV4, E1, F512, LALL, 0},
    {2, 0x32, PF3, W0, ANY, MR, MV8, E1, F512, LALL, 0},
    {2, 0x32, P66, WIG, ANY, RM, MV8, E1, F512, LALL, 0},
    {2, 0x33, PF3, W0, ANY, MR, MV2, E2, F512, LALL, 0},
    {2, 0x33, P66, WIG, ANY, RM, MV2, E2, F512, LALL, 0},
    {2, 0x34, PF3, W0, ANY, MR, MV4, E2, F512, LALL, 0},
    {2, 0x34, P66, WIG, ANY, RM, MV4, E2, F512, LALL, 0},
    {2, 0x35, PF3, W0, ANY, MR, MV2, E4, F512, LALL, 0},
    {2, 0x35, P66, W0, ANY, RM, MV2, E4, F512, LALL, 0},
    {2, 0x36, P66, WIG, ANY, RVM, MV, EW, F512, LBIG, BC|NF},
    {2, 0x37, P66, W1, ANY, KVM, MV, EW, F512, LALL, BC},
    {2, 0x38, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {2, 0x38, PF3, WIG, REG, RK, M0, EW, DQ, LALL, NM},
    {2, 0x39, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x39, PF3, WIG, REG, KM, M0, EW, DQ, LALL, NM},
    {2, 0x3a, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x3a, PF3, W0, REG, RK, M0, EW, CD, LALL, NM},
    {2, 0x3b, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x3c, P66, WIG, ANY, RVM, MV, E1, BW, LALL, 0},
    {2, 0x3d, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x3e, P66, WIG, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x3f, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x40, P66, W0, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x40, P66, W1, ANY, RVM, MV, EW, DQ, LALL, BC},
    {2, 0x42, P66, WIG, ANY, RM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x43, P66, WIG, ANY, RVM, MW, EW, F512, LIG, ER|FP},
    {2, 0x44, P66, WIG, ANY, RM, MV, EW, CD, LALL, BC},
    {2, 0x45, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x46, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x47, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x4c, P66, WIG, ANY, RM, MV, EW, F512, LALL, BC|FP},
    {2, 0x4d, P66, WIG, ANY, RVM, MW, EW, F512, LIG, FP},
    {2, 0x4e, P66, WIG, ANY, RM, MV, EW, F512, LALL, BC|FP},
    {2, 0x4f, P66, WIG, ANY, RVM, MW, EW, F512, LIG, FP},
    {2, 0x50, P66, W0, ANY, RWVM, MV, EW, VNNI, LALL, BC},
    {2, 0x51, P66, W0, ANY, RWVM, MV, EW, VNNI, LALL, BC},
    {2, 0x52, P66, W0, ANY, RWVM, MV, EW, VNNI, LALL, BC},
    {2, 0x52, PF3, W0, ANY, RWVM, MV, EW, BF16, LALL, BC},
    {2, 0x53, P66, W0, ANY, RWVM, MV, EW, VNNI, LALL, BC},
    {2, 0x54, P66, W0, ANY, RM, MV, E1, BITALG, LALL, 0},
    {2, 0x54, P66, W1, ANY, RM, MV, E2, BITALG, LALL, 0},
    {2, 0x55, P66, WIG, ANY, RM, MV, EW, POPCNT, LALL, BC},
    {2, 0x58, P66, W0, ANY, RM, M4, E4, F512, LALL, 0},
    {2, 0x59, P66, W0, ANY, RM, M8, E4, DQ, LALL, 0},
    {2, 0x59, P66, W1, ANY, RM, M8, E8, F512, LALL, 0},
    {2, 0x5a, P66, W0, MEM, RM, M16, E4, F512, LBIG, 0},
    {2, 0x5a, P66, W1, MEM, RM, M16, E8, DQ, LBIG, 0},
    {2, 0x5b, P66, W0, MEM, RM, M32, E4, DQ, L512, 0},
    {2, 0x5b, P66, W1, MEM, RM, M32, E8, F512, L512, 0},
    {2, 0x62, P66, W0, ANY, RM, MV, E1, VBMI2, LALL, CP},
    {2, 0x62, P66, W1, ANY, RM, MV, E2, VBMI2, LALL, CP},
    {2, 0x63, P66, W0, ANY, MR, MV, E1, VBMI2, LALL, CP},
    {2, 0x63, P66, W1, ANY, MR, MV, E2, VBMI2, LALL, CP},
    {2, 0x64, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x65, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC},
    {2, 0x66, P66, W0, ANY, RVM, MV, E1, BW, LALL, 0},
    {2, 0x66, P66, W1, ANY, RVM, MV, E2, BW, LALL, 0},
    {2, 0x70, P66, W1, ANY, RWVM, MV, E2, VBMI2, LALL, 0},
    {2, 0x71, P66, WIG, ANY, RWVM, MV, EW, VBMI2, LALL, BC},
    {2, 0x72, P66, W1, ANY, RWVM, MV, E2, VBMI2, LALL, 0},
    {2, 0x72, PF3, W0, ANY, RM, MV, EW, BF16, LALL, BC},
    {2, 0x72, PF2, W0, ANY, RVM, MV, EW, BF16, LALL, BC|NF},
    {2, 0x73, P66, WIG, ANY, RWVM, MV, EW, VBMI2, LALL, BC},
    {2, 0x75, P66, W0, ANY, RWVM, MV, E1, VBMI, LALL, NF},
    {2, 0x75, P66, W1, ANY, RWVM, MV, E2, BW, LALL, NF},
    {2, 0x76, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x77, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x78, P66, W0, ANY, RM, M1, E1, BW, LALL, 0},
    {2, 0x79, P66, W0, ANY, RM, M2, E2, BW, LALL, 0},
    {2, 0x7a, P66, W0, REG, RG, M0, E1, BW, LALL, NW},
    {2, 0x7b, P66, W0, REG, RG, M0, E2, BW, LALL, NW},
    {2, 0x7c, P66, WIG, REG, RG, M0, EW, F512, LALL, 0},
    {2, 0x7d, P66, W0, ANY, RWVM, MV, E1, VBMI, LALL, NF},
    {2, 0x7d, P66, W1, ANY, RWVM, MV, E2, BW, LALL, NF},
    {2, 0x7e, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x7f, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|NF},
    {2, 0x83, P66, W1, ANY, RVM, MV, EW, VBMI, LALL, BC|NF},
    {2, 0x88, P66, WIG, ANY, RM, MV, EW, F512, LALL, CP},
    {2, 0x89, P66, WIG, ANY, RM, MV, EW, F512, LALL, CP},
    {2, 0x8a, P66, WIG, ANY, MR, MV, EW, F512, LALL, CP},
    {2, 0x8b, P66, WIG, ANY, MR, MV, EW, F512, LALL, CP},
    {2, 0x8d, P66, W0, ANY, RVM, MV, E1, VBMI, LALL, NF},
    {2, 0x8d, P66, W1, ANY, RVM, MV, E2, BW, LALL, NF},
    {2, 0x8f, P66, W0, ANY, KVM, MV, E1, BITALG, LALL, 0},
    {2, 0x90, P66, WIG, MEM, GATHER, MW, EW, F512, LALL, 0},
    {2, 0x91, P66, WIG, MEM, GATHER, MW, EW, F512, LALL, Q64},
    {2, 0x92, P66, WIG, MEM, GATHER, MW, EW, F512, LALL, 0},
    {2, 0x93, P66, WIG, MEM, GATHER, MW, EW, F512, LALL, Q64},
    {2, 0x96, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x97, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x98, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x99, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0x9a, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x9b, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0x9c, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x9d, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0x9e, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0x9f, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xa0, P66, WIG, MEM, SCATTER, MW, EW, F512, LALL, 0},
    {2, 0xa1, P66, WIG, MEM, SCATTER, MW, EW, F512, LALL, Q64},
    {2, 0xa2, P66, WIG, MEM, SCATTER, MW, EW, F512, LALL, 0},
    {2, 0xa3, P66, WIG, MEM, SCATTER, MW, EW, F512, LALL, Q64},
    {2, 0xa6, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xa7, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xa8, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xa9, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xaa, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xab, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xac, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xad, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xae, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xaf, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xb4, P66, W1, ANY, RWVM, MV, EW, IFMA, LALL, BC},
    {2, 0xb5, P66, W1, ANY, RWVM, MV, EW, IFMA, LALL, BC},
    {2, 0xb6, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xb7, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xb8, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xb9, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xba, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xbb, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xbc, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xbd, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xbe, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP},
    {2, 0xbf, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP},
    {2, 0xc4, P66, WIG, ANY, RM, MV, EW, CD, LALL, BC|NF},
    {2, 0xcf, P66, W0, ANY, RVM, MV, E1, GFNI, LALL, 0},
    {2, 0xdc, P66, WIG, ANY, RVM, MV, E1, VAES, LALL, NM},
    {2, 0xdd, P66, WIG, ANY, RVM, MV, E1, VAES, LALL, NM},
    {2, 0xde, P66, WIG, ANY, RVM, MV, E1, VAES, LALL, NM},
    {2, 0xdf, P66, WIG, ANY, RVM, MV, E1, VAES, LALL, NM},
    {3, 0x00, P66, W1, ANY, RM, MV, EW, F512, LBIG, BC|NF|IM},
    {3, 0x01, P66, W1, ANY, RM, MV, EW, F512, LBIG, BC|NF|IM},
    {3, 0x03, P66, WIG, ANY, RVM, MV, EW, F512, LALL, BC|NF|IM},
    {3, 0x04, P66, W0, ANY, RM, MV, EW, F512, LALL, BC|NF|IM},
    {3, 0x05, P66, W1, ANY, RM, MV, EW, F512, LALL, BC|NF|IM},
    {3, 0x08, P66, W0, ANY, RM, MV, EW, F512, LALL, BC|ER|FP|IM},
    {3, 0x08, NP, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP|IM},
    {3, 0x09, P66, W1, ANY, RM, MV, EW, F512, LALL, BC|ER|FP|IM},
    {3, 0x0a, P66, W0, ANY, RVM, M4, EW, F512, LIG, ER|FP|IM},
    {3, 0x0a, NP, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP|IM},
    {3, 0x0b, P66, W1, ANY, RVM, M8, EW, F512, LIG, ER|FP|IM},
    {3, 0x0f, P66, WIG, ANY, RVM, MV, E1, BW, LALL, NF|IM},
    {3, 0x14, P66, WIG, ANY, GR, M1, E1, BW, L128, NM|NW|IM},
    {3, 0x15, P66, WIG, ANY, GR, M2, E2, BW, L128, NM|NW|IM},
    {3, 0x16, P66, WIG, ANY, GR, MW, EW, DQ, L128, NM|IM},
    {3, 0x17, P66, WIG, ANY, GR, M4, E4, F512, L128, NM|NW|IM},
    {3, 0x18, P66, W0, ANY, RVM, M16, E4, F512, LBIG, NF|IM},
    {3, 0x18, P66, W1, ANY, RVM, M16, E8, DQ, LBIG, NF|IM},
    {3, 0x19, P66, W0, ANY, MR, M16, E4, F512, LBIG, IM},
    {3, 0x19, P66, W1, ANY, MR, M16, E8, DQ, LBIG, IM},
    {3, 0x1a, P66, W0, ANY, RVM, M32, E4, DQ, L512, NF|IM},
    {3, 0x1a, P66, W1, ANY, RVM, M32, E8, F512, L512, NF|IM},
    {3, 0x1b, P66, W0, ANY, MR, M32, E4, DQ, L512, IM},
    {3, 0x1b, P66, W1, ANY, MR, M32, E8, F512, L512, IM},
    {3, 0x1d, P66, W0, ANY, MR, MV2, E2, F512, LALL, ER|FP|IM},
    {3, 0x1e, P66, WIG, ANY, KVM, MV, EW, F512, LALL, BC|IM},
    {3, 0x1f, P66, WIG, ANY, KVM, MV, EW, F512, LALL, BC|IM},
    {3, 0x20, P66, WIG, ANY, RVG, M1, E1, BW, L128, NM|NW|IM},
    {3, 0x21, P66, W0, ANY, RVM, M4, E4, F512, L128, NM|IM},
    {3, 0x22, P66, WIG, ANY, RVG, MW, EW, DQ, L128, NM|IM},
    {3, 0x23, P66, WIG, ANY, RVM, MV, EW, F512, LBIG, BC|NF|IM},
    {3, 0x25, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|IM},
    {3, 0x26, P66, WIG, ANY, RM, MV, EW, F512, LALL, BC|ER|FP|IM},
    {3, 0x26, NP, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP|IM},
    {3, 0x27, P66, WIG, ANY, RVM, MW, EW, F512, LIG, ER|FP|IM},
    {3, 0x27, NP, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP|IM},
    {3, 0x38, P66, W0, ANY, RVM, M16, E4, F512, LBIG, NF|IM},
    {3, 0x38, P66, W1, ANY, RVM, M16, E8, DQ, LBIG, NF|IM},
    {3, 0x39, P66, W0, ANY, MR, M16, E4, F512, LBIG, IM},
    {3, 0x39, P66, W1, ANY, MR, M16, E8, DQ, LBIG, IM},
    {3, 0x3a, P66, W0, ANY, RVM, M32, E4, DQ, L512, NF|IM},
    {3, 0x3a, P66, W1, ANY, RVM, M32, E8, F512, L512, NF|IM},
    {3, 0x3b, P66, W0, ANY, MR, M32, E4, DQ, L512, IM},
    {3, 0x3b, P66, W1, ANY, MR, M32, E8, F512, L512, IM},
    {3, 0x3e, P66, W0, ANY, KVM, MV, E1, BW, LALL, IM},
    {3, 0x3e, P66, W1, ANY, KVM, MV, E2, BW, LALL, IM},
    {3, 0x3f, P66, W0, ANY, KVM, MV, E1, BW, LALL, IM},
    {3, 0x3f, P66, W1, ANY, KVM, MV, E2, BW, LALL, IM},
    {3, 0x42, P66, W0, ANY, RVM, MV, E2, BW, LALL, NF|IM},
    {3, 0x43, P66, WIG, ANY, RVM, MV, EW, F512, LBIG, BC|NF|IM},
    {3, 0x44, P66, WIG, ANY, RVM, MV, E8, CLMUL, LALL, NM|IM},
    {3, 0x50, P66, WIG, ANY, RVM, MV, EW, DQ, LALL, BC|ER|FP|IM},
    {3, 0x51, P66, WIG, ANY, RVM, MW, EW, DQ, LIG, ER|FP|IM},
    {3, 0x54, P66, WIG, ANY, RWVM, MV, EW, F512, LALL, BC|ER|FP|IM},
    {3, 0x55, P66, WIG, ANY, RWVM, MW, EW, F512, LIG, ER|FP|IM},
    {3, 0x56, P66, WIG, ANY, RM, MV, EW, DQ, LALL, BC|ER|FP|IM},
    {3, 0x56, NP, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP|IM},
    {3, 0x57, P66, WIG, ANY, RVM, MW, EW, DQ, LIG, ER|FP|IM},
    {3, 0x57, NP, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP|IM},
    {3, 0x66, P66, WIG, ANY, KM, MV, EW, DQ, LALL, BC|IM|FP},
    {3, 0x66, NP, W0, ANY, KM, MV, E2, FP16, LALL, BC|IM},
    {3, 0x67, P66, WIG, ANY, KM, MW, EW, DQ, LIG, IM|FP},
    {3, 0x67, NP, W0, ANY, KM, M2, E2, FP16, LIG, IM},
    {3, 0x70, P66, W1, ANY, RVM, MV, E2, VBMI2, LALL, IM},
    {3, 0x71, P66, WIG, ANY, RVM, MV, EW, VBMI2, LALL, BC|IM},
    {3, 0x72, P66, W1, ANY, RVM, MV, E2, VBMI2, LALL, IM},
    {3, 0x73, P66, WIG, ANY, RVM, MV, EW, VBMI2, LALL, BC|IM},
    {3, 0xc2, NP, W0, ANY, KVM, MV, E2, FP16, LALL, BC|ER|FP|IM},
    {3, 0xc2, PF3, W0, ANY, KVM, M2, E2, FP16, LIG, ER|FP|IM},
    {3, 0xce, P66, W1, ANY, RVM, MV, E8, GFNI, LALL, BC|IM|NF},
    {3, 0xcf, P66, W1, ANY, RVM, MV, E8, GFNI, LALL, BC|IM|NF},
    {5, 0x10, PF3, W0, MEM, RM, M2, E2, FP16, LIG, 0},
    {5, 0x10, PF3, W0, REG, RVM, M0, E2, FP16, LIG, 0},
    {5, 0x11, PF3, W0, MEM, MR, M2, E2, FP16, LIG, 0},
    {5, 0x11, PF3, W0, REG, MVR, M0, E2, FP16, LIG, 0},
    {5, 0x1d, P66, W0, ANY, RM, MV, E4, FP16, LALL, BC|ER|FP},
    {5, 0x1d, NP, W0, ANY, RVM, M4, E4, FP16, LIG, ER|FP},
    {5, 0x2a, PF3, WIG, ANY, RVG, MW, EW, FP16, LIG, NM|ER|FP},
    {5, 0x2c, PF3, WIG, ANY, GM, M2, E2, FP16, LIG, NM|ER|FP},
    {5, 0x2d, PF3, WIG, ANY, GM, M2, E2, FP16, LIG, NM|ER|FP},
    {5, 0x2e, NP, W0, ANY, CMP, M2, E2, FP16, LIG, NM|ER|FP|FL},
    {5, 0x2f, NP, W0, ANY, CMP, M2, E2, FP16, LIG, NM|ER|FP|FL},
    {5, 0x51, NP, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x51, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x58, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x58, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x59, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x59, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x5a, NP, W0, ANY, RM, MV4, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5a, P66, W1, ANY, RM, MV, E8, FP16, LALL, BC|ER|FP},
    {5, 0x5a, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x5a, PF2, W1, ANY, RVM, M8, E8, FP16, LIG, ER|FP},
    {5, 0x5b, NP, WIG, ANY, RM, MV, EW, FP16, LALL, BC|ER|FP},
    {5, 0x5b, P66|PF3, W0, ANY, RM, MV2, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5c, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5c, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x5d, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5d, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x5e, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5e, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x5f, NP, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x5f, PF3, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {5, 0x6e, P66, WIG, ANY, RG, M2, E2, FP16, L128, NM|NW},
    {5, 0x78, NP, W0, ANY, RM, MV2, E2, FP16, LALL, BC|ER|FP},
    {5, 0x78, P66, W0, ANY, RM, MV4, E2, FP16, LALL, BC|ER|FP},
    {5, 0x78, PF3, WIG, ANY, GM, M2, E2, FP16, LIG, NM|ER|FP},
    {5, 0x79, NP, W0, ANY, RM, MV2, E2, FP16, LALL, BC|ER|FP},
    {5, 0x79, P66, W0, ANY, RM, MV4, E2, FP16, LALL, BC|ER|FP},
    {5, 0x79, PF3, WIG, ANY, GM, M2, E2, FP16, LIG, NM|ER|FP},
    {5, 0x7a, P66, W0, ANY, RM, MV4, E2, FP16, LALL, BC|ER|FP},
    {5, 0x7a, PF2, WIG, ANY, RM, MV, EW, FP16, LALL, BC|ER|FP},
    {5, 0x7b, P66, W0, ANY, RM, MV4, E2, FP16, LALL, BC|ER|FP},
    {5, 0x7b, PF3, WIG, ANY, RVG, MW, EW, FP16, LIG, NM|ER|FP},
    {5, 0x7c, NP|P66, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x7d, NP|P66|PF3|PF2, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP},
    {5, 0x7e, P66, WIG, ANY, GR, M2, E2, FP16, L128, NM|NW},
    {6, 0x13, P66, W0, ANY, RM, MV2, E2, FP16, LALL, BC|ER|FP},
    {6, 0x13, NP, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x2c, P66, W0, ANY, RVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x2d, P66, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x42, P66, W0, ANY, RM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x43, P66, W0, ANY, RVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x4c, P66, W0, ANY, RM, MV, E2, FP16, LALL, BC},
    {6, 0x4d, P66, W0, ANY, RVM, M2, E2, FP16, LIG, 0},
    {6, 0x4e, P66, W0, ANY, RM, MV, E2, FP16, LALL, BC},
    {6, 0x4f, P66, W0, ANY, RVM, M2, E2, FP16, LIG, 0},
    {6, 0x56, PF3|PF2, W0, ANY, RWVM, MV, E4, FP16, LALL, BC|ER|FP|CX},
    {6, 0x57, PF3|PF2, W0, ANY, RWVM, M4, E4, FP16, LIG, ER|FP|CX},
    {6, 0x96, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x97, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x98, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x99, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x9a, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x9b, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x9c, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x9d, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0x9e, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0x9f, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xa6, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xa7, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xa8, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xa9, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xaa, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xab, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xac, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xad, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xae, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xaf, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xb6, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xb7, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xb8, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xb9, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xba, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xbb, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xbc, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xbd, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xbe, P66, W0, ANY, RWVM, MV, E2, FP16, LALL, BC|ER|FP},
    {6, 0xbf, P66, W0, ANY, RWVM, M2, E2, FP16, LIG, ER|FP},
    {6, 0xd6, PF3|PF2, W0, ANY, RVM, MV, E4, FP16, LALL, BC|ER|FP|CX},
    {6, 0xd7, PF3|PF2, W0, ANY, RVM, M4, E4, FP16, LIG, ER|FP|CX},
};
/* clang-format on */

#define R  X86_OPERAND_READ
#define W  X86_OPERAND_WRITE
#define XV X86_CLASS_VECTOR
#define XG X86_CLASS_GPR
#define XK X86_CLASS_MASK

static const struct {
    struct x86_vector_operand reg, vvvv, rm;
} shapes[] = {
    [RM] = {{XV, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [RVM] = {{XV, W, 0}, {XV, R, 0}, {XV, R, 0}},
    [RWVM] = {{XV, R | W, 0}, {XV, R, 0}, {XV, R, 0}},
    [MR] = {{XV, R, 0}, {0, 0, 0}, {XV, W, 0}},
    [MVR] = {{XV, R, 0}, {XV, R, 0}, {XV, W, 0}},
    [CMP] = {{XV, R, 0}, {0, 0, 0}, {XV, R, 0}},
    [VM] = {{0, 0, 0}, {XV, W, 0}, {XV, R, 0}},
    [GM] = {{XG, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [RG] = {{XV, W, 0}, {0, 0, 0}, {XG, R, 0}},
    [RVG] = {{XV, W, 0}, {XV, R, 0}, {XG, R, 0}},
    [GR] = {{XV, R, 0}, {0, 0, 0}, {XG, W, 0}},
    [KVM] = {{XK, W, 0}, {XV, R, 0}, {XV, R, 0}},
    [KM] = {{XK, W, 0}, {0, 0, 0}, {XV, R, 0}},
    [RK] = {{XV, W, 0}, {0, 0, 0}, {XK, R, 0}},
    [GATHER] = {{XV, R | W, 0}, {0, 0, 0}, {0, 0, 0}},
    [SCATTER] = {{XV, R, 0}, {0, 0, 0}, {0, 0, 0}},
};

static bool wide(const struct x86_insn *insn)
{
    return (insn->rex & X86_REX_W) != 0;
}

static bool evex_b(const struct x86_insn *insn)
{
    return (insn->evex_p3 & 0x10) != 0;
}

static bool evex_z(const struct x86_insn *insn)
{
    return (insn->evex_p3 & 0x80) != 0;
}

/* -- which entry -- */

static bool width_fits(const struct entry *e, const struct x86_insn *insn)
{
    switch (e->width) {
    case W0:
        return !wide(insn);
    case W1:
        return wide(insn);
    case WPP:
        return wide(insn) == (insn->pp == 1 || insn->pp == 3);
    default:
        return true;
    }
}

static bool modrm_fits(const struct entry *e, const struct x86_insn *insn)
{
    if ((e->modrm & MEM) && !insn->memory)
        return false;
    if ((e->modrm & REG) && insn->memory)
        return false;
    return !(e->modrm & DIGIT(0)) || (insn->modrm >> 3 & 7) == (e->modrm & 7);
}

/* Rounding control takes the place of the vector length: then it is 512 bits. */
static unsigned length_of(const struct entry *e, const struct x86_insn *insn)
{
    if (e->lengths == LIG)
        return 0;
    return evex_b(insn) && !insn->memory ? 2 : insn->vector_length;
}

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
        if (e->pp & 1u << insn->pp && width_fits(e, insn) && modrm_fits(e, insn))
            return e;
    }
    return NULL;
}

/* -- what is #UD (SDM vol. 2, 2.7.11) -- */

static bool masking_valid(const struct entry *e, const struct x86_insn *insn)
{
    unsigned mask = insn->evex_p3 & 7;
    bool vsib = e->shape == GATHER || e->shape == SCATTER;

    if (e->flags & NM)
        return mask == 0 && !evex_z(insn);
    if (vsib)
        return mask != 0 && !evex_z(insn);
    if (!evex_z(insn))
        return true;
    if (mask == 0 || e->shape == KVM || e->shape == KM)
        return false;
    return !(insn->memory && (e->shape == MR || e->shape == MVR));
}

static bool fields_valid(const struct entry *e, const struct x86_insn *insn)
{
    bool vsib = e->shape == GATHER || e->shape == SCATTER;

    if (evex_b(insn) && !(e->flags & (insn->memory ? BC : ER)))
        return false;
    if (!shapes[e->shape].vvvv.class && insn->vvvv & (vsib ? 15u : 31u))
        return false;
    if (shapes[e->shape].reg.class == XK && (insn->evex_r || insn->rex & X86_REX_R))
        return false;
    if (shapes[e->shape].reg.class == XG && insn->evex_r)
        return false;
    if (e->lengths == LIG && insn->vector_length == 3 && (insn->memory || !evex_b(insn)))
        return false;
    if (e->lengths != LIG && !(e->lengths & 1u << length_of(e, insn)))
        return false;
    return masking_valid(e, insn);
}

static bool entry_offered(const struct entry *e, const struct x86_insn *insn,
                          const bool feature[X86_FEATURE_COUNT])
{
    if (!feature[F512] || !feature[e->feature])
        return false;
    return (e->lengths & (LIG | L128)) == LIG || e->lengths == L128 || length_of(e, insn) == 2 ||
           feature[X86_FEATURE_AVX512VL];
}

/* -- its operands -- */

static unsigned element_size(const struct entry *e, const struct x86_insn *insn)
{
    if (e->element == EW) {
        if (e->size == MPP)
            return insn->pp == 2 ? 4 : 8;
        return wide(insn) ? 8 : 4;
    }
    return 1u << e->element;
}

static unsigned memory_size(const struct entry *e, const struct x86_insn *insn, unsigned vector)
{
    switch ((enum size)e->size) {
    case M1:
    case M2:
    case M4:
    case M8:
    case M16:
    case M32:
        return 1u << (e->size - M1);
    case MV:
        return vector;
    case MV2:
        return vector / 2;
    case MV4:
        return vector / 4;
    case MV8:
        return vector / 8;
    case MPP:
        return insn->pp == 2 ? 4 : 8;
    case MCM:
        return insn->pp == 0 ? 4 : 8;
    case MW:
        return wide(insn) ? 8 : 4;
    case MDD:
        return vector == 16 ? 8 : vector;
    default:
        return 0;
    }
}

static uint8_t log2_of(unsigned value)
{
    uint8_t shift = 0;

    while (value > 1) {
        value /= 2;
        shift++;
    }
    return shift;
}

static void memory_set(const struct entry *e, const struct x86_insn *insn,
                       struct x86_vector_insn *out)
{
    unsigned element = element_size(e, insn);
    unsigned size = memory_size(e, insn, out->vector_bytes);

    out->element = (uint8_t)element;
    out->mask_bits = (uint8_t)(size / element);
    if (e->lengths != LIG && (out->rm.class == XV && e->size < MV))
        out->mask_bits = (uint8_t)(out->vector_bytes / element); /* a broadcasting load */
    if (e->shape == MR)
        out->mask_bits = (uint8_t)(size / element);
    if (evex_b(insn)) {
        size = element;
        out->flags |= X86_VECTOR_BROADCAST;
    }
    out->memory_bytes = (uint8_t)size;
    out->memory_access = out->rm.access & W || e->shape == SCATTER ? W : R;
    out->rm.class = X86_CLASS_NONE;
    out->aligned = (e->flags & AL) != 0;
    out->disp8_shift = log2_of(e->flags & CP ? element : size);
    out->memory = X86_MEMORY_PLAIN;
    if (e->flags & CP)
        out->memory = X86_MEMORY_COMPRESSED;
    else if (e->shape == GATHER || e->shape == SCATTER)
        out->memory = e->shape == GATHER ? X86_MEMORY_GATHER : X86_MEMORY_SCATTER;
    else if (out->opmask && !(e->flags & NF))
        out->memory = X86_MEMORY_BY_OPMASK;
    out->index_bytes = e->flags & Q64 ? 8 : 4;
}

static unsigned rm_number(const struct x86_insn *insn, unsigned class)
{
    if (class == XV)
        return insn->rm | (insn->rex & X86_REX_X ? 16u : 0);
    return class == XK ? insn->rm & 7u : insn->rm;
}

static void entry_describe(const struct entry *e, const struct x86_insn *insn,
                           struct x86_vector_insn *out)
{
    *out = (struct x86_vector_insn){.unit = X86_UNIT_EVEX,
                                    .reg = shapes[e->shape].reg,
                                    .vvvv = shapes[e->shape].vvvv,
                                    .rm = shapes[e->shape].rm};
    out->vector_bytes = (uint8_t)(16u << length_of(e, insn));
    out->flags = e->flags & 0x7fffffu;
    out->opmask = insn->evex_p3 & 7;
    out->zeroing = evex_z(insn);
    out->gpr64 = wide(insn) && !(e->flags & NW);
    if (out->opmask && !out->zeroing) { /* a merge reads what it writes */
        if (out->reg.class == XV && out->reg.access & W)
            out->reg.access |= R;
        if (out->vvvv.access & W)
            out->vvvv.access |= R;
        if (out->rm.class == XV && out->rm.access & W)
            out->rm.access |= R;
    }
    if (insn->memory)
        memory_set(e, insn, out);
    else if (evex_b(insn))
        out->flags |= X86_VECTOR_ROUNDING;
    out->reg.number = (uint8_t)(insn->reg | insn->evex_r);
    out->vvvv.number = insn->vvvv;
    out->rm.number = (uint8_t)rm_number(insn, out->rm.class);
}

static bool vsib_valid(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    if (v->memory != X86_MEMORY_GATHER && v->memory != X86_MEMORY_SCATTER)
        return true;
    if ((insn->modrm & 7) != 4 || insn->address_size == 2)
        return false;
    return v->memory == X86_MEMORY_SCATTER || x86_vector_index(insn) != v->reg.number;
}

static bool destination_is_source(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    return v->reg.number == v->vvvv.number || (!insn->memory && v->reg.number == v->rm.number);
}

bool x86_evex_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                       struct x86_vector_insn *out)
{
    const struct entry *e = entry_find(insn);

    if (!e || !fields_valid(e, insn) || !entry_offered(e, insn, feature))
        return false;
    entry_describe(e, insn, out);
    return vsib_valid(insn, out) && !((e->flags & CX) && destination_is_source(insn, out));
}
