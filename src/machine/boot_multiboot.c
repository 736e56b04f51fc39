/*
 * Multiboot 1 images: ELF of either class, or any file whose header gives its addresses.
 *
 * Source: Multiboot Specification 0.6.96. The header is the file's, so hostile. A 64-bit ELF is
 * entered like a 32-bit one, in 32-bit protected mode (the specification does not know them, but
 * CPU test suites come so).
 */
#include "machine/boot_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

#define MB_HEADER_MAGIC  0x1badb002u
#define MB_LOADER_MAGIC  0x2badb002u
#define MB_SEARCH_BYTES  8192u
#define MB_HEADER_BYTES  12u
#define MB_ADDRESS_BYTES 32u
#define MB_FLAG_VIDEO    (1u << 2)
#define MB_FLAG_ADDRESS  (1u << 16)
#define MB_FLAGS_KNOWN   0x0003u /* of bits 0-15, which must be understood: alignment, memory */

#define MBI_MEMORY       (1u << 0)
#define MBI_CMDLINE      (1u << 2)
#define MBI_MODULES      (1u << 3)
#define MBI_MEMMAP       (1u << 6)
#define MBI_LOADER       (1u << 9)
#define MBI_BYTES        88
#define MB_MODULE_BYTES  16
#define MB_MEMMAP_BYTES  24

static const char loader_name[] = "freehold";

/* What the image's start is told lies in one block of conventional memory, in this order. */
#define BLOCK_GDT     0x000
#define BLOCK_INFO    0x040
#define BLOCK_MODULES 0x0a0
#define BLOCK_MEMMAP  (BLOCK_MODULES + BOOT_MODULES_MAX * MB_MODULE_BYTES)
#define BLOCK_STRINGS (BLOCK_MEMMAP + MEMMAP_ENTRIES_MAX * MB_MEMMAP_BYTES)

_Static_assert(BLOCK_INFO + MBI_BYTES <= BLOCK_MODULES, "information overlaps");

/* The header is 4-byte aligned within the first 8 KiB; 0 in magic + flags + checksum proves it. */
static bool multiboot_find(const struct boot_file *file, uint64_t *at)
{
    for (uint64_t i = 0; i < MB_SEARCH_BYTES && range_fits(i, MB_HEADER_BYTES, file->size);
         i += 4) {
        const uint8_t *header = file->data + i;
        if (load_le32(header) == MB_HEADER_MAGIC &&
            load_le32(header) + load_le32(header + 4) + load_le32(header + 8) == 0) {
            *at = i;
            return true;
        }
    }
    return false;
}

static bool multiboot_recognised(const struct boot_file *file)
{
    uint64_t at;

    return multiboot_find(file, &at);
}

/* Flag bit 16: the header itself says what goes where ("a.out kludge"). */
static int multiboot_check_addresses(struct boot *boot, uint64_t at, const struct memmap *map,
                                     struct error *err)
{
    uint8_t header[MB_ADDRESS_BYTES];

    if (boot_file_read(&boot->kernel, at, header, sizeof header))
        return boot_refuse(boot, err, "the file is cut short inside its Multiboot header");
    uint64_t header_gpa = load_le32(header + 12), load = load_le32(header + 16);
    uint64_t load_end = load_le32(header + 20), bss_end = load_le32(header + 24);

    if (load > header_gpa || header_gpa - load > at)
        return boot_refuse(boot, err, "its Multiboot load address is not below its header's");
    uint64_t offset = at - (header_gpa - load);
    uint64_t file_size = load_end ? load_end - load : boot->kernel.size - offset;
    uint64_t memory_size = bss_end ? bss_end - load : file_size;
    if ((load_end && load_end < load) || (bss_end && bss_end < load) || !memory_size)
        return boot_refuse(boot, err, "its Multiboot addresses are out of order");
    boot->entry = load_le32(header + 28);
    const struct boot_segment segment = {offset, file_size, load, memory_size};
    return boot_check_segment(boot, &segment, map, err);
}

/* Command line (file name first, as boot loaders do), module arguments, our name: one after
 * another. With block NULL it only counts. */
struct string_block {
    uint8_t *block;
    uint64_t used;
};

static uint32_t string_add(struct string_block *strings, const char *first, const char *second)
{
    uint64_t start = strings->used;
    const char *parts[] = {first, second ? " " : "", second ? second : ""};

    for (unsigned i = 0; i < 3; i++) {
        size_t length = strlen(parts[i]);
        if (strings->block)
            memcpy(strings->block + strings->used, parts[i], length);
        strings->used += length;
    }
    if (strings->block)
        strings->block[strings->used] = 0;
    strings->used++;
    return (uint32_t)start;
}

static void multiboot_strings(const struct boot *boot, uint64_t low, struct string_block *strings)
{
    uint8_t *info = strings->block ? strings->block + BLOCK_INFO : NULL;
    uint8_t *modules = strings->block ? strings->block + BLOCK_MODULES : NULL;
    uint32_t at = string_add(strings, boot->kernel.name, *boot->append ? boot->append : NULL);

    if (info)
        store_le32(info + 16, (uint32_t)low + at);
    at = string_add(strings, loader_name, NULL);
    if (info)
        store_le32(info + 64, (uint32_t)low + at);
    for (unsigned i = 0; i < boot->module_count; i++) {
        at = string_add(strings, boot->module[i].name, boot->module[i].arguments);
        if (modules)
            store_le32(modules + i * MB_MODULE_BYTES + 8, (uint32_t)low + at);
    }
}

