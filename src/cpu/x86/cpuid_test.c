/* Tests of the CPU models, as far as they are the same on every host. */
#include "cpu/x86/cpuid.h"

#include <errno.h>

#include "base/test.h"
#include "cpu/x86/state.h"

static int build(const char *model, struct x86_cpuid *cpuid, struct error *err)
{
    const struct x86_cpuid_config config = {
        .model = model, .vcpu_count = 2, .tsc_hz = 1000000000, .paravirt_clock = true};

    *err = (struct error){0};
    return x86_cpuid_build(&config, cpuid, err);
}

static uint32_t leaf1_ecx(const struct x86_cpuid *cpuid)
{
    const struct x86_cpuid_query query = {.function = 1, .apic_enabled = true};
    uint32_t result[4];

    x86_cpuid_answer(cpuid, &query, result);
    return result[2];
}

static void test_model(struct test *t)
{
    struct x86_cpuid cpuid;
    struct error err;

    if (!CHECK_EQ(t, build("x86-64-v2", &cpuid, &err), 0))
        return;
    CHECK_STR(t, cpuid.model, "x86-64-v2");
    CHECK(t, cpuid.feature[X86_FEATURE_X2APIC] && cpuid.feature[X86_FEATURE_PCID]);
    CHECK(t, !cpuid.feature[X86_FEATURE_AVX]);
    CHECK_EQ(t, leaf1_ecx(&cpuid) & (1u << 21 | 1u << 17), 1u << 21 | 1u << 17);
    CHECK_EQ(t, build("z80", &cpuid, &err), -ENOENT);
    CHECK(t, strstr(err.text, "'z80'"));
}

static void test_without(struct test *t)
{
    struct x86_cpuid cpuid;
    struct error err;

    if (!CHECK_EQ(t, build("x86-64-v2,-x2apic,-invpcid", &cpuid, &err), 0))
        return;
    CHECK_STR(t, cpuid.model, "x86-64-v2");
    CHECK(t, !cpuid.feature[X86_FEATURE_X2APIC] && !cpuid.feature[X86_FEATURE_INVPCID]);
    CHECK(t, cpuid.feature[X86_FEATURE_PCID] && cpuid.feature[X86_FEATURE_NONE]);
    CHECK_EQ(t, leaf1_ecx(&cpuid) & (1u << 21 | 1u << 17), 1u << 17);
}

/* Protection keys are in no model. */
static void test_with(struct test *t)
{
    struct x86_cpuid_query query = {.function = 7};
    struct x86_cpuid cpuid;
    struct error err;
    uint32_t result[4];

    if (!CHECK_EQ(t, build("host", &cpuid, &err), 0))
        return;
    CHECK(t, !cpuid.feature[X86_FEATURE_PKU] && !cpuid.feature[X86_FEATURE_PKS]);
    if (!CHECK_EQ(t, build("x86-64-v2,+pku", &cpuid, &err), 0))
        return;
    CHECK(t, cpuid.feature[X86_FEATURE_PKU] && !cpuid.feature[X86_FEATURE_PKS]);
    x86_cpuid_answer(&cpuid, &query, result);
    CHECK_EQ(t, result[2] & 0x18, 0x08);
    query.cr4 = X86_CR4_PKE;
    x86_cpuid_answer(&cpuid, &query, result);
    CHECK_EQ(t, result[2] & 0x18, 0x18);
}

/* What builds on a feature goes with it. */
static void test_without_basis(struct test *t)
{
    struct x86_cpuid cpuid;
    struct error err;

    if (!CHECK_EQ(t, build("host,-xsave", &cpuid, &err), 0))
        return;
    CHECK_EQ(t, cpuid.xcr0_allowed, X86_XCR0_X87);
    for (unsigned i = X86_FEATURE_AVX512F; i < X86_FEATURE_COUNT; i++)
        CHECK(t, !cpuid.feature[i]);
    CHECK(t, !cpuid.feature[X86_FEATURE_FMA] && !cpuid.feature[X86_FEATURE_XSAVEC]);
    CHECK_EQ(t, leaf1_ecx(&cpuid) & (1u << 26 | 1u << 28 | 1u << 12), 0);
}

static void test_mistakes(struct test *t)
{
    static const char *const wrong[] = {
        "x86-64-v2,",       "x86-64-v2,-",        "x86-64-v2,x2apic", "x86-64-v2,+",
        "x86-64-v2,-x2api", "x86-64-v2,-x2apicc", "x86-64-v2,-pcid,", "x86-64-v",
        "x86-64-v2-x2apic", ",-x2apic",
    };
    struct x86_cpuid cpuid;
    struct error err;

    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_EQ(t, build(wrong[i], &cpuid, &err), -ENOENT);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_model);
    TEST_RUN(&t, test_without);
    TEST_RUN(&t, test_with);
    TEST_RUN(&t, test_without_basis);
    TEST_RUN(&t, test_mistakes);
    return test_end(&t);
}
