/*
 * ACPI tables. Purpose, threads and trust: acpi.h. Everything is appended to one growing blob, each
 * table 64-byte aligned; pointers and checksums are only noted, and done by whoever knows the final
 * address (acpi_tables_install, or firmware by the loader script).
 *
 * Source: ACPI 6.4, 5.2; HPET 1.0a, 3.2.4; PCI Firmware 3.2, 4.1.2 (MCFG). The loader script is the
 * one of QEMU's docs/specs/fw_cfg and SeaBIOS.
 */
#include "machine/acpi.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "machine/acpi_pm.h"
#include "machine/hpet.h"
#include "machine/memmap.h"

#include "dsdt.hex" /* dsdt_aml_code[], from dsdt.asl */

#define TABLE_ALIGN        64u
#define BLOB_BYTES         32768u /* room for 255 vCPUs */
#define HEADER_BYTES       36u
#define HEADER_LENGTH      4u
#define HEADER_SUM         9u
#define SYSTEM_TABLES      5 /* FADT, SSDT, MADT, HPET, MCFG */
#define SCI_GSI            9
#define VCPUS_MAX          255u

#define FACS_WAKING_VECTOR 12u

/* FADT fixed feature flags and boot architecture flags (ACPI 6.4, tables 5.9 and 5.11). */
#define FADT_WBINVD         (1u << 0)
#define FADT_PROC_C1        (1u << 2)
#define FADT_SLP_BUTTON     (1u << 5) /* none in fixed hardware */
#define FADT_TMR_VAL_EXT    (1u << 8)
#define FADT_RESET_REG_SUP  (1u << 10)
#define FADT_PLATFORM_CLOCK (1u << 15)
#define FADT_BOOT_LEGACY    (1u << 0)
#define FADT_BOOT_8042      (1u << 1)
#define FADT_BOOT_NO_VGA    (1u << 2)

enum address_space { SPACE_MEMORY = 0, SPACE_IO = 1 };

/* A blob under construction. That it is large enough is our own invariant: nothing in it depends on
 * outside input but the number of vCPUs, which has a limit. */
struct writer {
    struct acpi_tables *tables;
};

static void fixup_add(struct writer *w, const struct acpi_fixup *fixup)
{
    assert(w->tables->fixup_count < ACPI_FIXUPS_MAX);
    w->tables->fixup[w->tables->fixup_count++] = *fixup;
}

/* Room for `size` zeroed bytes at the end of the blob. */
static uint8_t *append(struct writer *w, uint32_t size)
{
    uint8_t *at = w->tables->bytes + w->tables->length;

    assert(size <= BLOB_BYTES - w->tables->length);
    w->tables->length += size;
    return at;
}

static void append_bytes(struct writer *w, const void *bytes, uint32_t size)
{
    memcpy(append(w, size), bytes, size);
}

/* Puts an offset into the tables where a guest-physical address will stand. */
static void pointer_add(struct writer *w, uint32_t at, uint32_t size, uint32_t target)
{
    store_le32(w->tables->bytes + at, target);
    fixup_add(w, &(struct acpi_fixup){.kind = ACPI_POINTER, .offset = at, .size = size});
}

static uint32_t table_align(struct writer *w)
{
    uint32_t over = (uint32_t)w->tables->length % TABLE_ALIGN;

    if (over)
        append(w, TABLE_ALIGN - over);
    return (uint32_t)w->tables->length;
}

/* Starts a table with its header (ACPI 6.4, 5.2.6); its length is filled in by table_end(). */
static uint32_t table_begin(struct writer *w, const char *signature, uint8_t revision)
{
    uint32_t start = table_align(w);
    uint8_t *header = append(w, HEADER_BYTES);

    memcpy(header, signature, 4);
    header[8] = revision;
    memcpy(header + 10, "FREEHD", 6);
    memcpy(header + 16, "FREEHOLD", 8);
    store_le32(header + 24, 1);
    memcpy(header + 28, "FHLD", 4);
    store_le32(header + 32, 1);
    return start;
}

