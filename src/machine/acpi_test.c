/*
 * ACPI tables: installed, they form a tree with good checksums; run by a loader as firmware has
 * one, the script gives the same tables at another address; iasl disassembles each without
 * complaint.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/test.h"
#include "machine/memmap.h"

#define TABLES_MAX 16

static const struct acpi_config config_small = {
    .vcpu_count = 2,
    .com_ports = 1,
    .pci64_base = UINT64_C(1) << 44,
    .pci64_size = UINT64_C(1) << 40,
    .ecam_base = PC_ECAM_GPA,
};

/* Guest memory from PC_BIOS_GPA on, as a plain copy, so that addresses can be followed. */
struct image {
    uint8_t bytes[64 * 1024];
    unsigned table_count;
    uint64_t table[TABLES_MAX];
};

static const uint8_t *image_at(const struct image *image, uint64_t gpa)
{
    return image->bytes + (gpa - PC_BIOS_GPA);
}

static bool sums_to_zero(const uint8_t *bytes, size_t length)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum == 0;
}

static void image_install(struct test *t, const struct acpi_config *config, struct image *image)
{
    struct acpi_tables tables;
    struct memmap map;
    struct mem *mem;
    uint64_t end = 0;

    memset(image, 0, sizeof *image);
    CHECK_EQ(t, acpi_tables_build(config, &tables), 0);
    if (memmap_build(4 * MIB, 46, &map, NULL) || mem_new(&mem) || memmap_add_ram(&map, mem, NULL))
        abort();
    CHECK_EQ(t, acpi_tables_install(&tables, mem, PC_BIOS_GPA, sizeof image->bytes, &end), 0);
    CHECK(t, end > PC_BIOS_GPA && end <= PC_BIOS_GPA + sizeof image->bytes);
    CHECK_EQ(t, acpi_tables_install(&tables, mem, PC_BIOS_GPA, tables.length, &end), -ENOSPC);
    if (mem_read(mem, PC_BIOS_GPA, image->bytes, sizeof image->bytes))
        abort();
    mem_free(mem);
    acpi_tables_fini(&tables);
}

static void check_table(struct test *t, struct image *image, uint64_t gpa, const char *signature)
{
    const uint8_t *table = image_at(image, gpa);

    CHECK_EQ(t, gpa % 64, 0);
    CHECK_MEM(t, table, signature, 4);
    CHECK(t, sums_to_zero(table, load_le32(table + 4)));
    image->table[image->table_count++] = gpa;
}

static const char *const system_tables[] = {"FACP", "SSDT", "APIC", "HPET", "MCFG"};

static void test_tree(struct test *t)
{
    static struct image image;

    image_install(t, &config_small, &image);
    const uint8_t *rsdp = image_at(&image, PC_BIOS_GPA);
    CHECK_MEM(t, rsdp, "RSD PTR ", 8);
    CHECK(t, sums_to_zero(rsdp, 20) && sums_to_zero(rsdp, 36));
    uint64_t rsdt = load_le32(rsdp + 16), xsdt = load_le64(rsdp + 24);
    check_table(t, &image, rsdt, "RSDT");
    check_table(t, &image, xsdt, "XSDT");
    CHECK_EQ(t, load_le32(image_at(&image, xsdt) + 4), 36 + 5 * 8);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t table = load_le64(image_at(&image, xsdt) + 36 + i * 8);
        CHECK_EQ(t, load_le32(image_at(&image, rsdt) + 36 + i * 4), table);
        check_table(t, &image, table, system_tables[i]);
    }
    const uint8_t *fadt = image_at(&image, load_le64(image_at(&image, xsdt) + 36));
    CHECK_EQ(t, load_le32(fadt + 4), 276);
    CHECK_EQ(t, load_le32(fadt + 40), load_le64(fadt + 140));
    check_table(t, &image, load_le32(fadt + 40), "DSDT");
    CHECK_EQ(t, load_le32(fadt + 36) % 64, 0);
    CHECK_MEM(t, image_at(&image, load_le32(fadt + 36)), "FACS", 4);
    const uint8_t *dsdt = image_at(&image, load_le32(fadt + 40));
    CHECK_MEM(t, dsdt + 37, "CONF", 4); /* the first thing in it */
    CHECK_EQ(t, load_le64(dsdt + 45), config_small.pci64_base);
    CHECK_EQ(t, load_le64(dsdt + 53), config_small.pci64_size);
    CHECK_EQ(t, load_le64(dsdt + 61), config_small.com_ports);
    CHECK_EQ(t, load_le32(fadt + 56), 0x600);
    CHECK_EQ(t, load_le32(fadt + 64), 0x604);
    CHECK_EQ(t, load_le32(fadt + 76), 0x608);
    CHECK_EQ(t, load_le64(fadt + 120), 0xcf9);
    CHECK_EQ(t, load_le32(fadt + 112) & (1u << 20), 0); /* not hardware-reduced */
}

