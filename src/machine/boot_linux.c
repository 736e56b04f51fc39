/*
 * Linux bzImage, by the 64-bit boot protocol where the kernel has a 64-bit entry, otherwise by the
 * 32-bit one.
 *
 * Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst. The header is the file's, so
 * hostile: all of it is checked here, and what is copied into boot_params is only what the guest's
 * own code will read.
 */
#include "machine/boot_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

/* Offsets in the file's first sectors, and in boot_params from 0x1f1 on. */
#define HDR_SETUP_SECTS   0x1f1
#define HDR_SYSSIZE       0x1f4
#define HDR_BOOT_FLAG     0x1fe
#define HDR_JUMP_LENGTH   0x201
#define HDR_MAGIC         0x202
#define HDR_VERSION       0x206
#define HDR_LOADER_TYPE   0x210
#define HDR_LOADFLAGS     0x211
#define HDR_CODE32_START  0x214
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE  0x21c
#define HDR_HEAP_END      0x224
#define HDR_CMDLINE       0x228
#define HDR_INITRD_MAX    0x22c
#define HDR_ALIGNMENT     0x230
#define HDR_RELOCATABLE   0x234
#define HDR_XLOADFLAGS    0x236
#define HDR_CMDLINE_SIZE  0x238
#define HDR_SETUP_DATA    0x250
#define HDR_PREF_ADDRESS  0x258
#define HDR_INIT_SIZE     0x260
#define HDR_END_MAX       0x290 /* the E820 copy of EDD's MBR list begins here */
#define HDR_BYTES_MIN     0x238 /* of a header that this loader understands */

#define BOOT_FLAG_MAGIC   0xaa55u
#define HDR_MAGIC_VALUE   0x53726448u /* "HdrS" */
#define LOADED_HIGH       0x01u
#define CAN_USE_HEAP      0x80u
#define XLF_KERNEL_64     0x01u
#define LOADER_UNDEFINED  0xffu
#define SETUP_SECTS_OLD   4u /* what 0 means */
#define SECTOR            512u

/* boot_params (zero page). */
#define ZERO_PAGE_BYTES   4096
#define BP_ACPI_RSDP      0x070
#define BP_E820_COUNT     0x1e8
#define BP_VIDEO_MODE     0x1fa
#define BP_E820_TABLE     0x2d0
#define E820_ENTRY_BYTES  20
#define VIDEO_MODE_NORMAL 0xffffu

/* Where we put things; the kernel itself lies above 1 MiB. */
#define LINUX_GDT_GPA      UINT64_C(0x8000)
#define LINUX_TABLES_GPA   UINT64_C(0x9000) /* 6 pages: PML4, PDPT, 4 page directories */
#define LINUX_ZERO_GPA     UINT64_C(0x10000)
#define LINUX_CMDLINE_GPA  UINT64_C(0x20000)
#define LINUX_CMDLINE_ROOM UINT64_C(0x10000)
#define LINUX_LOAD_GPA     MIB
#define LINUX_ENTRY64      0x200
#define CMDLINE_SIZE_OLD   255u
#define INITRD_MAX_OLD     UINT64_C(0x37ffffff)

#define PTE_TABLE          0x003u /* present, writable */
#define PTE_LARGE          0x083u /* and 2 MiB */

static bool linux_recognised(const struct boot_file *file)
{
    return file->size >= HDR_BYTES_MIN &&
           load_le16(file->data + HDR_BOOT_FLAG) == BOOT_FLAG_MAGIC &&
           load_le32(file->data + HDR_MAGIC) == HDR_MAGIC_VALUE;
}

/* The file must hold as many bytes as its own header says (sizes in sectors and paragraphs). */
static int linux_check_size(struct boot *boot, struct error *err)
{
    const uint8_t *file = boot->kernel.data;
    uint32_t sectors = file[HDR_SETUP_SECTS] ? file[HDR_SETUP_SECTS] : SETUP_SECTS_OLD;
    uint64_t paragraphs = boot->linux_version >= 0x204 ? load_le32(file + HDR_SYSSIZE)
                                                       : load_le16(file + HDR_SYSSIZE);
    uint64_t whole = (sectors + 1) * (uint64_t)SECTOR + paragraphs * 16;

    boot->linux_setup_bytes = (sectors + 1) * SECTOR;
    if (whole > boot->kernel.size || boot->linux_setup_bytes >= boot->kernel.size || !paragraphs)
        return boot_refuse(boot, err,
                           "the file is cut short (%" PRIu64 " bytes of %" PRIu64
                           "); give a whole bzImage",
                           boot->kernel.size, whole);
    return 0;
}

