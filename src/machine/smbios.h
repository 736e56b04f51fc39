/*
 * SMBIOS tables (DMTF DSP0134 3.4): a 3.0 entry point and structures of types 0, 1, 3, 4, 16, 17,
 * 19, 32 and 127, for direct boots and for firmware (fw_cfg etc/smbios/...).
 * Input: our own configuration; strings given by the user are cut at 63 bytes.
 */
#ifndef FREEHOLD_MACHINE_SMBIOS_H
#define FREEHOLD_MACHINE_SMBIOS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/memmap.h"
#include "mem/mem.h"

#define SMBIOS_ENTRY_BYTES 24
#define SMBIOS_TABLE_MAX   4096

struct smbios_config {
    const char *name; /* of the VM, or NULL */
    const char *cpu_model;
    unsigned vcpu_count;
    uint32_t cpu_signature;
    uint64_t memory_bytes;
    const struct memmap *map;
};

struct smbios_tables {
    uint8_t entry[SMBIOS_ENTRY_BYTES]; /* the structure table's address is still 0 */
    uint8_t bytes[SMBIOS_TABLE_MAX];
    size_t length;
};

MUST_CHECK int smbios_tables_build(const struct smbios_config *config, struct smbios_tables *out);

/* Entry point at `gpa` (16-byte aligned, in 0xf0000-0xfffff), the structures behind it. */
MUST_CHECK int smbios_tables_install(const struct smbios_tables *tables, struct mem *mem,
                                     uint64_t gpa, uint64_t room);

#endif
