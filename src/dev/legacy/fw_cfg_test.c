/* The firmware configuration device, by its ports and by DMA, also with hostile descriptors. */
#include "dev/legacy/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>

#include "base/endian.h"
#include "base/test.h"

#define RAM        (1u << 20)
#define DESCRIPTOR 0x1000
#define BUFFER     0x2000

struct board {
    struct mem *mem;
    struct bus *ports;
    struct fw_cfg *cfg;
};

static struct board board_make(void)
{
    struct board board;

    if (mem_new(&board.mem) || mem_add_ram(board.mem, 0, RAM, NULL) || bus_new(&board.ports) ||
        fw_cfg_new(board.mem, board.ports, &board.cfg))
        abort();
    return board;
}

static void board_free(struct board *board)
{
    fw_cfg_free(board->cfg);
    bus_free(board->ports);
    mem_free(board->mem);
}

static void item_read(struct board *board, uint16_t key, void *to, size_t length)
{
    uint8_t *bytes = to;

    bus_write(board->ports, 0x510, 2, key);
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)bus_read(board->ports, 0x511, 1);
}

static uint32_t dma(struct board *board, uint32_t control, uint32_t length, uint64_t gpa)
{
    uint8_t descriptor[16];
    uint32_t result = 0xffffffff;

    store_le32(descriptor, htobe32(control));
    store_le32(descriptor + 4, htobe32(length));
    store_le64(descriptor + 8, htobe64(gpa));
    if (mem_write(board->mem, DESCRIPTOR, descriptor, sizeof descriptor))
        abort();
    bus_write(board->ports, 0x514, 4, 0);
    bus_write(board->ports, 0x518, 4, htobe32(DESCRIPTOR));
    if (mem_read(board->mem, DESCRIPTOR, &result, sizeof result))
        abort();
    return be32toh(result);
}

static void test_ports(struct test *t)
{
    struct board board = board_make();
    uint8_t bytes[8];

    CHECK_EQ(t, fw_cfg_add_u16(board.cfg, FW_CFG_NB_CPUS, 0x1234), 0);
    item_read(&board, 0, bytes, 6);
    CHECK_MEM(t, bytes, "QEMU\0\0", 6); /* zeroes past the end */
    item_read(&board, 1, bytes, 4);
    CHECK_EQ(t, load_le32(bytes), 3);
    item_read(&board, FW_CFG_NB_CPUS, bytes, 2);
    CHECK_EQ(t, load_le16(bytes), 0x1234);
    item_read(&board, 0x7777, bytes, 1);
    CHECK_EQ(t, bytes[0], 0);
    CHECK_EQ(t, bus_read(board.ports, 0x514, 4), htobe32(0x51454d55));
    CHECK_EQ(t, bus_read(board.ports, 0x518, 4), htobe32(0x20434647));
    bus_write(board.ports, 0x510, 2, 0);
    bus_write(board.ports, 0x511, 1, 'x'); /* writes are ignored */
    CHECK_EQ(t, bus_read(board.ports, 0x511, 1), 'Q');
    fw_cfg_reset(board.cfg);
    CHECK_EQ(t, bus_read(board.ports, 0x511, 1), 'Q');
    board_free(&board);
}

