/* Arithmetic on sizes that a guest, an image or a peer supplied: true means that it fits. */
#ifndef FREEHOLD_BASE_CHECKED_H
#define FREEHOLD_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool checked_multiply(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

/* `unit` is a power of two. */
static inline bool checked_align_up(uint64_t value, uint64_t unit, uint64_t *aligned)
{
    uint64_t sum;

    if (!checked_add(value, unit - 1, &sum))
        return false;
    *aligned = sum & ~(unit - 1);
    return true;
}

/* [start, start + length) lies inside [0, limit). */
static inline bool range_fits(uint64_t start, uint64_t length, uint64_t limit)
{
    return start <= limit && length <= limit - start;
}

#endif
