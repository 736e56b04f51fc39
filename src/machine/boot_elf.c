/*
 * ELF images: program headers (for PVH and Multiboot) and the PVH entry.
 *
 * Source: System V ABI, "ELF header", "Program header"; Xen docs/misc/pvh.pandoc and
 * xen/include/public/arch-x86/hvm/start_info.h. All fields are the file's, so hostile.
 */
#include "machine/boot_internal.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define NOTES_MAX                256

#define HVM_START_MAGIC          0x336ec578u
#define HVM_START_BYTES          56
#define HVM_MODULE_BYTES         32
#define HVM_MEMMAP_BYTES         24

/* Offsets inside the block of conventional memory that a PVH boot uses. */
#define PVH_GDT     0x000
#define PVH_START   0x040
#define PVH_MODULE  0x080
#define PVH_MEMMAP  0x100
#define PVH_CMDLINE 0x400

bool elf_recognised(const struct boot_file *file)
{
    return file->size >= sizeof(Elf32_Ehdr) && memcmp(file->data, ELFMAG, SELFMAG) == 0;
}

/* The fields of both classes, widened. */
struct elf_image {
    bool is64;
    uint64_t entry;
    uint64_t headers; /* file offset of the program headers */
    unsigned header_count;
    unsigned header_bytes;
};

struct elf_program_header {
    uint32_t type;
    uint64_t offset, file_size, gpa, memory_size;
};

static int elf_header_read(const struct boot *boot, struct elf_image *image)
{
    const uint8_t *ident = boot->kernel.data;
    Elf64_Ehdr e64;
    Elf32_Ehdr e32;
    int rc;

    if (ident[EI_DATA] != ELFDATA2LSB)
        return -ENOEXEC;
    if (ident[EI_CLASS] == ELFCLASS64) {
        rc = boot_file_read(&boot->kernel, 0, &e64, sizeof e64);
        if (rc || e64.e_machine != EM_X86_64 || e64.e_phentsize != sizeof(Elf64_Phdr))
            return -ENOEXEC;
        *image = (struct elf_image){true, e64.e_entry, e64.e_phoff, e64.e_phnum, e64.e_phentsize};
        return 0;
    }
    rc = boot_file_read(&boot->kernel, 0, &e32, sizeof e32);
    if (rc || ident[EI_CLASS] != ELFCLASS32 || e32.e_machine != EM_386 ||
        e32.e_phentsize != sizeof(Elf32_Phdr))
        return -ENOEXEC;
    *image = (struct elf_image){false, e32.e_entry, e32.e_phoff, e32.e_phnum, e32.e_phentsize};
    return 0;
}

static int elf_program_header_read(const struct boot *boot, const struct elf_image *image,
                                   unsigned index, struct elf_program_header *out)
{
    uint64_t at;
    Elf64_Phdr p64;
    Elf32_Phdr p32;
    int rc;

    if (!checked_add(image->headers, (uint64_t)index * image->header_bytes, &at))
        return -ENOEXEC;
    if (image->is64) {
        rc = boot_file_read(&boot->kernel, at, &p64, sizeof p64);
        if (!rc)
            *out = (struct elf_program_header){p64.p_type, p64.p_offset, p64.p_filesz, p64.p_paddr,
                                               p64.p_memsz};
        return rc;
    }
    rc = boot_file_read(&boot->kernel, at, &p32, sizeof p32);
    if (!rc)
        *out = (struct elf_program_header){p32.p_type, p32.p_offset, p32.p_filesz, p32.p_paddr,
                                           p32.p_memsz};
    return rc;
}

int elf_check_segments(struct boot *boot, const struct memmap *map, struct error *err)
{
    struct elf_image image;
    struct elf_program_header header;
    int rc;

    if (elf_header_read(boot, &image))
        return boot_refuse(boot, err, "its ELF header is cut short or not for x86");
    for (unsigned i = 0; i < image.header_count; i++) {
        if (elf_program_header_read(boot, &image, i, &header))
            return boot_refuse(boot, err, "the file is cut short inside its program headers");
        if (header.type != PT_LOAD || !header.memory_size)
            continue;
        const struct boot_segment segment = {header.offset, header.file_size, header.gpa,
                                             header.memory_size};
        rc = boot_check_segment(boot, &segment, map, err);
        if (rc)
            return rc;
    }
    if (!boot->segment_count)
        return boot_refuse(boot, err, "it has no segment to load");
    boot->entry = image.entry;
    return 0;
}

