/* Command-line options from a table. Threads: one. Input: the user's words. */
#include "cli/options.h"

#include <errno.h>
#include <string.h>

/* ---- parsing ---- */

static const struct option *option_find(const struct option *table, const char *name, size_t length)
{
    for (; table->name; table++) {
        if (strlen(table->name) == length && memcmp(table->name, name, length) == 0)
            return table;
    }
    return NULL;
}

/* One option at *words; *used is how many words it took. */
static int option_take(const struct option *table, void *into, char **words, unsigned *used,
                       struct error *err)
{
    const char *name = words[0] + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct option *option = option_find(table, name, length);

    *used = 1;
    if (!option)
        return error_set(err, -EINVAL, "there is no option --%.*s; see freehold run --help",
                         (int)length, name);
    if (!option->argument) {
        if (equals)
            return error_set(err, -EINVAL, "--%s takes no value", option->name);
        return option->set(into, NULL, err);
    }
    if (equals)
        return option->set(into, equals + 1, err);
    if (!words[1])
        return error_set(err, -EINVAL, "--%s needs a value: --%s %s", option->name, option->name,
                         option->argument);
    *used = 2;
    return option->set(into, words[1], err);
}

int options_parse(const struct option *table, void *into, char **words, struct error *err)
{
    while (*words) {
        unsigned used;
        int rc;

        if (strncmp(*words, "--", 2) != 0 || (*words)[2] == '\0')
            return error_set(err, -EINVAL,
                             "cannot make sense of \"%s\": options begin with --; "
                             "see freehold run --help",
                             *words);
        rc = option_take(table, into, words, &used, err);
        if (rc < 0)
            return rc;
        words += used;
    }
    return 0;
}

/* ---- help ---- */

#define HELP_COLUMN 26

static void option_help(const struct option *option, FILE *to)
{
    const char *text = option->help;
    int column = fprintf(to, "  --%s", option->name);

    if (option->argument)
        column += fprintf(to, " %s", option->argument);
    if (column >= HELP_COLUMN - 1) {
        fputc('\n', to);
        column = 0;
    }
    while (text) {
        const char *end = strchr(text, '\n');

        fprintf(to, "%*s%.*s\n", HELP_COLUMN - column, "",
                (int)(end ? end - text : (long)strlen(text)), text);
        text = end ? end + 1 : NULL;
        column = 0;
    }
}

void options_help(const struct option *table, FILE *to)
{
    for (; table->name; table++)
        option_help(table, to);
}

/* ---- values ---- */

/* Digits at *text, which moves behind them; false: none, or too large. */
static bool digits_take(const char **text, uint64_t *out)
{
    const char *at = *text;
    uint64_t value = 0;

    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    if (at == *text)
        return false;
    *text = at;
    *out = value;
    return true;
}

int option_number(const char *option, const char *text, struct number_range range, uint64_t *out,
                  struct error *err)
{
    const char *at = text;
    uint64_t value;

    if (!digits_take(&at, &value) || *at != '\0' || value < range.low || value > range.high)
        return error_set(err, -EINVAL, "--%s %s will not do: give a number from %llu to %llu",
                         option, text, (unsigned long long)range.low,
                         (unsigned long long)range.high);
    *out = value;
    return 0;
}

static int unit_shift(char letter)
{
    switch (letter) {
    case 'K':
    case 'k':
        return 10;
    case '\0':
    case 'M':
    case 'm':
        return 20;
    case 'G':
    case 'g':
        return 30;
    case 'T':
    case 't':
        return 40;
    default:
        return -1;
    }
}

int option_size(const char *option, const char *text, uint64_t *out, struct error *err)
{
    const char *at = text;
    uint64_t value;
    int shift;

    if (!digits_take(&at, &value))
        goto bad;
    shift = unit_shift(*at);
    if (shift < 0 || (*at != '\0' && at[1] != '\0') || value > UINT64_MAX >> shift)
        goto bad;
    value <<= shift;
    if (value == 0 || value % 4096 != 0)
        goto bad;
    *out = value;
    return 0;

bad:
    return error_set(err, -EINVAL, "--%s %s will not do: give a size such as 512M or 2G", option,
                     text);
}

int option_switch(const char *option, const char *text, bool *out, struct error *err)
{
    if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
        return error_set(err, -EINVAL, "%s=%s will not do: it is on or off", option, text);
    *out = strcmp(text, "on") == 0;
    return 0;
}

char *option_part(char **rest)
{
    char *part = *rest, *comma;

    if (!part)
        return NULL;
    comma = strchr(part, ',');
    if (comma)
        *comma = '\0';
    *rest = comma ? comma + 1 : NULL;
    return part;
}

bool option_key(char *part, const char *key, char **value)
{
    size_t length = strlen(key);

    if (strncmp(part, key, length) != 0 || part[length] != '=')
        return false;
    *value = part + length + 1;
    return true;
}