static void table_end(struct writer *w, uint32_t start)
{
    uint32_t length = (uint32_t)w->tables->length - start;

    store_le32(w->tables->bytes + start + HEADER_LENGTH, length);
    fixup_add(w, &(struct acpi_fixup){.kind = ACPI_CHECKSUM,
                                      .offset = start + HEADER_SUM,
                                      .start = start,
                                      .size = length});
}

/* Generic address structure (ACPI 6.4, 5.2.3.2). */
static void gas_store(uint8_t *at, enum address_space space, uint8_t bytes, uint64_t address)
{
    at[0] = (uint8_t)space;
    at[1] = (uint8_t)(bytes * 8);
    at[3] = bytes == 1 ? 1 : bytes == 2 ? 2 : 3; /* access size */
    store_le64(at + 4, address);
}

static uint32_t facs_build(struct writer *w)
{
    uint32_t start = table_align(w);
    uint8_t *facs = append(w, 64);

    memcpy(facs, "FACS", 4);
    store_le32(facs + 4, 64);
    facs[32] = 2; /* version */
    return start;
}

/* Fills the 24 bytes of `Name (CONF, Buffer ...)` in the DSDT, which begins with it: NameOp,
 * NameSeg, BufferOp, PkgLength, BytePrefix, size (ACPI 6.4, 20.2). */
static void dsdt_configure(uint8_t *aml, const struct acpi_config *config)
{
    static const uint8_t definition[] = {0x08, 'C', 'O', 'N', 'F', 0x11, 0x1b, 0x0a, 24};
    uint8_t *values = aml + HEADER_BYTES + sizeof definition;

    assert(memcmp(aml + HEADER_BYTES, definition, sizeof definition) == 0);
    store_le64(values, config->pci64_base);
    store_le64(values + 8, config->pci64_size);
    store_le64(values + 16, config->com_ports);
}

static uint32_t dsdt_build(struct writer *w, const struct acpi_config *config)
{
    uint32_t start = table_align(w);
    uint8_t *aml = append(w, sizeof dsdt_aml_code);

    memcpy(aml, dsdt_aml_code, sizeof dsdt_aml_code);
    dsdt_configure(aml, config);
    aml[HEADER_SUM] = 0;
    table_end(w, start);
    return start;
}

static void fadt_ports(uint8_t *fadt)
{
    store_le32(fadt + 56, ACPI_PM_EVENT_PORT);
    store_le32(fadt + 64, ACPI_PM_CONTROL_PORT);
    store_le32(fadt + 76, ACPI_PM_TIMER_PORT);
    store_le32(fadt + 80, ACPI_PM_GPE0_PORT);
    fadt[88] = 4; /* PM1 event block: status and enable */
    fadt[89] = 2;
    fadt[91] = 4;
    fadt[92] = ACPI_PM_GPE0_BYTES;
    gas_store(fadt + 116, SPACE_IO, 1, ACPI_PM_RESET_PORT);
    fadt[128] = ACPI_PM_RESET_VALUE;
    gas_store(fadt + 148, SPACE_IO, 4, ACPI_PM_EVENT_PORT);
    fadt[148 + 3] = 2; /* its registers are 16 bits wide */
    gas_store(fadt + 172, SPACE_IO, 2, ACPI_PM_CONTROL_PORT);
    gas_store(fadt + 208, SPACE_IO, 4, ACPI_PM_TIMER_PORT);
    gas_store(fadt + 220, SPACE_IO, ACPI_PM_GPE0_BYTES, ACPI_PM_GPE0_PORT);
    fadt[220 + 3] = 1;
}

/* ACPI 6.4, 5.2.9; offsets as in its table 5.9. */
static uint32_t fadt_build(struct writer *w, uint32_t facs, uint32_t dsdt)
{
    uint32_t start = table_begin(w, "FACP", 6);
    uint8_t *fadt = append(w, 276 - HEADER_BYTES) - HEADER_BYTES;

    store_le16(fadt + 46, SCI_GSI);
    store_le16(fadt + 96, 0xfff); /* no C2 */
    store_le16(fadt + 98, 0xfff); /* no C3 */
    fadt[108] = 0x32;             /* CMOS century */
    store_le16(fadt + 109, FADT_BOOT_LEGACY | FADT_BOOT_8042 | FADT_BOOT_NO_VGA);
    store_le32(fadt + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT |
                               FADT_RESET_REG_SUP | FADT_PLATFORM_CLOCK);
    fadt_ports(fadt);
    pointer_add(w, start + 36, 4, facs);
    pointer_add(w, start + 40, 4, dsdt);
    pointer_add(w, start + 140, 8, dsdt);
    table_end(w, start);
    return start;
}

