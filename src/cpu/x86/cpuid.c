/*
 * CPU models and CPUID's answers: see cpuid.h.
 *
 * A model is a row of features; what a guest sees is that row and no more, on every host. Features
 * whose instructions run on the host's own unit are offered only where the host has them; the rest
 * (paging, interrupts, MSRs) is the engines' own doing. All models say GenuineIntel, since the soft
 * engine follows Intel where the vendors differ.
 */
#include "cpu/x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stddef.h>

#include "base/endian.h"
#include "cpu/x86/state.h"

enum { EAX, EBX, ECX, EDX };
enum level { LEVEL_V2, LEVEL_V3, LEVEL_HOST, LEVEL_ASKED /* in no model */ };

struct feature_bit {
    enum x86_feature feature;
    const char *name;
    uint32_t function, index;
    uint8_t reg, bit;
    enum level level; /* the first model that has it */
    bool native;      /* needs the host's instructions */
};

#define BIT(feature, name, function, index, reg, bit, level, native)                               \
    {                                                                                              \
        X86_FEATURE_##feature, name, function, index, reg, bit, LEVEL_##level, native              \
    }

static const struct feature_bit feature_bits[] = {
    BIT(SSE3, "sse3", 1, 0, ECX, 0, V2, true),
    BIT(PCLMUL, "pclmulqdq", 1, 0, ECX, 1, HOST, true),
    BIT(SSSE3, "ssse3", 1, 0, ECX, 9, V2, true),
    BIT(FMA, "fma", 1, 0, ECX, 12, V3, true),
    BIT(CX16, "cx16", 1, 0, ECX, 13, V2, true),
    BIT(PCID, "pcid", 1, 0, ECX, 17, V2, false),
    BIT(SSE41, "sse4.1", 1, 0, ECX, 19, V2, true),
    BIT(SSE42, "sse4.2", 1, 0, ECX, 20, V2, true),
    BIT(X2APIC, "x2apic", 1, 0, ECX, 21, V2, false),
    BIT(MOVBE, "movbe", 1, 0, ECX, 22, V3, false),
    BIT(POPCNT, "popcnt", 1, 0, ECX, 23, V2, true),
    BIT(TSC_DEADLINE, "tsc-deadline", 1, 0, ECX, 24, V2, false),
    BIT(AES, "aes", 1, 0, ECX, 25, HOST, true),
    BIT(XSAVE, "xsave", 1, 0, ECX, 26, V3, true),
    BIT(AVX, "avx", 1, 0, ECX, 28, V3, true),
    BIT(F16C, "f16c", 1, 0, ECX, 29, V3, true),
    BIT(RDRAND, "rdrand", 1, 0, ECX, 30, HOST, true),
    BIT(FSGSBASE, "fsgsbase", 7, 0, EBX, 0, V2, false),
    BIT(TSC_ADJUST, "tsc-adjust", 7, 0, EBX, 1, V2, false),
    BIT(BMI1, "bmi1", 7, 0, EBX, 3, V3, true),
    BIT(AVX2, "avx2", 7, 0, EBX, 5, V3, true),
    BIT(SMEP, "smep", 7, 0, EBX, 7, V2, false),
    BIT(BMI2, "bmi2", 7, 0, EBX, 8, V3, true),
    BIT(ERMS, "erms", 7, 0, EBX, 9, V2, false),
    BIT(INVPCID, "invpcid", 7, 0, EBX, 10, V2, false),
    BIT(AVX512F, "avx512f", 7, 0, EBX, 16, HOST, true),
    BIT(AVX512DQ, "avx512dq", 7, 0, EBX, 17, HOST, true),
    BIT(RDSEED, "rdseed", 7, 0, EBX, 18, HOST, true),
    BIT(ADX, "adx", 7, 0, EBX, 19, HOST, false),
    BIT(SMAP, "smap", 7, 0, EBX, 20, V2, false),
    BIT(AVX512IFMA, "avx512ifma", 7, 0, EBX, 21, HOST, true),
    BIT(CLFLUSHOPT, "clflushopt", 7, 0, EBX, 23, HOST, false),
    BIT(CLWB, "clwb", 7, 0, EBX, 24, HOST, false),
    BIT(AVX512CD, "avx512cd", 7, 0, EBX, 28, HOST, true),
    BIT(SHA, "sha", 7, 0, EBX, 29, HOST, true),
    BIT(AVX512BW, "avx512bw", 7, 0, EBX, 30, HOST, true),
    BIT(AVX512VL, "avx512vl", 7, 0, EBX, 31, HOST, true),
    BIT(AVX512VBMI, "avx512vbmi", 7, 0, ECX, 1, HOST, true),
    BIT(UMIP, "umip", 7, 0, ECX, 2, V2, false),
    /* Not unasked: a just-in-time compiler that protects its code by keys changes PKRU all the
     * time, and here each change costs the TLB. */
    BIT(PKU, "pku", 7, 0, ECX, 3, ASKED, false),
    BIT(PKS, "pks", 7, 0, ECX, 31, ASKED, false),
    BIT(AVX512VBMI2, "avx512vbmi2", 7, 0, ECX, 6, HOST, true),
    BIT(GFNI, "gfni", 7, 0, ECX, 8, HOST, true),
    BIT(VAES, "vaes", 7, 0, ECX, 9, HOST, true),
    BIT(VPCLMULQDQ, "vpclmulqdq", 7, 0, ECX, 10, HOST, true),
    BIT(AVX512VNNI, "avx512vnni", 7, 0, ECX, 11, HOST, true),
    BIT(AVX512BITALG, "avx512bitalg", 7, 0, ECX, 12, HOST, true),
    BIT(AVX512VPOPCNTDQ, "avx512vpopcntdq", 7, 0, ECX, 14, HOST, true),
    BIT(RDPID, "rdpid", 7, 0, ECX, 22, HOST, false),
    BIT(FSRM, "fsrm", 7, 0, EDX, 4, V2, false),
    BIT(SERIALIZE, "serialize", 7, 0, EDX, 14, HOST, false),
    BIT(AVX512FP16, "avx512fp16", 7, 0, EDX, 23, HOST, true),
    BIT(AVX_VNNI, "avx-vnni", 7, 1, EAX, 4, HOST, true),
    BIT(AVX512BF16, "avx512bf16", 7, 1, EAX, 5, HOST, true),
    BIT(XSAVEOPT, "xsaveopt", 0xd, 1, EAX, 0, V3, false),
    BIT(XSAVEC, "xsavec", 0xd, 1, EAX, 1, V3, false),
    BIT(XGETBV1, "xgetbv1", 0xd, 1, EAX, 2, V3, false),
    BIT(LAHF, "lahf-lm", 0x80000001, 0, ECX, 0, V2, false),
    BIT(LZCNT, "lzcnt", 0x80000001, 0, ECX, 5, V3, true),
    BIT(PREFETCHW, "prefetchw", 0x80000001, 0, ECX, 8, V3, false),
    BIT(NX, "nx", 0x80000001, 0, EDX, 20, V2, false),
    BIT(PAGE1GB, "pdpe1gb", 0x80000001, 0, EDX, 26, V2, false),
    BIT(RDTSCP, "rdtscp", 0x80000001, 0, EDX, 27, V2, false),
    BIT(LONG_MODE, "lm", 0x80000001, 0, EDX, 29, V2, false),
};

