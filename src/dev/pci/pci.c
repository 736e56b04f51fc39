/*
 * One PCI function: its header, BARs and capability list.
 *
 * The guest's writes are masked by `writable`, so that read-only bits, the size of a BAR and the
 * type bits need no code of their own. Threads: with the root's lock held (see pci.h). Trusts the
 * device that fills the structure, not the guest.
 */
#include "dev/pci/pci.h"

#include <assert.h>
#include <string.h>

#include "base/endian.h"
#include "dev/pci/internal.h"

/* ---- BARs ---- */

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_bar *bar = opaque;

    return bar->ops->read ? bar->ops->read(bar->device, offset, size) : UINT64_MAX;
}

static void bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bar *bar = opaque;

    if (bar->ops->write)
        bar->ops->write(bar->device, offset, size, value);
}

/* The bus sees the BAR itself as its device, so that two BARs that the guest puts at one address
 * stay distinct. */
static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static struct bus *bar_bus(const struct pci_device *device, const struct pci_bar *bar)
{
    const struct pci_root_config *config = &device->root->config;

    return bar->kind == PCI_BAR_IO ? config->ports : config->mmio;
}

static uint64_t bar_address(const struct pci_device *device, unsigned index)
{
    const uint8_t *at = &device->config[PCI_BAR0 + index * 4];

    switch (device->bar[index].kind) {
    case PCI_BAR_IO:
        return load_le32(at) & ~3u;
    case PCI_BAR_MEM32:
        return load_le32(at) & ~15u;
    case PCI_BAR_MEM64:
        return load_le64(at) & ~UINT64_C(15);
    case PCI_BAR_NONE:
        break;
    }
    return 0;
}

static bool bar_decoded(const struct pci_device *device, const struct pci_bar *bar)
{
    uint16_t command = load_le16(&device->config[PCI_COMMAND]);

    if (bar->kind == PCI_BAR_IO)
        return (command & PCI_COMMAND_IO) && bar->address + bar->size <= 0x10000;
    return (command & PCI_COMMAND_MEMORY) != 0;
}

static void bar_unmap(struct pci_device *device, struct pci_bar *bar)
{
    if (bar->mapped)
        bus_remove(bar_bus(device, bar), bar->mapped_at, bar);
    bar->mapped = false;
}

/* Where the bus refuses (the range wraps, the table is full) the BAR just does not answer. Address
 * 0 means "not programmed", as on a PC. */
static void bar_map(struct pci_device *device, struct pci_bar *bar)
{
    struct bus_range range = {
        .name = device->name,
        .base = bar->address,
        .size = bar->size,
        .ops = &bar_ops,
        .device = bar,
    };

    if (bar->address == 0 || !bar_decoded(device, bar))
        return;
    bar->mapped_at = bar->address;
    bar->mapped = bus_add(bar_bus(device, bar), &range) == 0;
}

void pci_bars_update(struct pci_device *device)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &device->bar[i];

        if (bar->kind == PCI_BAR_NONE)
            continue;
        bar->address = bar_address(device, i);
        if (bar->mapped && bar->mapped_at == bar->address && bar_decoded(device, bar))
            continue;
        bar_unmap(device, bar);
        bar_map(device, bar);
    }
}

void pci_bars_unmap(struct pci_device *device)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        bar_unmap(device, &device->bar[i]);
}

void pci_bar_init(struct pci_device *device, unsigned index, const struct pci_bar *bar)
{
    unsigned at = PCI_BAR0 + index * 4;
    uint64_t mask = ~(bar->size - 1);

    assert(index < PCI_BARS && (bar->size & (bar->size - 1)) == 0);
    assert(bar->size >= (bar->kind == PCI_BAR_IO ? 4 : 16) && bar->size <= UINT32_MAX);
    device->bar[index] = (struct pci_bar){
        .kind = bar->kind,
        .size = bar->size,
        .ops = bar->ops,
        .device = bar->device,
    };
    store_le32(&device->writable[at], (uint32_t)mask);
    if (bar->kind == PCI_BAR_IO) {
        store_le32(&device->config[at], 1); /* 6.2.5.1: bit 0 is set for I/O */
    } else if (bar->kind == PCI_BAR_MEM64) {
        assert(index + 1 < PCI_BARS);
        store_le32(&device->config[at], 4); /* bits 2:1 = 10b: 64 bits wide */
        store_le32(&device->writable[at + 4], UINT32_MAX);
    }
}

