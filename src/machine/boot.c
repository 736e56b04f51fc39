/*
 * Boot images: reading files, choosing the format, and what the loaders share. Purpose, threads and
 * trust: boot.h. Files are read whole into private memory, so that what was checked is what is
 * used, at power on and at every reset after it.
 */
#include "machine/boot_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"

#define KERNEL_BYTES_MAX   GIB
#define FIRMWARE_BYTES_MIN (64 * KIB)
#define BIOS_SHADOW_BYTES  (PC_BIOS_END - PC_OPTION_ROM_GPA)

/* IA32_MTRR_DEF_TYPE (SDM vol. 3, 12.11.2.1). */
#define MTRR_ENABLED    (1u << 11)
#define MTRR_WRITE_BACK 6u

static const struct boot_format *const boot_formats[] = {
    &boot_format_linux,
    &boot_format_multiboot,
    &boot_format_pvh,
};

int boot_refuse(const struct boot *boot, struct error *err, const char *format, ...)
{
    char reason[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return error_set(err, -ENOEXEC, "kernel %s cannot be booted: %s", boot->kernel.name, reason);
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *to, size_t length)
{
    if (!range_fits(offset, length, file->size))
        return -ENOEXEC;
    memcpy(to, file->data + offset, length);
    return 0;
}

static void boot_file_fini(struct boot_file *file)
{
    free(file->name);
    free(file->arguments);
    free(file->data);
    *file = (struct boot_file){0};
}

static int file_read_all(int fd, uint8_t *to, uint64_t size)
{
    uint64_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, to + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA; /* it shrank while we read */
        done += (uint64_t)n;
    }
    return 0;
}

/* What the file is for, in the user's words, and how large it may be. */
struct file_purpose {
    const char *what;
    uint64_t size_max;
};

static int file_check(const struct stat *st, const char *name, const struct file_purpose *purpose,
                      struct error *err)
{
    if (!S_ISREG(st->st_mode))
        return error_set(err, -EINVAL, "%s %s is not a regular file; give an image file",
                         purpose->what, name);
    if (st->st_size == 0)
        return error_set(err, -ENOEXEC, "%s %s is empty; give an image file", purpose->what, name);
    if ((uint64_t)st->st_size > purpose->size_max)
        return error_set(err, -EFBIG,
                         "%s %s has %" PRIu64 " bytes but only %" PRIu64
                         " have room; give a smaller file or more --memory",
                         purpose->what, name, (uint64_t)st->st_size, purpose->size_max);
    return 0;
}

static int boot_file_open(struct boot_file *file, const char *name,
                          const struct file_purpose *purpose, struct error *err)
{
    struct stat st;
    int rc;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return error_set(err, -errno, "cannot open %s %s: %s; check the path and its permissions",
                         purpose->what, name, strerror(errno));
    rc = fstat(fd, &st) ? -errno : file_check(&st, name, purpose, err);
    if (rc)
        goto out_close;
    file->name = strdup(name);
    file->data = malloc((size_t)st.st_size);
    file->size = (uint64_t)st.st_size;
    rc = file->name && file->data ? file_read_all(fd, file->data, file->size) : -ENOMEM;
    if (rc)
        error_set(err, rc, "cannot read %s %s: %s", purpose->what, name, strerror(-rc));
out_close:
    close(fd);
    return rc;
}

/* One of `--initrd "file args,file args"`. */
static int boot_module_open(struct boot *boot, char *text, uint64_t room, struct error *err)
{
    const struct file_purpose purpose = {"initrd", room};

    if (boot->module_count == BOOT_MODULES_MAX)
        return error_set(err, -E2BIG, "more than %d modules in --initrd; give fewer",
                         BOOT_MODULES_MAX);
    struct boot_file *module = &boot->module[boot->module_count++];
    char *space = strchr(text, ' ');
    if (space) {
        *space = 0;
        module->arguments = strdup(space + 1);
        if (!module->arguments)
            return -ENOMEM;
    }
    return boot_file_open(module, text, &purpose, err);
}

/* A comma parts files only where there is no file of that whole name. */
static int boot_modules_open(struct boot *boot, const char *list, uint64_t room, struct error *err)
{
    char *copy = strdup(list);
    int rc = 0;

    if (!copy)
        return -ENOMEM;
    if (boot->format != &boot_format_multiboot || access(list, F_OK) == 0) {
        const struct file_purpose purpose = {"initrd", room};
        boot->module_count = 1;
        rc = boot_file_open(&boot->module[0], list, &purpose, err);
    } else {
        char *save = NULL;
        for (char *part = strtok_r(copy, ",", &save); part && !rc;
             part = strtok_r(NULL, ",", &save))
            rc = boot_module_open(boot, part, room, err);
    }
    free(copy);
    return rc;
}

static const struct boot_format *format_find(const struct boot_file *kernel)
{
    for (size_t i = 0; i < sizeof boot_formats / sizeof *boot_formats; i++) {
        if (boot_formats[i]->recognised(kernel))
            return boot_formats[i];
    }
    return NULL;
}