#define FEATURE_BITS (sizeof feature_bits / sizeof *feature_bits)

struct model {
    enum level level;
    uint32_t signature; /* 0: the host's */
    const char *brand;
};

const struct x86_cpu_model x86_cpu_models[] = {
    {"x86-64-v2", "SSE4.2, POPCNT, CX16: every x86-64 CPU since about 2009"},
    {"x86-64-v3", "x86-64-v2 with AVX2, BMI, FMA, F16C, MOVBE, LZCNT: since about 2013"},
    {"host", "all that this host's CPU has and Freehold supports (not movable to lesser hosts)"},
};
const unsigned x86_cpu_model_count = sizeof x86_cpu_models / sizeof *x86_cpu_models;

static const struct model models[] = {
    {LEVEL_V2, 0x000106a5, "Freehold x86-64-v2 processor"},
    {LEVEL_V3, 0x000306f2, "Freehold x86-64-v3 processor"},
    {LEVEL_HOST, 0, NULL},
};

/* -- the host -- */

static bool host_cpuid(uint32_t function, uint32_t index, uint32_t result[4])
{
    return __get_cpuid_count(function, index, &result[EAX], &result[EBX], &result[ECX],
                             &result[EDX]) != 0;
}

/* XCR0, without which AVX's CPUID bits mean nothing; 0 where the host does not use XSAVE. */
static uint64_t host_xcr0(void)
{
    uint32_t leaf[4], low, high;

    if (!host_cpuid(1, 0, leaf) || !(leaf[ECX] & (1u << 27)))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

static uint64_t feature_xcr0(enum x86_feature feature)
{
    switch (feature) {
    case X86_FEATURE_AVX:
    case X86_FEATURE_AVX2:
    case X86_FEATURE_FMA:
    case X86_FEATURE_F16C:
    case X86_FEATURE_VAES:
    case X86_FEATURE_VPCLMULQDQ:
    case X86_FEATURE_AVX_VNNI:
        return X86_XCR0_SSE | X86_XCR0_AVX;
    default:
        if (feature >= X86_FEATURE_AVX512F && feature <= X86_FEATURE_AVX512FP16)
            return X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512;
        return 0;
    }
}

static bool host_has(const struct feature_bit *bit, uint64_t xcr0)
{
    uint32_t leaf[4] = {0};
    uint64_t needed = feature_xcr0(bit->feature);

    if (!bit->native)
        return true;
    return host_cpuid(bit->function, bit->index, leaf) && (leaf[bit->reg] >> bit->bit & 1) &&
           (xcr0 & needed) == needed;
}

/* -- building -- */

static struct x86_cpuid_leaf *leaf_find(struct x86_cpuid *cpuid, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < cpuid->count; i++) {
        if (cpuid->leaf[i].function == function && cpuid->leaf[i].index == index)
            return &cpuid->leaf[i];
    }
    return NULL;
}

