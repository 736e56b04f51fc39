/*
 * Command-line options from a table: `--name value`, `--name=value`, `--flag`.
 *
 * Threads: one. Input: the user's words; each mistake is answered by one sentence.
 */
#ifndef FREEHOLD_CLI_OPTIONS_H
#define FREEHOLD_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

struct option {
    const char *name;     /* without the dashes */
    const char *argument; /* what help calls it; NULL: a flag */
    const char *help;     /* lines separated by \n */
    int (*set)(void *into, const char *value, struct error *err); /* a flag's value is NULL */
};

/* Calls the `set` of each option in turn and stops at the first mistake. */
MUST_CHECK int options_parse(const struct option *table, void *into, char **words,
                             struct error *err); /* both lists end with a NULL name or word */

void options_help(const struct option *table, FILE *to);

/* The values that options have in common. All give -EINVAL with a sentence that names `option`. */

/* A number from `low` to `high`, decimal. */
struct number_range {
    uint64_t low, high;
};
MUST_CHECK int option_number(const char *option, const char *text, struct number_range range,
                             uint64_t *out, struct error *err);

/* A size: digits and K, M, G or T; without a letter it is in MiB. A multiple of 4 KiB. */
MUST_CHECK int option_size(const char *option, const char *text, uint64_t *out, struct error *err);

/* on or off */
MUST_CHECK int option_switch(const char *option, const char *text, bool *out, struct error *err);

/* "FIRST,key=value,key=value": splits the next part off *rest in place; NULL at the end. */
char *option_part(char **rest);
/* Whether `part` is "key=..."; gives what stands behind the sign. */
bool option_key(char *part, const char *key, char **value);

#endif
