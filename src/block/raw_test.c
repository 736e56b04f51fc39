/* Raw disks on real files: ranges, odd sizes, locks, errors that a user reads. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test.h"
#include "block/block.h"

struct file {
    char path[32];
};

static void file_new(struct test *t, struct file *file, off_t size)
{
    int fd;

    strcpy(file->path, "raw-test-XXXXXX");
    fd = mkstemp(file->path);
    CHECK(t, fd >= 0);
    CHECK_EQ(t, ftruncate(fd, size), 0);
    close(fd);
}

static int file_open(const struct file *file, bool readonly, struct block **block,
                     struct error *err)
{
    const struct block_config config = {.path = file->path, .readonly = readonly};

    return block_open(&config, block, err);
}

static void test_round_trip(struct test *t)
{
    uint8_t out[3000], in[3000];
    struct iovec write[3] = {{out, 1}, {out + 1, 1999}, {out + 2000, 1000}};
    struct iovec read[2] = {{in, 2999}, {in + 2999, 1}};
    struct block *block;
    struct file file;

    for (unsigned i = 0; i < sizeof out; i++)
        out[i] = (uint8_t)(i * 11);
    file_new(t, &file, 65536);
    if (CHECK_EQ(t, file_open(&file, false, &block, NULL), 0)) {
        CHECK_EQ(t, block_size(block), 65536);
        CHECK_EQ(t, block_writev(block, write, 3, 4096), 0);
        CHECK_EQ(t, block_flush(block), 0);
        CHECK_EQ(t, block_readv(block, read, 2, 4096), 0);
        CHECK_MEM(t, in, out, sizeof out);
        block_close(block);
    }
    unlink(file.path);
}

static void test_ranges(struct test *t)
{
    uint8_t bytes[1024];
    struct iovec iov = {bytes, sizeof bytes}, huge[2] = {{bytes, SIZE_MAX}, {bytes, 2}};
    struct block *block;
    struct file file;

    file_new(t, &file, 4096);
    if (CHECK_EQ(t, file_open(&file, false, &block, NULL), 0)) {
        CHECK_EQ(t, block_readv(block, &iov, 1, 3072), 0);
        CHECK_EQ(t, -block_readv(block, &iov, 1, 3073), EINVAL);
        CHECK_EQ(t, -block_readv(block, &iov, 1, UINT64_MAX - 10), EINVAL);
        CHECK_EQ(t, -block_writev(block, &iov, 1, 4096), EINVAL);
        CHECK_EQ(t, -block_writev(block, huge, 2, 0), EINVAL);
        CHECK_EQ(t, -block_discard(block, 4096, 1), EINVAL);
        CHECK_EQ(t, -block_write_zeroes(block, 1, UINT64_MAX), EINVAL);
        CHECK_EQ(t, block_readv(block, NULL, 0, 0), 0);
        block_close(block);
    }
    unlink(file.path);
}

/* 1000 bytes are two sectors; the tail is zero until it is written. */
static void test_odd_size(struct test *t)
{
    uint8_t sector[512], zeroes[24] = {0};
    struct iovec iov = {sector, 512};
    struct block *block;
    struct file file;
    struct stat status;

    file_new(t, &file, 1000);
    if (CHECK_EQ(t, file_open(&file, false, &block, NULL), 0)) {
        CHECK_EQ(t, block_size(block), 1024);
        memset(sector, 0xaa, sizeof sector);
        CHECK_EQ(t, block_readv(block, &iov, 1, 512), 0);
        CHECK_MEM(t, sector + 488, zeroes, 24);
        memset(sector, 0x55, sizeof sector);
        CHECK_EQ(t, block_writev(block, &iov, 1, 512), 0);
        CHECK_EQ(t, stat(file.path, &status), 0);
        CHECK_EQ(t, status.st_size, 1024);
        block_close(block);
    }
    unlink(file.path);
}

static void test_cut_short(struct test *t)
{
    uint8_t sector[512];
    struct iovec iov = {sector, 512};
    struct block *block;
    struct file file;

    file_new(t, &file, 8192);
    if (CHECK_EQ(t, file_open(&file, false, &block, NULL), 0)) {
        CHECK_EQ(t, truncate(file.path, 4096), 0);
        CHECK_EQ(t, -block_readv(block, &iov, 1, 4096), EIO);
        block_close(block);
    }
    unlink(file.path);
}

static void test_locks(struct test *t)
{
    struct block *first, *second, *third;
    struct file file;
    struct error err;

    file_new(t, &file, 4096);
    CHECK_EQ(t, file_open(&file, false, &first, NULL), 0);
    CHECK_EQ(t, -file_open(&file, false, &second, &err), EBUSY);
    CHECK(t, strstr(err.text, "another VM holds it") != NULL);
    CHECK_EQ(t, -file_open(&file, true, &second, &err), EBUSY);
    block_close(first);
    CHECK_EQ(t, file_open(&file, true, &second, NULL), 0);
    CHECK_EQ(t, file_open(&file, true, &third, NULL), 0);
    CHECK_EQ(t, -file_open(&file, false, &first, &err), EBUSY);
    block_close(second);
    block_close(third);
    CHECK_EQ(t, file_open(&file, false, &first, NULL), 0);
    block_close(first);
    unlink(file.path);
}

