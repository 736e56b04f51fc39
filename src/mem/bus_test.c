/* The bus: overlap, holes, straddling accesses, limits, and a map that moves while it is read. */
#include "base/test.h"
#include "mem/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

/* A device whose bytes read as `tag`, and that remembers the last access. */
struct probe {
    uint8_t tag;
    uint64_t offset, value;
    unsigned size, writes;
};

static uint64_t probe_read(void *device, uint64_t offset, unsigned size)
{
    struct probe *probe = device;

    (void)offset;
    return probe->tag * UINT64_C(0x0101010101010101) >> (64 - size * 8);
}

static void probe_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *probe = device;

    probe->offset = offset;
    probe->size = size;
    probe->value = value;
    probe->writes++;
}

static const struct bus_ops probe_ops = {probe_read, probe_write};
static const struct bus_ops mute_ops = {NULL, NULL};

static int probe_add(struct bus *bus, struct probe *probe, uint64_t base, uint64_t size)
{
    struct bus_range range = {"probe", base, size, &probe_ops, probe};

    return bus_add(bus, &range);
}

static void test_plain(struct test *t)
{
    struct bus *bus = NULL;
    struct probe a = {.tag = 0xa1};

    CHECK_EQ(t, bus_new(&bus), 0);
    CHECK_EQ(t, bus_read(bus, 0, 4), UINT32_MAX);
    CHECK_EQ(t, probe_add(bus, &a, 0x100, 0x10), 0);
    CHECK_EQ(t, bus_read(bus, 0x100, 1), 0xa1);
    CHECK_EQ(t, bus_read(bus, 0x10c, 4), 0xa1a1a1a1);
    CHECK_EQ(t, bus_read(bus, 0x108, 8), 0xa1a1a1a1a1a1a1a1);
    CHECK_EQ(t, bus_read(bus, 0xff, 1), 0xff);
    CHECK_EQ(t, bus_read(bus, 0x110, 2), 0xffff);
    bus_write(bus, 0x104, 2, 0xdeadbeef);
    CHECK_EQ(t, a.offset, 4);
    CHECK_EQ(t, a.size, 2);
    CHECK_EQ(t, a.value, 0xbeef);
    bus_write(bus, 0x110, 2, 1);
    CHECK_EQ(t, a.writes, 1);
    bus_remove(bus, 0x100, &t); /* not its device: stays */
    CHECK_EQ(t, bus_read(bus, 0x100, 1), 0xa1);
    bus_remove(bus, 0x100, &a);
    CHECK_EQ(t, bus_read(bus, 0x100, 1), 0xff);
    bus_free(bus);
}

static void test_straddle(struct test *t)
{
    struct bus *bus = NULL;
    struct probe a = {.tag = 0xa1}, b = {.tag = 0xb2};

    CHECK_EQ(t, bus_new(&bus), 0);
    CHECK_EQ(t, probe_add(bus, &a, 0x100, 0x10), 0);
    CHECK_EQ(t, probe_add(bus, &b, 0x110, 0x1), 0);
    CHECK_EQ(t, bus_read(bus, 0x10e, 4), 0xffb2a1a1);
    CHECK_EQ(t, bus_read(bus, 0xfe, 4), 0xa1a1ffff);
    bus_write(bus, 0x10e, 4, 0x44332211);
    CHECK_EQ(t, a.value, 0x2211);
    CHECK_EQ(t, b.value, 0x33);
    CHECK_EQ(t, b.size, 1);
    bus_free(bus);
}

static void test_overlap(struct test *t)
{
    struct bus *bus = NULL;
    struct probe a = {.tag = 0xa1}, b = {.tag = 0xb2}, c = {.tag = 0xc3};
    struct bus_range mute = {"mute", 0x500, 0x10, &mute_ops, NULL};

    CHECK_EQ(t, bus_new(&bus), 0);
    CHECK_EQ(t, probe_add(bus, &a, 0x1000, 0x1000), 0);
    CHECK_EQ(t, probe_add(bus, &b, 0x1800, 0x100), 0);
    CHECK_EQ(t, probe_add(bus, &c, 0, 0x1010), 0);
    CHECK_EQ(t, bus_read(bus, 0x100f, 1), 0xc3);
    CHECK_EQ(t, bus_read(bus, 0x1010, 1), 0xa1);
    CHECK_EQ(t, bus_read(bus, 0x17ff, 1), 0xa1);
    CHECK_EQ(t, bus_read(bus, 0x1800, 1), 0xb2);
    CHECK_EQ(t, bus_read(bus, 0x1900, 1), 0xa1);
    bus_write(bus, 0x1904, 1, 9);
    CHECK_EQ(t, a.offset, 0x904); /* relative to the range, not to the piece that is left of it */
    bus_remove(bus, 0x1800, &b);
    CHECK_EQ(t, bus_read(bus, 0x1800, 1), 0xa1);
    CHECK_EQ(t, bus_add(bus, &mute), 0);
    CHECK_EQ(t, bus_read(bus, 0x500, 4), UINT32_MAX);
    bus_write(bus, 0x500, 4, 1);
    CHECK_EQ(t, c.writes, 0);
    bus_free(bus);
}

