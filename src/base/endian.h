/* Little-endian loads and stores at any alignment, as all guest structures need them. */
#ifndef FREEHOLD_BASE_ENDIAN_H
#define FREEHOLD_BASE_ENDIAN_H

#include <stdint.h>
#include <string.h>

#define ENDIAN_ACCESSORS(bits)                                                                     \
    static inline uint##bits##_t load_le##bits(const void *from)                                   \
    {                                                                                              \
        uint##bits##_t value;                                                                      \
        memcpy(&value, from, sizeof value);                                                        \
        return value;                                                                              \
    }                                                                                              \
    static inline void store_le##bits(void *to, uint##bits##_t value)                              \
    {                                                                                              \
        memcpy(to, &value, sizeof value);                                                          \
    }

ENDIAN_ACCESSORS(16)
ENDIAN_ACCESSORS(32)
ENDIAN_ACCESSORS(64)

#endif
