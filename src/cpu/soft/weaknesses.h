/* See weaknesses.c. */
#ifndef FREEHOLD_CPU_SOFT_WEAKNESSES_H
#define FREEHOLD_CPU_SOFT_WEAKNESSES_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/cpuid.h"

#define SOFT_WEAKNESSES_DIRECTORY "/sys/devices/system/cpu/vulnerabilities"

/* X86_ARCH_CAPABILITIES, and what the files of `directory` allow besides. */
uint64_t soft_arch_capabilities(const char *directory);

#endif
