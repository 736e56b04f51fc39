/* Tests of weaknesses.c, with files of our own. */
#include "cpu/soft/weaknesses.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"

static const char *const names[] = {"mds", "mmio_stale_data", "gather_data_sampling"};
#define NAMES (sizeof names / sizeof *names)

static void file_write(struct test *t, const char *directory, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "we");
    CHECK(t, file != NULL);
    if (!file)
        return;
    fputs(text, file);
    fclose(file);
}

static void directory_remove(const char *directory)
{
    char path[256];

    for (unsigned i = 0; i < NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void test_files(struct test *t)
{
    char directory[] = "/tmp/weaknesses-XXXXXX";

    CHECK(t, mkdtemp(directory) != NULL);
    CHECK_EQ(t, soft_arch_capabilities(directory), X86_ARCH_CAPABILITIES);
    file_write(t, directory, "mds", "Not affected\n");
    CHECK_EQ(t, soft_arch_capabilities(directory), X86_ARCH_CAPABILITIES | 1u << 5);
    file_write(t, directory, "mmio_stale_data", "Not affected\n");
    CHECK_EQ(t, soft_arch_capabilities(directory), X86_ARCH_CAPABILITIES | 0xe020u);
    file_write(t, directory, "gather_data_sampling", "Vulnerable\n");
    CHECK_EQ(t, soft_arch_capabilities(directory), X86_ARCH_CAPABILITIES | 0xe020u);
    file_write(t, directory, "mds", "");
    CHECK_EQ(t, soft_arch_capabilities(directory), X86_ARCH_CAPABILITIES | 0xe000u);
    directory_remove(directory);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_files);
    return test_end(&t);
}
