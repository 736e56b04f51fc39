/* Checks what the counters show and how time is put down to what a vCPU does. */
#include "cpu/soft/counters.h"

#include <time.h>

#include "base/clock.h"
#include "base/test.h"
#include "cpu/soft/sample.h"
#include "cpu/soft/soft.h"

struct shown {
    unsigned count;
    uint64_t sum;
    char text[1024];
};

static void shown_add(void *opaque, const struct cpu_counter *counter)
{
    struct shown *shown = opaque;
    size_t length = strlen(shown->text);

    snprintf(shown->text + length, sizeof shown->text - length, "%s.%s=%" PRIu64 "\n",
             counter->group, counter->name, counter->value);
    shown->count++;
    shown->sum += counter->value;
}

static struct x86_insn insn_of(const char *bytes, size_t length)
{
    struct x86_insn insn;

    if (x86_decode(&insn, X86_CODE_64, (const uint8_t *)bytes, length) != X86_DECODE_OK)
        insn.op = X86_OP_INVALID;
    return insn;
}

static void test_empty(struct test *t)
{
    static struct soft_counters counters;
    struct shown shown = {0};

    soft_counters_visit(&counters, shown_add, &shown);
    CHECK_EQ(t, shown.count, 0);
}

static void test_names(struct test *t)
{
    static struct soft_counters counters;
    struct shown shown = {0};

    soft_count(&counters.translated);
    soft_count_add(&counters.translated_host, 1000);
    soft_count(&counters.tlb_miss[SOFT_USER][SOFT_WRITE]);
    soft_count(&counters.fault[X86_PF]);
    soft_count(&counters.interrupt[0xec]);
    soft_count(&counters.vm_exit[CPU_EXIT_MMIO]);
    soft_counters_visit(&counters, shown_add, &shown);
    CHECK_STR(t, shown.text,
              "translation.blocks=1\ntranslation.host_bytes=1000\n"
              "tlb_miss.user_write=1\nvm_exit.mmio=1\nfault.PF=1\ninterrupt.0xec=1\n");
}

/* Vector and x87 instructions count by opcode, too. */
static void test_twins(struct test *t)
{
    static struct soft_counters counters;
    struct x86_insn fld = insn_of("\xdd\x00", 2);                  /* fld qword [rax] */
    struct x86_insn fadd = insn_of("\xd8\xc1", 2);                 /* fadd st, st(1) */
    struct x86_insn pcmp = insn_of("\x66\x0f\x3a\x63\xc1\x00", 6); /* pcmpistri */
    struct x86_insn vadd = insn_of("\xc5\xf1\x58\xc2", 4);         /* vaddpd xmm0, xmm1, xmm2 */
    struct x86_insn div = insn_of("\xf7\xf1", 2);
    struct shown shown = {0};

    for (unsigned i = 0; i < 3; i++)
        soft_count_twin(&counters, &div);
    soft_count_twin(&counters, &fld);
    soft_count_twin(&counters, &fadd);
    soft_count_twin(&counters, &pcmp);
    soft_count_twin(&counters, &vadd);
    soft_counters_visit(&counters, shown_add, &shown);
    CHECK_STR(t, shown.text,
              "twin.DIV=3\ntwin.X87=2\ntwin.VECTOR=2\n"
              "twin_x87.d8/0=1\ntwin_x87.dd/0 mem=1\n"
              "twin_vector.66 map1 58=1\ntwin_vector.66 map3 63=1\n");
}

/* Uses processor time while it "is in" an activity. */
static void work(struct soft_counters *counters, enum soft_activity activity, uint64_t ns)
{
    uint64_t until = clock_monotonic_ns() + ns;

    soft_activity_set(counters, activity);
    while (clock_monotonic_ns() < until)
        continue;
}

static void test_time(struct test *t)
{
    static struct soft_counters counters;
    const struct timespec nap = {.tv_nsec = 40 * (long)NS_PER_MS};
    struct soft_sampler *sampler = NULL;
    uint64_t begin, end, sum = 0;

    CHECK_EQ(t, soft_sampler_new(&counters, &sampler), 0);
    if (!sampler)
        return;
    begin = clock_monotonic_ns();
    soft_sampler_here(sampler);
    work(&counters, SOFT_IN_TRANSLATED, 60 * NS_PER_MS);
    work(&counters, SOFT_IN_TWIN, 30 * NS_PER_MS);
    soft_activity_set(&counters, SOFT_IN_HALT);
    nanosleep(&nap, NULL);
    soft_sampler_free(sampler);
    end = clock_monotonic_ns();
    for (unsigned i = 0; i < SOFT_ACTIVITIES; i++)
        sum += counters.time_ns[i];
    CHECK(t, counters.time_ns[SOFT_IN_TRANSLATED] > 0);
    CHECK(t, counters.time_ns[SOFT_IN_TWIN] > 0);
    CHECK(t, counters.time_ns[SOFT_IN_HALT] > 10 * NS_PER_MS);
    CHECK_EQ(t, counters.time_ns[SOFT_IN_INTERPRETER], 0);
    CHECK(t, sum <= end - begin);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_empty);
    TEST_RUN(&t, test_names);
    TEST_RUN(&t, test_twins);
    TEST_RUN(&t, test_time);
    return test_end(&t);
}
