/*
 * CPU models: what CPUID shows a guest. Named as the field names them (x86-64-v2, x86-64-v3, host),
 * never more than this host can run natively and save. Needs no libc.
 * Source: Intel SDM vol. 2 CPUID, AMD APM vol. 3 appendix E, the x86-64 psABI's levels; the KVM
 * paravirtual leaves: Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#ifndef FREEHOLD_CPU_X86_CPUID_H
#define FREEHOLD_CPU_X86_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct x86_cpuid_leaf {
    uint32_t function, index;
    uint32_t eax, ebx, ecx, edx;
};

#define X86_CPUID_LEAVES_MAX 64

/*
 * IA32_ARCH_CAPABILITIES, the same in every model: RDCL_NO, SKIP_L1DFL_VMENTRY, PSCHANGE_MC_NO.
 * A guest need not split its page tables against Meltdown: its user code is kept from its kernel's
 * memory by the engine's own checks (soft), or runs on hosts that have RDCL_NO (hardware engines
 * must clear the bit elsewhere). See THREATS.md.
 */
#define X86_ARCH_CAPABILITIES UINT64_C(0x49)

/* Features that the engine and its instruction tables ask about, by CPUID bit. */
enum x86_feature {
    X86_FEATURE_NONE, /* in every model */
    X86_FEATURE_SSE3,
    X86_FEATURE_PCLMUL,
    X86_FEATURE_SSSE3,
    X86_FEATURE_FMA,
    X86_FEATURE_CX16,
    X86_FEATURE_PCID,
    X86_FEATURE_SSE41,
    X86_FEATURE_SSE42,
    X86_FEATURE_X2APIC,
    X86_FEATURE_MOVBE,
    X86_FEATURE_POPCNT,
    X86_FEATURE_TSC_DEADLINE,
    X86_FEATURE_AES,
    X86_FEATURE_XSAVE,
    X86_FEATURE_AVX,
    X86_FEATURE_F16C,
    X86_FEATURE_RDRAND,
    X86_FEATURE_FSGSBASE,
    X86_FEATURE_TSC_ADJUST,
    X86_FEATURE_BMI1,
    X86_FEATURE_AVX2,
    X86_FEATURE_SMEP,
    X86_FEATURE_BMI2,
    X86_FEATURE_ERMS,
    X86_FEATURE_INVPCID,
    X86_FEATURE_RDSEED,
    X86_FEATURE_ADX,
    X86_FEATURE_SMAP,
    X86_FEATURE_CLFLUSHOPT,
    X86_FEATURE_CLWB,
    X86_FEATURE_SHA,
    X86_FEATURE_UMIP,
    X86_FEATURE_PKU,
    X86_FEATURE_PKS,
    X86_FEATURE_GFNI,
    X86_FEATURE_VAES,
    X86_FEATURE_VPCLMULQDQ,
    X86_FEATURE_RDPID,
    X86_FEATURE_FSRM,
    X86_FEATURE_SERIALIZE,
    X86_FEATURE_XSAVEOPT,
    X86_FEATURE_XSAVEC,
    X86_FEATURE_XGETBV1,
    X86_FEATURE_LAHF,
    X86_FEATURE_LZCNT,
    X86_FEATURE_PREFETCHW,
    X86_FEATURE_NX,
    X86_FEATURE_PAGE1GB,
    X86_FEATURE_RDTSCP,
    X86_FEATURE_LONG_MODE,
    X86_FEATURE_AVX512F,
    X86_FEATURE_AVX512DQ,
    X86_FEATURE_AVX512IFMA,
    X86_FEATURE_AVX512CD,
    X86_FEATURE_AVX512BW,
    X86_FEATURE_AVX512VL,
    X86_FEATURE_AVX512VBMI,
    X86_FEATURE_AVX512VBMI2,
    X86_FEATURE_AVX512VNNI,
    X86_FEATURE_AVX512BITALG,
    X86_FEATURE_AVX512VPOPCNTDQ,
    X86_FEATURE_AVX512BF16,
    X86_FEATURE_AVX512FP16,
    X86_FEATURE_AVX_VNNI,
    X86_FEATURE_COUNT
};

struct x86_cpuid {
    const char *model;
    unsigned count;
    struct x86_cpuid_leaf leaf[X86_CPUID_LEAVES_MAX];
    bool feature[X86_FEATURE_COUNT];
    uint64_t xcr0_allowed; /* bits that XSETBV may set */
    uint64_t tsc_hz;
    unsigned physical_bits;
    uint32_t signature; /* leaf 1 EAX: family, model, stepping */
};

struct x86_cpuid_config {
    /* NAME[,+FEATURE|-FEATURE...]: a model, what to add to it, and what to leave out, with all that
     * builds on that. NULL: the best named model that this host offers. */
    const char *model;
    unsigned vcpu_count;
    uint64_t tsc_hz;
    bool paravirt_clock; /* offer the KVM leaves (clock only) */
};

/* One model of the list that `--cpu help` shows. */
struct x86_cpu_model {
    const char *name;
    const char *description;
};
extern const struct x86_cpu_model x86_cpu_models[];
extern const unsigned x86_cpu_model_count;

/* Builds the table. -ENOENT: no such model or feature; -ENOTSUP: this host lacks features, which
 * are listed. */
MUST_CHECK int x86_cpuid_build(const struct x86_cpuid_config *config, struct x86_cpuid *out,
                               struct error *err);

/* What CPUID answers on vCPU `vcpu_index` (its APIC ID), with the bits that follow live state
 * (OSXSAVE, APIC enabled, XSAVE sizes) filled from cr4, xcr0 and apic_enabled. */
struct x86_cpuid_query {
    uint32_t function, index;
    uint32_t vcpu_index;
    uint64_t cr4, xcr0;
    bool apic_enabled;
};
void x86_cpuid_answer(const struct x86_cpuid *cpuid, const struct x86_cpuid_query *query,
                      uint32_t result[4]); /* EAX, EBX, ECX, EDX */

#endif