/* Interrupt source override (ACPI 6.4, 5.2.12.5): ISA `irq` arrives at pin `gsi`. */
static void madt_override(struct writer *w, uint8_t irq, uint8_t gsi, uint16_t flags)
{
    uint8_t *entry = append(w, 10);

    entry[0] = 2;
    entry[1] = 10;
    entry[3] = irq;
    entry[4] = gsi;
    store_le16(entry + 8, flags);
}

static uint32_t madt_build(struct writer *w, const struct acpi_config *config)
{
    const uint16_t active_high_level = 0x000d;
    uint32_t start = table_begin(w, "APIC", 5);
    uint8_t *entry = append(w, 8);

    store_le32(entry, (uint32_t)PC_LAPIC_GPA);
    store_le32(entry + 4, 1); /* PCAT_COMPAT: 8259s are there */
    for (unsigned i = 0; i < config->vcpu_count; i++) {
        entry = append(w, 8);
        memcpy(entry, (uint8_t[]){0, 8, (uint8_t)i, (uint8_t)i, 1}, 5); /* enabled */
    }
    entry = append(w, 12); /* I/O APIC 0 with GSIs from 0 */
    entry[0] = 1;
    entry[1] = 12;
    store_le32(entry + 4, (uint32_t)PC_IOAPIC_GPA);
    madt_override(w, 0, 2, 0);
    madt_override(w, SCI_GSI, SCI_GSI, active_high_level);
    append_bytes(w, (uint8_t[]){4, 6, 0xff, 0, 0, 1}, 6); /* LINT1 of all is NMI */
    table_end(w, start);
    return start;
}

static uint32_t hpet_build(struct writer *w)
{
    uint32_t start = table_begin(w, "HPET", 1);
    uint8_t *body = append(w, 20);

    store_le32(body, HPET_BLOCK_ID);
    gas_store(body + 4, SPACE_MEMORY, 8, HPET_BASE);
    body[4 + 3] = 0;
    store_le16(body + 17, 128); /* shortest period that is not lost, in ticks */
    table_end(w, start);
    return start;
}

static uint32_t mcfg_build(struct writer *w, const struct acpi_config *config)
{
    uint32_t start = table_begin(w, "MCFG", 1);
    uint8_t *body = append(w, 24);

    store_le64(body + 8, config->ecam_base);
    body[8 + 11] = 255; /* last bus */
    table_end(w, start);
    return start;
}

/* Device (\_SB.Cnnn) { Name (_HID, "ACPI0007") Name (_UID, n) } */
static void aml_processor(struct writer *w, unsigned index)
{
    static const uint8_t hid[] = {0x08, '_', 'H', 'I', 'D', 0x0d, 'A', 'C',
                                  'P',  'I', '0', '0', '0', '7',  0};
    uint8_t uid[] = {0x08, '_', 'U', 'I', 'D', 0x0b, 0, 0};
    uint8_t head[] = {0x5b, 0x82, 0, '\\', 0x2e, '_', 'S', 'B', '_', 'C', '0', '0', '0'};
    char digits[4];

    snprintf(digits, sizeof digits, "%03X", index & 0xfff);
    memcpy(head + 10, digits, 3);
    store_le16(uid + 6, (uint16_t)index);
    head[2] = (uint8_t)(sizeof head - 2 + sizeof hid + sizeof uid); /* below 64: one byte */
    append_bytes(w, head, sizeof head);
    append_bytes(w, hid, sizeof hid);
    append_bytes(w, uid, sizeof uid);
}

static uint32_t ssdt_build(struct writer *w, const struct acpi_config *config)
{
    uint32_t start = table_begin(w, "SSDT", 2);

    for (unsigned i = 0; i < config->vcpu_count; i++)
        aml_processor(w, i);
    table_end(w, start);
    return start;
}