static int linux_check_version(struct boot *boot, struct error *err)
{
    const uint8_t *file = boot->kernel.data;

    boot->linux_version = load_le16(file + HDR_VERSION);
    if (boot->linux_version < 0x202 || !(file[HDR_LOADFLAGS] & LOADED_HIGH))
        return boot_refuse(boot, err,
                           "its boot protocol %u.%02u is too old (2.02 and a bzImage are needed)",
                           boot->linux_version >> 8, boot->linux_version & 0xffu);
    uint64_t header_end = HDR_MAGIC + (uint64_t)file[HDR_JUMP_LENGTH];
    uint64_t needed = boot->linux_version >= 0x20a ? HDR_INIT_SIZE + 4 : HDR_CMDLINE_SIZE + 4;
    if (boot->linux_version >= 0x206 && (header_end < needed || boot->kernel.size < header_end))
        return boot_refuse(boot, err, "its setup header ends at 0x%" PRIx64 ", too early",
                           header_end);
    boot->linux_64bit =
        boot->linux_version >= 0x20c && (load_le16(file + HDR_XLOADFLAGS) & XLF_KERNEL_64);
    return 0;
}

static int linux_check_cmdline(struct boot *boot, struct error *err)
{
    uint64_t length = strlen(boot->append);
    uint64_t room = CMDLINE_SIZE_OLD;

    if (boot->linux_version >= 0x206)
        room = load_le32(boot->kernel.data + HDR_CMDLINE_SIZE);
    if (room > LINUX_CMDLINE_ROOM - 1)
        room = LINUX_CMDLINE_ROOM - 1;
    if (length > room)
        return error_set(err, -E2BIG,
                         "the command line has %" PRIu64 " bytes, but kernel %s takes %" PRIu64
                         "; shorten --append",
                         length, boot->kernel.name, room);
    return 0;
}

static uint64_t linux_initrd_top(const struct boot *boot, const struct memmap *map)
{
    uint64_t top = INITRD_MAX_OLD + 1;

    if (boot->linux_version >= 0x203)
        top = (uint64_t)load_le32(boot->kernel.data + HDR_INITRD_MAX) + 1;
    return top < map->low_ram ? top : map->low_ram;
}

/* A relocatable kernel runs where it was linked for, so load it there if it says where. */
static int linux_check_place(struct boot *boot, const struct memmap *map, struct error *err)
{
    const uint8_t *file = boot->kernel.data;
    uint64_t size = boot->kernel.size - boot->linux_setup_bytes;
    uint64_t preferred = LINUX_LOAD_GPA;

    if (boot->linux_version >= 0x20a) {
        uint64_t init_size = load_le32(file + HDR_INIT_SIZE);
        preferred = load_le64(file + HDR_PREF_ADDRESS);
        size = size > init_size ? size : init_size;
    }
    if (preferred % GUEST_PAGE_SIZE || preferred < LINUX_LOAD_GPA)
        return boot_refuse(boot, err, "its preferred address 0x%" PRIx64 " is not usable",
                           preferred);
    if (!range_fits(preferred, size, map->low_ram))
        return boot_refuse(boot, err,
                           "it needs %" PRIu64 " MiB of memory from 0x%" PRIx64
                           " on; give more --memory",
                           (size + MIB - 1) / MIB, preferred);
    boot->load_gpa = preferred;
    boot->image_end = preferred + size;
    boot->entry = preferred + (boot->linux_64bit ? LINUX_ENTRY64 : 0);
    return 0;
}

static int linux_check(struct boot *boot, const struct memmap *map, struct error *err)
{
    int rc = linux_check_version(boot, err);

    if (!rc)
        rc = linux_check_size(boot, err);
    if (!rc)
        rc = linux_check_cmdline(boot, err);
    if (!rc)
        rc = linux_check_place(boot, map, err);
    if (!rc)
        rc = boot_place_modules(boot, linux_initrd_top(boot, map), err);
    return rc;
}

static void zero_page_e820(uint8_t *page, const struct memmap *map)
{
    for (unsigned i = 0; i < map->count; i++) {
        uint8_t *entry = page + BP_E820_TABLE + i * E820_ENTRY_BYTES;
        store_le64(entry, map->entry[i].base);
        store_le64(entry + 8, map->entry[i].size);
        store_le32(entry + 16, map->entry[i].type);
    }
    page[BP_E820_COUNT] = (uint8_t)map->count;
}