static uint64_t multiboot_block_bytes(const struct boot *boot)
{
    struct string_block strings = {NULL, BLOCK_STRINGS};

    multiboot_strings(boot, 0, &strings);
    return strings.used;
}

static int multiboot_check(struct boot *boot, const struct memmap *map, struct error *err)
{
    uint64_t at = 0;
    int rc;

    if (!multiboot_find(&boot->kernel, &at))
        return boot_refuse(boot, err, "it has no Multiboot header");
    uint32_t flags = load_le32(boot->kernel.data + at + 4);
    if (flags & MB_FLAG_VIDEO)
        return boot_refuse(boot, err, "it asks for a video mode, and this board has no display");
    if (flags & 0xffff & ~MB_FLAGS_KNOWN)
        return boot_refuse(boot, err, "its Multiboot flags 0x%x ask for unknown features", flags);
    if (flags & MB_FLAG_ADDRESS)
        rc = multiboot_check_addresses(boot, at, map, err);
    else if (elf_recognised(&boot->kernel))
        rc = elf_check_segments(boot, map, err);
    else
        rc = boot_refuse(boot, err, "its Multiboot header has no addresses and it is no ELF image");
    if (rc)
        return rc;
    if (boot->entry >= map->low_ram)
        return boot_refuse(boot, err, "its entry 0x%" PRIx64 " does not lie in RAM", boot->entry);
    if (!boot_find_low(boot, multiboot_block_bytes(boot)))
        return boot_refuse(boot, err, "no room is left below 640 KiB for its boot information");
    return boot_place_modules(boot, map->low_ram, err);
}

static void multiboot_info(const struct boot *boot, const struct memmap *map, uint64_t low,
                           uint8_t *block)
{
    uint8_t *info = block + BLOCK_INFO, *module = block + BLOCK_MODULES;
    uint8_t *entry = block + BLOCK_MEMMAP;

    store_le32(info, MBI_MEMORY | MBI_CMDLINE | MBI_MEMMAP | MBI_LOADER |
                         (boot->module_count ? MBI_MODULES : 0));
    store_le32(info + 4, PC_EBDA_GPA / KIB);
    store_le32(info + 8, (uint32_t)((map->low_ram - MIB) / KIB));
    store_le32(info + 20, boot->module_count);
    store_le32(info + 24, (uint32_t)(low + BLOCK_MODULES));
    store_le32(info + 44, map->count * MB_MEMMAP_BYTES);
    store_le32(info + 48, (uint32_t)(low + BLOCK_MEMMAP));
    for (unsigned i = 0; i < boot->module_count; i++, module += MB_MODULE_BYTES) {
        store_le32(module, (uint32_t)boot->module_gpa[i]);
        store_le32(module + 4, (uint32_t)(boot->module_gpa[i] + boot->module[i].size));
    }
    for (unsigned i = 0; i < map->count; i++, entry += MB_MEMMAP_BYTES) {
        store_le32(entry, MB_MEMMAP_BYTES - 4); /* the size field does not count itself */
        store_le64(entry + 4, map->entry[i].base);
        store_le64(entry + 12, map->entry[i].size);
        store_le32(entry + 20, map->entry[i].type);
    }
}

static int multiboot_load_block(const struct boot *boot, const struct boot_board *board,
                                uint64_t low)
{
    uint64_t bytes = multiboot_block_bytes(boot);
    struct string_block strings = {calloc(1, bytes), BLOCK_STRINGS};
    int rc;

    if (!strings.block)
        return -ENOMEM;
    multiboot_strings(boot, low, &strings);
    multiboot_info(boot, board->map, low, strings.block);
    rc = mem_write(board->mem, low, strings.block, bytes);
    free(strings.block);
    return rc;
}

static int multiboot_load(const struct boot *boot, const struct boot_board *board,
                          struct x86_state *state)
{
    uint64_t low = boot_find_low(boot, multiboot_block_bytes(boot));
    int rc = boot_load_segments(boot, board->mem);

    if (!rc)
        rc = boot_load_modules(boot, board->mem);
    if (!rc)
        rc = multiboot_load_block(boot, board, low);
    if (!rc)
        rc = boot_load_gdt(board->mem, low + BLOCK_GDT, false);
    boot_state_protected(state, board->cpu_signature, low + BLOCK_GDT);
    state->gpr[X86_RAX] = MB_LOADER_MAGIC;
    state->gpr[X86_RBX] = low + BLOCK_INFO;
    state->rip = boot->entry;
    return rc;
}

const struct boot_format boot_format_multiboot = {
    .name = "Multiboot image",
    .recognised = multiboot_recognised,
    .check = multiboot_check,
    .load = multiboot_load,
};