static void leaf_add(struct x86_cpuid *cpuid, const struct x86_cpuid_leaf *leaf)
{
    if (cpuid->count < X86_CPUID_LEAVES_MAX)
        cpuid->leaf[cpuid->count++] = *leaf;
}

static void leaf_text(struct x86_cpuid_leaf *leaf, const char text[16])
{
    leaf->eax = load_le32(text);
    leaf->ebx = load_le32(text + 4);
    leaf->ecx = load_le32(text + 8);
    leaf->edx = load_le32(text + 12);
}

/* Leaf 4: three levels, as a plain server part has them (line 64 bytes). */
static void leaves_cache(struct x86_cpuid *cpuid, unsigned vcpus)
{
    uint32_t cores = ((vcpus - 1) & 63) << 26;
    const struct x86_cpuid_leaf leaves[] = {
        {4, 0, 0x121 | cores, 7u << 22 | 63, 63, 0},    /* 32 KiB data */
        {4, 1, 0x122 | cores, 7u << 22 | 63, 63, 0},    /* 32 KiB code */
        {4, 2, 0x143 | cores, 15u << 22 | 63, 1023, 0}, /* 1 MiB */
        {4, 3, 0x163 | cores | ((vcpus - 1) & 0xfff) << 14, 15u << 22 | 63, 16383, 0}, /* 16 MiB */
        {4, 4, 0, 0, 0, 0},
    };

    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++)
        leaf_add(cpuid, &leaves[i]);
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;

    while ((1u << bits) < count)
        bits++;
    return bits;
}

static void leaves_topology(struct x86_cpuid *cpuid, unsigned vcpus)
{
    const struct x86_cpuid_leaf leaves[] = {
        {0xb, 0, 0, 1, 0x100, 0},                   /* SMT: one thread a core */
        {0xb, 1, bits_for(vcpus), vcpus, 0x201, 0}, /* cores of the package */
        {0xb, 2, 0, 0, 2, 0},
    };

    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++)
        leaf_add(cpuid, &leaves[i]);
}

