/*
 * The loaders: good images land where the protocols say, and no cut or altered image does any harm.
 * Images are built here, byte by byte, and given as files in memory. A bzImage
 * (FREEHOLD_TEST_KERNEL, or the one that images/kernel keeps) and a firmware image
 * (FREEHOLD_TEST_FIRMWARE, or SeaBIOS's) are loaded, too, where there are any.
 */
#include "machine/boot.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/test.h"

#define RAM (64 * MIB)

/* ---- helpers ---- */

/* A file in memory; `name` is a path by which it can be opened. */
struct file {
    int fd;
    char name[40];
};

static struct file file_make(const void *bytes, size_t size)
{
    struct file file = {.fd = memfd_create("image", MFD_CLOEXEC)};

    if (file.fd < 0 || write(file.fd, bytes, size) != (ssize_t)size)
        abort();
    snprintf(file.name, sizeof file.name, "/proc/self/fd/%d", file.fd);
    return file;
}

struct board {
    struct memmap map;
    struct mem *mem;
};

static struct board board_make(uint64_t ram)
{
    struct board board;

    if (memmap_build(ram, 46, &board.map, NULL) || mem_new(&board.mem) ||
        memmap_add_ram(&board.map, board.mem, NULL))
        abort();
    return board;
}

/* Opens and loads; 0 or the error of the step that failed. */
static int board_boot(struct board *board, const struct boot_config *config,
                      struct x86_state *state, struct error *err)
{
    const struct boot_board target = {board->mem, &board->map, 0xe0000, 0x806f8};
    struct boot *boot;
    int rc = boot_open(config, &board->map, &boot, err);

    if (rc)
        return rc;
    rc = boot_load(boot, &target, state, err);
    boot_free(boot);
    return rc;
}

static uint64_t guest64(struct board *board, uint64_t gpa)
{
    uint64_t value = 0;

    if (mem_read(board->mem, gpa, &value, sizeof value))
        abort();
    return value;
}

static uint32_t guest32(struct board *board, uint64_t gpa)
{
    return (uint32_t)guest64(board, gpa);
}

static const char *guest_text(struct board *board, uint64_t gpa, char *to)
{
    memset(to, 0, 64);
    if (mem_read(board->mem, gpa, to, 63))
        abort();
    return to;
}

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* ---- images ---- */

#define LINUX_SETUP   (3 * 512)
#define LINUX_PAYLOAD 8192
#define LINUX_BYTES   (LINUX_SETUP + LINUX_PAYLOAD)

static void linux_make(uint8_t *image, uint16_t version, uint16_t xloadflags)
{
    memset(image, 0, LINUX_SETUP);
    memset(image + LINUX_SETUP, 0xcc, LINUX_PAYLOAD);
    image[0x1f1] = LINUX_SETUP / 512 - 1;
    store_le32(image + 0x1f4, LINUX_PAYLOAD / 16);
    store_le16(image + 0x1fe, 0xaa55);
    image[0x200] = 0xeb;
    image[0x201] = 0x66; /* the header ends at 0x268 */
    memcpy(image + 0x202, "HdrS", 4);
    store_le16(image + 0x206, version);
    image[0x211] = 0x81;
    store_le32(image + 0x214, 0x100000);
    store_le32(image + 0x22c, 0x7fffffff);
    store_le16(image + 0x236, xloadflags);
    store_le32(image + 0x238, 2047);
    store_le64(image + 0x258, 0x1000000);
    store_le32(image + 0x260, 0x200000);
}

#define ELF_BYTES 4096
#define ELF_CODE  2048

