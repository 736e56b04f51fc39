/* See testguest.h. It trusts the tests that use it; waits are bounded. */
#include "dev/virtio/testguest.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/endian.h"
#include "base/fence.h"

#define WAIT_NS (5 * NS_PER_SECOND)

/* Guest RAM is shared with CPUs that keep no C rules: a hostile guest races there by its nature.
 * What ThreadSanitizer shall judge is everything else. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:mem_fill\nrace:mem_read\nrace:mem_write\nrace:guest_descriptor\n"
           "race:virtq_chain_read\nrace:virtq_chain_write\nrace:ring_load\n"
           "race:descriptor_copy\nrace:split_push\nrace:packed_push\n"
           "race:raw_readv\nrace:raw_writev\n";
}

void guest_sleep_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&time, NULL);
}

/* ---- the machine ---- */

static void msi_count(void *opaque, uint64_t address, uint32_t data)
{
    struct guest *guest = opaque;

    (void)address;
    __atomic_fetch_add(&guest->msi[data % GUEST_MSI_DATAS], 1, __ATOMIC_SEQ_CST);
}

static void intx_note(void *opaque, unsigned pin, bool level)
{
    struct guest *guest = opaque;

    __atomic_store_n(&guest->intx[pin & 3], level, __ATOMIC_SEQ_CST);
}

static void *loop_main(void *opaque)
{
    struct guest *guest = opaque;

    return loop_run(guest->loop) < 0 ? guest : NULL;
}

static int ram_add(struct guest *guest)
{
    int rc = mem_add_ram(guest->mem, 0, GUEST_LOW_END, NULL);

    if (rc == 0)
        rc = mem_add_ram(guest->mem, 0xc0000, 0x40000, NULL);
    if (rc == 0)
        rc = mem_add_ram(guest->mem, 0x100000, GUEST_RAM_END - 0x100000, NULL);
    if (rc == 0)
        rc = mem_add_ram(guest->mem, GUEST_HIGH, GUEST_HIGH_END - GUEST_HIGH, NULL);
    return rc;
}

int guest_new(struct guest *guest)
{
    struct pci_root_config config = {0};
    int rc;

    memset(guest, 0, sizeof *guest);
    rc = mem_new(&guest->mem);
    if (rc == 0)
        rc = ram_add(guest);
    if (rc == 0)
        rc = bus_new(&guest->mmio);
    if (rc == 0)
        rc = bus_new(&guest->ports);
    if (rc == 0)
        rc = loop_new(&guest->loop);
    if (rc < 0)
        return rc;
    config.mmio = guest->mmio;
    config.ports = guest->ports;
    config.msi = (struct msi_target){msi_count, guest};
    for (unsigned i = 0; i < 4; i++)
        config.intx[i] = (struct irq_line){intx_note, guest, i};
    rc = pci_root_new(&config, &guest->root);
    if (rc < 0)
        return rc;
    return -pthread_create(&guest->thread, NULL, loop_main, guest);
}

void guest_free(struct guest *guest)
{
    loop_stop(guest->loop);
    pthread_join(guest->thread, NULL);
    pci_root_free(guest->root);
    loop_free(guest->loop);
    bus_free(guest->ports);
    bus_free(guest->mmio);
    mem_free(guest->mem);
}