/* The reset control register, a byte in the middle of PCI's address register. */
static void test_byte_inside(struct test *t)
{
    struct bus *bus = NULL;
    struct probe address = {.tag = 0xa1}, reset = {.tag = 0xb2};

    CHECK_EQ(t, bus_new(&bus), 0);
    CHECK_EQ(t, probe_add(bus, &address, 0xcf8, 4), 0);
    CHECK_EQ(t, probe_add(bus, &reset, 0xcf9, 1), 0);
    bus_write(bus, 0xcf8, 4, 0x80001000);
    CHECK_EQ(t, address.value, 0x80001000);
    CHECK_EQ(t, address.size, 4);
    CHECK_EQ(t, bus_read(bus, 0xcf8, 4), 0xa1a1a1a1);
    CHECK_EQ(t, reset.writes, 0);
    bus_write(bus, 0xcf9, 1, 6);
    CHECK_EQ(t, reset.value, 6);
    CHECK_EQ(t, bus_read(bus, 0xcf9, 1), 0xb2);
    bus_free(bus);
}

static void test_limits(struct test *t)
{
    struct bus *bus = NULL;
    struct probe a = {.tag = 0xa1}, b = {.tag = 0xb2};

    CHECK_EQ(t, bus_new(&bus), 0);
    CHECK_EQ(t, probe_add(bus, &a, 0x100, 0), (uint64_t)-EINVAL);
    CHECK_EQ(t, probe_add(bus, &a, UINT64_MAX, 2), (uint64_t)-EINVAL);
    CHECK_EQ(t, probe_add(bus, &b, UINT64_MAX - 7, 8), 0);
    CHECK_EQ(t, bus_read(bus, UINT64_MAX - 7, 8), 0xb2b2b2b2b2b2b2b2);
    for (unsigned i = 1; i < 256; i++) {
        /* nested rings: the most segments that ranges can make */
        CHECK_EQ(t, probe_add(bus, i % 2 ? &a : &b, i, 1024 - 2 * i), 0);
    }
    CHECK_EQ(t, probe_add(bus, &a, 0, 1), (uint64_t)-ENOSPC);
    for (unsigned i = 1; i < 256; i++) {
        CHECK_EQ(t, bus_read(bus, i, 1), i % 2 ? 0xa1 : 0xb2);
        CHECK_EQ(t, bus_read(bus, 1023 - i, 1), i % 2 ? 0xa1 : 0xb2);
    }
    CHECK_EQ(t, bus_read(bus, UINT64_MAX - 7, 8), 0xb2b2b2b2b2b2b2b2);
    bus_free(bus);
}

struct mover {
    struct bus *bus;
    struct probe fixed, moving;
    atomic_bool done;
    atomic_uint reads;
    unsigned wrong;
};

static void *mover_thread(void *opaque)
{
    struct mover *m = opaque;

    for (unsigned i = 0; i < 3000 || atomic_load(&m->reads) < 100; i++) {
        uint64_t base = 0x1000 + (i % 7) * 0x100;

        if (probe_add(m->bus, &m->moving, base, 0x100) != 0)
            break;
        bus_remove(m->bus, base, &m->moving);
    }
    atomic_store(&m->done, true);
    return NULL;
}

/* While a BAR is moved about, the range beside it answers as ever, and the moving one wholly or
 * not at all. */
static void test_moving(struct test *t)
{
    static struct mover m = {.fixed = {.tag = 0xf1}, .moving = {.tag = 0x33}};
    pthread_t thread;

    CHECK_EQ(t, bus_new(&m.bus), 0);
    CHECK_EQ(t, probe_add(m.bus, &m.fixed, 0x1700, 0x100), 0);
    CHECK_EQ(t, pthread_create(&thread, NULL, mover_thread, &m), 0);
    while (!atomic_load(&m.done)) {
        uint64_t moving = bus_read(m.bus, 0x1000 + (atomic_load(&m.reads) % 7) * 0x100, 4);

        m.wrong += bus_read(m.bus, 0x1704, 4) != 0xf1f1f1f1;
        m.wrong += moving != 0x33333333 && moving != UINT32_MAX;
        atomic_fetch_add(&m.reads, 1);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(t, m.wrong, 0);
    bus_free(m.bus);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_plain);
    TEST_RUN(&t, test_straddle);
    TEST_RUN(&t, test_overlap);
    TEST_RUN(&t, test_byte_inside);
    TEST_RUN(&t, test_limits);
    TEST_RUN(&t, test_moving);
    return test_end(&t);
}
