/* SMBIOS: the entry point's checksum, and a walk over all structures as an OS makes it. */
#include "machine/smbios.h"

#include <errno.h>
#include <stdlib.h>

#include "base/endian.h"
#include "base/test.h"

static const uint8_t types_wanted[] = {0, 1, 3, 4, 16, 17, 19, 19, 32, 127};

static void config_make(struct smbios_config *config, struct memmap *map)
{
    if (memmap_build(5 * GIB, 46, map, NULL))
        abort();
    *config = (struct smbios_config){
        .name = "a name that is much longer than the sixty-three bytes that one string may have",
        .cpu_model = "x86-64-v3",
        .vcpu_count = 300,
        .memory_bytes = 5 * GIB,
        .map = map,
    };
}

/* The n-th string of the structure (DSP0134, 6.1.3). */
static const char *structure_string(const uint8_t *structure, unsigned n)
{
    const char *text = (const char *)structure + structure[1];

    while (--n)
        text += strlen(text) + 1;
    return text;
}

static void test_structures(struct test *t)
{
    struct smbios_config config;
    struct smbios_tables tables;
    struct memmap map;
    size_t at = 0;

    config_make(&config, &map);
    CHECK_EQ(t, smbios_tables_build(&config, &tables), 0);
    for (unsigned i = 0; i < sizeof types_wanted; i++) {
        const uint8_t *s = tables.bytes + at;
        if (!CHECK(t, at + 4 < tables.length))
            return;
        CHECK_EQ(t, s[0], types_wanted[i]);
        if (s[0] == 1)
            CHECK_EQ(t, strlen(structure_string(s, s[0x1a])), 63);
        if (s[0] == 4) {
            CHECK_STR(t, structure_string(s, s[0x10]), "x86-64-v3");
            CHECK_EQ(t, s[0x23], 0xff);
            CHECK_EQ(t, load_le16(s + 0x2a), 300);
        }
        if (s[0] == 17)
            CHECK_EQ(t, load_le16(s + 0x0c), 5 * 1024);
        at += s[1];
        while (tables.bytes[at] || tables.bytes[at + 1])
            at++;
        at += 2;
    }
    CHECK_EQ(t, at, tables.length);
}

static void test_install(struct test *t)
{
    struct smbios_config config;
    struct smbios_tables tables;
    struct memmap map, small;
    struct mem *mem;
    uint8_t entry[SMBIOS_ENTRY_BYTES], bytes[SMBIOS_TABLE_MAX], sum = 0;

    config_make(&config, &map);
    CHECK_EQ(t, smbios_tables_build(&config, &tables), 0);
    if (memmap_build(4 * MIB, 46, &small, NULL) || mem_new(&mem) ||
        memmap_add_ram(&small, mem, NULL))
        abort();
    CHECK_EQ(t, smbios_tables_install(&tables, mem, 0xf0000, 0x10000), 0);
    CHECK_EQ(t, mem_read(mem, 0xf0000, entry, sizeof entry), 0);
    CHECK_MEM(t, entry, "_SM3_", 5);
    for (unsigned i = 0; i < sizeof entry; i++)
        sum = (uint8_t)(sum + entry[i]);
    CHECK_EQ(t, sum, 0);
    CHECK_EQ(t, load_le32(entry + 12), tables.length);
    CHECK_EQ(t, mem_read(mem, load_le64(entry + 16), bytes, tables.length), 0);
    CHECK_MEM(t, bytes, tables.bytes, tables.length);
    CHECK_EQ(t, smbios_tables_install(&tables, mem, 0xf0000, tables.length), -ENOSPC);
    mem_free(mem);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_structures);
    TEST_RUN(&t, test_install);
    return test_end(&t);
}
