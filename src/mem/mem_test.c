/* Guest memory: bounds, adjacent slots, ROM, atomic accesses, host limit, code watch. */
#include "base/test.h"
#include "mem/mem.h"

#include <errno.h>

#define BASE UINT64_C(0x100000)
#define SIZE UINT64_C(0x10000)

static struct mem *mem_for(struct test *t)
{
    struct mem *mem = NULL;

    CHECK_EQ(t, mem_new(&mem), 0);
    CHECK_EQ(t, mem_add_ram(mem, BASE, SIZE, NULL), 0);
    return mem;
}

static void test_round_trip(struct test *t)
{
    struct mem *mem = mem_for(t);
    uint8_t out[64], in[64];

    for (unsigned i = 0; i < sizeof out; i++)
        out[i] = (uint8_t)(i * 3);
    for (size_t length = 0; length <= sizeof out; length++) {
        memset(in, 0xee, sizeof in);
        CHECK_EQ(t, mem_write(mem, BASE + length, out, length), 0);
        CHECK_EQ(t, mem_read(mem, BASE + length, in, length), 0);
        CHECK_MEM(t, in, out, length);
    }
    CHECK_EQ(t, mem_fill(mem, BASE + 5, 0x5a, 10), 0);
    CHECK_EQ(t, mem_read(mem, BASE + 5, in, 10), 0);
    memset(out, 0x5a, 10);
    CHECK_MEM(t, in, out, 10);
    mem_free(mem);
}

static void test_bounds(struct test *t)
{
    struct mem *mem = mem_for(t);
    uint8_t byte = 7, many[32] = {0};
    uint64_t word = 0;

    CHECK_EQ(t, mem_read(mem, BASE + SIZE - 1, &byte, 1), 0);
    CHECK_EQ(t, byte, 0);
    CHECK_EQ(t, mem_read(mem, BASE + SIZE, &byte, 1), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_read(mem, BASE - 1, &byte, 1), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_read(mem, UINT64_MAX, &byte, 1), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_read(mem, UINT64_MAX - 3, &word, 8), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_read(mem, BASE, many, SIZE_MAX), (uint64_t)-EFAULT);
    memset(many, 0xff, sizeof many);
    CHECK_EQ(t, mem_write(mem, BASE + SIZE - 16, many, 32), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_read(mem, BASE + SIZE - 8, &word, 8), 0);
    CHECK_EQ(t, word, 0); /* nothing happened, not even the part that would have fitted */
    CHECK(t, mem_span(mem, BASE, SIZE) != NULL);
    CHECK(t, mem_span(mem, BASE, SIZE + 1) == NULL);
    CHECK(t, mem_span(mem, BASE + 1, UINT64_MAX) == NULL);
    CHECK(t, mem_span(mem, BASE + SIZE, 0) == NULL);
    mem_free(mem);
}

static void test_adjacent_slots(struct test *t)
{
    struct mem *mem = mem_for(t);
    const char text[] = "across the border", *border = text;
    char in[sizeof text];

    CHECK_EQ(t, mem_add_ram(mem, BASE - SIZE, SIZE, NULL), 0);
    CHECK_EQ(t, mem_write(mem, BASE - 7, border, sizeof text), 0);
    CHECK_EQ(t, mem_read(mem, BASE - 7, in, sizeof in), 0);
    CHECK_STR(t, in, text);
    CHECK(t, mem_span(mem, BASE - 7, 14) == NULL);
    CHECK_EQ(t, mem_slot_count(mem), 2);
    CHECK_EQ(t, mem_slot_get(mem, 0)->gpa, BASE - SIZE); /* sorted */
    CHECK(t, mem_slot_get(mem, 2) == NULL);
    mem_free(mem);
}

static void test_rom(struct test *t)
{
    struct mem *mem = mem_for(t);
    const uint8_t content[5] = {1, 2, 3, 4, 5};
    uint8_t in[8], zero[3] = {0};

    CHECK_EQ(t, mem_add_rom(mem, BASE + SIZE, content, sizeof content, NULL), 0);
    CHECK_EQ(t, mem_slot_find(mem, BASE + SIZE)->size, GUEST_PAGE_SIZE);
    CHECK_EQ(t, mem_read(mem, BASE + SIZE, in, 8), 0);
    CHECK_MEM(t, in, content, 5);
    CHECK_MEM(t, in + 5, zero, 3);
    CHECK_EQ(t, mem_write(mem, BASE + SIZE, in, 1), (uint64_t)-EFAULT);
    CHECK_EQ(t, mem_fill(mem, BASE + SIZE - 1, 1, 2), (uint64_t)-EFAULT);
    CHECK(t, mem_span(mem, BASE + SIZE, 1) == NULL);
    mem_free(mem);
}

