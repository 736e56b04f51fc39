/*
 * What the host's CPU leaks no more of: IA32_ARCH_CAPABILITIES for guests of the soft engine. See
 * THREATS.md.
 *
 * Source: Intel SDM vol. 4, IA32_ARCH_CAPABILITIES; Linux, Documentation/ABI/testing,
 * sysfs-devices-system-cpu. VERW clears no buffers here, since no translated code contains it: a
 * guest that is told nothing pays for it at each return to user code, and gains nothing. So guests
 * are told of the leaks that VERW is against what the host's kernel says of its CPU.
 * Threads: while a VM is made. Input: files of the host's kernel.
 */
#include "cpu/soft/weaknesses.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *file;
    uint64_t none; /* bits that say that it does not exist */
} weaknesses[] = {
    {"mds", UINT64_C(1) << 5},
    {"tsx_async_abort", UINT64_C(1) << 8},
    {"mmio_stale_data", UINT64_C(7) << 13}, /* SBDR_SSDP_NO, FBSDP_NO, PSDP_NO */
    {"gather_data_sampling", UINT64_C(1) << 26},
    {"reg_file_data_sampling", UINT64_C(1) << 27},
};

static bool is_not_affected(const char *directory, const char *file)
{
    static const char expected[] = "Not affected";
    char path[PATH_MAX], line[sizeof expected] = "";
    FILE *stream;

    if (snprintf(path, sizeof path, "%s/%s", directory, file) >= (int)sizeof path)
        return false;
    stream = fopen(path, "re");
    if (!stream)
        return false;
    if (!fgets(line, sizeof line, stream))
        line[0] = 0;
    fclose(stream);
    return strcmp(line, expected) == 0;
}

uint64_t soft_arch_capabilities(const char *directory)
{
    uint64_t bits = X86_ARCH_CAPABILITIES;

    for (unsigned i = 0; i < sizeof weaknesses / sizeof *weaknesses; i++) {
        if (is_not_affected(directory, weaknesses[i].file))
            bits |= weaknesses[i].none;
    }
    return bits;
}