static int linux_load_zero_page(const struct boot *boot, const struct boot_board *board)
{
    uint8_t page[ZERO_PAGE_BYTES] = {0};
    uint64_t end = HDR_MAGIC + (uint64_t)boot->kernel.data[HDR_JUMP_LENGTH];

    if (end > HDR_END_MAX)
        end = HDR_END_MAX;
    if (end > boot->kernel.size)
        end = boot->kernel.size;
    memcpy(page + HDR_SETUP_SECTS, boot->kernel.data + HDR_SETUP_SECTS, end - HDR_SETUP_SECTS);
    page[HDR_LOADER_TYPE] = LOADER_UNDEFINED;
    page[HDR_LOADFLAGS] &= (uint8_t)~CAN_USE_HEAP; /* no real-mode code runs */
    store_le16(page + BP_VIDEO_MODE, VIDEO_MODE_NORMAL);
    store_le32(page + HDR_CODE32_START, (uint32_t)boot->load_gpa);
    store_le32(page + HDR_CMDLINE, (uint32_t)LINUX_CMDLINE_GPA);
    if (boot->linux_version >= 0x209)
        store_le64(page + HDR_SETUP_DATA, 0);
    if (boot->module_count) {
        store_le32(page + HDR_RAMDISK_IMAGE, (uint32_t)boot->module_gpa[0]);
        store_le32(page + HDR_RAMDISK_SIZE, (uint32_t)boot->module[0].size);
    }
    store_le64(page + BP_ACPI_RSDP, board->rsdp);
    zero_page_e820(page, board->map);
    return mem_write(board->mem, LINUX_ZERO_GPA, page, sizeof page);
}

/* The first 4 GiB, identity-mapped in 2 MiB pages: kernel, boot_params, command line, initrd. */
static int linux_load_page_tables(struct mem *mem)
{
    uint8_t table[GUEST_PAGE_SIZE] = {0};
    uint64_t pdpt = LINUX_TABLES_GPA + GUEST_PAGE_SIZE;
    uint64_t directory = pdpt + GUEST_PAGE_SIZE;
    int rc;

    store_le64(table, pdpt | PTE_TABLE);
    rc = mem_write(mem, LINUX_TABLES_GPA, table, sizeof table);
    for (unsigned i = 0; i < 4; i++)
        store_le64(table + i * 8, (directory + i * GUEST_PAGE_SIZE) | PTE_TABLE);
    if (!rc)
        rc = mem_write(mem, pdpt, table, sizeof table);
    for (unsigned i = 0; i < 4 && !rc; i++) {
        for (uint64_t j = 0; j < 512; j++)
            store_le64(table + j * 8, (i * GIB + j * 2 * MIB) | PTE_LARGE);
        rc = mem_write(mem, directory + i * GUEST_PAGE_SIZE, table, sizeof table);
    }
    return rc;
}

static void linux_state(const struct boot *boot, uint32_t cpu_signature, struct x86_state *state)
{
    boot_state_protected(state, cpu_signature, LINUX_GDT_GPA);
    state->gpr[X86_RSI] = LINUX_ZERO_GPA;
    state->rip = boot->entry;
    if (!boot->linux_64bit)
        return;
    state->seg[X86_CS].attributes = X86_SEG_G | X86_SEG_L | 0x9b;
    state->cr3 = LINUX_TABLES_GPA;
    state->cr4 = X86_CR4_PAE;
    state->efer = X86_EFER_LME | X86_EFER_LMA;
    state->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
}

static int linux_load(const struct boot *boot, const struct boot_board *board,
                      struct x86_state *state)
{
    const uint8_t *payload = boot->kernel.data + boot->linux_setup_bytes;
    uint64_t payload_bytes = boot->kernel.size - boot->linux_setup_bytes;
    int rc = mem_write(board->mem, boot->load_gpa, payload, payload_bytes);

    if (!rc)
        rc = mem_write(board->mem, LINUX_CMDLINE_GPA, boot->append, strlen(boot->append) + 1);
    if (!rc)
        rc = boot_load_modules(boot, board->mem);
    if (!rc)
        rc = linux_load_zero_page(boot, board);
    if (!rc)
        rc = boot_load_gdt(board->mem, LINUX_GDT_GPA, boot->linux_64bit);
    if (!rc)
        rc = linux_load_page_tables(board->mem);
    if (!rc)
        linux_state(boot, board->cpu_signature, state);
    return rc;
}

const struct boot_format boot_format_linux = {
    .name = "Linux bzImage",
    .recognised = linux_recognised,
    .check = linux_check,
    .load = linux_load,
};
