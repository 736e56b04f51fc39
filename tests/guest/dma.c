/*
 * A device that writes to memory whose code has run, is running on the other processor, or maps
 * pages: what it wrote is what runs, and is what is mapped, once it has said so.
 *
 * The device is a virtio disk (virtio 1.2, 2.7, 4.1 and 5.2) with one queue, polled. Intel SDM
 * vol. 3, 11.6 and 8.1.3: caches follow; a serializing instruction lets go of what was prefetched.
 * Option rounds=N (300).
 */
#include "cpus.h"

#define SECTOR 512u
#define PIECES 64u /* disk sector i: code that gives i, all over it */

/* -- PCI -- */

static u32 pci_read(u32 slot, u32 offset)
{
    outl(0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc));
    return inl(0xcfc);
}

static void pci_write(u32 slot, u32 offset, u32 value)
{
    outl(0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc));
    outl(0xcfc, value);
}

static u32 disk_slot(void)
{
    for (u32 slot = 1; slot < 32; slot++)
        if (pci_read(slot, 0) == 0x10421af4)
            return slot;
    return 0;
}

/* Where the region of a type lies (4.1.4); with its capability's offset. */
static volatile u8 *region(u32 slot, u32 type, u32 *capability)
{
    u32 at = pci_read(slot, 0x34) & 0xfc;
    for (u32 i = 0; i < 32 && at; i++) {
        u32 head = pci_read(slot, at), bar = pci_read(slot, at + 4) & 0xff;
        if ((head & 0xff) == 9 && head >> 24 == type) {
            *capability = at;
            return (volatile u8 *)low_pointer((pci_read(slot, 0x10 + 4 * bar) & ~15u) +
                                              pci_read(slot, at + 8));
        }
        at = head >> 8 & 0xfc;
    }
    return NULL;
}

/* -- the disk -- */

#define QUEUE 16u
static struct {
    u64 address;
    u32 length;
    u16 flags, next;
} descriptors[QUEUE] __attribute__((aligned(16)));
static struct {
    u16 flags, index, ring[QUEUE];
} available __attribute__((aligned(2)));
static struct {
    u16 flags;
    volatile u16 index;
    struct {
        u32 id, length;
    } ring[QUEUE];
} used __attribute__((aligned(4)));
static struct {
    u32 type, reserved;
    u64 sector;
} header;
static volatile u8 status;
static volatile u16 *doorbell;

#define FEATURES_SELECT 8
#define FEATURES        12
#define DEVICE_STATUS   20
#define QUEUE_SELECT    22
#define QUEUE_SIZE      24
#define QUEUE_ENABLE    28
#define QUEUE_NOTIFY    30
#define QUEUE_DESC      32
#define REG8(at)        (*(volatile u8 *)(common + (at)))
#define REG16(at)       (*(volatile u16 *)(common + (at)))
#define REG32(at)       (*(volatile u32 *)(common + (at)))

static bool disk_start(void)
{
    u32 slot = disk_slot(), capability, notify;
    if (!slot)
        return false;
    volatile u8 *common = region(slot, 1, &capability), *bells = region(slot, 2, &notify);
    pci_write(slot, 4, pci_read(slot, 4) | 6);
    REG8(DEVICE_STATUS) = 0;
    REG8(DEVICE_STATUS) = 3; /* seen, driven */
    REG32(FEATURES_SELECT) = 0;
    REG32(FEATURES) = 0;
    REG32(FEATURES_SELECT) = 1;
    REG32(FEATURES) = 1; /* VERSION_1 alone */
    REG8(DEVICE_STATUS) = 11;
    REG16(QUEUE_SELECT) = 0;
    REG16(QUEUE_SIZE) = QUEUE;
    const void *const rings[] = {descriptors, &available, &used};
    for (u32 i = 0; i < 3; i++) {
        REG32(QUEUE_DESC + 8 * i) = (u32)ADDRESS(rings[i]);
        REG32(QUEUE_DESC + 8 * i + 4) = 0;
    }
    doorbell = (volatile u16 *)(bells + REG16(QUEUE_NOTIFY) * pci_read(slot, notify + 16));
    REG16(QUEUE_ENABLE) = 1;
    REG8(DEVICE_STATUS) = 15;
    return REG8(DEVICE_STATUS) == 15;
}

#define READ_DISK  0u
#define WRITE_DISK 1u
#define NEXT       1u
#define BY_DEVICE  2u