static void test_readonly(struct test *t)
{
    uint8_t sector[512] = {1};
    struct iovec iov = {sector, 512};
    struct block *block;
    struct file file;
    struct error err;

    file_new(t, &file, 4096);
    CHECK_EQ(t, chmod(file.path, 0444), 0);
    CHECK_EQ(t, -file_open(&file, false, &block, &err), EACCES);
    CHECK(t, strstr(err.text, "readonly=on") != NULL);
    if (CHECK_EQ(t, file_open(&file, true, &block, NULL), 0)) {
        CHECK_EQ(t, -block_writev(block, &iov, 1, 0), EROFS);
        CHECK_EQ(t, -block_discard(block, 0, 512), EROFS);
        CHECK_EQ(t, -block_write_zeroes(block, 0, 512), EROFS);
        CHECK(t, !block_can_discard(block));
        CHECK_EQ(t, block_flush(block), 0);
        block_close(block);
    }
    unlink(file.path);
}

static void test_zeroes(struct test *t)
{
    uint8_t out[4096], in[4096], zeroes[1024] = {0};
    struct iovec write = {out, sizeof out}, read = {in, sizeof in};
    struct block *block;
    struct file file;
    struct stat status;

    memset(out, 0x77, sizeof out);
    file_new(t, &file, 8192);
    if (CHECK_EQ(t, file_open(&file, false, &block, NULL), 0)) {
        CHECK_EQ(t, block_writev(block, &write, 1, 0), 0);
        CHECK_EQ(t, block_write_zeroes(block, 512, 1024), 0);
        CHECK_EQ(t, block_readv(block, &read, 1, 0), 0);
        CHECK_MEM(t, in + 512, zeroes, 1024);
        CHECK_MEM(t, in, out, 512);
        CHECK_MEM(t, in + 1536, out, 2560);
        CHECK_EQ(t, block_discard(block, 0, 8192), 0);
        CHECK_EQ(t, stat(file.path, &status), 0);
        CHECK_EQ(t, status.st_size, 8192);
        CHECK_EQ(t, block_discard(block, 8192, 0), 0);
        block_close(block);
    }
    unlink(file.path);
}

static void test_direct(struct test *t)
{
    struct block_config config = {.direct = true};
    uint8_t *bytes = aligned_alloc(4096, 8192);
    struct iovec aligned = {bytes, 4096}, odd = {bytes + 4096 + 1, 511};
    struct block *block;
    struct file file;

    file_new(t, &file, 65536);
    config.path = file.path;
    if (bytes && CHECK_EQ(t, block_open(&config, &block, NULL), 0)) {
        memset(bytes, 0x11, 4096);
        CHECK_EQ(t, block_writev(block, &aligned, 1, 4096), 0);
        CHECK_EQ(t, block_readv(block, &odd, 1, 5000), 0);
        CHECK_EQ(t, bytes[4097], 0x11);
        bytes[4097] = 0x22;
        CHECK_EQ(t, block_writev(block, &odd, 1, 4096), 0);
        CHECK_EQ(t, block_readv(block, &aligned, 1, 4096), 0);
        CHECK_EQ(t, bytes[0], 0x22);
        block_close(block);
    }
    free(bytes);
    unlink(file.path);
}

static void bad_open(struct test *t, const char *path, const char *format, int code)
{
    const struct block_config config = {.path = path, .format = format};
    struct error err = {0};
    struct block *block;

    CHECK_EQ(t, -block_open(&config, &block, &err), code);
    CHECK(t, strstr(err.text, path) != NULL);
}

static void test_bad_files(struct test *t)
{
    struct file file;

    bad_open(t, "no-such-disk.img", NULL, ENOENT);
    bad_open(t, ".", NULL, EISDIR);
    bad_open(t, "/dev/null", NULL, EINVAL);
    file_new(t, &file, 0);
    bad_open(t, file.path, NULL, EINVAL);
    bad_open(t, file.path, "qcow9", EINVAL);
    unlink(file.path);
    CHECK_EQ(t, mkfifo(file.path, 0600), 0);
    bad_open(t, file.path, NULL, EINVAL); /* and does not hang */
    unlink(file.path);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_round_trip);
    TEST_RUN(&t, test_ranges);
    TEST_RUN(&t, test_odd_size);
    TEST_RUN(&t, test_cut_short);
    TEST_RUN(&t, test_locks);
    TEST_RUN(&t, test_readonly);
    TEST_RUN(&t, test_zeroes);
    TEST_RUN(&t, test_direct);
    TEST_RUN(&t, test_bad_files);
    return test_end(&t);
}
