/*
 * The board's memory map: where RAM, windows and firmware areas lie, and the list that a guest is
 * told (E820). One place for every number, since ACPI, the loaders and the PCI host all need them.
 * Source: ACPI 6.4, 15 "System Address Map Interfaces" for the entry types.
 */
#ifndef FREEHOLD_MACHINE_MEMMAP_H
#define FREEHOLD_MACHINE_MEMMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct mem;

#define KIB                  UINT64_C(1024)
#define MIB                  (KIB * 1024)
#define GIB                  (MIB * 1024)

#define PC_EBDA_GPA          UINT64_C(0x9fc00) /* end of conventional memory */
#define PC_VGA_GPA           UINT64_C(0xa0000)
#define PC_OPTION_ROM_GPA    UINT64_C(0xc0000)
#define PC_BIOS_GPA          UINT64_C(0xe0000) /* tables lie here on a direct boot */
#define PC_BIOS_END          UINT64_C(0x100000)
#define PC_LOW_RAM_MAX       (3 * GIB)
#define PC_PCI32_GPA         UINT64_C(0xc0000000)
#define PC_PCI32_SIZE        UINT64_C(0x20000000)
#define PC_ECAM_GPA          UINT64_C(0xe0000000)
#define PC_ECAM_SIZE         UINT64_C(0x10000000)
#define PC_PCI32_UPPER_GPA   UINT64_C(0xf0000000) /* the second 32-bit window, above ECAM */
#define PC_PCI32_UPPER_SIZE  UINT64_C(0x0ec00000)
#define PC_IOAPIC_GPA        UINT64_C(0xfec00000)
#define PC_HPET_GPA          UINT64_C(0xfed00000)
#define PC_LAPIC_GPA         UINT64_C(0xfee00000)
#define PC_FIRMWARE_END      (4 * GIB)
#define PC_FIRMWARE_SIZE_MAX (16 * MIB)
#define PC_HIGH_RAM_GPA      (4 * GIB)

#define PC_MEMORY_MIN        (2 * MIB)

enum memmap_type {
    MEMMAP_RAM = 1,
    MEMMAP_RESERVED = 2,
    MEMMAP_ACPI = 3, /* reclaimable */
};

struct memmap_entry {
    uint64_t base, size;
    enum memmap_type type;
};

#define MEMMAP_ENTRIES_MAX 8

struct memmap {
    uint64_t low_ram;  /* bytes of RAM from address 0, the hole below 1 MiB included */
    uint64_t high_ram; /* bytes of RAM from 4 GiB up */
    uint64_t pci64_base, pci64_size; /* the 64-bit PCI window; size 0: none fits */
    unsigned count;
    struct memmap_entry entry[MEMMAP_ENTRIES_MAX]; /* sorted, disjoint: what an OS is told */
};

/* Lays out `memory_bytes` (a multiple of 4 KiB, at least PC_MEMORY_MIN) for a CPU with that many
 * physical address bits. -EINVAL with the user's sentence when it can't be. */
MUST_CHECK int memmap_build(uint64_t memory_bytes, unsigned physical_bits, struct memmap *out,
                            struct error *err);

/* Adds the RAM to the guest's address space. */
MUST_CHECK int memmap_add_ram(const struct memmap *map, struct mem *mem, struct error *err);

#endif