/* RSDT (pointers of 4 bytes) or XSDT (of 8). */
static uint32_t root_build(struct writer *w, const char *signature, uint32_t pointer_bytes,
                           const uint32_t *table)
{
    uint32_t start = table_begin(w, signature, 1);

    append(w, SYSTEM_TABLES * pointer_bytes);
    for (uint32_t i = 0; i < SYSTEM_TABLES; i++)
        pointer_add(w, start + HEADER_BYTES + i * pointer_bytes, pointer_bytes, table[i]);
    table_end(w, start);
    return start;
}

/* ACPI 6.4, 5.2.5.3: the first checksum covers 20 bytes, the second all 36. */
static void rsdp_build(struct writer *w, uint32_t rsdt, uint32_t xsdt)
{
    uint8_t *rsdp = w->tables->rsdp;

    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "FREEHD", 6);
    rsdp[15] = 2;
    store_le32(rsdp + 16, rsdt);
    store_le32(rsdp + 20, ACPI_RSDP_BYTES);
    store_le64(rsdp + 24, xsdt);
    fixup_add(w, &(struct acpi_fixup){ACPI_POINTER, true, 16, 0, 4});
    fixup_add(w, &(struct acpi_fixup){ACPI_POINTER, true, 24, 0, 8});
    fixup_add(w, &(struct acpi_fixup){ACPI_CHECKSUM, true, 8, 0, 20});
    fixup_add(w, &(struct acpi_fixup){ACPI_CHECKSUM, true, 32, 0, ACPI_RSDP_BYTES});
}

int acpi_tables_build(const struct acpi_config *config, struct acpi_tables *out)
{
    struct writer w = {.tables = out};
    uint32_t table[SYSTEM_TABLES];

    *out = (struct acpi_tables){0};
    if (config->vcpu_count > VCPUS_MAX)
        return -EINVAL;
    out->bytes = calloc(1, BLOB_BYTES);
    if (!out->bytes)
        return -ENOMEM;
    uint32_t facs = out->facs = facs_build(&w);
    uint32_t dsdt = dsdt_build(&w, config);
    table[0] = fadt_build(&w, facs, dsdt);
    table[1] = ssdt_build(&w, config);
    table[2] = madt_build(&w, config);
    table[3] = hpet_build(&w);
    table[4] = mcfg_build(&w, config);
    uint32_t rsdt = root_build(&w, "RSDT", 4, table);
    uint32_t xsdt = root_build(&w, "XSDT", 8, table);
    rsdp_build(&w, rsdt, xsdt);
    return 0;
}

void acpi_tables_fini(struct acpi_tables *tables)
{
    free(tables->bytes);
    *tables = (struct acpi_tables){0};
}

static uint64_t pointer_load(const uint8_t *at, uint32_t size)
{
    return size == 8 ? load_le64(at) : load_le32(at);
}

static void pointer_store(uint8_t *at, uint32_t size, uint64_t value)
{
    if (size == 8)
        store_le64(at, value);
    else
        store_le32(at, (uint32_t)value);
}

static void fixup_apply(const struct acpi_fixup *fixup, uint8_t *blob, uint64_t tables_gpa)
{
    uint8_t sum = 0;

    if (fixup->kind == ACPI_POINTER) {
        uint8_t *at = blob + fixup->offset;
        pointer_store(at, fixup->size, pointer_load(at, fixup->size) + tables_gpa);
        return;
    }
    for (uint32_t i = 0; i < fixup->size; i++)
        sum = (uint8_t)(sum + blob[fixup->start + i]);
    blob[fixup->offset] = (uint8_t)(blob[fixup->offset] - sum);
}

/* Pointers first: checksums cover them. */
static void fixups_apply(const struct acpi_tables *tables, uint8_t *bytes, uint8_t *rsdp,
                         uint64_t tables_gpa)
{
    for (enum acpi_fixup_kind kind = ACPI_POINTER; kind <= ACPI_CHECKSUM; kind++) {
        for (unsigned i = 0; i < tables->fixup_count; i++) {
            const struct acpi_fixup *fixup = &tables->fixup[i];
            if (fixup->kind == kind)
                fixup_apply(fixup, fixup->in_rsdp ? rsdp : bytes, tables_gpa);
        }
    }
}

