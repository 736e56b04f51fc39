/* Tests of the test device. */
#include "dev/legacy/testdev.h"

#include "base/test.h"

static void irq_note(void *opaque, unsigned pin, bool level)
{
    uint32_t *lines = opaque;

    if (level)
        *lines |= 1u << pin;
    else
        *lines &= ~(1u << pin);
}

static struct testdev *testdev_make(struct test *t, uint32_t *lines, struct testdev_config *config)
{
    struct testdev *testdev = NULL;

    *config = (struct testdev_config){.irq = {irq_note, lines, 0}};
    CHECK_EQ(t, bus_new(&config->ports), 0);
    CHECK_EQ(t, bus_new(&config->mmio), 0);
    CHECK_EQ(t, testdev_new(config, &testdev), 0);
    return testdev;
}

static void testdev_end(struct testdev *testdev, struct testdev_config *config)
{
    testdev_free(testdev);
    bus_free(config->mmio);
    bus_free(config->ports);
}

static void test_data(struct test *t)
{
    struct testdev_config config;
    uint32_t lines = 0;
    struct testdev *testdev = testdev_make(t, &lines, &config);

    bus_write(config.ports, 0xe0, 4, 0x12345678);
    CHECK_EQ(t, bus_read(config.ports, 0xe0, 4), 0x12345678);
    CHECK_EQ(t, bus_read(config.ports, 0xe2, 2), 0x1234);
    bus_write(config.ports, 0xe1, 1, 0xab);
    CHECK_EQ(t, bus_read(config.ports, 0xe0, 4), 0x1234ab78);
    CHECK_EQ(t, bus_read(config.ports, 0xe4, 1), 0xff);
    testdev_reset(testdev);
    CHECK_EQ(t, bus_read(config.ports, 0xe0, 4), 0);
    testdev_end(testdev, &config);
}

static void test_memory(struct test *t)
{
    struct testdev_config config;
    uint32_t lines = 0;
    struct testdev *testdev = testdev_make(t, &lines, &config);

    bus_write(config.mmio, 0xff00fff8, 8, 0x0123456789abcdef);
    CHECK_EQ(t, bus_read(config.mmio, 0xff00fff8, 8), 0x0123456789abcdef);
    CHECK_EQ(t, bus_read(config.mmio, 0xff00fffb, 2), 0x6789);
    CHECK_EQ(t, bus_read(config.mmio, 0xff010000, 1), 0xff);
    testdev_reset(testdev);
    CHECK_EQ(t, bus_read(config.mmio, 0xff00fff8, 8), 0);
    testdev_end(testdev, &config);
}

static void test_lines(struct test *t)
{
    struct testdev_config config;
    uint32_t lines = 0;
    struct testdev *testdev = testdev_make(t, &lines, &config);

    bus_write(config.ports, 0x200e, 1, 1);
    bus_write(config.ports, 0x2017, 1, 0x80);
    bus_write(config.ports, 0x2018, 1, 1);
    CHECK_EQ(t, lines, 1u << 14 | 1u << 23);
    bus_write(config.ports, 0x200e, 1, 0);
    CHECK_EQ(t, lines, 1u << 23);
    testdev_reset(testdev);
    CHECK_EQ(t, lines, 0);
    testdev_end(testdev, &config);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_data);
    TEST_RUN(&t, test_memory);
    TEST_RUN(&t, test_lines);
    return test_end(&t);
}