void guest_assign(struct guest *guest)
{
    const struct pci_windows windows = {0xc0000000, 0x20000000, 0xc000, 0x2000, 16};

    if (pci_assign_resources(guest->root, &windows) == 0) {
        for (unsigned slot = 1; slot < PCI_SLOTS; slot++)
            pci_config_write(guest->root, slot << 3, PCI_COMMAND, 2,
                             PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    }
}

uint16_t guest_load16(struct guest *guest, uint64_t gpa)
{
    uint16_t value = 0;

    if (mem_read(guest->mem, gpa, &value, sizeof value) < 0)
        return 0xdead;
    memory_fence();
    return value;
}

void guest_store16(struct guest *guest, uint64_t gpa, uint16_t value)
{
    memory_fence();
    if (mem_write(guest->mem, gpa, &value, sizeof value) < 0)
        return;
    memory_fence();
}

/* ---- a device ---- */

uint64_t guest_read(const struct guest_device *device, uint64_t address, unsigned size)
{
    return bus_read(device->guest->mmio, address, size);
}

void guest_write(const struct guest_device *device, uint64_t address, unsigned size, uint64_t value)
{
    bus_write(device->guest->mmio, address, size, value);
}

static uint32_t config_word(const struct guest_device *device, unsigned offset, unsigned size)
{
    return pci_config_read(device->guest->root, device->slot << 3, offset, size);
}

static uint64_t bar_base(const struct guest_device *device, unsigned bar)
{
    uint32_t low = config_word(device, PCI_BAR0 + bar * 4, 4);
    uint64_t high = (low & 6) == 4 ? config_word(device, PCI_BAR0 + bar * 4 + 4, 4) : 0;

    return (low & ~15u) | high << 32;
}

static void probe_capability(struct guest_device *device, unsigned at)
{
    unsigned type = config_word(device, at + 3, 1);
    uint64_t where =
        bar_base(device, config_word(device, at + 4, 1)) + config_word(device, at + 8, 4);

    switch (type) {
    case 1:
        device->common = where;
        break;
    case 2:
        device->notify = where;
        device->notify_multiplier = config_word(device, at + 16, 4);
        break;
    case 3:
        device->isr = where;
        break;
    case 4:
        device->config = where;
        break;
    }
}

int guest_probe(struct guest *guest, unsigned slot, struct guest_device *device)
{
    unsigned at, seen = 0;

    *device = (struct guest_device){.guest = guest, .slot = slot};
    if (config_word(device, PCI_VENDOR_ID, 2) != 0x1af4)
        return -ENODEV;
    for (at = config_word(device, PCI_CAPABILITIES, 1); at && seen < 48; seen++) {
        if (config_word(device, at, 1) == PCI_CAP_VENDOR)
            probe_capability(device, at);
        at = config_word(device, at + 1, 1);
    }
    return device->common && device->notify && device->isr ? 0 : -ENODEV;
}

uint8_t guest_status(const struct guest_device *device)
{
    return (uint8_t)guest_read(device, device->common + 0x14, 1);
}

bool guest_wait_status(const struct guest_device *device, uint8_t bits)
{
    uint64_t end = clock_monotonic_ns() + WAIT_NS;

    while ((guest_status(device) & bits) != bits) {
        if (clock_monotonic_ns() > end)
            return false;
        guest_sleep_ms(1);
    }
    return true;
}

bool guest_reset(const struct guest_device *device)
{
    uint64_t end = clock_monotonic_ns() + WAIT_NS;

    guest_write(device, device->common + 0x14, 1, 0);
    while (guest_status(device) != 0) {
        if (clock_monotonic_ns() > end)
            return false;
        guest_sleep_ms(1);
    }
    return true;
}

bool guest_begin(struct guest_device *device, uint64_t wanted)
{
    uint64_t offered = 0;

    if (!guest_reset(device))
        return false;
    guest_write(device, device->common + 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    guest_write(device, device->common + 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        guest_write(device, device->common, 4, i);
        offered |= guest_read(device, device->common + 4, 4) << (32 * i);
    }
    device->features = offered & (wanted | VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        guest_write(device, device->common + 8, 4, i);
        guest_write(device, device->common + 12, 4, (uint32_t)(device->features >> (32 * i)));
    }
    guest_write(device, device->common + 0x14, 1,
                VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    return guest_status(device) & VIRTIO_STATUS_FEATURES_OK;
}

void guest_driver_ok(const struct guest_device *device)
{
    guest_write(device, device->common + 0x14, 1, guest_status(device) | VIRTIO_STATUS_DRIVER_OK);
}

void guest_msix(const struct guest_device *device)
{
    struct pci_root *root = device->guest->root;
    unsigned bdf = device->slot << 3;
    unsigned at = pci_config_read(root, bdf, PCI_CAPABILITIES, 1);
    uint64_t table = bar_base(device, 0);

    for (unsigned i = 0; i < 16; i++) {
        guest_write(device, table + i * 16, 4, 0xfee00000);
        guest_write(device, table + i * 16 + 8, 4, i);
        guest_write(device, table + i * 16 + 12, 4, 0);
    }
    while (at && pci_config_read(root, bdf, at, 1) != PCI_CAP_MSIX)
        at = pci_config_read(root, bdf, at + 1, 1);
    if (at)
        pci_config_write(root, bdf, at + 2, 2, 0x8000);
}

/* ---- rings ---- */

void guest_ring_enable(struct guest_ring *ring)
{
    const struct guest_device *device = ring->device;
    uint64_t common = device->common;

    guest_write(device, common + 0x16, 2, ring->index);
    guest_write(device, common + 0x18, 2, ring->size);
    guest_write(device, common + 0x1a, 2, ring->index);
    guest_write(device, common + 0x20, 8, ring->desc);
    guest_write(device, common + 0x28, 4, (uint32_t)ring->driver);
    guest_write(device, common + 0x2c, 4, ring->driver >> 32);
    guest_write(device, common + 0x30, 8, ring->used);
    guest_write(device, common + 0x1c, 2, 1);
}

void guest_ring_init(struct guest_device *device, unsigned index, uint16_t size,
                     struct guest_ring *ring)
{
    uint64_t base = GUEST_RINGS + index * UINT64_C(0x10000);

    *ring = (struct guest_ring){
        .device = device,
        .index = index,
        .size = size,
        .packed = device->features & VIRTIO_F_RING_PACKED,
        .desc = base,
        .driver = base + 0x8000,
        .used = base + 0xc000,
        .wrap = true,
        .used_wrap = true,
    };
    if (mem_fill(device->guest->mem, base, 0, 0x10000) == 0)
        guest_ring_enable(ring);
}

void guest_descriptor(struct guest_ring *ring, uint64_t at, const struct guest_buffer *buffer,
                      uint16_t flags, uint16_t next_or_id)
{
    struct guest *guest = ring->device->guest;
    uint8_t raw[16];

    store_le64(raw, buffer->gpa);
    store_le32(raw + 8, buffer->length);
    store_le16(raw + (ring->packed ? 14 : 12), flags);
    store_le16(raw + (ring->packed ? 12 : 14), next_or_id);
    if (mem_write(guest->mem, at, raw, ring->packed ? 14 : 16) == 0 && ring->packed)
        guest_store16(guest, at + 14, flags);
}

static uint16_t buffer_flags(const struct guest_buffer *buffers, unsigned index, unsigned count)
{
    return (uint16_t)((buffers[index].write ? VIRTQ_DESC_F_WRITE : 0) |
                      (index + 1 < count ? VIRTQ_DESC_F_NEXT : 0));
}

static void post_packed(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count)
{
    uint16_t head = ring->next, head_flags = 0;

    ring->slots[head % 256] = (uint16_t)count;
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = buffer_flags(buffers, i, count);

        flags |= ring->wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
        if (i == 0)
            head_flags = flags;
        /* the head becomes available last */
        guest_descriptor(
            ring, ring->desc + ring->next * 16u, &buffers[i],
            i == 0 ? (uint16_t)(flags ^ VIRTQ_DESC_F_AVAIL ^ VIRTQ_DESC_F_USED) : flags, head);
        if (++ring->next == ring->size) {
            ring->next = 0;
            ring->wrap = !ring->wrap;
        }
    }
    guest_store16(ring->device->guest, ring->desc + head * 16u + 14, head_flags);
}

static void post_split(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count)
{
    struct guest *guest = ring->device->guest;
    uint16_t available = guest_load16(guest, ring->driver + 2);
    uint16_t head = (uint16_t)(ring->next % ring->size);

    for (unsigned i = 0; i < count; i++) {
        uint16_t at = (uint16_t)(ring->next++ % ring->size);

        guest_descriptor(ring, ring->desc + at * 16u, &buffers[i], buffer_flags(buffers, i, count),
                         (uint16_t)(ring->next % ring->size));
    }
    guest_store16(guest, ring->driver + 4 + available % ring->size * 2u, head);
    guest_store16(guest, ring->driver + 2, (uint16_t)(available + 1));
}

void guest_post(struct guest_ring *ring, const struct guest_buffer *buffers, unsigned count)
{
    if (ring->packed)
        post_packed(ring, buffers, count);
    else
        post_split(ring, buffers, count);
}

void guest_kick(const struct guest_ring *ring)
{
    const struct guest_device *device = ring->device;

    guest_write(device, device->notify + ring->index * device->notify_multiplier, 2, ring->index);
}

static bool used_split(struct guest_ring *ring, uint32_t *written)
{
    struct guest *guest = ring->device->guest;

    if (guest_load16(guest, ring->used + 2) == ring->used_next)
        return false;
    if (mem_read(guest->mem, ring->used + 8 + ring->used_next % ring->size * 8u, written, 4) < 0)
        return false;
    ring->used_next++;
    return true;
}

static bool used_packed(struct guest_ring *ring, uint32_t *written)
{
    struct guest *guest = ring->device->guest;
    uint64_t at = ring->desc + ring->used_next * 16u;
    uint16_t flags = guest_load16(guest, at + 14), id;
    bool avail = flags & VIRTQ_DESC_F_AVAIL, used = flags & VIRTQ_DESC_F_USED;

    if (avail != ring->used_wrap || used != ring->used_wrap)
        return false;
    id = guest_load16(guest, at + 12);
    if (mem_read(guest->mem, at + 8, written, 4) < 0)
        return false;
    ring->used_next = (uint16_t)(ring->used_next + ring->slots[id % 256]);
    if (ring->used_next >= ring->size) {
        ring->used_next = (uint16_t)(ring->used_next - ring->size);
        ring->used_wrap = !ring->used_wrap;
    }
    return true;
}

int64_t guest_wait(struct guest_ring *ring)
{
    uint64_t end = clock_monotonic_ns() + WAIT_NS;
    uint32_t written = 0;

    while (!(ring->packed ? used_packed(ring, &written) : used_split(ring, &written))) {
        if (clock_monotonic_ns() > end)
            return -1;
        guest_sleep_ms(0);
    }
    return written;
}

void guest_pattern_fill(struct guest *guest, uint64_t gpa, uint8_t seed, unsigned length)
{
    for (unsigned i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)(seed + i * 7 + (i >> 8));

        if (mem_write(guest->mem, gpa + i, &byte, 1) < 0)
            return;
    }
}