int acpi_tables_install(const struct acpi_tables *tables, struct mem *mem, uint64_t gpa,
                        uint64_t room, uint64_t *end)
{
    uint8_t rsdp[ACPI_RSDP_BYTES];
    uint64_t tables_gpa = gpa + TABLE_ALIGN;
    uint8_t *copy;
    int rc;

    if (room < TABLE_ALIGN || tables->length > room - TABLE_ALIGN)
        return -ENOSPC;
    copy = malloc(tables->length);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, tables->bytes, tables->length);
    memcpy(rsdp, tables->rsdp, sizeof rsdp);
    fixups_apply(tables, copy, rsdp, tables_gpa);
    rc = mem_write(mem, gpa, rsdp, sizeof rsdp);
    if (!rc)
        rc = mem_write(mem, tables_gpa, copy, tables->length);
    free(copy);
    *end = tables_gpa + tables->length;
    return rc;
}

uint32_t acpi_waking_vector(const struct acpi_tables *tables, struct mem *mem, uint64_t gpa)
{
    uint8_t vector[4];

    if (mem_read(mem, gpa + TABLE_ALIGN + tables->facs + FACS_WAKING_VECTOR, vector, sizeof vector))
        return 0;
    return load_le32(vector);
}

/* Loader script: entries of 128 bytes; file names are 56 bytes, zero-padded. */
#define SCRIPT_ENTRY        128u
#define SCRIPT_NAME         56u
#define SCRIPT_ALLOCATE     1u
#define SCRIPT_ADD_POINTER  2u
#define SCRIPT_ADD_CHECKSUM 3u
#define SCRIPT_ZONE_HIGH    1
#define SCRIPT_ZONE_FSEG    2

static const char file_tables[] = "etc/acpi/tables";
static const char file_rsdp[] = "etc/acpi/rsdp";

static void script_allocate(uint8_t *entry, const char *file, uint32_t align, uint8_t zone)
{
    store_le32(entry, SCRIPT_ALLOCATE);
    strcpy((char *)entry + 4, file);
    store_le32(entry + 4 + SCRIPT_NAME, align);
    entry[4 + SCRIPT_NAME + 4] = zone;
}

static void script_fixup(uint8_t *entry, const struct acpi_fixup *fixup)
{
    const char *file = fixup->in_rsdp ? file_rsdp : file_tables;

    strcpy((char *)entry + 4, file);
    if (fixup->kind == ACPI_POINTER) {
        store_le32(entry, SCRIPT_ADD_POINTER);
        strcpy((char *)entry + 4 + SCRIPT_NAME, file_tables);
        store_le32(entry + 4 + 2 * SCRIPT_NAME, fixup->offset);
        entry[4 + 2 * SCRIPT_NAME + 4] = (uint8_t)fixup->size;
    } else {
        store_le32(entry, SCRIPT_ADD_CHECKSUM);
        store_le32(entry + 4 + SCRIPT_NAME, fixup->offset);
        store_le32(entry + 4 + SCRIPT_NAME + 4, fixup->start);
        store_le32(entry + 4 + SCRIPT_NAME + 8, fixup->size);
    }
}

int acpi_loader_script(const struct acpi_tables *tables, uint8_t **script, size_t *length)
{
    size_t bytes = (2 + tables->fixup_count) * (size_t)SCRIPT_ENTRY;
    uint8_t *entry = calloc(1, bytes);

    if (!entry)
        return -ENOMEM;
    *script = entry;
    *length = bytes;
    script_allocate(entry, file_rsdp, 16, SCRIPT_ZONE_FSEG);
    entry += SCRIPT_ENTRY;
    script_allocate(entry, file_tables, TABLE_ALIGN, SCRIPT_ZONE_HIGH);
    for (enum acpi_fixup_kind kind = ACPI_POINTER; kind <= ACPI_CHECKSUM; kind++) {
        for (unsigned i = 0; i < tables->fixup_count; i++) {
            if (tables->fixup[i].kind == kind)
                script_fixup(entry += SCRIPT_ENTRY, &tables->fixup[i]);
        }
    }
    return 0;
}