/* Data of a request: up to QUEUE - 2 pieces of memory, in turn. */
struct piece {
    void *at;
    u32 length;
};

static void disk_request(u32 type, u64 sector, const struct piece *pieces, u32 count)
{
    u16 data = (u16)(NEXT | (type == READ_DISK ? BY_DEVICE : 0)), last = (u16)(count + 1);

    header.type = type;
    header.sector = sector;
    status = 0xff;
    descriptors[0].address = ADDRESS(&header);
    descriptors[0].length = sizeof(header);
    descriptors[0].flags = NEXT;
    descriptors[0].next = 1;
    for (u16 i = 0; i < count; i++) {
        descriptors[i + 1].address = ADDRESS(pieces[i].at);
        descriptors[i + 1].length = pieces[i].length;
        descriptors[i + 1].flags = data;
        descriptors[i + 1].next = (u16)(i + 2);
    }
    descriptors[last].address = ADDRESS(&status);
    descriptors[last].length = 1;
    descriptors[last].flags = BY_DEVICE;
    available.ring[available.index % QUEUE] = 0;
    __asm__ volatile("" : : : "memory");
    *(volatile u16 *)&available.index = (u16)(available.index + 1);
    __asm__ volatile("mfence" : : : "memory");
    *doorbell = 0;
}

static bool disk_done(void)
{
    return used.index == available.index;
}

static u32 failed_requests;

static void disk_wait(void)
{
    WAIT(disk_done());
    __asm__ volatile("" : : : "memory");
    failed_requests += !disk_done() || status != 0;
    cpuid(0, 0);
}

static void disk_read(u64 sector, void *to, u32 sectors)
{
    struct piece piece = {to, sectors * SECTOR};
    disk_request(READ_DISK, sector, &piece, 1);
    disk_wait();
}

/* -- code on the disk -- */

#define CODE_BYTES 6u
static void code_fill(u8 *at, u32 value, u32 bytes)
{
    u8 code[] = {0xb8, (u8)value, (u8)(value >> 8), 0, 0, 0xc3}; /* MOV EAX, value; RET */
    for (u32 i = 0; i + CODE_BYTES <= bytes; i += 16)
        memory_copy(at + i, code, sizeof(code));
}

static u32 run(const u8 *at)
{
    return ((u32(*)(void))ADDRESS(at))();
}

static u8 code[3 * 4096] __attribute__((aligned(4096)));
static u64 wrong;

static void disk_fill(void)
{
    for (u32 i = 0; i < PIECES; i++) {
        struct piece piece = {code, SECTOR};
        code_fill(code, i, SECTOR);
        disk_request(WRITE_DISK, i, &piece, 1);
        disk_wait();
    }
    CHECK("requests that failed", failed_requests, 0);
}

/* Runs it often enough to be translated at times. */
static void expect(const u8 *at, u32 value, u32 times)
{
    for (u32 i = 0; i < times; i++)
        wrong += run(at) != value;
}

static void test_replaced(u64 rounds)
{
    part("code replaced by a device");
    wrong = 0;
    for (u32 i = 0; i < rounds; i++) {
        u32 from = i * 7 % (PIECES - 24), at = i * 5 % 8 * SECTOR, sectors = 1 + i % 16;
        if (i % 3 == 0)
            code_fill(code, 1000 + i % 100, sizeof(code));
        if (i % 3 == 0)
            expect(code + at, 1000 + i % 100, i % 20);
        disk_read(from, code + at, sectors);
        for (u32 k = 0; k < sectors; k++)
            expect(code + at + k * SECTOR + i % 31 * 16, from + k, i % 7 == 0 ? 20 : 2);
    }
    CHECK("stale code", wrong, 0);
}

/* Some bytes here and some there: the rest of each page is as it was. */
static void test_scattered(u64 rounds)
{
    part("parts of pages");
    wrong = 0;
    for (u32 i = 0; i < rounds; i++) {
        code_fill(code, 2000, sizeof(code));
        for (u32 k = 0; k < 3 * 4096; k += 1024)
            expect(code + k, 2000, 3);
        struct piece pieces[3] = {
            {code + 4096 - 160, 160}, {code + 4096, 160}, {code + 8192 + 64, 192}};
        disk_request(READ_DISK, i % PIECES, pieces, 3);
        disk_wait();
        expect(code + 4096 - 160, i % PIECES, 2);
        expect(code + 4096 + 144, i % PIECES, 2);
        expect(code + 8192 + 64, i % PIECES, 2);
        expect(code + 4096 - 176, 2000, 2);
        expect(code + 4096 + 160, 2000, 2);
        expect(code + 8192 + 48, 2000, 2);
        expect(code + 8192 + 256, 2000, 2);
    }
    CHECK("stale or foreign code", wrong, 0);
}