static void test_processors(struct test *t)
{
    static struct image image;
    struct acpi_config config = config_small;

    config.vcpu_count = 255;
    image_install(t, &config, &image);
    const uint8_t *xsdt = image_at(&image, load_le64(image_at(&image, PC_BIOS_GPA) + 24));
    const uint8_t *madt = image_at(&image, load_le64(xsdt + 36 + 2 * 8));
    unsigned lapics = 0;
    for (uint32_t at = 44; at < load_le32(madt + 4); at += madt[at + 1]) {
        if (!CHECK(t, madt[at + 1] >= 6))
            break;
        if (madt[at] == 0) {
            CHECK_EQ(t, madt[at + 3], lapics);
            lapics++;
        }
    }
    CHECK_EQ(t, lapics, 255);
    struct acpi_tables tables;
    config.vcpu_count = 256;
    CHECK_EQ(t, acpi_tables_build(&config, &tables), -EINVAL);
}

/* ---- the loader script ---- */

/* A loader as firmware has one; addresses count from `rsdp_gpa` and `tables_gpa`. */
struct loader {
    uint8_t rsdp[ACPI_RSDP_BYTES];
    uint8_t *tables;
    size_t tables_bytes;
    uint64_t tables_gpa;
    unsigned allocated;
};

static uint8_t *loader_file(struct loader *loader, const uint8_t *name, size_t *bytes)
{
    if (strcmp((const char *)name, "etc/acpi/rsdp") == 0) {
        *bytes = sizeof loader->rsdp;
        return loader->rsdp;
    }
    *bytes = strcmp((const char *)name, "etc/acpi/tables") == 0 ? loader->tables_bytes : 0;
    return loader->tables;
}

static void loader_pointer(struct test *t, struct loader *loader, const uint8_t *entry)
{
    size_t bytes;
    uint8_t *file = loader_file(loader, entry + 4, &bytes);
    uint32_t offset = load_le32(entry + 116);
    uint8_t size = entry[120];
    uint64_t value = 0;

    CHECK_STR(t, (const char *)entry + 60, "etc/acpi/tables");
    if (!CHECK(t, (size == 4 || size == 8) && offset + size <= bytes))
        return;
    memcpy(&value, file + offset, size);
    CHECK(t, value < loader->tables_bytes);
    value += loader->tables_gpa;
    memcpy(file + offset, &value, size);
}

static void loader_checksum(struct test *t, struct loader *loader, const uint8_t *entry)
{
    size_t bytes;
    uint8_t *file = loader_file(loader, entry + 4, &bytes);
    uint32_t offset = load_le32(entry + 60), start = load_le32(entry + 64);
    uint32_t length = load_le32(entry + 68);
    uint8_t sum = 0;

    if (!CHECK(t, offset < bytes && start + length <= bytes))
        return;
    for (uint32_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + file[start + i]);
    file[offset] = (uint8_t)(file[offset] - sum);
}