/* One segment of 1 KiB (2 KiB in memory) at 2 MiB and one note segment. */
static void elf64_make(uint8_t *image, uint64_t entry)
{
    Elf64_Ehdr header = {
        .e_machine = EM_X86_64,
        .e_entry = 0x200000,
        .e_phoff = sizeof header,
        .e_phnum = 2,
        .e_phentsize = sizeof(Elf64_Phdr),
    };
    Elf64_Phdr segments[2] = {
        {.p_type = PT_LOAD,
         .p_offset = ELF_CODE,
         .p_paddr = 0x200000,
         .p_filesz = 1024,
         .p_memsz = 2048},
        {.p_type = PT_NOTE, .p_offset = 1024, .p_filesz = 48},
    };

    memset(image, 0, ELF_BYTES);
    memset(image + ELF_CODE, 0xf4, 1024);
    memcpy(header.e_ident, ELFMAG "\2\1\1", 7);
    memcpy(image, &header, sizeof header);
    memcpy(image + sizeof header, segments, sizeof segments);
    store_le32(image + 1024, 4); /* another note first */
    store_le32(image + 1028, 5);
    store_le32(image + 1032, 1);
    memcpy(image + 1036, "Foo", 4);
    store_le32(image + 1048, 4);
    store_le32(image + 1052, 8);
    store_le32(image + 1056, 18);
    memcpy(image + 1060, "Xen", 4);
    store_le64(image + 1064, entry);
}

static void multiboot_header(uint8_t *at, uint32_t flags)
{
    store_le32(at, 0x1badb002);
    store_le32(at + 4, flags);
    store_le32(at + 8, -(0x1badb002 + flags));
}

static void elf32_make(uint8_t *image)
{
    Elf32_Ehdr header = {
        .e_machine = EM_386,
        .e_entry = 0x200010,
        .e_phoff = sizeof header,
        .e_phnum = 1,
        .e_phentsize = sizeof(Elf32_Phdr),
    };
    Elf32_Phdr segment = {.p_type = PT_LOAD,
                          .p_offset = ELF_CODE,
                          .p_paddr = 0x200000,
                          .p_filesz = 1024,
                          .p_memsz = 4096};

    memset(image, 0, ELF_BYTES);
    memset(image + ELF_CODE, 0xf4, 1024);
    memcpy(header.e_ident, ELFMAG "\1\1\1", 7);
    memcpy(image, &header, sizeof header);
    memcpy(image + sizeof header, &segment, sizeof segment);
    multiboot_header(image + 512, 3);
}

/* ---- Linux ---- */

static void test_linux_64bit(struct test *t)
{
    static const uint8_t initrd_bytes[5000] = {0x1f, 0x8b};
    uint8_t image[LINUX_BYTES], payload[LINUX_PAYLOAD];
    struct board board = board_make(RAM);
    struct x86_state state;
    struct error err = {0};
    char text[64];

    linux_make(image, 0x20f, 1);
    struct file kernel = file_make(image, sizeof image);
    struct file initrd = file_make(initrd_bytes, sizeof initrd_bytes);
    const struct boot_config config = {
        .kernel = kernel.name, .initrd = initrd.name, .append = "console=ttyS0"};
    CHECK_EQ(t, board_boot(&board, &config, &state, &err), 0);
    CHECK_EQ(t, state.rip, 0x1000200);
    CHECK(t, state.cr0 & X86_CR0_PG && state.cr4 & X86_CR4_PAE && state.efer & X86_EFER_LMA);
    CHECK_EQ(t, state.seg[X86_CS].attributes & (X86_SEG_L | X86_SEG_DB), X86_SEG_L);
    CHECK_EQ(t, state.seg[X86_CS].selector, 0x10);
    CHECK_EQ(t, state.seg[X86_DS].selector, 0x18);
    CHECK_EQ(t, guest64(&board, state.gdtr.base + 0x10), 0x00af9b000000ffff);
    CHECK_EQ(t, state.rflags, 2);

    uint64_t zero_page = state.gpr[X86_RSI];
    CHECK_EQ(t, guest32(&board, zero_page + 0x202), 0x53726448);
    CHECK_EQ(t, guest64(&board, zero_page + 0x70), 0xe0000); /* RSDP */
    CHECK_STR(t, guest_text(&board, guest32(&board, zero_page + 0x228), text), "console=ttyS0");
    uint64_t at = guest32(&board, zero_page + 0x218);
    CHECK_EQ(t, at, RAM - 8192); /* page-aligned below the end of RAM */
    CHECK_EQ(t, guest32(&board, zero_page + 0x21c), sizeof initrd_bytes);
    CHECK_EQ(t, guest32(&board, at) & 0xffff, 0x8b1f);
    CHECK_EQ(t, guest32(&board, zero_page + 0x1e8) & 0xff, board.map.count);
    CHECK_EQ(t, guest64(&board, zero_page + 0x2d0 + 8), PC_EBDA_GPA);
    CHECK_EQ(t, mem_read(board.mem, 0x1000000, payload, sizeof payload), 0);
    CHECK_MEM(t, payload, image + LINUX_SETUP, sizeof payload);

    /* The tables map address 0x1000200 to itself. */
    uint64_t pdpt = guest64(&board, state.cr3) & ~UINT64_C(0xfff);
    uint64_t directory = guest64(&board, pdpt) & ~UINT64_C(0xfff);
    CHECK_EQ(t, guest64(&board, directory + 8 * 8), 0x1000083);
    CHECK_EQ(t, guest64(&board, (guest64(&board, pdpt + 24) & ~UINT64_C(0xfff)) + 511 * 8),
             0xffe00083);
    close(kernel.fd);
    close(initrd.fd);
    mem_free(board.mem);
}