/* ---- the header ---- */

void pci_device_init(struct pci_device *device, const char *name, const struct pci_device_ops *ops,
                     const struct pci_identity *identity)
{
    uint8_t *config = device->config;

    memset(device, 0, sizeof *device);
    device->name = name;
    device->ops = ops;
    device->next_capability = 0x40;
    pthread_mutex_init(&device->irq_lock, NULL);
    store_le16(config + PCI_VENDOR_ID, identity->vendor);
    store_le16(config + PCI_DEVICE_ID, identity->device);
    config[PCI_REVISION] = identity->revision;
    config[PCI_CLASS] = (uint8_t)identity->class_code;
    config[PCI_CLASS + 1] = (uint8_t)(identity->class_code >> 8);
    config[PCI_CLASS + 2] = (uint8_t)(identity->class_code >> 16);
    store_le16(config + PCI_SUBSYSTEM_VENDOR, identity->subsystem_vendor);
    store_le16(config + PCI_SUBSYSTEM_ID, identity->subsystem);
    config[PCI_INTERRUPT_PIN] = identity->intx;
    device->writable[PCI_INTERRUPT_LINE] = 0xff;
    store_le16(device->writable + PCI_COMMAND,
               PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
}

void pci_device_fini(struct pci_device *device)
{
    pthread_mutex_destroy(&device->irq_lock);
}

unsigned pci_capability_add(struct pci_device *device, uint8_t id, unsigned size,
                            const uint8_t *body)
{
    unsigned offset = device->next_capability;
    uint8_t *config = device->config;

    assert(size >= 2 && offset + size <= PCI_CONFIG_SIZE);
    config[offset] = id;
    memcpy(config + offset + 2, body, size - 2);
    config[device->last_capability ? device->last_capability + 1 : PCI_CAPABILITIES] =
        (uint8_t)offset;
    config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    device->last_capability = offset;
    device->next_capability = (offset + size + 3u) & ~3u;
    return offset;
}

void pci_capability_hook(struct pci_device *device, unsigned offset, unsigned size)
{
    device->hook_start = offset;
    device->hook_size = size;
}

static bool pci_hooked(const struct pci_device *device, unsigned offset, unsigned size)
{
    return device->ops->config && ranges_touch(offset, size, device->hook_start, device->hook_size);
}

uint32_t pci_device_read(struct pci_device *device, unsigned offset, unsigned size)
{
    uint8_t bytes[4] = {0};

    if (pci_hooked(device, offset, size))
        device->ops->config(device, offset, size, false);
    memcpy(bytes, device->config + offset, size);
    for (unsigned i = 0; i < size; i++) {
        if (offset + i == PCI_STATUS && __atomic_load_n(&device->intx, __ATOMIC_RELAXED))
            bytes[i] |= PCI_STATUS_INTX;
    }
    return load_le32(bytes);
}

void pci_device_write(struct pci_device *device, unsigned offset, unsigned size, uint32_t value)
{
    uint16_t old_command = load_le16(device->config + PCI_COMMAND), command;

    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = device->writable[offset + i];
        uint8_t *at = &device->config[offset + i];

        *at = (uint8_t)((*at & ~mask) | ((value >> (8 * i)) & mask));
    }
    command = load_le16(device->config + PCI_COMMAND);
    if (ranges_touch(offset, size, PCI_COMMAND, 2) ||
        ranges_touch(offset, size, PCI_BAR0, PCI_BARS * 4))
        pci_bars_update(device);
    if (offset >= 0x40 || command != old_command)
        pci_irq_update(device);
    if (command != old_command && device->ops->command)
        device->ops->command(device, command);
    if (pci_hooked(device, offset, size))
        device->ops->config(device, offset, size, true);
}

void pci_device_reset(struct pci_device *device)
{
    memcpy(device->config, device->at_reset, PCI_CONFIG_SIZE);
    pci_bars_update(device);
    pci_irq_reset(device);
    if (device->ops->reset)
        device->ops->reset(device);
}
