/*
 * MSRs that no component owns: what an operating system may touch without asking CPUID first, or
 * where CPUID cannot say that it is missing. They read as a processor without the feature gives
 * them; everything else is #GP(0), as on hardware, and guests are made to cope with that.
 *
 * Source: Intel SDM vol. 4; AMD APM vol. 2 appendix A and the families' BKDG/PPR documents.
 */
#include <errno.h>
#include <stddef.h>

#include "vm/vm_internal.h"

enum msr_writes {
    MSR_READ_ONLY,  /* a write is #GP(0) */
    MSR_ZERO_ONLY,  /* 0 may be written, since it changes nothing */
    MSR_WRITE_DROP, /* a write vanishes: hints, locks and work-arounds for silicon */
};

struct msr_default {
    uint32_t first, last;
    uint64_t value;
    enum msr_writes writes;
};

static const struct msr_default msr_defaults[] = {
    {0x00000000, 0x00000001, 0, MSR_WRITE_DROP}, /* P5_MC_ADDR, P5_MC_TYPE */
    {0x00000017, 0x00000017, 0, MSR_READ_ONLY},  /* PLATFORM_ID */
    {0x0000002a, 0x0000002a, 0, MSR_WRITE_DROP}, /* EBL_CR_POWERON */
    {0x00000034, 0x00000034, 0, MSR_READ_ONLY},  /* SMI_COUNT */
    {0x0000003a, 0x0000003a, 1, MSR_READ_ONLY},  /* FEATURE_CONTROL: locked, no VMX, no SGX */
    {0x00000079, 0x00000079, 0, MSR_WRITE_DROP}, /* BIOS_UPDT_TRIG: no microcode is loaded */
    {0x0000008b, 0x0000008b, UINT64_C(1) << 32, MSR_WRITE_DROP}, /* BIOS_SIGN_ID, PATCH_LEVEL */
    {0x000000ce, 0x000000ce, 0, MSR_READ_ONLY},                  /* PLATFORM_INFO */
    {0x000000e7, 0x000000e8, 0, MSR_WRITE_DROP},                 /* MPERF, APERF */
    {0x0000011e, 0x0000011e, 0xbe702111, MSR_WRITE_DROP},        /* BBL_CR_CTL3: L2 present */
    {0x00000140, 0x00000140, 0, MSR_ZERO_ONLY},                  /* MISC_FEATURES_ENABLES */
    {0x00000179, 0x0000017b, 0, MSR_ZERO_ONLY},  /* MCG_CAP, STATUS, CTL: no banks */
    {0x00000186, 0x00000187, 0, MSR_ZERO_ONLY},  /* PERFEVTSEL0, 1: no counters */
    {0x00000198, 0x00000198, 0, MSR_READ_ONLY},  /* PERF_STATUS */
    {0x00000199, 0x00000199, 0, MSR_WRITE_DROP}, /* PERF_CTL */
    {0x0000019c, 0x0000019c, 0, MSR_ZERO_ONLY},  /* THERM_STATUS */
    {0x000001a2, 0x000001a2, 0, MSR_READ_ONLY},  /* TEMPERATURE_TARGET */
    {0x000001d9, 0x000001d9, 0, MSR_ZERO_ONLY},  /* DEBUGCTL: no LBR, no BTF */
    {0x000001db, 0x000001de, 0, MSR_ZERO_ONLY},  /* last branch, last exception */
    {0x000001fc, 0x000001fc, 0, MSR_ZERO_ONLY},  /* POWER_CTL */
    {0xc0010000, 0xc0010003, 0, MSR_ZERO_ONLY},  /* K7 PERFEVTSEL0-3: no counters */
    {0xc0010004, 0xc0010007, 0, MSR_WRITE_DROP}, /* K7 PERFCTR0-3 */
    {0xc0010010, 0xc0010010, 0, MSR_WRITE_DROP}, /* SYSCFG */
    {0xc0010015, 0xc0010015, UINT64_C(1) << 24, MSR_WRITE_DROP}, /* HWCR: TscFreqSel */
    {0xc001001f, 0xc001001f, 0, MSR_WRITE_DROP},                 /* NB_CFG */
    {0xc0010020, 0xc0010020, 0, MSR_WRITE_DROP},                 /* PATCH_LOADER */
    {0xc0010055, 0xc0010055, 0, MSR_WRITE_DROP},                 /* Interrupt Pending Message */
    {0xc0010058, 0xc0010058, 0, MSR_ZERO_ONLY},                  /* MMIO configuration base */
    {0xc0010114, 0xc0010114, UINT64_C(1) << 4, MSR_ZERO_ONLY},   /* VM_CR: SVM disabled */
    {0xc0010117, 0xc0010117, 0, MSR_ZERO_ONLY},                  /* VM_HSAVE_PA */
    {0xc0010140, 0xc0010141, 0, MSR_WRITE_DROP},                 /* OSVW length, status */
    {0xc0011020, 0xc001102f, 0, MSR_WRITE_DROP},                 /* LS, IC, DC, DE, BU_CFG */
};

static const struct msr_default *msr_default_find(uint32_t index)
{
    for (size_t i = 0; i < sizeof msr_defaults / sizeof msr_defaults[0]; i++) {
        if (index >= msr_defaults[i].first && index <= msr_defaults[i].last)
            return &msr_defaults[i];
    }
    return NULL;
}

int msr_default_read(uint32_t index, uint64_t *value)
{
    const struct msr_default *msr = msr_default_find(index);

    if (!msr)
        return -EINVAL;
    *value = msr->value;
    return 0;
}

int msr_default_write(uint32_t index, uint64_t value)
{
    const struct msr_default *msr = msr_default_find(index);

    if (!msr || msr->writes == MSR_READ_ONLY)
        return -EINVAL;
    return msr->writes == MSR_ZERO_ONLY && value != 0 ? -EINVAL : 0;
}
