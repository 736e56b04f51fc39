/* Tests of the paravirtual clock: what a guest computes from what is written, and bad addresses. */
#include "machine/pvclock.h"

#include <errno.h>

#include "base/clock.h"
#include "base/endian.h"
#include "base/fake_time.h"
#include "base/test.h"

static uint64_t tsc_hz;

static uint64_t tsc_fake(void)
{
    return muldiv64(clock_monotonic_ns(), tsc_hz, NS_PER_SECOND);
}

/* The guest's side: msr.rst. */
static uint64_t guest_ns(struct test *t, struct mem *mem, uint64_t gpa, uint64_t guest_tsc)
{
    uint8_t info[32];
    uint64_t delta;
    int8_t shift;

    CHECK_EQ(t, mem_read(mem, gpa, info, sizeof info), 0);
    CHECK_EQ(t, load_le32(info) & 1, 0);
    CHECK(t, load_le32(info) != 0);
    CHECK_EQ(t, info[29], 1);
    shift = (int8_t)info[28];
    delta = guest_tsc - load_le64(info + 8);
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return load_le64(info + 16) + (uint64_t)((unsigned __int128)delta * load_le32(info + 24) >> 32);
}

static void check_frequency(struct test *t, uint64_t hz)
{
    struct tsc_clock tsc = {.hz = hz, .read = tsc_fake};
    struct pvclock_config config = {.tsc = &tsc, .vcpu_count = 2};
    struct pvclock *clock;
    uint64_t offset = 0 - UINT64_C(12345678), got, want;

    tsc_hz = hz;
    fake_time_reset(5 * NS_PER_SECOND, UINT64_C(1700000000) * NS_PER_SECOND);
    if (!CHECK_EQ(t, mem_new(&config.mem), 0) ||
        !CHECK_EQ(t, mem_add_ram(config.mem, 0, 65536, NULL), 0) ||
        !CHECK_EQ(t, pvclock_new(&config, &clock), 0))
        return;
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d01, 0x1001), 0);
    CHECK_EQ(t, pvclock_msr_write(clock, 1, 0x12, 0x2001), 0);
    pvclock_tsc_offset_set(clock, 1, offset);
    fake_time_advance(3600 * NS_PER_SECOND + 7);
    want = 3600 * NS_PER_SECOND + 7;
    got = guest_ns(t, config.mem, 0x1000, tsc_fake());
    CHECK(t, got <= want && want - got < 3000); /* the factor has 32 bits: 10^-9 */
    CHECK_EQ(t, guest_ns(t, config.mem, 0x2000, tsc_fake() + offset), got);
    pvclock_free(clock);
    mem_free(config.mem);
}

static void test_frequencies(struct test *t)
{
    check_frequency(t, UINT64_C(2000000000));
    check_frequency(t, UINT64_C(1000000000));
    check_frequency(t, UINT64_C(999999999));
    check_frequency(t, UINT64_C(2893437123));
    check_frequency(t, UINT64_C(5800000000));
    check_frequency(t, UINT64_C(24000000));
}

static void test_wall_clock(struct test *t)
{
    struct tsc_clock tsc = {.hz = NS_PER_SECOND, .read = tsc_fake};
    struct pvclock_config config = {.tsc = &tsc, .vcpu_count = 1};
    struct pvclock *clock;
    uint8_t wall[12];

    tsc_hz = NS_PER_SECOND;
    fake_time_reset(0, UINT64_C(1700000000) * NS_PER_SECOND + 500);
    if (!CHECK_EQ(t, mem_new(&config.mem), 0) ||
        !CHECK_EQ(t, mem_add_ram(config.mem, 0, 65536, NULL), 0) ||
        !CHECK_EQ(t, pvclock_new(&config, &clock), 0))
        return;
    fake_time_advance(100 * NS_PER_SECOND);
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d00, 0x3000), 0);
    CHECK_EQ(t, mem_read(config.mem, 0x3000, wall, sizeof wall), 0);
    CHECK_EQ(t, load_le32(wall), 2);
    /* to a few ns: the factor is rounded down */
    CHECK_EQ(t, load_le32(wall + 4), 1700000000);
    CHECK(t, load_le32(wall + 8) >= 500 && load_le32(wall + 8) < 1000);
    pvclock_free(clock);
    mem_free(config.mem);
}

static void test_bad(struct test *t)
{
    struct tsc_clock tsc = {.hz = NS_PER_SECOND, .read = tsc_fake};
    struct pvclock_config config = {.tsc = &tsc, .vcpu_count = 1};
    struct pvclock *clock;
    uint64_t value;

    if (!CHECK_EQ(t, mem_new(&config.mem), 0) ||
        !CHECK_EQ(t, mem_add_ram(config.mem, 0, 65536, NULL), 0) ||
        !CHECK_EQ(t, pvclock_new(&config, &clock), 0))
        return;
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d02, 1), (uint64_t)-ENOENT);
    CHECK_EQ(t, pvclock_msr_write(clock, 1, 0x4b564d01, 1), (uint64_t)-ENOENT);
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d01, 3), (uint64_t)-EINVAL);
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d00, 1), (uint64_t)-EINVAL);
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d01, UINT64_MAX & ~UINT64_C(2)), 0);
    CHECK_EQ(t, pvclock_msr_read(clock, 0, 0x4b564d01, &value), 0);
    CHECK_EQ(t, value & 1, 0);                                       /* no RAM there: off */
    CHECK_EQ(t, pvclock_msr_write(clock, 0, 0x4b564d01, 0xfff1), 0); /* sticks out of RAM */
    CHECK_EQ(t, pvclock_msr_read(clock, 0, 0x12, &value), 0);
    CHECK_EQ(t, value & 1, 0);
    pvclock_reset(clock);
    CHECK_EQ(t, pvclock_msr_read(clock, 0, 0x4b564d01, &value), 0);
    CHECK_EQ(t, value, 0);
    pvclock_free(clock);
    mem_free(config.mem);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_frequencies);
    TEST_RUN(&t, test_wall_clock);
    TEST_RUN(&t, test_bad);
    return test_end(&t);
}
