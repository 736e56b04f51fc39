/*
 * The board's memory map. Purpose and sources: memmap.h. Pure arithmetic on the user's memory size;
 * no threads, no guest input.
 */
#include "machine/memmap.h"

#include <errno.h>
#include <inttypes.h>

#include "mem/mem.h"

#define PCI64_BASE_BITS_MAX 44
#define PCI64_SIZE_MAX      (UINT64_C(1) << 40)

static void memmap_append(struct memmap *map, uint64_t base, uint64_t end, enum memmap_type type)
{
    map->entry[map->count++] =
        (struct memmap_entry){.base = base, .size = end - base, .type = type};
}

/* The window lies in the upper half of what the CPU can address, at most at 2^44. */
static void memmap_place_pci64(struct memmap *map, unsigned physical_bits)
{
    unsigned base_bits = physical_bits - 1;

    if (base_bits > PCI64_BASE_BITS_MAX)
        base_bits = PCI64_BASE_BITS_MAX;
    uint64_t base = UINT64_C(1) << base_bits;
    if (base < PC_HIGH_RAM_GPA + map->high_ram)
        return;
    map->pci64_base = base;
    map->pci64_size = base < PCI64_SIZE_MAX ? base : PCI64_SIZE_MAX;
}

int memmap_build(uint64_t memory_bytes, unsigned physical_bits, struct memmap *out,
                 struct error *err)
{
    struct memmap map = {0};

    if (memory_bytes < PC_MEMORY_MIN)
        return error_set(err, -EINVAL,
                         "%" PRIu64 " bytes are too little memory for the board; give at least 2M",
                         memory_bytes);
    if (memory_bytes % GUEST_PAGE_SIZE)
        return error_set(err, -EINVAL,
                         "a memory size of %" PRIu64
                         " bytes is not a multiple of 4 KiB; give whole pages",
                         memory_bytes);
    map.low_ram = memory_bytes < PC_LOW_RAM_MAX ? memory_bytes : PC_LOW_RAM_MAX;
    map.high_ram = memory_bytes - map.low_ram;
    if (physical_bits < 32 || physical_bits > 52 ||
        map.high_ram > (UINT64_C(1) << physical_bits) - PC_HIGH_RAM_GPA)
        return error_set(err, -EINVAL,
                         "%" PRIu64 " MiB of memory do not fit in the CPU's %u physical address "
                         "bits; give less memory",
                         memory_bytes / MIB, physical_bits);
    memmap_place_pci64(&map, physical_bits);
    memmap_append(&map, 0, PC_EBDA_GPA, MEMMAP_RAM);
    memmap_append(&map, PC_EBDA_GPA, PC_VGA_GPA, MEMMAP_RESERVED);
    memmap_append(&map, PC_BIOS_GPA, PC_BIOS_END, MEMMAP_RESERVED);
    memmap_append(&map, PC_BIOS_END, map.low_ram, MEMMAP_RAM);
    memmap_append(&map, PC_ECAM_GPA, PC_ECAM_GPA + PC_ECAM_SIZE, MEMMAP_RESERVED);
    if (map.high_ram)
        memmap_append(&map, PC_HIGH_RAM_GPA, PC_HIGH_RAM_GPA + map.high_ram, MEMMAP_RAM);
    *out = map;
    return 0;
}

int memmap_add_ram(const struct memmap *map, struct mem *mem, struct error *err)
{
    int rc = mem_add_ram(mem, 0, PC_VGA_GPA, err);

    if (!rc)
        rc = mem_add_ram(mem, PC_OPTION_ROM_GPA, map->low_ram - PC_OPTION_ROM_GPA, err);
    if (!rc && map->high_ram)
        rc = mem_add_ram(mem, PC_HIGH_RAM_GPA, map->high_ram, err);
    return rc;
}
