/*
 * The root complex: host bridge 0:0.0, configuration access by ports CF8/CFC and by ECAM, and the
 * assignment of addresses that firmware would do.
 *
 * Threads: any; `lock` serializes configuration space. All addresses and values are the guest's.
 * Source: PCI 3.0, 3.2.2.3.2 (mechanism 1); PCI Express Base 3.0, 7.2.2 (ECAM).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "dev/pci/internal.h"
#include "dev/pci/pci.h"

#define CONFIG_ADDRESS_PORT   0xcf8u
#define CONFIG_DATA_PORT      0xcfcu
#define CONFIG_ADDRESS_ENABLE 0x80000000u

/* ---- configuration space ---- */

static struct pci_device *root_device(struct pci_root *root, unsigned bdf)
{
    if (bdf >= PCI_SLOTS * 8 || (bdf & 7))
        return NULL; /* one bus, single-function devices */
    return root->device[bdf >> 3];
}

static uint32_t size_mask(unsigned size)
{
    return size >= 4 ? UINT32_MAX : (UINT32_C(1) << (size * 8)) - 1;
}

/* Bytes past the 256 of a conventional function read as zeroes: an empty extended space. */
static uint32_t config_read_locked(struct pci_root *root, unsigned bdf, unsigned offset,
                                   unsigned size)
{
    struct pci_device *device = root_device(root, bdf);
    uint32_t value = 0;

    if (!device)
        return size_mask(size);
    if (size == 0 || size > 4)
        return UINT32_MAX;
    if (offset < PCI_CONFIG_SIZE && size <= PCI_CONFIG_SIZE - offset && offset % size == 0)
        return pci_device_read(device, offset, size);
    for (unsigned i = 0; i < size; i++) {
        if (offset + i < PCI_CONFIG_SIZE)
            value |= pci_device_read(device, offset + i, 1) << (8 * i);
    }
    return value;
}

uint32_t pci_config_read(struct pci_root *root, unsigned bdf, unsigned offset, unsigned size)
{
    uint32_t value;

    pthread_mutex_lock(&root->lock);
    value = config_read_locked(root, bdf, offset, size);
    pthread_mutex_unlock(&root->lock);
    return value;
}

static void config_write_locked(struct pci_device *device, unsigned offset, unsigned size,
                                uint32_t value)
{
    if (size == 0 || size > 4)
        return;
    if (offset < PCI_CONFIG_SIZE && size <= PCI_CONFIG_SIZE - offset && offset % size == 0) {
        pci_device_write(device, offset, size, value);
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        if (offset + i < PCI_CONFIG_SIZE)
            pci_device_write(device, offset + i, 1, value >> (8 * i));
    }
}

void pci_config_write(struct pci_root *root, unsigned bdf, unsigned offset, unsigned size,
                      uint32_t value)
{
    struct pci_device *device;

    pthread_mutex_lock(&root->lock);
    device = root_device(root, bdf);
    if (device)
        config_write_locked(device, offset, size, value);
    pthread_mutex_unlock(&root->lock);
}

/* ---- CF8 and CFC ---- */

static uint64_t address_port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_root *root = opaque;
    uint32_t address;

    if (size != 4 || offset != 0)
        return UINT64_MAX;
    pthread_mutex_lock(&root->lock);
    address = root->address;
    pthread_mutex_unlock(&root->lock);
    return address;
}

static void address_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_root *root = opaque;

    if (size != 4 || offset != 0)
        return; /* only a whole double word is the register's */
    pthread_mutex_lock(&root->lock);
    root->address = (uint32_t)value & ~(UINT32_C(0x7f000000) | 3u);
    pthread_mutex_unlock(&root->lock);
}

static uint64_t data_port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_root *root = opaque;
    uint32_t address = (uint32_t)address_port_read(root, 0, 4);

    if (!(address & CONFIG_ADDRESS_ENABLE))
        return UINT64_MAX;
    return pci_config_read(root, (address >> 8) & 0xffff, (address & 0xfc) + (unsigned)offset,
                           size);
}

static void data_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_root *root = opaque;
    uint32_t address = (uint32_t)address_port_read(root, 0, 4);

    if (address & CONFIG_ADDRESS_ENABLE)
        pci_config_write(root, (address >> 8) & 0xffff, (address & 0xfc) + (unsigned)offset, size,
                         (uint32_t)value);
}

static const struct bus_ops address_port_ops = {address_port_read, address_port_write};
static const struct bus_ops data_port_ops = {data_port_read, data_port_write};

/* ---- ECAM ---- */

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    unsigned bdf = (unsigned)(offset >> 12), reg = (unsigned)offset & 0xfff;
    uint64_t value;

    if (size != 8)
        return pci_config_read(opaque, bdf, reg, size);
    value = pci_config_read(opaque, bdf, reg, 4);
    return value | (uint64_t)pci_config_read(opaque, bdf, reg + 4, 4) << 32;
}

static void ecam_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    unsigned bdf = (unsigned)(offset >> 12), reg = (unsigned)offset & 0xfff;

    pci_config_write(opaque, bdf, reg, size == 8 ? 4 : size, (uint32_t)value);
    if (size == 8)
        pci_config_write(opaque, bdf, reg + 4, 4, (uint32_t)(value >> 32));
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

/* ---- the root ---- */

static const struct pci_device_ops bridge_ops = {0};

/* A generic PCI Express host bridge. The subsystem is the one by which SeaBIOS knows a virtual
 * board and takes its configuration from fw_cfg. */