static void test_linux_32bit(struct test *t)
{
    uint8_t image[LINUX_BYTES];
    struct board board = board_make(RAM);
    struct x86_state state;

    linux_make(image, 0x204, 0);
    struct file kernel = file_make(image, sizeof image);
    const struct boot_config config = {.kernel = kernel.name};
    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, state.rip, 0x100000);
    CHECK_EQ(t, state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    CHECK_EQ(t, state.seg[X86_CS].attributes, 0xc09b);
    CHECK_EQ(t, state.efer, 0);
    close(kernel.fd);
    mem_free(board.mem);
}

/* Each refused image gives -ENOEXEC or the like and a sentence with the file's name. */
static void check_refused(struct test *t, struct board *board, const struct boot_config *config,
                          const char *because)
{
    struct x86_state state;
    struct error err = {0};

    CHECK(t, board_boot(board, config, &state, &err) < 0);
    CHECK(t, err.code < 0);
    if (!CHECK(t, strstr(err.text, because) != NULL))
        printf("   the sentence was: %s\n", err.text);
}

static void check_linux_refused(struct test *t, const uint8_t *image, size_t bytes,
                                const char *because)
{
    struct board board = board_make(RAM);
    struct file kernel = file_make(image, bytes);
    const struct boot_config config = {.kernel = kernel.name, .append = "quiet"};

    check_refused(t, &board, &config, because);
    close(kernel.fd);
    mem_free(board.mem);
}

static void test_linux_refused(struct test *t)
{
    uint8_t image[LINUX_BYTES];

    linux_make(image, 0x20f, 1);
    check_linux_refused(t, image, LINUX_BYTES - 1, "cut short");
    check_linux_refused(t, image, LINUX_SETUP, "cut short");
    check_linux_refused(t, image, 0x238, "too early");
    check_linux_refused(t, image, 0x237, "is not a Linux bzImage");
    store_le32(image + 0x1f4, UINT32_MAX);
    check_linux_refused(t, image, LINUX_BYTES, "cut short");
    linux_make(image, 0x200, 0);
    check_linux_refused(t, image, LINUX_BYTES, "too old");
    linux_make(image, 0x20f, 1);
    image[0x211] = 0; /* zImage */
    check_linux_refused(t, image, LINUX_BYTES, "too old");
    linux_make(image, 0x20f, 1);
    store_le32(image + 0x260, 0x7fffffff);
    check_linux_refused(t, image, LINUX_BYTES, "more --memory");
    store_le64(image + 0x258, UINT64_MAX & ~UINT64_C(4095));
    check_linux_refused(t, image, LINUX_BYTES, "more --memory");
    store_le64(image + 0x258, 0x1000);
    check_linux_refused(t, image, LINUX_BYTES, "preferred address");
    linux_make(image, 0x20f, 1);
    store_le32(image + 0x238, 4);
    check_linux_refused(t, image, LINUX_BYTES, "shorten --append");
    linux_make(image, 0x20f, 1);
    image[0x201] = 0x20;
    check_linux_refused(t, image, LINUX_BYTES, "too early");
}

static void test_initrd_too_large(struct test *t)
{
    uint8_t image[LINUX_BYTES];
    struct board board = board_make(32 * MIB);
    struct file initrd = file_make("x", 1);

    linux_make(image, 0x20f, 1);
    struct file kernel = file_make(image, sizeof image);
    const struct boot_config config = {.kernel = kernel.name, .initrd = initrd.name};
    if (ftruncate(initrd.fd, 16 * MIB))
        abort();
    check_refused(t, &board, &config, "does not fit in memory");
    if (ftruncate(initrd.fd, 33 * MIB))
        abort();
    check_refused(t, &board, &config, "more --memory");
    close(kernel.fd);
    close(initrd.fd);
    mem_free(board.mem);
}

