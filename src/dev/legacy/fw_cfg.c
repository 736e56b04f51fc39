/*
 * The firmware configuration device. Purpose, threads and trust: fw_cfg.h.
 *
 * Source: QEMU docs/specs/fw_cfg.rst. All items are read-only; the DMA interface's descriptor and
 * its addresses come from the guest: the descriptor is copied once, and only mem_* touches RAM.
 */
#include "dev/legacy/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"

#define FW_CFG_PORT      0x510
#define FW_CFG_PORTS     12
#define PORT_SELECTOR    0 /* offsets from FW_CFG_PORT */
#define PORT_DATA        1
#define PORT_DMA_HIGH    4
#define PORT_DMA_LOW     8

#define FW_CFG_SIGNATURE 0x00
#define FW_CFG_ID        0x01
#define FW_CFG_FILE_DIR  0x19
#define FW_CFG_FILE_KEY  0x20 /* of the first file */

#define ID_TRADITIONAL   1u
#define ID_DMA           2u

#define DMA_ERROR        0x01u
#define DMA_READ         0x02u
#define DMA_SKIP         0x04u
#define DMA_SELECT       0x08u
#define DMA_WRITE        0x10u
#define DMA_BYTES_MAX    (64u << 20) /* of one transfer, so that a guest can't keep us for long */

#define DIR_ENTRY_BYTES  64u
#define ITEMS_MAX        (FW_CFG_FILES_MAX + 16)

static const uint64_t dma_signature = UINT64_C(0x51454d5520434647); /* "QEMU CFG" */

struct fw_cfg_item {
    uint16_t key;
    uint8_t *data;
    size_t length;
};

struct fw_cfg {
    struct mem *mem;
    struct bus *ports;
    pthread_mutex_t lock; /* all below; items and files only change before vCPUs run */
    unsigned item_count;
    struct fw_cfg_item item[ITEMS_MAX];
    unsigned file_count;
    uint8_t directory[4 + FW_CFG_FILES_MAX * DIR_ENTRY_BYTES];
    uint16_t selected;
    uint64_t offset; /* in the selected item */
    uint32_t dma_high;
};

static const struct fw_cfg_item *item_find(const struct fw_cfg *cfg, uint16_t key)
{
    for (unsigned i = 0; i < cfg->item_count; i++) {
        if (cfg->item[i].key == key)
            return &cfg->item[i];
    }
    return NULL;
}

static void item_select(struct fw_cfg *cfg, uint16_t key)
{
    cfg->selected = key;
    cfg->offset = 0;
}

/* What is left of the selected item from the current offset on. */
static size_t item_rest(const struct fw_cfg *cfg, const uint8_t **bytes)
{
    const struct fw_cfg_item *item = item_find(cfg, cfg->selected);

    if (cfg->selected == FW_CFG_FILE_DIR) {
        size_t length = 4 + cfg->file_count * (size_t)DIR_ENTRY_BYTES;
        *bytes = cfg->directory + cfg->offset;
        return cfg->offset < length ? length - cfg->offset : 0;
    }
    if (!item || cfg->offset >= item->length)
        return 0;
    *bytes = item->data + cfg->offset;
    return item->length - cfg->offset;
}

/* Past its end an item reads as zeroes. */
static uint8_t item_read_byte(struct fw_cfg *cfg)
{
    const uint8_t *bytes = NULL;
    uint8_t value = item_rest(cfg, &bytes) ? bytes[0] : 0;

    cfg->offset++;
    return value;
}

static int dma_read(struct fw_cfg *cfg, uint64_t gpa, uint32_t length)
{
    const uint8_t *bytes = NULL;
    size_t rest = item_rest(cfg, &bytes);
    size_t copied = rest < length ? rest : length;
    int rc = copied ? mem_write(cfg->mem, gpa, bytes, copied) : 0;

    if (!rc && copied < length)
        rc = mem_fill(cfg->mem, gpa + copied, 0, length - copied);
    return rc;
}

/* Returns the control field's new value. */
static uint32_t dma_transfer(struct fw_cfg *cfg, uint32_t control, uint32_t length, uint64_t gpa)
{
    uint32_t result = 0;

    if (control & DMA_SELECT)
        item_select(cfg, (uint16_t)(control >> 16));
    if (control & DMA_READ)
        result = length > DMA_BYTES_MAX || dma_read(cfg, gpa, length) ? DMA_ERROR : 0;
    else if (control & DMA_WRITE)
        result = DMA_ERROR;
    if (control & (DMA_READ | DMA_SKIP))
        cfg->offset += length;
    return result;
}

static void dma_start(struct fw_cfg *cfg, uint32_t low)
{
    uint64_t gpa = (uint64_t)cfg->dma_high << 32 | low;
    uint8_t descriptor[16]; /* big-endian: control, length, address */
    uint32_t words[2];
    uint64_t address;

    cfg->dma_high = 0;
    if (mem_read(cfg->mem, gpa, descriptor, sizeof descriptor))
        return; /* nowhere to report it */
    memcpy(words, descriptor, sizeof words);
    memcpy(&address, descriptor + 8, sizeof address);
    uint32_t result =
        htobe32(dma_transfer(cfg, be32toh(words[0]), be32toh(words[1]), be64toh(address)));
    if (mem_write(cfg->mem, gpa, &result, sizeof result))
        return; /* it was readable: not RAM, so the guest can't see it either */
}