static const struct pci_identity bridge_identity = {
    .vendor = 0x1b36,
    .device = 0x0008,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x060000,
};

static int root_claim(struct pci_root *root)
{
    const struct pci_root_config *config = &root->config;
    const struct bus_range address = {"pci-address", CONFIG_ADDRESS_PORT, 4, &address_port_ops,
                                      root};
    const struct bus_range data = {"pci-data", CONFIG_DATA_PORT, 4, &data_port_ops, root};
    const struct bus_range ecam = {"pci-ecam", config->ecam_base, PCI_ECAM_SIZE, &ecam_ops, root};
    int rc = bus_add(config->ports, &address);

    if (rc == 0)
        rc = bus_add(config->ports, &data);
    if (rc == 0)
        rc = bus_add(config->mmio, &ecam);
    return rc;
}

int pci_root_new(const struct pci_root_config *config, struct pci_root **out)
{
    struct pci_root *root = calloc(1, sizeof *root);
    int rc;

    if (!root)
        return -ENOMEM;
    root->config = *config;
    if (!root->config.ecam_base)
        root->config.ecam_base = PCI_ECAM_BASE;
    pthread_mutex_init(&root->lock, NULL);
    pthread_mutex_init(&root->intx_lock, NULL);
    pci_device_init(&root->bridge, "pci-host", &bridge_ops, &bridge_identity);
    root->bridge.root = root;
    memcpy(root->bridge.at_reset, root->bridge.config, PCI_CONFIG_SIZE);
    root->device[0] = &root->bridge;
    rc = root_claim(root);
    if (rc < 0) {
        pci_root_free(root);
        return rc;
    }
    *out = root;
    return 0;
}

void pci_root_free(struct pci_root *root)
{
    if (!root)
        return;
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        struct pci_device *device = root->device[slot];

        if (!device)
            continue;
        pci_bars_unmap(device);
        root->device[slot] = NULL;
        if (device->ops->free)
            device->ops->free(device);
    }
    bus_remove(root->config.ports, CONFIG_ADDRESS_PORT, root);
    bus_remove(root->config.ports, CONFIG_DATA_PORT, root);
    bus_remove(root->config.mmio, root->config.ecam_base, root);
    pci_device_fini(&root->bridge);
    pthread_mutex_destroy(&root->intx_lock);
    pthread_mutex_destroy(&root->lock);
    free(root);
}

static unsigned root_free_slot(const struct pci_root *root)
{
    unsigned slot = 1;

    while (slot < PCI_SLOTS && root->device[slot])
        slot++;
    return slot;
}

int pci_root_add(struct pci_root *root, struct pci_device *device, unsigned slot)
{
    int rc = 0;

    pthread_mutex_lock(&root->lock);
    if (slot == 0)
        slot = root_free_slot(root);
    if (slot >= PCI_SLOTS) {
        rc = -ENOSPC;
    } else if (root->device[slot]) {
        rc = -EBUSY;
    } else {
        device->root = root;
        device->slot = slot;
        memcpy(device->at_reset, device->config, PCI_CONFIG_SIZE);
        root->device[slot] = device;
        pci_irq_reset(device);
    }
    pthread_mutex_unlock(&root->lock);
    return rc;
}

struct pci_device *pci_root_find(struct pci_root *root, unsigned slot)
{
    return slot < PCI_SLOTS ? root->device[slot] : NULL;
}

void pci_reset(struct pci_root *root)
{
    pthread_mutex_lock(&root->lock);
    root->address = 0;
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        if (root->device[slot])
            pci_device_reset(root->device[slot]);
    }
    pthread_mutex_unlock(&root->lock);
}

/* ---- what firmware does ---- */

struct cursor {
    uint64_t next, end;
};

static int cursor_take(struct cursor *cursor, uint64_t size, uint64_t *address)
{
    uint64_t base = (cursor->next + size - 1) & ~(size - 1); /* naturally aligned */

    if (base < cursor->next || base > cursor->end || size > cursor->end - base)
        return -ENOSPC;
    cursor->next = base + size;
    *address = base;
    return 0;
}

static int device_assign(struct pci_device *device, struct cursor *memory, struct cursor *io)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &device->bar[i];
        unsigned at = PCI_BAR0 + i * 4;
        uint64_t address;
        int rc;

        if (bar->kind == PCI_BAR_NONE)
            continue;
        rc = cursor_take(bar->kind == PCI_BAR_IO ? io : memory, bar->size, &address);
        if (rc < 0)
            return rc;
        pci_device_write(device, at, 4, (uint32_t)address);
        if (bar->kind == PCI_BAR_MEM64)
            pci_device_write(device, at + 4, 4, (uint32_t)(address >> 32));
    }
    return 0;
}

int pci_assign_resources(struct pci_root *root, const struct pci_windows *windows)
{
    struct cursor memory = {windows->mem_base, windows->mem_base + windows->mem_size};
    struct cursor io = {windows->io_base, windows->io_base + windows->io_size};
    int rc = 0;

    pthread_mutex_lock(&root->lock);
    for (unsigned slot = 1; slot < PCI_SLOTS && rc == 0; slot++) {
        struct pci_device *device = root->device[slot];

        if (!device)
            continue;
        rc = device_assign(device, &memory, &io);
        if (rc < 0)
            break;
        pci_device_write(device, PCI_INTERRUPT_LINE, 1, windows->gsi_base + pci_intx_line(slot));
        pci_device_write(device, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    }
    pthread_mutex_unlock(&root->lock);
    return rc;
}
