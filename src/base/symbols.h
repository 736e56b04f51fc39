/*
 * Names for addresses, from a file as Linux' System.map, /proc/kallsyms and nm(1) have it: lines of
 * "ADDRESS TYPE NAME", anything behind them ignored.
 *
 * Threads: any may look names up at once. Input: the user's file; what is no such line is skipped,
 * and a file without a single one refused.
 */
#ifndef FREEHOLD_BASE_SYMBOLS_H
#define FREEHOLD_BASE_SYMBOLS_H

#include <stdint.h>

#include "base/error.h"

struct symbols;

MUST_CHECK int symbols_load(const char *path, struct symbols **out, struct error *err);
void symbols_free(struct symbols *symbols);

/* The last symbol at or before `address`, and how far behind it that is; NULL: none, or so far that
 * it can't be in it. `symbols` may be NULL. */
const char *symbols_find(const struct symbols *symbols, uint64_t address, uint64_t *offset);

#endif