/* ---- PVH ---- */

static void test_pvh(struct test *t)
{
    uint8_t image[ELF_BYTES];
    struct board board = board_make(RAM);
    struct file initrd = file_make("initrd", 6);
    struct x86_state state;
    struct error err = {0};
    char text[64];

    elf64_make(image, 0x200040);
    struct file kernel = file_make(image, sizeof image);
    const struct boot_config config = {
        .kernel = kernel.name, .initrd = initrd.name, .append = "a=b"};
    if (mem_fill(board.mem, 0x200400, 0xff, 1024))
        abort();
    if (!CHECK_EQ(t, board_boot(&board, &config, &state, &err), 0))
        printf("%s\n", err.text);
    CHECK_EQ(t, state.rip, 0x200040);
    CHECK_EQ(t, state.cr0 & ~(uint64_t)X86_CR0_ET, X86_CR0_PE);
    CHECK_EQ(t, state.cr4, 0);
    uint64_t start = state.gpr[X86_RBX];
    CHECK_EQ(t, guest32(&board, start), 0x336ec578);
    CHECK_EQ(t, guest32(&board, start + 4), 1);
    CHECK_EQ(t, guest32(&board, start + 12), 1);
    CHECK_STR(t, guest_text(&board, guest64(&board, start + 24), text), "a=b");
    CHECK_EQ(t, guest64(&board, start + 32), 0xe0000);
    CHECK_EQ(t, guest32(&board, start + 48), board.map.count);
    CHECK_EQ(t, guest64(&board, guest64(&board, start + 40) + 8), PC_EBDA_GPA);
    uint64_t module = guest64(&board, guest64(&board, start + 16));
    CHECK_STR(t, guest_text(&board, module, text), "initrd");
    CHECK_EQ(t, guest32(&board, 0x200000), 0xf4f4f4f4);
    CHECK_EQ(t, guest32(&board, 0x200400), 0); /* what the file lacks is zeroed */
    close(kernel.fd);
    close(initrd.fd);
    mem_free(board.mem);
}

static void test_pvh_refused(struct test *t)
{
    uint8_t image[ELF_BYTES];
    Elf64_Phdr segment;

    elf64_make(image, 0x300000);
    check_linux_refused(t, image, sizeof image, "outside of its segments");
    elf64_make(image, 0x200000);
    check_linux_refused(t, image, ELF_CODE + 1023, "cut short");
    check_linux_refused(t, image, 100, "without a PVH note");
    image[1056] = 17;
    check_linux_refused(t, image, sizeof image, "without a PVH note");
    elf64_make(image, 0x200000);
    memcpy(&segment, image + sizeof(Elf64_Ehdr), sizeof segment);
    segment.p_paddr = 0x9f800;
    memcpy(image + sizeof(Elf64_Ehdr), &segment, sizeof segment);
    check_linux_refused(t, image, sizeof image, "does not lie in RAM");
    segment.p_paddr = UINT64_MAX - 1000;
    memcpy(image + sizeof(Elf64_Ehdr), &segment, sizeof segment);
    check_linux_refused(t, image, sizeof image, "does not lie in RAM");
    segment.p_paddr = 0x200000;
    segment.p_offset = UINT64_MAX;
    memcpy(image + sizeof(Elf64_Ehdr), &segment, sizeof segment);
    check_linux_refused(t, image, sizeof image, "cut short");
}

/* ---- Multiboot ---- */

