/*
 * What every test guest has: serial output, checks with their counts, the processor's instructions
 * as functions.
 *
 * A guest is a whole machine of its own: global state is allowed here (and only here), nothing is
 * untrusted. Checks may be made by the first processor only.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* Each subject defines it: runs all of its checks. */
void guest_main(void);

void print(const char *text);
void print_hex(u64 value);
void print_dec(u64 value);
/* Prints "skipped: WHAT: REASON". */
void skip(const char *what, const char *reason);
_Noreturn void guest_exit(void);
/* The number behind "NAME=" on the guest's command line, or `otherwise`: how long a test may take.
 */
u64 option(const char *name, u64 otherwise);

/* Counts a check of `seen` against `expected`, and prints both when they differ. */
void check_eq(const char *file, int line, const char *what, u64 seen, u64 expected);
#define CHECK(what, seen, expected)                                                                \
    check_eq(__FILE_NAME__, __LINE__, what, (u64)(seen), (u64)(expected))

/*
 * The next check is one that QEMU's TCG is known to get wrong by the manuals. Under TCG its failure
 * is printed and counted apart; on every other machine it is a check like all others.
 */
void tcg_wrong(const char *reason);
/* All checks until tcg_wrong_end() are such. */
void tcg_wrong_begin(const char *reason);
void tcg_wrong_end(void);
bool on_tcg(void);

/* Names the part of the subject that failures belong to. */
void part(const char *name);

void *memory_set(void *to, int value, size_t len);
void *memory_copy(void *to, const void *from, size_t len);
bool memory_same(const void *a, const void *b, size_t len);

/* An address of low memory as a pointer, hidden from the compiler, which takes page 0 for invalid.
 */
static inline volatile void *low_pointer(u64 address)
{
    __asm__("" : "+r"(address));
    return (volatile void *)address;
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

enum feature {
    FEATURE_MONITOR,
    FEATURE_PCID,
    FEATURE_X2APIC,
    FEATURE_MOVBE,
    FEATURE_POPCNT,
    FEATURE_TSC_DEADLINE,
    FEATURE_XSAVE,
    FEATURE_SSE42,
    FEATURE_CX16,
    FEATURE_AVX,
    FEATURE_FSGSBASE,
    FEATURE_BMI1,
    FEATURE_BMI2,
    FEATURE_SMEP,
    FEATURE_SMAP,
    FEATURE_INVPCID,
    FEATURE_UMIP,
    FEATURE_LZCNT,
    FEATURE_NX,
    FEATURE_PAGE1G,
    FEATURE_RDTSCP,
    FEATURE_XSAVEOPT,
    FEATURE_SYSCALL,
    FEATURE_PKU,
    FEATURE_PKS,
    FEATURE_LA57,
    FEATURE_SEP,
    FEATURE_ADX,
    FEATURE_XSAVEC,
    FEATURE_RDPID,
    FEATURE_LAHF,
};

bool has(enum feature feature);
bool cpu_is_intel(void);

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u64 rdmsr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}

static inline void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "a"((u32)value), "d"((u32)(value >> 32)), "c"(msr) : "memory");
}

static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

#define CONTROL_REGISTER(name)                                                                     \
    static inline u64 name##_get(void)                                                             \
    {                                                                                              \
        u64 value;                                                                                 \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                        \
        return value;                                                                              \
    }                                                                                              \
    static inline void name##_set(u64 value)                                                       \
    {                                                                                              \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                            \
    }
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(cr8)
CONTROL_REGISTER(dr0)
CONTROL_REGISTER(dr1)
CONTROL_REGISTER(dr2)
CONTROL_REGISTER(dr3)
CONTROL_REGISTER(dr6)
CONTROL_REGISTER(dr7)

static inline void invlpg(u64 address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* Bits and registers, as the manuals name them. */
#define CR0_PE             (1ul << 0)
#define CR0_MP             (1ul << 1)
#define CR0_EM             (1ul << 2)
#define CR0_TS             (1ul << 3)
#define CR0_ET             (1ul << 4)
#define CR0_NE             (1ul << 5)
#define CR0_WP             (1ul << 16)
#define CR0_AM             (1ul << 18)
#define CR0_PG             (1ul << 31)
#define CR4_VME            (1ul << 0)
#define CR4_TSD            (1ul << 2)
#define CR4_DE             (1ul << 3)
#define CR4_PSE            (1ul << 4)
#define CR4_PAE            (1ul << 5)
#define CR4_PGE            (1ul << 7)
#define CR4_PCE            (1ul << 8)
#define CR4_OSFXSR         (1ul << 9)
#define CR4_OSXMMEXCPT     (1ul << 10)
#define CR4_UMIP           (1ul << 11)
#define CR4_FSGSBASE       (1ul << 16)
#define CR4_PCIDE          (1ul << 17)
#define CR4_OSXSAVE        (1ul << 18)
#define CR4_SMEP           (1ul << 20)
#define CR4_SMAP           (1ul << 21)
#define CR4_PKE            (1ul << 22)
#define CR4_PKS            (1ul << 24)
#define MSR_EFER           0xc0000080
#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_CSTAR          0xc0000083
#define MSR_FMASK          0xc0000084
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX        0xc0000103
#define MSR_SYSENTER_CS    0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_APIC_BASE      0x1b
#define MSR_PKRS           0x6e1
#define EFER_SCE           (1ul << 0)
#define EFER_LME           (1ul << 8)
#define EFER_LMA           (1ul << 10)
#define EFER_NXE           (1ul << 11)
#define FLAG_CF            (1ul << 0)
#define FLAG_PF            (1ul << 2)
#define FLAG_AF            (1ul << 4)
#define FLAG_ZF            (1ul << 6)
#define FLAG_SF            (1ul << 7)
#define FLAG_TF            (1ul << 8)
#define FLAG_IF            (1ul << 9)
#define FLAG_DF            (1ul << 10)
#define FLAG_OF            (1ul << 11)
#define FLAG_IOPL(n)       ((u64)(n) << 12)
#define FLAG_NT            (1ul << 14)
#define FLAG_RF            (1ul << 16)
#define FLAG_VM            (1ul << 17)
#define FLAG_AC            (1ul << 18)
#define FLAG_VIF           (1ul << 19)
#define FLAG_VIP           (1ul << 20)
#define FLAG_ID            (1ul << 21)
#define FLAG_ONE           2ul

enum vector {
    DE,
    DB,
    NMI,
    BP,
    OF,
    BR,
    UD,
    NM,
    DF,
    TS = 10,
    NP,
    SS,
    GP,
    PF,
    MF = 16,
    AC,
    MC,
    XM,
    STOP_VECTOR = 0x81, /* the end of a run, as STOP makes it */
};

#endif
