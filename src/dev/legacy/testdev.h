/*
 * A test device, by which a guest's own test programs reach what else only a real device would:
 * interrupt lines to pull, I/O and memory whose every access leaves the CPU. Laid out as the
 * field's `pc-testdev` is, which existing test programs look for.
 *
 * Ports 0xe0-0xe3: four bytes that read back as written, in accesses of 1, 2 or 4 bytes. Ports
 * 0x2000-0x2017: a byte written at 0x2000 + N sets interrupt line N (I/O APIC input) high if it is
 * not 0, low if it is. 0xff000000, 64 KiB: memory that is I/O. (The original's other ports flush a
 * page out of a hypervisor's shadow page tables, of which there are none here.)
 * Threads: any. Trusts nothing of what is written.
 */
#ifndef FREEHOLD_DEV_LEGACY_TESTDEV_H
#define FREEHOLD_DEV_LEGACY_TESTDEV_H

#include <stdint.h>

#include "base/error.h"
#include "base/irq.h"
#include "mem/bus.h"

#define TESTDEV_DATA_PORT    0xe0
#define TESTDEV_IRQ_PORT     0x2000
#define TESTDEV_IRQS         24
#define TESTDEV_MEMORY_GPA   UINT64_C(0xff000000)
#define TESTDEV_MEMORY_BYTES UINT64_C(0x10000)

struct testdev;

struct testdev_config {
    struct bus *ports, *mmio;
    struct irq_line irq; /* of line 0; line N has pin + N */
};

MUST_CHECK int testdev_new(const struct testdev_config *config, struct testdev **out);
void testdev_free(struct testdev *testdev);
void testdev_reset(struct testdev *testdev); /* all lines low, all bytes 0 */

#endif
