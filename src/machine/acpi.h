/*
 * ACPI tables of the board `pc` (ACPI 6.4). Built once, position-independent: a blob of tables, the
 * RSDP apart, and a list of fix-ups (pointers to be rebased, checksums to be made). A direct boot
 * installs them itself; firmware gets the same list as a fw_cfg loader script.
 * Threads: the building thread only. Input: our own configuration; nothing of the guest's.
 */
#ifndef FREEHOLD_MACHINE_ACPI_H
#define FREEHOLD_MACHINE_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "mem/mem.h"

#define ACPI_RSDP_BYTES 36
#define ACPI_FIXUPS_MAX 64

struct acpi_config {
    unsigned vcpu_count;
    unsigned com_ports;              /* bit n: COM(n+1) is there */
    uint64_t pci64_base, pci64_size; /* the 64-bit PCI window, size 0: none */
    uint64_t ecam_base;
};

enum acpi_fixup_kind {
    ACPI_POINTER,  /* `size` bytes at `offset` hold an offset into the tables; rebase it */
    ACPI_CHECKSUM, /* the byte at `offset` makes [start, start + size) sum to zero */
};

struct acpi_fixup {
    enum acpi_fixup_kind kind;
    bool in_rsdp; /* offset (and start) lie in the RSDP, otherwise in the tables */
    uint32_t offset;
    uint32_t start;
    uint32_t size;
};

struct acpi_tables {
    uint8_t *bytes; /* all tables but the RSDP, each 64-byte aligned */
    size_t length;
    uint8_t rsdp[ACPI_RSDP_BYTES];
    uint32_t facs; /* its offset */
    unsigned fixup_count;
    struct acpi_fixup fixup[ACPI_FIXUPS_MAX];
};

MUST_CHECK int acpi_tables_build(const struct acpi_config *config, struct acpi_tables *out);
void acpi_tables_fini(struct acpi_tables *tables);

/* Puts the RSDP at `gpa` (16-byte aligned) and the tables behind it, in at most `room` bytes, with
 * all fix-ups done. Gives the first free address behind. -ENOSPC, -EFAULT. */
MUST_CHECK int acpi_tables_install(const struct acpi_tables *tables, struct mem *mem, uint64_t gpa,
                                   uint64_t room, uint64_t *end);

/* Where an OS that sleeps in S3 wants to go on in real mode (ACPI 6.4, 5.2.10): what it has written
 * into the tables installed at `gpa`. 0: nowhere, or not to be read. */
uint32_t acpi_waking_vector(const struct acpi_tables *tables, struct mem *mem, uint64_t gpa);

/* The loader script for firmware (fw_cfg file etc/table-loader). The caller frees it. */
MUST_CHECK int acpi_loader_script(const struct acpi_tables *tables, uint8_t **script,
                                  size_t *length);

#endif
