/* Names for addresses: see symbols.h. */
#include "base/symbols.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No function is longer; what is further from a symbol belongs to code without one. */
#define REACH          (UINT64_C(1) << 20)
#define COUNT_MAX      (1u << 24)
#define NAME_MAX_BYTES 255

struct symbol {
    uint64_t address;
    char *name;
};

struct symbols {
    struct symbol *symbol; /* by address, one for each */
    size_t count, room;
};

static bool symbol_add(struct symbols *symbols, uint64_t address, const char *name)
{
    if (symbols->count == symbols->room) {
        size_t room = symbols->room ? 2 * symbols->room : 4096;
        struct symbol *more = realloc(symbols->symbol, room * sizeof *more);

        if (!more)
            return false;
        symbols->symbol = more;
        symbols->room = room;
    }
    symbols->symbol[symbols->count] = (struct symbol){address, strdup(name)};
    return symbols->symbol[symbols->count++].name != NULL;
}

/* "ADDRESS TYPE NAME": a symbol of code (T, t, W, w); false: no memory. */
static bool line_add(struct symbols *symbols, const char *line)
{
    char name[NAME_MAX_BYTES + 1], type;
    uint64_t address;

    if (sscanf(line, "%" SCNx64 " %c %255s", &address, &type, name) != 3 || !strchr("TtWw", type) ||
        address == 0 || symbols->count == COUNT_MAX)
        return true;
    for (char *at = name; *at; at++) {
        if ((unsigned char)*at < 0x21 || (unsigned char)*at > 0x7e)
            *at = '?';
    }
    return symbol_add(symbols, address, name);
}

static int symbol_compare(const void *a, const void *b)
{
    const struct symbol *left = a, *right = b;

    return (left->address > right->address) - (left->address < right->address);
}

static int file_read(struct symbols *symbols, FILE *file, const char *path, struct error *err)
{
    char *line = NULL;
    size_t room = 0;
    bool good = true;
    int rc = 0;

    while (good && getline(&line, &room, file) >= 0)
        good = line_add(symbols, line);
    if (!good)
        rc = error_set(err, -ENOMEM, "not enough memory for the symbols in %s", path);
    else if (ferror(file))
        rc = error_set(err, -EIO, "cannot read symbols from %s: %s", path, strerror(errno));
    else if (symbols->count == 0)
        rc = error_set(err, -EINVAL,
                       "%s has no symbols: it must have lines of address, type and name, as "
                       "System.map has (all addresses 0: read /proc/kallsyms as root)",
                       path);
    free(line);
    return rc;
}

int symbols_load(const char *path, struct symbols **out, struct error *err)
{
    struct symbols *symbols = calloc(1, sizeof *symbols);
    FILE *file = symbols ? fopen(path, "re") : NULL;
    int rc;

    if (!symbols)
        return error_set(err, -ENOMEM, "not enough memory for the symbols in %s", path);
    if (file) {
        rc = file_read(symbols, file, path, err);
        fclose(file);
    } else {
        rc = error_set(err, -errno, "cannot read symbols from %s: %s", path, strerror(errno));
    }
    if (rc < 0) {
        symbols_free(symbols);
        return rc;
    }
    qsort(symbols->symbol, symbols->count, sizeof symbols->symbol[0], symbol_compare);
    *out = symbols;
    return 0;
}

void symbols_free(struct symbols *symbols)
{
    if (!symbols)
        return;
    for (size_t i = 0; i < symbols->count; i++)
        free(symbols->symbol[i].name);
    free(symbols->symbol);
    free(symbols);
}

const char *symbols_find(const struct symbols *symbols, uint64_t address, uint64_t *offset)
{
    size_t low = 0, high = symbols ? symbols->count : 0;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (symbols->symbol[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address - symbols->symbol[low - 1].address >= REACH)
        return NULL;
    *offset = address - symbols->symbol[low - 1].address;
    return symbols->symbol[low - 1].name;
}