static uint64_t fw_cfg_read(void *device, uint64_t offset, unsigned size)
{
    struct fw_cfg *cfg = device;
    uint64_t value = 0;

    pthread_mutex_lock(&cfg->lock);
    if (offset == PORT_DATA && size == 1)
        value = item_read_byte(cfg);
    else if (offset == PORT_SELECTOR && size == 2)
        value = cfg->selected;
    else if (offset == PORT_DMA_HIGH && size == 4)
        value = htobe32((uint32_t)(dma_signature >> 32));
    else if (offset == PORT_DMA_LOW && size == 4)
        value = htobe32((uint32_t)dma_signature);
    pthread_mutex_unlock(&cfg->lock);
    return value;
}

static void fw_cfg_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *cfg = device;

    pthread_mutex_lock(&cfg->lock);
    if (offset == PORT_SELECTOR && size == 2)
        item_select(cfg, (uint16_t)value);
    else if (offset == PORT_DMA_HIGH && size == 4)
        cfg->dma_high = be32toh((uint32_t)value);
    else if (offset == PORT_DMA_LOW && size == 4)
        dma_start(cfg, be32toh((uint32_t)value));
    pthread_mutex_unlock(&cfg->lock);
}

static const struct bus_ops fw_cfg_ports = {.read = fw_cfg_read, .write = fw_cfg_write};

int fw_cfg_new(struct mem *mem, struct bus *ports, struct fw_cfg **out)
{
    const uint8_t id[4] = {ID_TRADITIONAL | ID_DMA};
    struct fw_cfg *cfg = calloc(1, sizeof *cfg);
    int rc;

    if (!cfg)
        return -ENOMEM;
    cfg->mem = mem;
    cfg->ports = ports;
    pthread_mutex_init(&cfg->lock, NULL);
    rc = fw_cfg_add_item(cfg, FW_CFG_SIGNATURE, "QEMU", 4);
    if (!rc)
        rc = fw_cfg_add_item(cfg, FW_CFG_ID, id, sizeof id);
    if (!rc)
        rc = bus_add(ports, &(struct bus_range){.name = "fw_cfg",
                                                .base = FW_CFG_PORT,
                                                .size = FW_CFG_PORTS,
                                                .ops = &fw_cfg_ports,
                                                .device = cfg});
    if (rc)
        fw_cfg_free(cfg);
    else
        *out = cfg;
    return rc;
}

void fw_cfg_free(struct fw_cfg *cfg)
{
    if (!cfg)
        return;
    bus_remove(cfg->ports, FW_CFG_PORT, cfg);
    for (unsigned i = 0; i < cfg->item_count; i++)
        free(cfg->item[i].data);
    pthread_mutex_destroy(&cfg->lock);
    free(cfg);
}

void fw_cfg_reset(struct fw_cfg *cfg)
{
    pthread_mutex_lock(&cfg->lock);
    item_select(cfg, 0);
    cfg->dma_high = 0;
    pthread_mutex_unlock(&cfg->lock);
}

int fw_cfg_add_item(struct fw_cfg *cfg, uint16_t key, const void *data, size_t length)
{
    uint8_t *copy;

    if (item_find(cfg, key) || key == FW_CFG_FILE_DIR)
        return -EEXIST;
    if (cfg->item_count == ITEMS_MAX)
        return -ENOSPC;
    copy = malloc(length ? length : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, length);
    cfg->item[cfg->item_count++] = (struct fw_cfg_item){key, copy, length};
    return 0;
}

int fw_cfg_add_u16(struct fw_cfg *cfg, uint16_t key, uint16_t value)
{
    uint8_t bytes[2];

    store_le16(bytes, value);
    return fw_cfg_add_item(cfg, key, bytes, sizeof bytes);
}

int fw_cfg_add_u64(struct fw_cfg *cfg, uint16_t key, uint64_t value)
{
    uint8_t bytes[8];

    store_le64(bytes, value);
    return fw_cfg_add_item(cfg, key, bytes, sizeof bytes);
}

/* Directory entry: size and key big-endian, two reserved bytes, the zero-padded name. */
int fw_cfg_add_file(struct fw_cfg *cfg, const char *name, const void *data, size_t length)
{
    uint16_t key = (uint16_t)(FW_CFG_FILE_KEY + cfg->file_count);
    uint8_t *entry = cfg->directory + 4 + cfg->file_count * (size_t)DIR_ENTRY_BYTES;
    int rc;

    if (cfg->file_count == FW_CFG_FILES_MAX)
        return -ENOSPC;
    if (strlen(name) > FW_CFG_FILE_NAME_MAX || length > UINT32_MAX)
        return -ENAMETOOLONG;
    rc = fw_cfg_add_item(cfg, key, data, length);
    if (rc)
        return rc;
    store_le32(entry, htobe32((uint32_t)length));
    store_le16(entry + 4, htobe16(key));
    strcpy((char *)entry + 8, name);
    cfg->file_count++;
    store_le32(cfg->directory, htobe32(cfg->file_count));
    return 0;
}