static void check_multiboot(struct test *t, struct board *board, const struct x86_state *state,
                            const char *kernel)
{
    char text[64], want[64];
    uint64_t info = state->gpr[X86_RBX];

    CHECK_EQ(t, state->gpr[X86_RAX], 0x2badb002);
    CHECK_EQ(t, state->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    CHECK_EQ(t, guest32(board, info) & 0x45, 0x45); /* memory, command line, map */
    CHECK_EQ(t, guest32(board, info + 8), (RAM - MIB) / KIB);
    snprintf(want, sizeof want, "%s one two", kernel);
    CHECK_STR(t, guest_text(board, guest32(board, info + 16), text), want);
    uint64_t map = guest32(board, info + 48);
    CHECK_EQ(t, guest32(board, info + 44), board->map.count * 24);
    CHECK_EQ(t, guest32(board, map), 20);
    CHECK_EQ(t, guest64(board, map + 12), PC_EBDA_GPA);
}

static void test_multiboot_elf32(struct test *t)
{
    uint8_t image[ELF_BYTES];
    struct board board = board_make(RAM);
    struct file a = file_make("first", 5), b = file_make("second!", 7);
    struct x86_state state;
    char list[120], text[64], want[64];

    elf32_make(image);
    struct file kernel = file_make(image, sizeof image);
    snprintf(list, sizeof list, "%s x y,%s", a.name, b.name);
    const struct boot_config config = {.kernel = kernel.name, .initrd = list, .append = "one two"};
    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, state.rip, 0x200010);
    check_multiboot(t, &board, &state, kernel.name);
    uint64_t info = state.gpr[X86_RBX], modules = guest32(&board, info + 24);
    CHECK_EQ(t, guest32(&board, info) & 8, 8);
    CHECK_EQ(t, guest32(&board, info + 20), 2);
    CHECK_STR(t, guest_text(&board, guest32(&board, modules), text), "first");
    CHECK_EQ(t, guest32(&board, modules + 4) - guest32(&board, modules), 5);
    snprintf(want, sizeof want, "%s x y", a.name);
    CHECK_STR(t, guest_text(&board, guest32(&board, modules + 8), text), want);
    CHECK_STR(t, guest_text(&board, guest32(&board, modules + 16), text), "second!");
    CHECK_STR(t, guest_text(&board, guest32(&board, modules + 24), text), b.name);
    close(kernel.fd);
    close(a.fd);
    close(b.fd);
    mem_free(board.mem);
}

static void test_multiboot_elf64(struct test *t)
{
    uint8_t image[ELF_BYTES];
    struct board board = board_make(RAM);
    struct x86_state state;

    elf64_make(image, 0x200040);
    multiboot_header(image + 1536, 3);
    struct file kernel = file_make(image, sizeof image);
    const struct boot_config config = {.kernel = kernel.name, .append = "one two"};
    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, state.rip, 0x200000);
    CHECK_EQ(t, state.efer, 0);
    check_multiboot(t, &board, &state, kernel.name);
    close(kernel.fd);
    mem_free(board.mem);
}

static void addresses_make(uint8_t *image, size_t bytes)
{
    memset(image, 0x90, bytes);
    multiboot_header(image + 64, 1u << 16);
    store_le32(image + 64 + 12, 0x100040); /* header */
    store_le32(image + 64 + 16, 0x100020); /* load: from file offset 32 on */
    store_le32(image + 64 + 20, 0x100020 + 1000);
    store_le32(image + 64 + 24, 0x100020 + 3000);
    store_le32(image + 64 + 28, 0x100100);
}

static void test_multiboot_addresses(struct test *t)
{
    uint8_t image[2048];
    struct board board = board_make(RAM);
    struct x86_state state;

    addresses_make(image, sizeof image);
    struct file kernel = file_make(image, sizeof image);
    const struct boot_config config = {.kernel = kernel.name, .append = "one two"};
    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, state.rip, 0x100100);
    CHECK_EQ(t, guest32(&board, 0x100040), 0x1badb002);
    CHECK_EQ(t, guest32(&board, 0x100020 + 996), 0x90909090);
    CHECK_EQ(t, guest32(&board, 0x100020 + 1000), 0);
    close(kernel.fd);
    mem_free(board.mem);

    check_linux_refused(t, image, 600, "cut short");
    store_le32(image + 64 + 16, 0x100044); /* above the header */
    check_linux_refused(t, image, sizeof image, "load address");
    addresses_make(image, sizeof image);
    store_le32(image + 64 + 20, 0x100000);
    check_linux_refused(t, image, sizeof image, "out of order");
    addresses_make(image, sizeof image);
    multiboot_header(image + 64, 4);
    check_linux_refused(t, image, sizeof image, "video mode");
    multiboot_header(image + 64, 0x8000);
    check_linux_refused(t, image, sizeof image, "unknown features");
    multiboot_header(image + 64, 0);
    check_linux_refused(t, image, sizeof image, "no ELF image");
}

