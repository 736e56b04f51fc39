/*
 * The architectural state of one x86-64 vCPU: what every engine converts to and from without loss.
 * Needs no libc (shared with the bare-metal hypervisor).
 * Source: AMD APM vol. 2 and Intel SDM vol. 3; field names follow them.
 */
#ifndef FREEHOLD_CPU_X86_STATE_H
#define FREEHOLD_CPU_X86_STATE_H

#include <stdbool.h>
#include <stdint.h>

/* Register numbers, as instruction encodings count them. */
enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI, /* R8 to R15 follow as 8 to 15 */
    X86_GPR_COUNT = 16
};

enum x86_seg_index { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEG_COUNT };

/* A segment register with its hidden part. `attributes` are descriptor bits 40-47 in bits 0-7
 * (type, S, DPL, P) and bits 52-55 in bits 12-15 (AVL, L, D/B, G); `limit` is in bytes, already
 * scaled by G. A null or unusable segment has P = 0. */
struct x86_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t attributes;
};

#define X86_SEG_TYPE               0x000fu
#define X86_SEG_S                  0x0010u
#define X86_SEG_DPL                0x0060u
#define X86_SEG_P                  0x0080u
#define X86_SEG_AVL                0x1000u
#define X86_SEG_L                  0x2000u
#define X86_SEG_DB                 0x4000u
#define X86_SEG_G                  0x8000u
#define X86_SEG_DPL_OF(attributes) (((attributes) >> 5) & 3u)

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

#define X86_RFLAGS_CF   (1u << 0)
#define X86_RFLAGS_ONE  (1u << 1)
#define X86_RFLAGS_PF   (1u << 2)
#define X86_RFLAGS_AF   (1u << 4)
#define X86_RFLAGS_ZF   (1u << 6)
#define X86_RFLAGS_SF   (1u << 7)
#define X86_RFLAGS_TF   (1u << 8)
#define X86_RFLAGS_IF   (1u << 9)
#define X86_RFLAGS_DF   (1u << 10)
#define X86_RFLAGS_OF   (1u << 11)
#define X86_RFLAGS_IOPL (3u << 12)
#define X86_RFLAGS_NT   (1u << 14)
#define X86_RFLAGS_RF   (1u << 16)
#define X86_RFLAGS_VM   (1u << 17)
#define X86_RFLAGS_AC   (1u << 18)
#define X86_RFLAGS_VIF  (1u << 19)
#define X86_RFLAGS_VIP  (1u << 20)
#define X86_RFLAGS_ID   (1u << 21)
#define X86_RFLAGS_ARITH                                                                           \
    (X86_RFLAGS_CF | X86_RFLAGS_PF | X86_RFLAGS_AF | X86_RFLAGS_ZF | X86_RFLAGS_SF | X86_RFLAGS_OF)

#define X86_CR0_PE         (1u << 0)
#define X86_CR0_MP         (1u << 1)
#define X86_CR0_EM         (1u << 2)
#define X86_CR0_TS         (1u << 3)
#define X86_CR0_ET         (1u << 4)
#define X86_CR0_NE         (1u << 5)
#define X86_CR0_WP         (1u << 16)
#define X86_CR0_AM         (1u << 18)
#define X86_CR0_NW         (1u << 29)
#define X86_CR0_CD         (1u << 30)
#define X86_CR0_PG         (1u << 31)

#define X86_CR4_VME        (1u << 0)
#define X86_CR4_PVI        (1u << 1)
#define X86_CR4_TSD        (1u << 2)
#define X86_CR4_DE         (1u << 3)
#define X86_CR4_PSE        (1u << 4)
#define X86_CR4_PAE        (1u << 5)
#define X86_CR4_MCE        (1u << 6)
#define X86_CR4_PGE        (1u << 7)
#define X86_CR4_PCE        (1u << 8)
#define X86_CR4_OSFXSR     (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP       (1u << 11)
#define X86_CR4_LA57       (1u << 12)
#define X86_CR4_FSGSBASE   (1u << 16)
#define X86_CR4_PCIDE      (1u << 17)
#define X86_CR4_OSXSAVE    (1u << 18)
#define X86_CR4_SMEP       (1u << 20)
#define X86_CR4_SMAP       (1u << 21)
#define X86_CR4_PKE        (1u << 22)
#define X86_CR4_PKS        (1u << 24)

