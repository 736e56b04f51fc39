/* Checks that counted time stands still but for what is counted and while the guest idles. */
#include "base/counted.h"

#include <time.h>

#include "base/clock.h"
#include "base/test.h"

#define TSC_HZ UINT64_C(2000000000)
#define MS     UINT64_C(1000000)

static void sleep_ms(unsigned ms)
{
    const struct timespec time = {.tv_nsec = (long)(ms * MS)};

    nanosleep(&time, NULL);
}

/* First, since it can't be switched off again. */
static void test_off(struct test *t)
{
    uint64_t before = clock_monotonic_ns();

    CHECK(t, !counted_is_on());
    sleep_ms(2);
    CHECK(t, clock_monotonic_ns() >= before + 2 * MS);
    CHECK_EQ(t, counted_host_deadline(12345), 12345);
}

static void test_counted(struct test *t)
{
    uint64_t before, tsc, realtime;

    counted_start(TSC_HZ);
    before = clock_monotonic_ns();
    tsc = counted_tsc(0);
    realtime = clock_realtime_ns();
    sleep_ms(2);
    CHECK_EQ(t, clock_monotonic_ns(), before);
    counted_add(1000);
    CHECK_EQ(t, clock_monotonic_ns(), before + 1000);
    CHECK_EQ(t, clock_realtime_ns(), realtime + 1000);
    CHECK_EQ(t, counted_tsc(0), tsc + 2000);
    CHECK_EQ(t, counted_tsc(7), tsc + 2014);
}

static void test_idle(struct test *t)
{
    uint64_t before = clock_monotonic_ns(), after;

    counted_idle(true);
    sleep_ms(2);
    CHECK(t, clock_monotonic_ns() >= before + 2 * MS);
    counted_idle(false);
    after = clock_monotonic_ns();
    sleep_ms(2);
    CHECK_EQ(t, clock_monotonic_ns(), after);
}

static void test_deadline(struct test *t)
{
    uint64_t now = clock_monotonic_ns(), host = counted_host_ns();

    CHECK(t, counted_host_deadline(now + 50 * MS) >= host + 50 * MS);
    CHECK(t, counted_host_deadline(now - MS) > host);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_off);
    TEST_RUN(&t, test_counted);
    TEST_RUN(&t, test_idle);
    TEST_RUN(&t, test_deadline);
    return test_end(&t);
}
