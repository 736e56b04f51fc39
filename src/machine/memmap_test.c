/* The memory map: sizes at and beyond every boundary, and that entries are sorted and disjoint. */
#include "machine/memmap.h"

#include <errno.h>

#include "base/test.h"
#include "mem/mem.h"

static void check_sorted(struct test *t, const struct memmap *map)
{
    uint64_t ram = 0;

    for (unsigned i = 0; i < map->count; i++) {
        if (i)
            CHECK(t, map->entry[i].base >= map->entry[i - 1].base + map->entry[i - 1].size);
        CHECK(t, map->entry[i].size > 0);
        if (map->entry[i].type == MEMMAP_RAM)
            ram += map->entry[i].size;
    }
    /* All but the holes below 1 MiB is offered to the guest. */
    CHECK_EQ(t, ram, map->low_ram + map->high_ram - (PC_BIOS_END - PC_EBDA_GPA));
}

static void test_sizes(struct test *t)
{
    static const uint64_t sizes[] = {2 * MIB, 128 * MIB,      3 * GIB - 4096,
                                     3 * GIB, 3 * GIB + 4096, 64 * GIB};
    struct memmap map;

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK_EQ(t, memmap_build(sizes[i], 46, &map, NULL), 0);
        CHECK_EQ(t, map.low_ram + map.high_ram, sizes[i]);
        CHECK(t, map.low_ram <= 3 * GIB);
        check_sorted(t, &map);
    }
}

static void test_refused(struct test *t)
{
    static const uint64_t sizes[] = {0, 1, 4096, 2 * MIB - 4096, 16 * MIB + 1, UINT64_MAX};
    struct memmap map;

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct error err = {0};
        CHECK_EQ(t, memmap_build(sizes[i], 46, &map, &err), -EINVAL);
        CHECK(t, err.text[0] != 0);
    }
    CHECK_EQ(t, memmap_build(64 * GIB, 36, &map, NULL), -EINVAL); /* RAM would end at 65 GiB */
    CHECK_EQ(t, memmap_build(63 * GIB, 36, &map, NULL), 0);
}

static void test_pci64(struct test *t)
{
    struct memmap map;

    CHECK_EQ(t, memmap_build(GIB, 46, &map, NULL), 0);
    CHECK_EQ(t, map.pci64_base, UINT64_C(1) << 44);
    CHECK_EQ(t, map.pci64_size, UINT64_C(1) << 40);
    CHECK_EQ(t, memmap_build(GIB, 36, &map, NULL), 0);
    CHECK_EQ(t, map.pci64_base, 32 * GIB);
    CHECK_EQ(t, map.pci64_size, 32 * GIB);
    CHECK_EQ(t, memmap_build(40 * GIB, 36, &map, NULL), 0); /* RAM reaches into it */
    CHECK_EQ(t, map.pci64_size, 0);
}

static void test_ram(struct test *t)
{
    struct memmap map;
    struct mem *mem;
    uint8_t byte = 1;

    CHECK_EQ(t, memmap_build(3 * GIB + 16 * MIB, 46, &map, NULL), 0);
    if (mem_new(&mem) || !CHECK_EQ(t, memmap_add_ram(&map, mem, NULL), 0))
        return;
    CHECK_EQ(t, mem_read(mem, 0x9ffff, &byte, 1), 0);
    CHECK_EQ(t, mem_read(mem, 0xa0000, &byte, 1), -EFAULT);
    CHECK_EQ(t, mem_read(mem, 0xbffff, &byte, 1), -EFAULT);
    CHECK_EQ(t, mem_read(mem, 0xc0000, &byte, 1), 0);
    CHECK_EQ(t, mem_read(mem, 3 * GIB - 1, &byte, 1), 0);
    CHECK_EQ(t, mem_read(mem, 3 * GIB, &byte, 1), -EFAULT);
    CHECK_EQ(t, mem_read(mem, 4 * GIB + 16 * MIB - 1, &byte, 1), 0);
    CHECK_EQ(t, mem_read(mem, 4 * GIB + 16 * MIB, &byte, 1), -EFAULT);
    mem_free(mem);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_sizes);
    TEST_RUN(&t, test_refused);
    TEST_RUN(&t, test_pci64);
    TEST_RUN(&t, test_ram);
    return test_end(&t);
}