#define X86_EFER_SCE       (1u << 0)
#define X86_EFER_LME       (1u << 8)
#define X86_EFER_LMA       (1u << 10)
#define X86_EFER_NXE       (1u << 11)

/* MSRs that are state (their order here is not saved; the index is). */
#define X86_MSR_TSC               0x10u
#define X86_MSR_APIC_BASE         0x1bu
#define X86_MSR_TSC_ADJUST        0x3bu
#define X86_MSR_MTRRCAP           0xfeu
#define X86_MSR_ARCH_CAPABILITIES 0x10au
#define X86_MSR_SYSENTER_CS       0x174u
#define X86_MSR_SYSENTER_ESP      0x175u
#define X86_MSR_SYSENTER_EIP      0x176u
#define X86_MSR_MCG_CAP           0x179u
#define X86_MSR_MCG_STATUS        0x17au
#define X86_MSR_MISC_ENABLE       0x1a0u
#define X86_MSR_PAT               0x277u
#define X86_MSR_MTRR_DEF_TYPE     0x2ffu
#define X86_MSR_TSC_DEADLINE      0x6e0u
#define X86_MSR_PKRS              0x6e1u
#define X86_MSR_X2APIC_FIRST      0x800u
#define X86_MSR_X2APIC_LAST       0x8ffu
#define X86_MSR_EFER              0xc0000080u
#define X86_MSR_STAR              0xc0000081u
#define X86_MSR_LSTAR             0xc0000082u
#define X86_MSR_CSTAR             0xc0000083u
#define X86_MSR_SFMASK            0xc0000084u
#define X86_MSR_FS_BASE           0xc0000100u
#define X86_MSR_GS_BASE           0xc0000101u
#define X86_MSR_KERNEL_GS_BASE    0xc0000102u
#define X86_MSR_TSC_AUX           0xc0000103u
#define X86_MSR_KVM_WALL_CLOCK    0x4b564d00u
#define X86_MSR_KVM_SYSTEM_TIME   0x4b564d01u

#define X86_MTRR_VARIABLE_COUNT   8
#define X86_MTRR_FIXED_COUNT      11

/* Exception vectors (APM vol. 2, 8.2). */
enum x86_vector {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SSV = 12, /* #SS; the name X86_SS is the segment's */
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC = 17,
    X86_MC = 18,
    X86_XM = 19
};

/* XSAVE components (APM vol. 2, 11.5). */
#define X86_XCR0_X87    (1u << 0)
#define X86_XCR0_SSE    (1u << 1)
#define X86_XCR0_AVX    (1u << 2)
#define X86_XCR0_AVX512 (7u << 5)
#define X86_XCR0_PKRU   (1u << 9)

#define X86_XSAVE_BYTES 2696 /* standard format, x87 to ZMM_Hi16 + PKRU */

struct x86_state {
    uint64_t gpr[X86_GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;
    struct x86_segment seg[X86_SEG_COUNT];
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, pkrs;
    uint64_t mtrr_def_type, mtrr_fixed[X86_MTRR_FIXED_COUNT];
    uint64_t mtrr_base[X86_MTRR_VARIABLE_COUNT], mtrr_mask[X86_MTRR_VARIABLE_COUNT];
    uint64_t tsc; /* the guest's TSC at the moment of saving */
    uint64_t tsc_adjust;
    uint64_t tsc_deadline;
    bool halted;                                 /* stopped at HLT */
    bool nmi_blocked;                            /* between an NMI and its IRET */
    bool interrupt_shadow;                       /* the instruction after STI or MOV SS */
    _Alignas(64) uint8_t xsave[X86_XSAVE_BYTES]; /* standard (not compacted) format */
};

/* The state after RESET (first = true) or INIT of vCPU: APM vol. 2, table 14-1. INIT keeps what
 * that table says it keeps (x87/SSE state, MTRRs, TSC and other MSRs). */
void x86_state_reset(struct x86_state *state, bool first, uint32_t cpuid_signature);

/* What a start-up IPI does: CS:IP = vector << 8 : 0. */
void x86_state_startup(struct x86_state *state, uint8_t vector);

/* "PF", "GP"...; "?": there is no such vector. */
const char *x86_exception_name(unsigned vector);

#endif
