/*
 * What the loaders share. Each format is one entry of the table in boot.c: it recognises an image
 * by its magic, checks it whole against the memory map, and later loads it. Nothing here touches
 * guest memory before the check has passed.
 */
#ifndef FREEHOLD_MACHINE_BOOT_INTERNAL_H
#define FREEHOLD_MACHINE_BOOT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/boot.h"

/* A whole file in memory: read once, so that it can't change between check and use. */
struct boot_file {
    char *name;
    char *arguments; /* a module's own, or NULL */
    uint8_t *data;
    uint64_t size;
};

/* A part of an ELF or Multiboot image: where it lies in the file, where it goes. */
struct boot_segment {
    uint64_t file_offset, file_size;
    uint64_t gpa, memory_size;
};

#define BOOT_SEGMENTS_MAX 64
#define BOOT_MODULES_MAX  16

struct boot_format;

struct boot {
    const struct boot_format *format;
    struct boot_file kernel;
    struct boot_file firmware;
    unsigned module_count; /* Linux, PVH: at most one, the initrd */
    struct boot_file module[BOOT_MODULES_MAX];
    uint64_t module_gpa[BOOT_MODULES_MAX];
    char *append; /* never NULL */

    /* What the format's check found out. */
    uint64_t entry;
    uint64_t load_gpa;  /* Linux: the protected-mode part */
    uint64_t image_end; /* first address behind all that the image will use */
    uint32_t linux_setup_bytes;
    uint16_t linux_version;
    bool linux_64bit;
    unsigned segment_count;
    struct boot_segment segment[BOOT_SEGMENTS_MAX];
};

struct boot_format {
    const char *name;
    bool (*recognised)(const struct boot_file *file);
    int (*check)(struct boot *boot, const struct memmap *map, struct error *err);
    int (*load)(const struct boot *boot, const struct boot_board *board, struct x86_state *state);
};

extern const struct boot_format boot_format_linux;
extern const struct boot_format boot_format_multiboot;
extern const struct boot_format boot_format_pvh;

/* Copies [offset, offset + length) of the file, or -ENOEXEC when it ends before. */
MUST_CHECK int boot_file_read(const struct boot_file *file, uint64_t offset, void *to,
                              size_t length);

/* "kernel F is not usable: ..." with -ENOEXEC. */
int boot_refuse(const struct boot *boot, struct error *err, const char *format, ...) PRINTF(3, 4);

/* Gives every module a page-aligned place, each below the one before, the first below `top`, all
 * above image_end. */
MUST_CHECK int boot_place_modules(struct boot *boot, uint64_t top, struct error *err);
MUST_CHECK int boot_load_modules(const struct boot *boot, struct mem *mem);

/* ELF (boot_elf.c): fills segment[], image_end and entry (e_entry) from PT_LOAD headers. */
bool elf_recognised(const struct boot_file *file);
MUST_CHECK int elf_check_segments(struct boot *boot, const struct memmap *map, struct error *err);
MUST_CHECK int boot_check_segment(struct boot *boot, const struct boot_segment *segment,
                                  const struct memmap *map, struct error *err);
MUST_CHECK int boot_load_segments(const struct boot *boot, struct mem *mem);

/* `size` bytes of conventional memory that no segment touches; 0: none. */
uint64_t boot_find_low(const struct boot *boot, uint64_t size);

/* Descriptors of a flat GDT at `gpa`, with the selectors of the Linux boot protocol. */
#define BOOT_CS        0x10
#define BOOT_DS        0x18
#define BOOT_TR        0x20
#define BOOT_GDT_BYTES 40
MUST_CHECK int boot_load_gdt(struct mem *mem, uint64_t gpa, bool long_mode);

/* 32-bit protected mode, flat segments, paging and interrupts off. */
void boot_state_protected(struct x86_state *state, uint32_t cpu_signature, uint64_t gdt_gpa);

#endif
