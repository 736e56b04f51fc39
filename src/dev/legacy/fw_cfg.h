/*
 * The firmware configuration device (QEMU's fw_cfg interface: docs/specs/fw_cfg): keyed items and
 * named files that firmware reads through ports 0x510 (selector), 0x511 (data) or by DMA (0x514).
 *
 * Items are added before vCPUs run. Guest input: selectors, data reads, DMA descriptors; all of it
 * is hostile. Threads: port accesses from any vCPU, serialised by the device's own lock.
 */
#ifndef FREEHOLD_DEV_LEGACY_FW_CFG_H
#define FREEHOLD_DEV_LEGACY_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "mem/bus.h"
#include "mem/mem.h"

#define FW_CFG_RAM_SIZE      0x03
#define FW_CFG_NOGRAPHIC     0x04
#define FW_CFG_NB_CPUS       0x05
#define FW_CFG_BOOT_MENU     0x0e
#define FW_CFG_MAX_CPUS      0x0f

#define FW_CFG_FILES_MAX     32
#define FW_CFG_FILE_NAME_MAX 55

struct fw_cfg;

/* Claims ports 0x510 to 0x51b of `ports`. Signature, id and directory items are there at once. */
MUST_CHECK int fw_cfg_new(struct mem *mem, struct bus *ports, struct fw_cfg **out);
void fw_cfg_free(struct fw_cfg *cfg);
void fw_cfg_reset(struct fw_cfg *cfg);

/* Items hold a copy of the data. -EEXIST, -ENOSPC, -ENOMEM, -ENAMETOOLONG. */
MUST_CHECK int fw_cfg_add_item(struct fw_cfg *cfg, uint16_t key, const void *data, size_t length);
MUST_CHECK int fw_cfg_add_u16(struct fw_cfg *cfg, uint16_t key, uint16_t value);
MUST_CHECK int fw_cfg_add_u64(struct fw_cfg *cfg, uint16_t key, uint64_t value);
MUST_CHECK int fw_cfg_add_file(struct fw_cfg *cfg, const char *name, const void *data,
                               size_t length);

#endif