/* Looks through one PT_NOTE segment; names and descriptors are padded to 4 bytes. */
static bool notes_find_entry(const struct boot *boot, const struct elf_program_header *header,
                             uint64_t *entry)
{
    uint64_t at = header->offset;
    uint64_t end;

    if (!checked_add(at, header->file_size, &end) || end > boot->kernel.size)
        return false;
    for (unsigned i = 0; i < NOTES_MAX && range_fits(at, 12, end); i++) {
        const uint8_t *note = boot->kernel.data + at;
        uint64_t name_bytes = load_le32(note), value_bytes = load_le32(note + 4);
        uint64_t value_at = at + 12 + ((name_bytes + 3) & ~UINT64_C(3));
        if (!range_fits(value_at, value_bytes, end))
            return false;
        if (load_le32(note + 8) == XEN_ELFNOTE_PHYS32_ENTRY && name_bytes == 4 &&
            memcmp(note + 12, "Xen", 4) == 0 && (value_bytes == 4 || value_bytes == 8)) {
            const uint8_t *value = boot->kernel.data + value_at;
            *entry = value_bytes == 4 ? load_le32(value) : load_le64(value);
            return true;
        }
        at = value_at + ((value_bytes + 3) & ~UINT64_C(3));
    }
    return false;
}

static bool pvh_find_entry(const struct boot *boot, uint64_t *entry)
{
    struct elf_image image;
    struct elf_program_header header;

    if (elf_header_read(boot, &image))
        return false;
    for (unsigned i = 0; i < image.header_count; i++) {
        if (elf_program_header_read(boot, &image, i, &header))
            return false;
        if (header.type == PT_NOTE && notes_find_entry(boot, &header, entry))
            return true;
    }
    return false;
}

static bool entry_loaded(const struct boot *boot)
{
    for (unsigned i = 0; i < boot->segment_count; i++) {
        if (range_fits(boot->entry - boot->segment[i].gpa, 1, boot->segment[i].memory_size))
            return boot->entry >= boot->segment[i].gpa;
    }
    return false;
}

static uint64_t pvh_low_bytes(const struct boot *boot)
{
    return PVH_CMDLINE + strlen(boot->append) + 1;
}

static int pvh_check(struct boot *boot, const struct memmap *map, struct error *err)
{
    uint64_t entry;
    int rc;

    if (!pvh_find_entry(boot, &entry))
        return boot_refuse(boot, err,
                           "it is an ELF image without a PVH note or Multiboot header; build the "
                           "kernel with CONFIG_PVH or give its bzImage");
    rc = elf_check_segments(boot, map, err);
    if (rc)
        return rc;
    boot->entry = entry;
    if (!entry_loaded(boot))
        return boot_refuse(boot, err, "its entry 0x%" PRIx64 " lies outside of its segments",
                           entry);
    if (!boot_find_low(boot, pvh_low_bytes(boot)))
        return boot_refuse(boot, err, "no room is left below 640 KiB for its start information");
    return boot_place_modules(boot, map->low_ram, err);
}

static void pvh_start_info(const struct boot *boot, const struct boot_board *board, uint64_t low,
                           uint8_t *block)
{
    uint8_t *start = block + PVH_START, *module = block + PVH_MODULE, *entry = block + PVH_MEMMAP;

    store_le32(start, HVM_START_MAGIC);
    store_le32(start + 4, 1); /* version: with a memory map */
    store_le32(start + 12, boot->module_count);
    store_le64(start + 16, boot->module_count ? low + PVH_MODULE : 0);
    store_le64(start + 24, low + PVH_CMDLINE);
    store_le64(start + 32, board->rsdp);
    store_le64(start + 40, low + PVH_MEMMAP);
    store_le32(start + 48, board->map->count);
    if (boot->module_count) {
        store_le64(module, boot->module_gpa[0]);
        store_le64(module + 8, boot->module[0].size);
    }
    for (unsigned i = 0; i < board->map->count; i++, entry += HVM_MEMMAP_BYTES) {
        store_le64(entry, board->map->entry[i].base);
        store_le64(entry + 8, board->map->entry[i].size);
        store_le32(entry + 16, board->map->entry[i].type);
    }
}

_Static_assert(PVH_START + HVM_START_BYTES <= PVH_MODULE, "start info overlaps");
_Static_assert(PVH_MODULE + HVM_MODULE_BYTES <= PVH_MEMMAP, "module list overlaps");
_Static_assert(PVH_MEMMAP + MEMMAP_ENTRIES_MAX * HVM_MEMMAP_BYTES <= PVH_CMDLINE, "map overlaps");

static int pvh_load(const struct boot *boot, const struct boot_board *board,
                    struct x86_state *state)
{
    uint8_t block[PVH_CMDLINE] = {0};
    uint64_t low = boot_find_low(boot, pvh_low_bytes(boot));
    int rc = boot_load_segments(boot, board->mem);

    if (!rc)
        rc = boot_load_modules(boot, board->mem);
    pvh_start_info(boot, board, low, block);
    if (!rc)
        rc = mem_write(board->mem, low, block, sizeof block);
    if (!rc)
        rc = mem_write(board->mem, low + PVH_CMDLINE, boot->append, strlen(boot->append) + 1);
    if (!rc)
        rc = boot_load_gdt(board->mem, low + PVH_GDT, false);
    boot_state_protected(state, board->cpu_signature, low + PVH_GDT);
    state->gpr[X86_RBX] = low + PVH_START;
    state->rip = boot->entry;
    return rc;
}

const struct boot_format boot_format_pvh = {
    .name = "ELF with a PVH note",
    .recognised = elf_recognised,
    .check = pvh_check,
    .load = pvh_load,
};