/* ---- cut and altered images ---- */

/* Opens and loads an image that may be good or not; it must never crash, and a failure has a
 * sentence. Returns whether it was taken. */
static bool check_survives(struct test *t, struct board *board, const uint8_t *image, size_t bytes)
{
    struct file kernel = file_make(image, bytes);
    const struct boot_config config = {.kernel = kernel.name, .append = "x"};
    struct x86_state state;
    struct error err = {0};
    int rc = board_boot(board, &config, &state, &err);

    CHECK(t, rc == 0 || (rc < 0 && err.text[0]));
    close(kernel.fd);
    return rc == 0;
}

static void test_cut_everywhere(struct test *t)
{
    uint8_t image[LINUX_BYTES];
    struct board board = board_make(RAM);

    linux_make(image, 0x20f, 1);
    for (size_t bytes = 1; bytes < LINUX_BYTES; bytes += bytes < 0x300 ? 1 : 509)
        CHECK(t, !check_survives(t, &board, image, bytes));
    elf64_make(image, 0x200000);
    for (size_t bytes = 1; bytes < ELF_CODE + 1024; bytes += bytes < 1200 ? 1 : 97)
        CHECK(t, !check_survives(t, &board, image, bytes));
    mem_free(board.mem);
}

/* 1 to 8 bytes of the headers are replaced, often by extreme values. */
static void image_alter(uint8_t *image, size_t start, size_t end, uint64_t *seed)
{
    static const uint8_t extremes[] = {0x00, 0xff, 0x7f, 0x80, 0x01};
    unsigned count = 1 + (unsigned)(random_next(seed) % 8);

    for (unsigned i = 0; i < count; i++) {
        size_t at = start + random_next(seed) % (end - start);
        uint64_t r = random_next(seed);
        image[at] = r & 1 ? extremes[(r >> 8) % sizeof extremes] : (uint8_t)(r >> 16);
    }
}

static void test_altered(struct test *t)
{
    uint8_t image[LINUX_BYTES];
    struct board board = board_make(16 * MIB);
    uint64_t seed = 0x46726565686f6c64;
    unsigned taken = 0;

    for (unsigned i = 0; i < 4000; i++) {
        linux_make(image, 0x20f, 1);
        store_le64(image + 0x258, 0x200000);
        image_alter(image, 0x1f1, 0x268, &seed);
        taken += check_survives(t, &board, image, LINUX_BYTES);
        elf64_make(image, 0x200040);
        image_alter(image, 0, i & 1 ? 0xb0 : 1072, &seed);
        taken += check_survives(t, &board, image, ELF_BYTES);
        elf32_make(image);
        image_alter(image, 0, 0x54, &seed);
        taken += check_survives(t, &board, image, ELF_BYTES);
        addresses_make(image, 2048);
        image_alter(image, 64 + 12, 64 + 32, &seed);
        taken += check_survives(t, &board, image, 2048);
    }
    CHECK(t, taken > 1000); /* or the test tests nothing but the magic */
    mem_free(board.mem);
}

/* ---- firmware, files ---- */

static void test_firmware(struct test *t)
{
    uint8_t *rom = malloc(256 * KIB);
    struct board board = board_make(RAM);
    struct x86_state state;

    for (size_t i = 0; i < 256 * KIB; i++)
        rom[i] = (uint8_t)(i >> 12);
    struct file firmware = file_make(rom, 256 * KIB);
    struct boot_config config = {.firmware = firmware.name};
    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, state.rip, 0xfff0);
    CHECK_EQ(t, state.seg[X86_CS].base, 0xffff0000);
    CHECK_EQ(t, guest32(&board, 0xe0000) & 0xff, 0x20);
    CHECK_EQ(t, guest32(&board, 0xffff0) & 0xff, 0x3f);
    CHECK_EQ(t, guest32(&board, 0xc1000) & 0xff, 1); /* all 256 KiB */
    if (ftruncate(firmware.fd, 256 * 1024 - 1))
        abort();
    check_refused(t, &board, &config, "whole firmware image");
    if (ftruncate(firmware.fd, 32 * 1024))
        abort();
    check_refused(t, &board, &config, "whole firmware image");
    if (ftruncate(firmware.fd, 17 << 20))
        abort();
    check_refused(t, &board, &config, "smaller file");
    config.append = "quiet";
    check_refused(t, &board, &config, "need --kernel");
    config.kernel = firmware.name;
    check_refused(t, &board, &config, "exclude each other");
    free(rom);
    close(firmware.fd);
    mem_free(board.mem);
}

