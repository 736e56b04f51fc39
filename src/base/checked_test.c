/* Checked arithmetic at its edges, and the sentence of an error. */
#include "base/checked.h"
#include "base/error.h"
#include "base/test.h"

#include <errno.h>

static void test_add(struct test *t)
{
    uint64_t sum = 0;

    CHECK(t, checked_add(UINT64_MAX - 1, 1, &sum));
    CHECK_EQ(t, sum, UINT64_MAX);
    CHECK(t, !checked_add(UINT64_MAX, 1, &sum));
}

static void test_multiply(struct test *t)
{
    uint64_t product = 0;

    CHECK(t, checked_multiply(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &product));
    CHECK_EQ(t, product, UINT64_MAX - UINT32_MAX);
    CHECK(t, !checked_multiply(UINT64_C(1) << 32, UINT64_C(1) << 32, &product));
}

static void test_align(struct test *t)
{
    uint64_t aligned = 0;

    CHECK(t, checked_align_up(1, 4096, &aligned));
    CHECK_EQ(t, aligned, 4096);
    CHECK(t, checked_align_up(4096, 4096, &aligned));
    CHECK_EQ(t, aligned, 4096);
    CHECK(t, !checked_align_up(UINT64_MAX - 4094, 4096, &aligned));
}

static void test_range(struct test *t)
{
    CHECK(t, range_fits(0, 10, 10));
    CHECK(t, range_fits(10, 0, 10));
    CHECK(t, !range_fits(1, 10, 10));
    CHECK(t, !range_fits(11, 0, 10));
    CHECK(t, !range_fits(2, UINT64_MAX, 10));
}

static void test_error(struct test *t)
{
    struct error err = {0};
    char longest[1000];

    CHECK_EQ(t, error_set(&err, -EINVAL, "%s is %d", "answer", 42), (uint64_t)-EINVAL);
    CHECK_STR(t, err.text, "answer is 42");
    CHECK_EQ(t, err.code, (uint64_t)-EINVAL);
    CHECK_EQ(t, error_set(NULL, -EIO, "nobody reads this"), (uint64_t)-EIO);
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    (void)error_set(&err, -EIO, "%s", longest);
    CHECK_EQ(t, strlen(err.text), sizeof err.text - 1);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_add);
    TEST_RUN(&t, test_multiply);
    TEST_RUN(&t, test_align);
    TEST_RUN(&t, test_range);
    TEST_RUN(&t, test_error);
    return test_end(&t);
}
