/* Options: forms, values at their edges, and the sentences for mistakes. */
#include "base/test.h"
#include "cli/options.h"

#include <errno.h>

struct seen {
    const char *word;
    unsigned flags;
};

static int set_word(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct seen *)into)->word = value;
    return 0;
}

static int set_flag(void *into, const char *value, struct error *err)
{
    if (value)
        return error_set(err, -EINVAL, "a flag was given a value");
    ((struct seen *)into)->flags++;
    return 0;
}

static const struct option table[] = {
    {"word", "TEXT", "a word", set_word},
    {"flag", NULL, "a flag\nwith two lines", set_flag},
    {NULL, NULL, NULL, NULL},
};

static void test_forms(struct test *t)
{
    struct seen seen = {0};
    char *words[] = {"--word", "--flag", "--flag", "--word=a=b", "--flag", NULL};

    CHECK_EQ(t, options_parse(table, &seen, words, NULL), 0);
    CHECK_STR(t, seen.word, "a=b");
    CHECK_EQ(t, seen.flags, 2);
}

static void check_mistake(struct test *t, char *first, char *second, const char *sentence)
{
    struct seen seen = {0};
    struct error err = {0};
    char *words[] = {first, second, NULL};

    CHECK_EQ(t, options_parse(table, &seen, words, &err), (uint64_t)-EINVAL);
    CHECK(t, strstr(err.text, sentence) != NULL);
}

static void test_mistakes(struct test *t)
{
    check_mistake(t, "--wordy", "x", "no option --wordy");
    check_mistake(t, "--wor", "x", "no option --wor");
    check_mistake(t, "--nothing=x", NULL, "no option --nothing;");
    check_mistake(t, "--word", NULL, "--word needs a value: --word TEXT");
    check_mistake(t, "--flag=1", NULL, "--flag takes no value");
    check_mistake(t, "-flag", NULL, "begin with --");
    check_mistake(t, "--", NULL, "cannot make sense");
    check_mistake(t, "vmlinuz", NULL, "\"vmlinuz\"");
}

static void check_size(struct test *t, const char *text, uint64_t want)
{
    uint64_t size = 0;

    CHECK_EQ(t, option_size("memory", text, &size, NULL), want ? 0 : (uint64_t)-EINVAL);
    CHECK_EQ(t, size, want);
}

static void test_sizes(struct test *t)
{
    check_size(t, "512", UINT64_C(512) << 20);
    check_size(t, "512M", UINT64_C(512) << 20);
    check_size(t, "2g", UINT64_C(2) << 30);
    check_size(t, "1T", UINT64_C(1) << 40);
    check_size(t, "1024K", 1 << 20);
    check_size(t, "16777215T", UINT64_C(16777215) << 40);
    check_size(t, "16777216T", 0); /* 2^64 */
    check_size(t, "18446744073709551616", 0);
    check_size(t, "1K", 0); /* not whole pages */
    check_size(t, "0", 0);
    check_size(t, "", 0);
    check_size(t, "-1", 0);
    check_size(t, "M", 0);
    check_size(t, "1MB", 0);
    check_size(t, "1 M", 0);
    check_size(t, "0x10", 0);
}

static void test_numbers(struct test *t)
{
    const struct number_range range = {1, 64};
    struct error err = {0};
    uint64_t number = 7;

    CHECK_EQ(t, option_number("cpus", "64", range, &number, NULL), 0);
    CHECK_EQ(t, number, 64);
    CHECK_EQ(t, option_number("cpus", "0", range, &number, &err), (uint64_t)-EINVAL);
    CHECK_STR(t, err.text, "--cpus 0 will not do: give a number from 1 to 64");
    CHECK_EQ(t, option_number("cpus", "65", range, &number, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, option_number("cpus", "4x", range, &number, NULL), (uint64_t)-EINVAL);
    CHECK_EQ(t, option_number("cpus", "99999999999999999999", range, &number, NULL),
             (uint64_t)-EINVAL);
    CHECK_EQ(t, number, 64);
}

static void test_parts(struct test *t)
{
    char text[] = "disk.img,format=raw,,readonly=on", *rest = text, *value = NULL;
    bool on = false;

    CHECK_STR(t, option_part(&rest), "disk.img");
    CHECK(t, option_key(option_part(&rest), "format", &value));
    CHECK_STR(t, value, "raw");
    CHECK_STR(t, option_part(&rest), "");
    CHECK(t, !option_key(rest, "read", &value));
    CHECK(t, option_key(option_part(&rest), "readonly", &value));
    CHECK_EQ(t, option_switch("readonly", value, &on, NULL), 0);
    CHECK(t, on);
    CHECK(t, option_part(&rest) == NULL);
    CHECK_EQ(t, option_switch("readonly", "yes", &on, NULL), (uint64_t)-EINVAL);
}

static void test_help(struct test *t)
{
    char text[512] = {0};
    FILE *file = fmemopen(text, sizeof text, "w");

    if (!CHECK(t, file != NULL))
        return;
    options_help(table, file);
    fclose(file);
    CHECK_STR(t, text,
              "  --word TEXT             a word\n"
              "  --flag                  a flag\n"
              "                          with two lines\n");
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_forms);
    TEST_RUN(&t, test_mistakes);
    TEST_RUN(&t, test_sizes);
    TEST_RUN(&t, test_numbers);
    TEST_RUN(&t, test_parts);
    TEST_RUN(&t, test_help);
    return test_end(&t);
}
