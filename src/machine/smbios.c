/*
 * SMBIOS tables. Purpose and source: smbios.h; field offsets as in DSP0134 3.4, chapter 7. Each
 * structure is a header, formatted bytes, and its strings; strings are numbered from 1.
 */
#include "machine/smbios.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"

#define ENTRY_ALIGN    64u /* the structures follow the entry point */
#define STRING_MAX     63
#define HANDLE_MEMORY  0x1000
#define HANDLE_BOARD   0x0300
#define DIMM_BYTES_MAX (UINT64_C(0x7fffffff) * MIB)

struct writer {
    struct smbios_tables *tables;
    uint8_t *start; /* of the structure under construction */
    unsigned string_count;
};

static uint8_t *writer_room(struct writer *w, size_t size)
{
    uint8_t *at = w->tables->bytes + w->tables->length;

    assert(size <= SMBIOS_TABLE_MAX - w->tables->length); /* strings are bounded, so is the rest */
    w->tables->length += size;
    return at;
}

static uint8_t *structure_begin(struct writer *w, uint8_t type, uint8_t length, uint16_t handle)
{
    w->start = writer_room(w, length);
    w->string_count = 0;
    w->start[0] = type;
    w->start[1] = length;
    store_le16(w->start + 2, handle);
    return w->start;
}

/* Appends a string and notes its number at `field` of the structure. */
static void structure_string(struct writer *w, unsigned field, const char *text)
{
    size_t length = strnlen(text, STRING_MAX);

    if (!length)
        return;
    memcpy(writer_room(w, length + 1), text, length);
    w->start[field] = (uint8_t)++w->string_count;
}

static void structure_end(struct writer *w)
{
    writer_room(w, w->string_count ? 1 : 2); /* an empty string ends them, two if there are none */
}

static void bios_build(struct writer *w)
{
    uint8_t *s = structure_begin(w, 0, 0x18, 0x0000);

    store_le16(s + 0x06, 0xe800);  /* starting segment */
    store_le64(s + 0x0a, 1u << 3); /* characteristics not supported */
    s[0x13] = 1u << 4;             /* extension byte 2: this is a virtual machine */
    s[0x14] = 0;                   /* release 0.1 */
    s[0x15] = 1;
    s[0x16] = s[0x17] = 0xff; /* no embedded controller */
    structure_string(w, 0x04, "Freehold");
    structure_string(w, 0x05, FREEHOLD_VERSION);
    structure_string(w, 0x08, "01/01/2025");
    structure_end(w);
}

static void system_build(struct writer *w, const struct smbios_config *config)
{
    uint8_t *s = structure_begin(w, 1, 0x1b, 0x0100);

    s[0x18] = 6; /* woken by the power switch */
    structure_string(w, 0x04, "Freehold");
    structure_string(w, 0x05, "Freehold pc");
    structure_string(w, 0x06, FREEHOLD_VERSION);
    structure_string(w, 0x1a, config->name ? config->name : "");
    structure_end(w);
}

static void chassis_build(struct writer *w)
{
    uint8_t *s = structure_begin(w, 3, 0x16, HANDLE_BOARD);

    s[0x05] = 1;                     /* type: other */
    s[0x09] = s[0x0a] = s[0x0b] = 3; /* boot-up, power and thermal states: safe */
    s[0x0c] = 2;                     /* security: unknown */
    structure_string(w, 0x04, "Freehold");
    structure_end(w);
}

static void processor_build(struct writer *w, const struct smbios_config *config)
{
    uint8_t *s = structure_begin(w, 4, 0x30, 0x0400);
    unsigned cores = config->vcpu_count;
    uint8_t small = cores < 256 ? (uint8_t)cores : 0xff;

    s[0x05] = 3; /* central processor */
    s[0x06] = 1; /* family: other */
    store_le32(s + 0x08, config->cpu_signature);
    s[0x18] = 0x41;               /* socket populated, enabled */
    s[0x19] = 1;                  /* upgrade: other */
    store_le16(s + 0x1a, 0xffff); /* no cache handles */
    store_le16(s + 0x1c, 0xffff);
    store_le16(s + 0x1e, 0xffff);
    s[0x23] = s[0x24] = s[0x25] = small;
    store_le16(s + 0x26, 0x000c); /* 64-bit, multi-core */
    store_le16(s + 0x28, 1);
    store_le16(s + 0x2a, (uint16_t)cores);
    store_le16(s + 0x2c, (uint16_t)cores);
    store_le16(s + 0x2e, (uint16_t)cores);
    structure_string(w, 0x04, "CPU 0");
    structure_string(w, 0x07, "Freehold");
    structure_string(w, 0x10, config->cpu_model);
    structure_end(w);
}

