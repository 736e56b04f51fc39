/*
 * Loaders: they put an image in guest RAM and say how the boot vCPU starts.
 *
 * Four formats, told apart by their magic: a Linux bzImage (64-bit protocol, or the 32-bit entry of
 * older ones), an ELF image with a PVH note, a Multiboot 1 image, and firmware entered at the reset
 * vector. Every size and offset in a file is hostile: an image is parsed and checked whole
 * (boot_open) before guest memory is touched (boot_load).
 *
 * Threads: boot_open before the VM runs, boot_load while no vCPU runs.
 */
#ifndef FREEHOLD_MACHINE_BOOT_H
#define FREEHOLD_MACHINE_BOOT_H

#include <stdint.h>

#include "base/error.h"
#include "cpu/x86/state.h"
#include "machine/memmap.h"
#include "mem/mem.h"

/* What the user named; NULL: none. Either kernel or firmware. */
struct boot_config {
    const char *kernel;
    const char *initrd; /* Multiboot: several modules as "file [args],file [args]" */
    const char *append;
    const char *firmware;
};

/* Where a loader works. */
struct boot_board {
    struct mem *mem;
    const struct memmap *map;
    uint64_t rsdp; /* guest-physical, already installed; 0: none */
    uint32_t cpu_signature;
};

struct boot;

/* Reads and checks the files against the memory they must fit in. */
MUST_CHECK int boot_open(const struct boot_config *config, const struct memmap *map,
                         struct boot **out, struct error *err);
void boot_free(struct boot *boot);

/* The firmware ROM to map below 4 GiB; its size is 0 when a kernel is booted directly. */
const uint8_t *boot_firmware(const struct boot *boot, uint64_t *size);

/* At power on and at each reset: fills guest memory and gives vCPU 0's first state. */
MUST_CHECK int boot_load(struct boot *boot, const struct boot_board *board, struct x86_state *state,
                         struct error *err);

/* vCPU 0's state where firmware hands over to an OS that wakes: in real mode at `vector`, a
 * guest-physical address below 1 MiB (ACPI 6.4, 5.2.10). */
void boot_state_wake(struct x86_state *state, uint32_t cpu_signature, uint32_t vector);

#endif