static int format_choose(struct boot *boot, struct error *err)
{
    boot->format = format_find(&boot->kernel);
    if (boot->format)
        return 0;
    return error_set(err, -ENOEXEC,
                     "kernel %s is not a Linux bzImage, an ELF image with a PVH note or a "
                     "Multiboot image; give such a file, or a firmware image with --firmware",
                     boot->kernel.name);
}

static int kernel_open(struct boot *boot, const struct boot_config *config,
                       const struct memmap *map, struct error *err)
{
    const struct file_purpose purpose = {"kernel", KERNEL_BYTES_MAX};
    int rc = boot_file_open(&boot->kernel, config->kernel, &purpose, err);

    if (!rc)
        rc = format_choose(boot, err);
    if (!rc && config->initrd)
        rc = boot_modules_open(boot, config->initrd, map->low_ram, err);
    if (!rc)
        rc = boot->format->check(boot, map, err);
    return rc;
}

static int firmware_open(struct boot *boot, const char *name, struct error *err)
{
    const struct file_purpose purpose = {"firmware", PC_FIRMWARE_SIZE_MAX};
    int rc = boot_file_open(&boot->firmware, name, &purpose, err);

    if (rc)
        return rc;
    if (boot->firmware.size < FIRMWARE_BYTES_MIN || boot->firmware.size % GUEST_PAGE_SIZE)
        return error_set(err, -ENOEXEC,
                         "firmware %s has %" PRIu64 " bytes, not a multiple of 4 KiB from 64 KiB "
                         "to 16 MiB; give a whole firmware image",
                         name, boot->firmware.size);
    return 0;
}

static int config_check(const struct boot_config *config, struct error *err)
{
    if (!config->kernel && !config->firmware)
        return error_set(err, -EINVAL, "nothing to boot; give --kernel or --firmware");
    if (config->kernel && config->firmware)
        return error_set(err, -EINVAL,
                         "--kernel and --firmware exclude each other; give one of them");
    if (config->firmware && (config->initrd || config->append))
        return error_set(err, -EINVAL,
                         "--initrd and --append need --kernel; leave them out with --firmware");
    return 0;
}

int boot_open(const struct boot_config *config, const struct memmap *map, struct boot **out,
              struct error *err)
{
    struct boot *boot;
    int rc = config_check(config, err);

    if (rc)
        return rc;
    boot = calloc(1, sizeof *boot);
    if (boot)
        boot->append = strdup(config->append ? config->append : "");
    if (!boot || !boot->append)
        rc = error_set(err, -ENOMEM, "out of memory while opening the boot images");
    else if (config->firmware)
        rc = firmware_open(boot, config->firmware, err);
    else
        rc = kernel_open(boot, config, map, err);
    if (rc)
        boot_free(boot);
    else
        *out = boot;
    return rc;
}

void boot_free(struct boot *boot)
{
    if (!boot)
        return;
    boot_file_fini(&boot->kernel);
    boot_file_fini(&boot->firmware);
    for (unsigned i = 0; i < boot->module_count; i++)
        boot_file_fini(&boot->module[i]);
    free(boot->append);
    free(boot);
}

const uint8_t *boot_firmware(const struct boot *boot, uint64_t *size)
{
    *size = boot->firmware.size;
    return boot->firmware.data;
}

int boot_place_modules(struct boot *boot, uint64_t top, struct error *err)
{
    uint64_t start = boot->image_end > PC_BIOS_END ? boot->image_end : PC_BIOS_END;

    for (unsigned i = 0; i < boot->module_count; i++) {
        uint64_t size = boot->module[i].size;
        if (top < start || size > top - start || ((top - size) & ~(GUEST_PAGE_SIZE - 1)) < start)
            return error_set(err, -ENOMEM,
                             "initrd %s (%" PRIu64 " bytes) does not fit in memory beside the "
                             "kernel; give more --memory or a smaller initrd",
                             boot->module[i].name, size);
        top = (top - size) & ~(GUEST_PAGE_SIZE - 1);
        boot->module_gpa[i] = top;
    }
    return 0;
}

int boot_load_modules(const struct boot *boot, struct mem *mem)
{
    int rc = 0;

    for (unsigned i = 0; i < boot->module_count && !rc; i++)
        rc = mem_write(mem, boot->module_gpa[i], boot->module[i].data, boot->module[i].size);
    return rc;
}

int boot_check_segment(struct boot *boot, const struct boot_segment *segment,
                       const struct memmap *map, struct error *err)
{
    uint64_t end;

    if (segment->file_size > segment->memory_size)
        return boot_refuse(boot, err, "a segment is larger in the file than in memory");
    if (!range_fits(segment->file_offset, segment->file_size, boot->kernel.size))
        return boot_refuse(boot, err,
                           "the file is cut short (a segment ends at byte %" PRIu64 " of %" PRIu64
                           "); give a whole file",
                           segment->file_offset + segment->file_size, boot->kernel.size);
    if (!checked_add(segment->gpa, segment->memory_size, &end) || end > map->low_ram ||
        (segment->gpa < PC_BIOS_END && end > PC_EBDA_GPA))
        return boot_refuse(boot, err,
                           "a segment of %" PRIu64 " bytes at 0x%" PRIx64
                           " does not lie in RAM; give more --memory if it is too large",
                           segment->memory_size, segment->gpa);
    if (boot->segment_count == BOOT_SEGMENTS_MAX)
        return boot_refuse(boot, err, "it has more than %d segments", BOOT_SEGMENTS_MAX);
    boot->segment[boot->segment_count++] = *segment;
    if (end > boot->image_end)
        boot->image_end = end;
    return 0;
}