/* XSAVE's standard layout (the same offsets on every CPU that has these components). */
struct xsave_component {
    unsigned number;
    uint32_t size, offset;
};
static const struct xsave_component xsave_components[] = {
    {2, 256, 576}, {5, 64, 1088}, {6, 512, 1152}, {7, 1024, 1664}, {9, 8, 2688}};

static void leaves_xsave(struct x86_cpuid *cpuid)
{
    const struct x86_cpuid_leaf first[] = {
        {0xd, 0, (uint32_t)cpuid->xcr0_allowed, 0, 0, (uint32_t)(cpuid->xcr0_allowed >> 32)},
        {0xd, 1, 0, 0, 0, 0}};

    if (!cpuid->feature[X86_FEATURE_XSAVE])
        return;
    leaf_add(cpuid, &first[0]);
    leaf_add(cpuid, &first[1]);
    for (unsigned i = 0; i < sizeof xsave_components / sizeof *xsave_components; i++) {
        const struct xsave_component *part = &xsave_components[i];
        struct x86_cpuid_leaf leaf = {0xd, part->number, part->size, part->offset, 0, 0};

        if (cpuid->xcr0_allowed >> part->number & 1)
            leaf_add(cpuid, &leaf);
    }
}

static void leaves_paravirt(struct x86_cpuid *cpuid)
{
    struct x86_cpuid_leaf signature = {.function = 0x40000000};
    /* Clock MSRs of the new numbers, and a TSC that needs no comparing between vCPUs. */
    const struct x86_cpuid_leaf features = {0x40000001, 0, 1u << 3 | 1u << 24, 0, 0, 0};

    leaf_text(&signature, "\1\0\0\100KVMKVMKVM\0\0");
    leaf_add(cpuid, &signature);
    leaf_add(cpuid, &features);
}

static void leaves_time(struct x86_cpuid *cpuid)
{
    const struct x86_cpuid_leaf leaf = {
        0x16, 0, (uint32_t)(cpuid->tsc_hz / 1000000), (uint32_t)(cpuid->tsc_hz / 1000000), 100, 0};

    leaf_add(cpuid, &leaf);
}

/* Leaf 1's EDX that every model has: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE,
 * MCA, CMOV, PAT, PSE-36, CLFLUSH, MMX, FXSR, SSE, SSE2. */
#define LEAF1_EDX        0x078bfbfdu
#define LEAF1_HTT        (1u << 28)
#define LEAF1_HYPERVISOR (1u << 31)

static void leaves_basic(struct x86_cpuid *cpuid, unsigned vcpus)
{
    struct x86_cpuid_leaf vendor = {.function = 0};
    const struct x86_cpuid_leaf leaves[] = {
        {1, 0, cpuid->signature, 8u << 8 | (vcpus & 0xff) << 16, LEAF1_HYPERVISOR,
         LEAF1_EDX | (vcpus > 1 ? LEAF1_HTT : 0)},
        {2, 0, 0x00ff0001, 0, 0, 0}, /* "see leaf 4" */
        {5, 0, 0, 0, 0, 0},
        {6, 0, 1u << 2, 0, 0, 0},         /* ARAT: the APIC timer never stops */
        {7, 0, 1, 1u << 13, 0, 1u << 29}, /* no FCS, FDS; EDX: IA32_ARCH_CAPABILITIES */
        {7, 1, 0, 0, 0, 0},
    };

    leaf_text(&vendor, "\26\0\0\0GenuntelineI");
    leaf_add(cpuid, &vendor);
    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++)
        leaf_add(cpuid, &leaves[i]);
}

