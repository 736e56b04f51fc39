/*
 * The test device (see testdev.h).
 *
 * Threads: any vCPU's; the bytes are atomics, one by one, as little promises as a device's memory
 * does. Interrupt lines are set with no lock held.
 */
#include "dev/legacy/testdev.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define DATA_BYTES 4

struct testdev {
    struct testdev_config config;
    atomic_uchar data[DATA_BYTES];
    atomic_uchar memory[TESTDEV_MEMORY_BYTES];
};

/* ---- bytes; the bus lets no access out of its range ---- */

static uint64_t bytes_read(const atomic_uchar *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)atomic_load_explicit(&bytes[i], memory_order_relaxed) << 8 * i;
    return value;
}

static void bytes_write(atomic_uchar *bytes, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        atomic_store_explicit(&bytes[i], (uint8_t)(value >> 8 * i), memory_order_relaxed);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    return bytes_read(&((struct testdev *)opaque)->data[offset], size);
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    bytes_write(&((struct testdev *)opaque)->data[offset], size, value);
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
    return bytes_read(&((struct testdev *)opaque)->memory[offset], size);
}

static void memory_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    bytes_write(&((struct testdev *)opaque)->memory[offset], size, value);
}

/* ---- interrupt lines ---- */

static void line_set(const struct testdev *testdev, unsigned number, bool level)
{
    struct irq_line line = testdev->config.irq;

    line.pin += number;
    irq_line_set(&line, level);
}

static void irq_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    line_set(opaque, (unsigned)offset, (uint8_t)value != 0);
}

/* ---- construction ---- */

static const struct bus_ops data_ops = {.read = data_read, .write = data_write};
static const struct bus_ops irq_ops = {.write = irq_write};
static const struct bus_ops memory_ops = {.read = memory_read, .write = memory_write};

static int ranges_add(struct testdev *testdev)
{
    const struct testdev_config *config = &testdev->config;
    const struct bus_range data = {"testdev-data", TESTDEV_DATA_PORT, DATA_BYTES, &data_ops,
                                   testdev};
    const struct bus_range irq = {"testdev-irq", TESTDEV_IRQ_PORT, TESTDEV_IRQS, &irq_ops, testdev};
    const struct bus_range memory = {"testdev-memory", TESTDEV_MEMORY_GPA, TESTDEV_MEMORY_BYTES,
                                     &memory_ops, testdev};
    int rc = bus_add(config->ports, &data);

    if (rc == 0)
        rc = bus_add(config->ports, &irq);
    if (rc == 0)
        rc = bus_add(config->mmio, &memory);
    return rc;
}

void testdev_reset(struct testdev *testdev)
{
    for (unsigned i = 0; i < DATA_BYTES; i++)
        atomic_store(&testdev->data[i], 0);
    for (unsigned i = 0; i < TESTDEV_MEMORY_BYTES; i++)
        atomic_store_explicit(&testdev->memory[i], 0, memory_order_relaxed);
    for (unsigned i = 0; i < TESTDEV_IRQS; i++)
        line_set(testdev, i, false);
}

int testdev_new(const struct testdev_config *config, struct testdev **out)
{
    struct testdev *testdev = calloc(1, sizeof *testdev);
    int rc;

    if (!testdev)
        return -ENOMEM;
    testdev->config = *config;
    rc = ranges_add(testdev);
    if (rc < 0)
        testdev_free(testdev);
    else
        *out = testdev;
    return rc;
}

void testdev_free(struct testdev *testdev)
{
    if (!testdev)
        return;
    bus_remove(testdev->config.ports, TESTDEV_DATA_PORT, testdev);
    bus_remove(testdev->config.ports, TESTDEV_IRQ_PORT, testdev);
    bus_remove(testdev->config.mmio, TESTDEV_MEMORY_GPA, testdev);
    free(testdev);
}