static void test_files(struct test *t)
{
    struct board board = board_make(RAM);
    struct file empty = file_make("", 0), junk = file_make("#!/bin/sh\n", 10);
    struct boot_config config = {.kernel = "/nonexistent/vmlinuz"};

    check_refused(t, &board, &config, "No such file");
    config.kernel = "/";
    check_refused(t, &board, &config, "not a regular file");
    config.kernel = "/dev/zero";
    check_refused(t, &board, &config, "not a regular file");
    config.kernel = empty.name;
    check_refused(t, &board, &config, "is empty");
    config.kernel = junk.name;
    check_refused(t, &board, &config, "is not a Linux bzImage");
    config.kernel = NULL;
    check_refused(t, &board, &config, "nothing to boot");
    close(empty.fd);
    close(junk.fd);
    mem_free(board.mem);
}

/* ---- real images ---- */

/* The variable's value, or the file under `folder` if it is there; NULL: neither. */
static const char *real_image(const char *variable, const char *folder, const char *file)
{
    static char path[512];

    if (getenv(variable))
        return getenv(variable);
    snprintf(path, sizeof path, "%s%s", folder ? folder : "", file);
    return access(path, R_OK) == 0 ? path : NULL;
}

static const char *real_kernel(void)
{
    if (getenv("XDG_CACHE_HOME"))
        return real_image("FREEHOLD_TEST_KERNEL", getenv("XDG_CACHE_HOME"),
                          "/freehold/kernel/vmlinuz");
    return real_image("FREEHOLD_TEST_KERNEL", getenv("HOME"), "/.cache/freehold/kernel/vmlinuz");
}

static const char *real_firmware(void)
{
    return real_image("FREEHOLD_TEST_FIRMWARE", "/usr/share/seabios", "/bios-256k.bin");
}

static void test_real_kernel(struct test *t)
{
    const struct boot_config config = {.kernel = real_kernel(), .append = "console=ttyS0"};
    struct board board = board_make(512 * MIB);
    struct x86_state state;
    struct error err = {0};

    if (!CHECK_EQ(t, board_boot(&board, &config, &state, &err), 0))
        printf("%s\n", err.text);
    CHECK_EQ(t, state.rip & 0xfff, 0x200);
    CHECK(t, guest64(&board, state.rip) != 0);
    struct memmap small;
    struct boot *boot;
    CHECK_EQ(t, memmap_build(16 * MIB, 46, &small, NULL), 0);
    CHECK_EQ(t, boot_open(&config, &small, &boot, &err), -ENOEXEC);
    CHECK(t, strstr(err.text, "more --memory") != NULL);
    mem_free(board.mem);
}

static void test_real_firmware(struct test *t)
{
    const struct boot_config config = {.firmware = real_firmware()};
    struct board board = board_make(RAM);
    struct x86_state state;

    CHECK_EQ(t, board_boot(&board, &config, &state, NULL), 0);
    CHECK_EQ(t, guest32(&board, 0xffff0) & 0xff, 0xea); /* the far jump at the reset vector */
    mem_free(board.mem);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_linux_64bit);
    TEST_RUN(&t, test_linux_32bit);
    TEST_RUN(&t, test_linux_refused);
    TEST_RUN(&t, test_initrd_too_large);
    TEST_RUN(&t, test_pvh);
    TEST_RUN(&t, test_pvh_refused);
    TEST_RUN(&t, test_multiboot_elf32);
    TEST_RUN(&t, test_multiboot_elf64);
    TEST_RUN(&t, test_multiboot_addresses);
    TEST_RUN(&t, test_cut_everywhere);
    TEST_RUN(&t, test_altered);
    TEST_RUN(&t, test_firmware);
    TEST_RUN(&t, test_files);
    if (real_kernel())
        TEST_RUN(&t, test_real_kernel);
    if (real_firmware())
        TEST_RUN(&t, test_real_firmware);
    return test_end(&t);
}