static void leaves_brand(struct x86_cpuid *cpuid, const char *brand)
{
    char text[48] = {0};
    uint32_t leaf[4];

    for (unsigned i = 0; brand && brand[i] && i < sizeof text - 1; i++)
        text[i] = brand[i];
    for (uint32_t i = 0; i < 3; i++) {
        struct x86_cpuid_leaf part = {.function = 0x80000002 + i};

        leaf_text(&part, text + 16 * i);
        if (!brand && host_cpuid(part.function, 0, leaf)) {
            part.eax = leaf[EAX];
            part.ebx = leaf[EBX];
            part.ecx = leaf[ECX];
            part.edx = leaf[EDX];
        }
        leaf_add(cpuid, &part);
    }
}

static void leaves_extended(struct x86_cpuid *cpuid, const char *brand)
{
    const struct x86_cpuid_leaf leaves[] = {
        {0x80000000, 0, 0x80000008, 0, 0, 0},
        {0x80000001, 0, 0, 0, 0, 1u << 11}, /* SYSCALL */
        {0x80000007, 0, 0, 0, 0, 1u << 8},  /* invariant TSC */
        {0x80000008, 0, cpuid->physical_bits | 48u << 8, 0, 0, 0},
    };

    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++)
        leaf_add(cpuid, &leaves[i]);
    leaves_brand(cpuid, brand);
}

static void feature_bits_set(struct x86_cpuid *cpuid)
{
    for (unsigned i = 0; i < FEATURE_BITS; i++) {
        const struct feature_bit *bit = &feature_bits[i];
        struct x86_cpuid_leaf *leaf = leaf_find(cpuid, bit->function, bit->index);

        if (!leaf || !cpuid->feature[bit->feature])
            continue;
        uint32_t *regs[4] = {&leaf->eax, &leaf->ebx, &leaf->ecx, &leaf->edx};
        *regs[bit->reg] |= 1u << bit->bit;
    }
}

/* Fills feature[]; what the host lacks of a named model goes to `missing`. */
static bool features_choose(struct x86_cpuid *cpuid, enum level level, char *missing, size_t size)
{
    uint64_t xcr0 = host_xcr0();
    size_t used = 0;
    bool complete = true;

    cpuid->feature[X86_FEATURE_NONE] = true;
    missing[0] = '\0';
    for (unsigned i = 0; i < FEATURE_BITS; i++) {
        const struct feature_bit *bit = &feature_bits[i];

        if (bit->level > level)
            continue;
        cpuid->feature[bit->feature] = host_has(bit, xcr0);
        if (cpuid->feature[bit->feature] || bit->level == LEVEL_HOST)
            continue;
        complete = false;
        for (const char *p = bit->name; *p && used + 2 < size; p++)
            missing[used++] = *p;
        if (used + 2 < size)
            missing[used++] = ' ';
        missing[used] = '\0';
    }
    return complete || level == LEVEL_HOST;
}

static void xcr0_choose(struct x86_cpuid *cpuid)
{
    cpuid->xcr0_allowed = X86_XCR0_X87 | X86_XCR0_SSE;
    if (!cpuid->feature[X86_FEATURE_XSAVE])
        cpuid->xcr0_allowed = X86_XCR0_X87;
    if (cpuid->feature[X86_FEATURE_AVX])
        cpuid->xcr0_allowed |= X86_XCR0_AVX;
    if (cpuid->feature[X86_FEATURE_AVX512F])
        cpuid->xcr0_allowed |= X86_XCR0_AVX512;
    if (cpuid->feature[X86_FEATURE_PKU] && cpuid->feature[X86_FEATURE_XSAVE])
        cpuid->xcr0_allowed |= X86_XCR0_PKRU;
}

/* -- what the user asked for: NAME[,+FEATURE|-FEATURE...] -- */

/* One item of it, up to a comma or the end. */
struct word {
    const char *at;
    int length;
};

static struct word word_at(const char *at)
{
    struct word word = {at, 0};

    while (at[word.length] && at[word.length] != ',')
        word.length++;
    return word;
}

/* Goes to the next item; false behind the last. */
static bool word_next(struct word *word)
{
    const char *end = word->at + word->length;

    if (*end)
        *word = word_at(end + 1);
    return end[0] != '\0';
}

static bool word_is(struct word word, const char *text)
{
    for (int i = 0; i < word.length; i++) {
        if (text[i] != word.at[i]) /* also where `text` ends */
            return false;
    }
    return text[word.length] == '\0';
}

