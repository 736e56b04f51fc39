/*
 * Unit tests: a test is a plain C program beside the code it tests (queue.c, queue_test.c).
 *
 *     #include "base/test.h"
 *
 *     static void test_empty(struct test *t)
 *     {
 *         CHECK_EQ(t, queue_length(&queue), 0);
 *     }
 *
 *     int main(void)
 *     {
 *         struct test t = {0};
 *         TEST_RUN(&t, test_empty);
 *         return test_end(&t);
 *     }
 *
 * What is counted is the test functions: one fails when any CHECK in it fails. The last line on
 * standard output is "N passed, N failed". Checks are for one thread, the one that runs main().
 */
#ifndef FREEHOLD_BASE_TEST_H
#define FREEHOLD_BASE_TEST_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct test {
    unsigned passed;
    unsigned failed;
    unsigned bad_checks; /* in the test function that runs now */
};

/* For skipping a whole program: print the reason on standard output, return this from main(). */
#define TEST_SKIPPED 77

static inline bool test_check(struct test *t, bool good, const char *where, const char *what)
{
    if (!good) {
        t->bad_checks++;
        printf("%s: failed: %s\n", where, what);
    }
    return good;
}

static inline bool test_check_eq(struct test *t, uint64_t got, uint64_t want, const char *where,
                                 const char *what)
{
    if (got != want) {
        t->bad_checks++;
        printf("%s: failed: %s: got %" PRIu64 " (0x%" PRIx64 "), want %" PRIu64 " (0x%" PRIx64
               ")\n",
               where, what, got, got, want, want);
    }
    return got == want;
}

static inline bool test_check_str(struct test *t, const char *got, const char *want,
                                  const char *where, const char *what)
{
    bool good = got && want && strcmp(got, want) == 0;
    if (!good) {
        t->bad_checks++;
        printf("%s: failed: %s: got \"%s\", want \"%s\"\n", where, what, got ? got : "(null)",
               want ? want : "(null)");
    }
    return good;
}

static inline bool test_check_mem(struct test *t, const void *got, const void *want, size_t length,
                                  const char *where, const char *what)
{
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < length; i++) {
        if (a[i] != b[i]) {
            t->bad_checks++;
            printf("%s: failed: %s: byte %zu: got 0x%02x, want 0x%02x\n", where, what, i, a[i],
                   b[i]);
            return false;
        }
    }
    return true;
}

static inline void test_run(struct test *t, void (*function)(struct test *), const char *name)
{
    t->bad_checks = 0;
    function(t);
    if (t->bad_checks) {
        t->failed++;
        printf("%s: FAILED\n", name);
    } else {
        t->passed++;
    }
    fflush(stdout);
}

/* The program's exit status. */
static inline int test_end(const struct test *t)
{
    printf("%u passed, %u failed\n", t->passed, t->failed);
    return t->failed || !t->passed;
}

#define TEST_STRING_(x) #x
#define TEST_STRING(x)  TEST_STRING_(x)
#define TEST_WHERE      __FILE__ ":" TEST_STRING(__LINE__)

/* Each gives true when it held, so that a test can return early. */
#define CHECK(t, condition) test_check((t), (condition), TEST_WHERE, #condition)
#define CHECK_EQ(t, got, want)                                                                     \
    test_check_eq((t), (uint64_t)(got), (uint64_t)(want), TEST_WHERE, #got " == " #want)
#define CHECK_STR(t, got, want) test_check_str((t), (got), (want), TEST_WHERE, #got)
#define CHECK_MEM(t, got, want, length)                                                            \
    test_check_mem((t), (got), (want), (length), TEST_WHERE, #got)

#define TEST_RUN(t, function) test_run((t), (function), #function)

#endif
