/* Checks which lines count as symbols and which symbol an address belongs to. */
#include "base/symbols.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"

static int load(const char *text, struct symbols **out, struct error *err)
{
    char path[] = "symbols_test.XXXXXX";
    int fd = mkstemp(path);
    int rc;

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return -EIO;
    close(fd);
    rc = symbols_load(path, out, err);
    unlink(path);
    return rc;
}

static void test_find(struct test *t)
{
    struct symbols *symbols;
    struct error err = {0};
    uint64_t offset = 0;

    if (!CHECK_EQ(t,
                  load("ffffffff81000200 t second\n"
                       "ffffffff81000000 T first\n"
                       "ffffffff81000100 D data\n"
                       "no line of this kind\n"
                       "ffffffffc0000000 t in_module\t[virtio]\n"
                       "0000000000000000 A absolute\n"
                       "ffffffff81000300 W weak",
                       &symbols, &err),
                  0))
        return;
    CHECK_STR(t, symbols_find(symbols, 0xffffffff81000000, &offset), "first");
    CHECK_EQ(t, offset, 0);
    CHECK_STR(t, symbols_find(symbols, 0xffffffff810001ff, &offset), "first");
    CHECK_EQ(t, offset, 0x1ff);
    CHECK_STR(t, symbols_find(symbols, 0xffffffff81000200, &offset), "second");
    CHECK_STR(t, symbols_find(symbols, 0xffffffff81000304, &offset), "weak");
    CHECK_EQ(t, offset, 4);
    CHECK_STR(t, symbols_find(symbols, 0xffffffffc0000010, &offset), "in_module");
    CHECK(t, symbols_find(symbols, 0xffffffff80ffffff, &offset) == NULL);
    CHECK(t, symbols_find(symbols, 0xffffffff90000000, &offset) == NULL);
    CHECK(t, symbols_find(symbols, 0, &offset) == NULL);
    CHECK(t, symbols_find(NULL, 0xffffffff81000000, &offset) == NULL);
    symbols_free(symbols);
}

static void test_bad(struct test *t)
{
    struct symbols *symbols;
    struct error err = {0};

    CHECK_EQ(t, load("", &symbols, &err), -EINVAL);
    CHECK_EQ(t, load("0000000000000000 T hidden\n", &symbols, &err), -EINVAL);
    CHECK(t, strstr(err.text, "as root") != NULL);
    CHECK_EQ(t, symbols_load("/nowhere/at/all", &symbols, &err), -ENOENT);
    CHECK_EQ(t, symbols_load("/", &symbols, &err), -EIO);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_find);
    TEST_RUN(&t, test_bad);
    return test_end(&t);
}