static int model_find(struct word name, unsigned *out, struct error *err)
{
    for (unsigned i = 0; i < x86_cpu_model_count; i++) {
        if (word_is(name, x86_cpu_models[i].name)) {
            *out = i;
            return 0;
        }
    }
    return error_set(err, -ENOENT, "there is no CPU model '%.*s'; --cpu help lists those there are",
                     name.length, name.at);
}

/* What a feature builds on: of no use, and not to be offered, without it. */
static enum x86_feature feature_basis(enum x86_feature feature)
{
    switch (feature) {
    case X86_FEATURE_AVX:
    case X86_FEATURE_XSAVEOPT:
    case X86_FEATURE_XSAVEC:
    case X86_FEATURE_XGETBV1:
        return X86_FEATURE_XSAVE;
    case X86_FEATURE_AVX512F:
        return X86_FEATURE_AVX;
    default:
        if (feature_xcr0(feature) & X86_XCR0_AVX512)
            return X86_FEATURE_AVX512F;
        return feature_xcr0(feature) & X86_XCR0_AVX ? X86_FEATURE_AVX : X86_FEATURE_NONE;
    }
}

static const struct feature_bit *feature_find(struct word name)
{
    for (unsigned i = 0; i < FEATURE_BITS; i++) {
        if (word_is(name, feature_bits[i].name))
            return &feature_bits[i];
    }
    return NULL;
}

static int feature_change(struct x86_cpuid *cpuid, struct word word, struct error *err)
{
    bool add = word.at[0] == '+';
    const struct feature_bit *bit = NULL;

    if (word.length > 1 && (add || word.at[0] == '-'))
        bit = feature_find((struct word){word.at + 1, word.length - 1});
    if (!bit)
        return error_set(err, -ENOENT,
                         "CPU model %s cannot be had with '%.*s'; after the model come features to "
                         "leave out or to add, such as -x2apic or +pku",
                         cpuid->model, word.length, word.at);
    if (add && !host_has(bit, host_xcr0()))
        return error_set(err, -ENOTSUP, "this host's CPU lacks %s; leave out %.*s", bit->name,
                         word.length, word.at);
    cpuid->feature[bit->feature] = add;
    return 0;
}

static bool feature_stands(const struct x86_cpuid *cpuid, enum x86_feature feature)
{
    while (feature != X86_FEATURE_NONE && cpuid->feature[feature])
        feature = feature_basis(feature);
    return feature == X86_FEATURE_NONE;
}

/* Does what follows the model's name. */
static int features_change(struct x86_cpuid *cpuid, struct word words, struct error *err)
{
    while (word_next(&words)) {
        int rc = feature_change(cpuid, words, err);

        if (rc < 0)
            return rc;
    }
    for (unsigned i = 0; i < X86_FEATURE_COUNT; i++)
        cpuid->feature[i] = feature_stands(cpuid, (enum x86_feature)i);
    return 0;
}

static int model_build(unsigned which, const struct x86_cpuid_config *config, struct x86_cpuid *out,
                       struct error *err)
{
    int rc;

    const struct model *model = &models[which];
    char missing[256];
    uint32_t leaf[4] = {0};

    *out = (struct x86_cpuid){.model = x86_cpu_models[which].name,
                              .tsc_hz = config->tsc_hz,
                              .physical_bits = 46,
                              .signature = model->signature};
    if (!features_choose(out, model->level, missing, sizeof missing))
        return error_set(err, -ENOTSUP,
                         "CPU model %s needs %sthat this host's CPU lacks; choose another with "
                         "--cpu (--cpu help lists them)",
                         out->model, missing);
    rc = features_change(out, word_at(config->model ? config->model : ""), err);
    if (rc < 0)
        return rc;
    if (out->signature == 0)
        out->signature = host_cpuid(1, 0, leaf) ? leaf[EAX] : models[0].signature;
    xcr0_choose(out);
    leaves_basic(out, config->vcpu_count);
    leaves_cache(out, config->vcpu_count);
    leaves_topology(out, config->vcpu_count);
    leaves_xsave(out);
    leaves_time(out);
    if (config->paravirt_clock)
        leaves_paravirt(out);
    leaves_extended(out, model->brand);
    feature_bits_set(out);
    return 0;
}