/* Instructions across two pages, of which one is replaced. */
static void test_across(u64 rounds)
{
    part("across two pages");
    wrong = 0;
    for (u32 i = 0; i < rounds; i++) {
        static const u8 head[] = {0xb8};
        u32 value = i % PIECES;
        disk_read(value, code + 4096, 1);
        /* MOV EAX, imm32 begins in the first page; its immediate is the sector's first bytes. */
        memory_copy(code + 4095, head, 1);
        u8 rest[] = {(u8)i, 0, 0, 0, 0xc3};
        memory_copy(code + 4096, rest, sizeof(rest));
        expect(code + 4095, i & 0xff, 20);
        disk_read(value, code + 4096, 1);
        u32 seen; /* B8 value 0 0 from the disk, then RET behind */
        memory_copy(&seen, code + 4096, 4);
        code[4100] = 0xc3;
        expect(code + 4095, seen, 3);
    }
    CHECK("stale second halves", wrong, 0);
}

/* -- another processor runs it meanwhile -- */

static volatile u32 other_stop, other_old, other_new, other_wrong, other_runs;

static void other_job(void)
{
    while (!other_stop) {
        u32 seen = run(code), one = other_old, two = other_new;
        if (seen != one && seen != two && seen != other_old)
            other_wrong++;
        other_runs++;
    }
}

static void test_running(u64 rounds)
{
    part("code replaced while it runs");
    code_fill(code, 0, sizeof(code));
    cpuid(0, 0);
    other_old = other_new = other_stop = other_wrong = 0;
    cpu_run(1, other_job);
    WAIT(other_runs > 10);
    wrong = 0;
    for (u32 i = 1; i < rounds; i++) {
        u32 value = i % PIECES;
        other_new = value;
        disk_read(value, code, 8);
        /* Its first sector alone is the one asked for. */
        expect(code, value, 2);
        u32 before = other_runs;
        WAIT(other_runs > before + 3);
        other_old = value;
    }
    other_stop = 1;
    cpu_wait(1);
    CHECK("stale code here", wrong, 0);
    CHECK("code there that never was", other_wrong, 0);
}

/* -- page tables -- */

static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));
static u64 new_pt[512] __attribute__((aligned(4096)));
static u32 pages[2][1024] __attribute__((aligned(4096)));

static void test_tables(u64 rounds)
{
    volatile u32 *mapped = (volatile u32 *)TEST_REGION;
    struct piece whole = {new_pt, 4096};

    part("page tables written by a device");
    for (u32 i = 0; i < 2; i++) {
        pages[i][0] = 0xa + i;
        for (u32 k = 0; k < 512; k++)
            new_pt[k] = ADDRESS(pages[i]) | 7;
        disk_request(WRITE_DISK, PIECES + 8 * i, &whole, 1);
        disk_wait();
    }
    boot_pdpt[2] = ADDRESS(test_pd) | 7;
    test_pd[0] = ADDRESS(test_pt) | 7;
    cr3_set(cr3_get());
    wrong = 0;
    for (u32 i = 0; i < rounds; i++) {
        disk_read(PIECES + 8 * (i & 1), test_pt, 8);
        if (i % 3 == 0)
            cr3_set(cr3_get());
        else
            invlpg(TEST_REGION);
        wrong += *mapped != 0xa + (i & 1);
        *(mapped + 1) = i;
        wrong += *(volatile u32 *)&pages[i & 1][1] != i;
    }
    CHECK("stale translations", wrong, 0);
}

void guest_main(void)
{
    u64 rounds = option("rounds", 300);
    u32 count = cpus_start();

    CHECK("this is the bootstrap processor", rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
    if (!disk_start()) {
        CHECK("no disk where there is to be one", option("disk", 0), 0);
        skip("DMA", "there is no virtio disk");
        return;
    }
    disk_fill();
    test_replaced(rounds);
    test_scattered(rounds);
    test_across(rounds);
    test_tables(rounds);
    if (count > 1)
        test_running(rounds);
    CHECK("requests that failed", failed_requests, 0);
}