static void memory_array_build(struct writer *w, const struct smbios_config *config)
{
    uint8_t *s = structure_begin(w, 16, 0x17, HANDLE_MEMORY);

    s[0x04] = 1;                      /* location: other */
    s[0x05] = 3;                      /* use: system memory */
    s[0x06] = 6;                      /* error correction: multi-bit ECC */
    store_le32(s + 0x07, 0x80000000); /* see extended maximum capacity */
    store_le16(s + 0x0b, 0xfffe);     /* no error information */
    store_le16(s + 0x0d, 1);
    store_le64(s + 0x0f, config->memory_bytes);
    structure_end(w);
}

static void memory_device_build(struct writer *w, const struct smbios_config *config)
{
    uint8_t *s = structure_begin(w, 17, 0x28, 0x1100);
    uint64_t mib = config->memory_bytes / MIB;

    store_le16(s + 0x04, HANDLE_MEMORY);
    store_le16(s + 0x06, 0xfffe);
    store_le16(s + 0x08, 0xffff); /* widths unknown */
    store_le16(s + 0x0a, 0xffff);
    store_le16(s + 0x0c, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
    s[0x0e] = 9; /* form factor: DIMM */
    s[0x12] = 7; /* type: RAM */
    store_le16(s + 0x13, 1u << 1);
    store_le32(s + 0x1c, (uint32_t)(config->memory_bytes < DIMM_BYTES_MAX ? mib : 0x7fffffff));
    structure_string(w, 0x10, "DIMM 0");
    structure_string(w, 0x17, "Freehold");
    structure_end(w);
}

static void mapped_address_build(struct writer *w, uint16_t handle, uint64_t base, uint64_t size)
{
    uint8_t *s = structure_begin(w, 19, 0x1f, handle);

    store_le32(s + 0x04, UINT32_MAX); /* see the extended addresses */
    store_le32(s + 0x08, UINT32_MAX);
    store_le16(s + 0x0c, HANDLE_MEMORY);
    s[0x0e] = 1;
    store_le64(s + 0x0f, base);
    store_le64(s + 0x17, base + size - 1);
    structure_end(w);
}

static void tail_build(struct writer *w)
{
    structure_begin(w, 32, 0x0b, 0x2000); /* boot status: no errors */
    structure_end(w);
    structure_begin(w, 127, 0x04, 0x7f00);
    structure_end(w);
}

/* DSP0134, 5.2.2. The address is filled in by whoever places the structures. */
static void entry_checksum(uint8_t *entry)
{
    uint8_t sum = 0;

    entry[5] = 0;
    for (unsigned i = 0; i < SMBIOS_ENTRY_BYTES; i++)
        sum = (uint8_t)(sum + entry[i]);
    entry[5] = (uint8_t)-sum;
}

static void entry_build(struct smbios_tables *tables)
{
    uint8_t *entry = tables->entry;

    memcpy(entry, "_SM3_", 5);
    entry[6] = SMBIOS_ENTRY_BYTES;
    entry[7] = 3; /* version 3.4.0 */
    entry[8] = 4;
    entry[10] = 1; /* entry point revision */
    store_le32(entry + 12, (uint32_t)tables->length);
    entry_checksum(entry);
}

int smbios_tables_build(const struct smbios_config *config, struct smbios_tables *out)
{
    struct writer w = {.tables = out};

    if (config->vcpu_count > UINT16_MAX)
        return -EINVAL;
    *out = (struct smbios_tables){0};
    bios_build(&w);
    system_build(&w, config);
    chassis_build(&w);
    processor_build(&w, config);
    memory_array_build(&w, config);
    memory_device_build(&w, config);
    mapped_address_build(&w, 0x1300, 0, config->map->low_ram);
    if (config->map->high_ram)
        mapped_address_build(&w, 0x1301, PC_HIGH_RAM_GPA, config->map->high_ram);
    tail_build(&w);
    entry_build(out);
    return 0;
}

int smbios_tables_install(const struct smbios_tables *tables, struct mem *mem, uint64_t gpa,
                          uint64_t room)
{
    uint8_t entry[SMBIOS_ENTRY_BYTES];
    int rc;

    if (room < ENTRY_ALIGN || tables->length > room - ENTRY_ALIGN)
        return -ENOSPC;
    memcpy(entry, tables->entry, sizeof entry);
    store_le64(entry + 16, gpa + ENTRY_ALIGN);
    entry_checksum(entry);
    rc = mem_write(mem, gpa, entry, sizeof entry);
    return rc ? rc : mem_write(mem, gpa + ENTRY_ALIGN, tables->bytes, tables->length);
}