int x86_cpuid_build(const struct x86_cpuid_config *config, struct x86_cpuid *out, struct error *err)
{
    unsigned which = 0;
    int result;

    if (config->model) {
        result = model_find(word_at(config->model), &which, err);
        return result == 0 ? model_build(which, config, out, err) : result;
    }
    /* The best of the named ones, so that a VM can move to most other hosts. */
    result = model_build(1, config, out, err);
    return result == 0 ? 0 : model_build(0, config, out, err);
}

/* -- answering -- */

static uint32_t xsave_bytes(uint64_t xcr0)
{
    uint32_t bytes = 576;

    for (unsigned i = 0; i < sizeof xsave_components / sizeof *xsave_components; i++) {
        const struct xsave_component *part = &xsave_components[i];

        if (xcr0 >> part->number & 1)
            bytes = part->offset + part->size;
    }
    return bytes;
}

static uint32_t xsave_bytes_compact(uint64_t xcr0)
{
    uint32_t bytes = 576;

    for (unsigned i = 0; i < sizeof xsave_components / sizeof *xsave_components; i++) {
        if (xcr0 >> xsave_components[i].number & 1)
            bytes += xsave_components[i].size;
    }
    return bytes;
}

/* The bits that follow live state. */
static void answer_live(const struct x86_cpuid *cpuid, const struct x86_cpuid_query *query,
                        uint32_t result[4])
{
    switch (query->function) {
    case 1:
        result[EBX] |= query->vcpu_index << 24;
        if (query->cr4 & X86_CR4_OSXSAVE)
            result[ECX] |= 1u << 27;
        if (!query->apic_enabled)
            result[EDX] &= ~(1u << 9);
        break;
    case 7:
        if (query->index == 0 && (query->cr4 & X86_CR4_PKE))
            result[ECX] |= 1u << 4;
        break;
    case 0xb:
        result[EDX] = query->vcpu_index;
        break;
    case 0xd:
        if (query->index == 0) {
            result[EBX] = xsave_bytes(query->xcr0);
            result[ECX] = xsave_bytes(cpuid->xcr0_allowed);
        } else if (query->index == 1) {
            result[EBX] = xsave_bytes_compact(query->xcr0);
        }
        break;
    default:
        break;
    }
}

static bool function_has_index(uint32_t function)
{
    return function == 4 || function == 7 || function == 0xb || function == 0xd;
}

/* Intel: a function beyond the highest basic one answers as that one does. */
static uint32_t function_effective(const struct x86_cpuid *cpuid, uint32_t function)
{
    bool paravirt = function >= 0x40000000 && function < 0x40000100;
    bool extended = function >= 0x80000000 && function <= 0x80000008;

    if (function <= 0x16 || extended)
        return function;
    if (paravirt && leaf_find((struct x86_cpuid *)(uintptr_t)cpuid, 0x40000000, 0))
        return function;
    return 0x16;
}

void x86_cpuid_answer(const struct x86_cpuid *cpuid, const struct x86_cpuid_query *query,
                      uint32_t result[4])
{
    struct x86_cpuid_query q = *query;
    const struct x86_cpuid_leaf *leaf;

    q.function = function_effective(cpuid, query->function);
    leaf = leaf_find((struct x86_cpuid *)(uintptr_t)cpuid, q.function,
                     function_has_index(q.function) ? q.index : 0);
    result[EAX] = leaf ? leaf->eax : 0;
    result[EBX] = leaf ? leaf->ebx : 0;
    result[ECX] = leaf ? leaf->ecx : 0;
    result[EDX] = leaf ? leaf->edx : 0;
    if (!leaf && q.function == 0xb)
        result[ECX] = q.index & 0xff;
    if (leaf || q.function == 0xb)
        answer_live(cpuid, &q, result);
}