int boot_load_segments(const struct boot *boot, struct mem *mem)
{
    int rc = 0;

    for (unsigned i = 0; i < boot->segment_count && !rc; i++) {
        const struct boot_segment *s = &boot->segment[i];
        rc = mem_write(mem, s->gpa, boot->kernel.data + s->file_offset, s->file_size);
        if (!rc)
            rc = mem_fill(mem, s->gpa + s->file_size, 0, s->memory_size - s->file_size);
    }
    return rc;
}

static bool segments_touch(const struct boot *boot, uint64_t start, uint64_t size)
{
    for (unsigned i = 0; i < boot->segment_count; i++) {
        const struct boot_segment *s = &boot->segment[i];
        if (start < s->gpa + s->memory_size && s->gpa < start + size)
            return true;
    }
    return false;
}

uint64_t boot_find_low(const struct boot *boot, uint64_t size)
{
    const uint64_t lowest = GUEST_PAGE_SIZE;
    uint64_t top = PC_EBDA_GPA & ~(GUEST_PAGE_SIZE - 1);

    for (; size <= top && top - size >= lowest; top -= GUEST_PAGE_SIZE) {
        uint64_t start = (top - size) & ~(GUEST_PAGE_SIZE - 1);
        if (start >= lowest && !segments_touch(boot, start, size))
            return start;
    }
    return 0;
}

/* Flat descriptors (APM vol. 2, 4.7): code is 64-bit with L, 32-bit with D. */
int boot_load_gdt(struct mem *mem, uint64_t gpa, bool long_mode)
{
    uint8_t gdt[BOOT_GDT_BYTES] = {0};

    store_le64(gdt + BOOT_CS,
               long_mode ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff));
    store_le64(gdt + BOOT_DS, UINT64_C(0x00cf93000000ffff));
    store_le64(gdt + BOOT_TR, UINT64_C(0x00008b0000000067));
    return mem_write(mem, gpa, gdt, sizeof gdt);
}

void boot_state_protected(struct x86_state *state, uint32_t cpu_signature, uint64_t gdt_gpa)
{
    const struct x86_segment data = {
        .limit = UINT32_MAX, .selector = BOOT_DS, .attributes = 0xc093};
    const struct x86_segment code = {
        .limit = UINT32_MAX, .selector = BOOT_CS, .attributes = 0xc09b};

    x86_state_reset(state, true, cpu_signature);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        state->seg[i] = i == X86_CS ? code : data;
    state->tr = (struct x86_segment){.limit = 0x67, .selector = BOOT_TR, .attributes = 0x8b};
    state->gdtr = (struct x86_table){.base = gdt_gpa, .limit = BOOT_GDT_BYTES - 1};
    state->idtr = (struct x86_table){0};
    state->rflags = X86_RFLAGS_ONE;
    state->cr0 = X86_CR0_PE | X86_CR0_ET;
    state->gpr[X86_RDX] = 0;
    state->mtrr_def_type = MTRR_ENABLED | MTRR_WRITE_BACK; /* as firmware leaves it */
}

void boot_state_wake(struct x86_state *state, uint32_t cpu_signature, uint32_t vector)
{
    x86_state_reset(state, true, cpu_signature);
    state->seg[X86_CS].selector = (uint16_t)(vector >> 4);
    state->seg[X86_CS].base = vector & 0xffff0;
    state->rip = vector & 0xf;
    state->cr0 = X86_CR0_ET;
    state->gpr[X86_RDX] = 0;
    state->mtrr_def_type = MTRR_ENABLED | MTRR_WRITE_BACK;
}

/* The reset vector lies in the ROM that the board mapped; the copy below 1 MiB is plain RAM, which
 * firmware "unlocks" and writes to. It is as large as can be: the 256 KiB build of SeaBIOS has code
 * below 0xe0000, which chipsets show only after the unlocking. */
static int firmware_load(const struct boot *boot, const struct boot_board *board,
                         struct x86_state *state)
{
    uint64_t size = boot->firmware.size;
    uint64_t shadow = size < BIOS_SHADOW_BYTES ? size : BIOS_SHADOW_BYTES;

    x86_state_reset(state, true, board->cpu_signature);
    return mem_write(board->mem, PC_BIOS_END - shadow, boot->firmware.data + size - shadow, shadow);
}

int boot_load(struct boot *boot, const struct boot_board *board, struct x86_state *state,
              struct error *err)
{
    int rc =
        boot->format ? boot->format->load(boot, board, state) : firmware_load(boot, board, state);

    if (rc)
        return error_set(err, rc, "cannot load %s into guest memory: %s",
                         boot->format ? boot->kernel.name : boot->firmware.name, strerror(-rc));
    return 0;
}