static void test_bad_slots(struct test *t)
{
    struct mem *mem = mem_for(t);
    struct error err = {0};

    CHECK_EQ(t, mem_add_ram(mem, BASE + SIZE - 4096, 4096, NULL), (uint64_t)-EEXIST);
    CHECK_EQ(t, mem_add_ram(mem, BASE - 4096, SIZE * 2, NULL), (uint64_t)-EEXIST);
    CHECK_EQ(t, mem_add_ram(mem, 0, 0, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, mem_add_ram(mem, 12, 4096, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, mem_add_ram(mem, UINT64_MAX - 4095, 8192, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, mem_add_rom(mem, 0, "", UINT64_MAX - 1, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, mem_add_ram(mem, UINT64_C(1) << 40, UINT64_C(1) << 50, &err), (uint64_t)-ENOMEM);
    CHECK(t, strstr(err.text, "this host has") != NULL);
    CHECK(t, mem_host_bytes() > 0 && mem_host_bytes() < UINT64_C(1) << 50);
    for (unsigned i = 1; i < MEM_SLOTS_MAX; i++)
        CHECK_EQ(t, mem_add_ram(mem, (i + 16) * SIZE * 2, 4096, NULL), 0);
    CHECK_EQ(t, mem_add_ram(mem, UINT64_C(1) << 40, 4096, NULL), (uint64_t)-ENOSPC);
    mem_free(mem);
}

/* RAM costs nothing until it is touched. */
static void test_sparse(struct test *t)
{
    struct mem *mem = NULL;
    const uint64_t size = mem_host_bytes() / 2 & ~UINT64_C(4095);
    uint8_t byte = 1;

    CHECK_EQ(t, mem_new(&mem), 0);
    CHECK_EQ(t, mem_add_ram(mem, 0, size, NULL), 0);
    CHECK_EQ(t, mem_touched_find(mem, 0, size), size);
    CHECK_EQ(t, mem_write(mem, 0x523456, &byte, 1), 0);
    CHECK(t, mem_touched_find(mem, 0, size) >= 0x400000);
    CHECK(t, mem_touched_find(mem, 0, size) <= 0x523000);
    CHECK_EQ(t, mem_touched_find(mem, 0x523000, size), 0x523000);
    CHECK_EQ(t, mem_touched_find(mem, 0x600000, size), size);
    mem_free(mem);
}

struct seen {
    unsigned calls;
    uint64_t first, bytes;
};

static void code_written(void *opaque, uint64_t gpa, uint64_t length)
{
    struct seen *seen = opaque;

    if (seen->calls++ == 0)
        seen->first = gpa;
    seen->bytes += length;
}

static void test_code_watch(struct test *t)
{
    struct mem *mem = mem_for(t);
    struct seen seen = {0};
    struct mem_code_watch watch = {code_written, &seen};
    uint8_t page[4096] = {0};

    mem_code_watch_set(mem, &watch);
    CHECK_EQ(t, mem_write(mem, BASE, page, sizeof page), 0);
    CHECK_EQ(t, seen.calls, 0);
    mem_code_mark(mem, BASE + 4096 + 17);
    CHECK(t, mem_code_marked(mem, BASE + 4096) && !mem_code_marked(mem, BASE));
    CHECK(t, !mem_code_marked(mem, BASE + 8192) && !mem_code_marked(mem, BASE + SIZE));
    CHECK_EQ(t, mem_write(mem, BASE + 4090, page, 16), 0);
    CHECK_EQ(t, seen.calls, 1);
    CHECK_EQ(t, seen.first, BASE + 4096);
    CHECK_EQ(t, seen.bytes, 10);
    mem_written(mem, BASE + 8190, 100);
    CHECK_EQ(t, seen.calls, 2);
    CHECK_EQ(t, seen.bytes, 10 + 0 + 2);
    mem_code_clear(mem, BASE + 4096);
    CHECK_EQ(t, mem_fill(mem, BASE, 0, SIZE), 0);
    CHECK_EQ(t, seen.calls, 2);
    mem_written(mem, UINT64_MAX - 1, 100); /* wraps: ignored */
    mem_code_mark(mem, UINT64_MAX);
    CHECK_EQ(t, seen.calls, 2);
    mem_free(mem);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_round_trip);
    TEST_RUN(&t, test_bounds);
    TEST_RUN(&t, test_adjacent_slots);
    TEST_RUN(&t, test_rom);
    TEST_RUN(&t, test_bad_slots);
    TEST_RUN(&t, test_sparse);
    TEST_RUN(&t, test_code_watch);
    return test_end(&t);
}