static void loader_run(struct test *t, struct loader *loader, const uint8_t *script, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 128) {
        const uint8_t *entry = script + at;
        switch (load_le32(entry)) {
        case 1:
            CHECK_EQ(t, at / 128, loader->allocated); /* before all use */
            loader->allocated++;
            break;
        case 2:
            loader_pointer(t, loader, entry);
            break;
        case 3:
            loader_checksum(t, loader, entry);
            break;
        default:
            CHECK(t, false);
        }
    }
}

static void test_script(struct test *t)
{
    static struct image image;
    struct acpi_tables tables;
    struct loader loader = {.tables_gpa = PC_BIOS_GPA + 64};
    uint8_t *script;
    size_t bytes;

    image_install(t, &config_small, &image);
    CHECK_EQ(t, acpi_tables_build(&config_small, &tables), 0);
    CHECK_EQ(t, acpi_loader_script(&tables, &script, &bytes), 0);
    CHECK_EQ(t, bytes % 128, 0);
    loader.tables = tables.bytes;
    loader.tables_bytes = tables.length;
    memcpy(loader.rsdp, tables.rsdp, sizeof loader.rsdp);
    loader_run(t, &loader, script, bytes);
    CHECK_EQ(t, loader.allocated, 2);
    CHECK_MEM(t, loader.rsdp, image.bytes, sizeof loader.rsdp);
    CHECK_MEM(t, loader.tables, image.bytes + 64, loader.tables_bytes);
    free(script);
    acpi_tables_fini(&tables);
}

/* ---- iasl ---- */

static void table_write(const struct image *image, uint64_t gpa, const char *path)
{
    const uint8_t *table = image_at(image, gpa);
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(table, load_le32(table + 4), 1, file) != 1 || fclose(file))
        abort();
}

/* Runs a command; its output must not speak of errors or warnings ("0 Errors" is fine). */
static void check_command(struct test *t, const char *command)
{
    char line[256];
    FILE *output = popen(command, "r");

    if (!output)
        abort();
    while (fgets(line, sizeof line, output)) {
        bool bad = (strstr(line, "Error") || strstr(line, "Warning") || strstr(line, "rror:")) &&
                   !strstr(line, "0 Errors, 0 Warnings");
        if (!CHECK(t, !bad))
            printf("   %s", line);
    }
    CHECK_EQ(t, pclose(output), 0);
}

/* Every table is disassembled; the two with code are also compiled again. */
static void test_disassembled(struct test *t)
{
    static struct image image;
    char folder[] = "/tmp/freehold-acpi-XXXXXX", path[80], command[400];

    image_install(t, &config_small, &image);
    const uint8_t *xsdt = image_at(&image, load_le64(image_at(&image, PC_BIOS_GPA) + 24));
    const uint8_t *fadt = image_at(&image, load_le64(xsdt + 36));
    if (!mkdtemp(folder))
        abort();
    for (unsigned i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s.dat", folder, system_tables[i]);
        table_write(&image, load_le64(xsdt + 36 + i * 8), path);
    }
    snprintf(path, sizeof path, "%s/DSDT.dat", folder);
    table_write(&image, load_le32(fadt + 40), path);
    snprintf(command, sizeof command,
             "cd %s && for t in FACP APIC HPET MCFG; do iasl -d $t.dat 2>&1 || exit 1; done",
             folder);
    check_command(t, command);
    snprintf(command, sizeof command,
             "cd %s && iasl -e SSDT.dat -d DSDT.dat 2>&1 && iasl -e DSDT.dat -d SSDT.dat 2>&1 && "
             "iasl -p out DSDT.dsl 2>&1 && iasl -p out2 SSDT.dsl 2>&1",
             folder);
    check_command(t, command);
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK_EQ(t, system(command), 0);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_tree);
    TEST_RUN(&t, test_processors);
    TEST_RUN(&t, test_script);
    TEST_RUN(&t, test_disassembled);
    return test_end(&t);
}