static void test_files(struct test *t)
{
    struct board board = board_make();
    uint8_t directory[4 + 2 * 64], bytes[5];
    char name[FW_CFG_FILE_NAME_MAX + 2];

    CHECK_EQ(t, fw_cfg_add_file(board.cfg, "etc/one", "12345", 5), 0);
    CHECK_EQ(t, fw_cfg_add_file(board.cfg, "etc/two", "", 0), 0);
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK_EQ(t, fw_cfg_add_file(board.cfg, name, "", 0), -ENAMETOOLONG);
    item_read(&board, 0x19, directory, sizeof directory);
    CHECK_EQ(t, be32toh(load_le32(directory)), 2);
    CHECK_EQ(t, be32toh(load_le32(directory + 4)), 5);
    CHECK_STR(t, (const char *)directory + 12, "etc/one");
    CHECK_STR(t, (const char *)directory + 12 + 64, "etc/two");
    item_read(&board, be16toh(load_le16(directory + 8)), bytes, 5);
    CHECK_MEM(t, bytes, "12345", 5);
    for (unsigned i = 2; i < FW_CFG_FILES_MAX; i++) {
        snprintf(name, sizeof name, "etc/%u", i);
        CHECK_EQ(t, fw_cfg_add_file(board.cfg, name, "x", 1), 0);
    }
    CHECK_EQ(t, fw_cfg_add_file(board.cfg, "etc/more", "x", 1), -ENOSPC);
    CHECK_EQ(t, fw_cfg_add_item(board.cfg, 0, "x", 1), -EEXIST);
    board_free(&board);
}

#define READ   0x02u
#define SKIP   0x04u
#define SELECT 0x08u
#define WRITE  0x10u

static void test_dma(struct test *t)
{
    struct board board = board_make();
    uint8_t bytes[8];

    if (mem_fill(board.mem, BUFFER, 0xee, 8))
        abort();
    CHECK_EQ(t, dma(&board, SELECT | READ, 6, BUFFER), 0);
    CHECK_EQ(t, mem_read(board.mem, BUFFER, bytes, 8), 0);
    CHECK_MEM(t, bytes, "QEMU\0\0\xee\xee", 8);
    CHECK_EQ(t, dma(&board, SELECT | SKIP, 2, 0), 0);
    CHECK_EQ(t, dma(&board, READ, 2, BUFFER), 0);
    CHECK_EQ(t, mem_read(board.mem, BUFFER, bytes, 2), 0);
    CHECK_MEM(t, bytes, "MU", 2);
    CHECK_EQ(t, dma(&board, SELECT | WRITE, 4, BUFFER), 1);
    CHECK_EQ(t, dma(&board, 1u << 16 | SELECT, 0, 0), 0);
    CHECK_EQ(t, bus_read(board.ports, 0x511, 1), 3);
    CHECK_EQ(t, dma(&board, 0x19u << 16 | SELECT | READ, 4, BUFFER), 0);
    board_free(&board);
}

static void test_hostile_dma(struct test *t)
{
    static const uint64_t addresses[] = {RAM - 1, RAM, UINT64_MAX, UINT64_MAX - 3,
                                         UINT64_C(1) << 63};
    struct board board = board_make();

    for (unsigned i = 0; i < sizeof addresses / sizeof *addresses; i++)
        CHECK_EQ(t, dma(&board, SELECT | READ, 4, addresses[i]), 1);
    CHECK_EQ(t, dma(&board, SELECT | READ, UINT32_MAX, BUFFER), 1);
    CHECK_EQ(t, dma(&board, SELECT | READ, RAM, BUFFER), 1); /* ends beyond RAM */
    CHECK_EQ(t, dma(&board, SELECT | READ, 0, UINT64_MAX), 0);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(t, dma(&board, SKIP, UINT32_MAX, 0), 0);
    CHECK_EQ(t, bus_read(board.ports, 0x511, 1), 0); /* far past the end */
    bus_write(board.ports, 0x510, 2, 0x19);
    CHECK_EQ(t, dma(&board, SKIP, UINT32_MAX, 0), 0);
    CHECK_EQ(t, bus_read(board.ports, 0x511, 1), 0);
    bus_write(board.ports, 0x514, 4, UINT32_MAX); /* descriptors that are nowhere */
    bus_write(board.ports, 0x518, 4, UINT32_MAX);
    bus_write(board.ports, 0x518, 4, htobe32(RAM - 8));
    CHECK_EQ(t, dma(&board, SELECT | READ, 4, DESCRIPTOR), 0); /* over the descriptor itself */
    board_free(&board);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_ports);
    TEST_RUN(&t, test_files);
    TEST_RUN(&t, test_dma);
    TEST_RUN(&t, test_hostile_dma);
    return test_end(&t);
}
