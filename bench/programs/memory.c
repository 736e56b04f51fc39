// Memory: copies, streams, random access, and the string instructions.

#include "program.h"

#include <string.h>

#define MIB ((uint64_t)1 << 20)

static uint64_t *numbers_get(uint64_t size)
{
    uint64_t *numbers = memory_get(size);
    for (uint64_t i = 0; i < size / sizeof *numbers; i++)
        numbers[i] = i * RANDOM_SEED;
    return numbers;
}

static uint64_t copy_large(uint64_t count)
{
    const uint64_t size = 8 * MIB;
    uint64_t *from = numbers_get(size), *to = memory_get(size), sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        from[i % 1000] ^= i;
        memcpy(to, from, size);
        sum = mix(sum, to[i % 1000]);
    }
    memory_put(from, size);
    memory_put(to, size);
    return sum;
}

static uint64_t copy_small(uint64_t count)
{
    const uint64_t size = MIB;
    uint8_t *from = (uint8_t *)numbers_get(size), *to = memory_get(size);
    uint64_t state = RANDOM_SEED;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t random = random_next(&state);
        memcpy(to + random % (size - 512), from + (random >> 20) % (size - 512), random >> 56);
    }
    uint64_t sum = mix_bytes(0, to, size / 16);
    memory_put(from, size);
    memory_put(to, size);
    return sum;
}

static uint64_t fill(uint64_t count)
{
    const uint64_t size = 8 * MIB;
    uint8_t *to = memory_get(size);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        memset(to, (int)i, size);
        sum = mix(sum, to[i * 4099 % size]);
    }
    memory_put(to, size);
    return sum;
}

static uint64_t stream(uint64_t count)
{
    const uint64_t size = 16 * MIB, len = size / sizeof(uint64_t);
    uint64_t *a = numbers_get(size), *b = numbers_get(size), *c = numbers_get(size);
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t j = 0; j < len; j++)
            a[j] = b[j] + 3 * c[j] + i;
    uint64_t sum = mix_bytes(0, a, MIB);
    memory_put(a, size);
    memory_put(b, size);
    memory_put(c, size);
    return sum;
}

static uint64_t random_access(uint64_t size, uint64_t count)
{
    uint64_t *numbers = numbers_get(size), state = RANDOM_SEED, sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t *number = numbers + random_next(&state) % (size / sizeof *numbers);
        sum += *number;
        *number ^= sum;
    }
    memory_put(numbers, size);
    return sum;
}

static uint64_t random_cache(uint64_t count)
{
    return random_access(MIB, count);
}

static uint64_t random_large(uint64_t count)
{
    return random_access(64 * MIB, count);
}

// Each number tells where the next one is: one ring through all of them (Sattolo's shuffle).
static uint64_t pointer_chase(uint64_t size, uint64_t count)
{
    uint64_t len = size / sizeof(uint64_t), *next = memory_get(size), state = RANDOM_SEED;
    for (uint64_t i = 0; i < len; i++)
        next[i] = i;
    for (uint64_t i = len - 1; i > 0; i--) {
        uint64_t other = random_next(&state) % i, kept = next[i];
        next[i] = next[other];
        next[other] = kept;
    }
    uint64_t at = 0, sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        at = next[at];
        sum += at;
    }
    memory_put(next, size);
    return sum;
}

static uint64_t chase_cache(uint64_t count)
{
    return pointer_chase(MIB / 4, count);
}

static uint64_t chase_large(uint64_t count)
{
    return pointer_chase(32 * MIB, count);
}

// One access in each page: what a TLB can hold.
static uint64_t pages(uint64_t count)
{
    const uint64_t size = 16 * MIB;
    uint64_t *numbers = numbers_get(size), sum = 0;
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t at = 0; at < size / 8; at += 512 + 8)
            sum += numbers[at]++;
    memory_put(numbers, size);
    return sum;
}

static void string_move_bytes(void *to, const void *from, uint64_t len)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
}

static uint64_t rep_movsb(uint64_t count)
{
    const uint64_t size = MIB;
    uint8_t *from = (uint8_t *)numbers_get(size), *to = memory_get(size);
    for (uint64_t i = 0; i < count; i++)
        string_move_bytes(to + i * 4096 % (size / 2), from + i * 64 % (size / 2), 4096);
    uint64_t sum = mix_bytes(0, to, size / 16);
    memory_put(from, size);
    memory_put(to, size);
    return sum;
}

static uint64_t rep_movsb_short(uint64_t count)
{
    uint8_t *from = (uint8_t *)numbers_get(MIB), *to = memory_get(MIB);
    for (uint64_t i = 0; i < count; i++)
        string_move_bytes(to + i * 40 % (MIB / 2), from + i * 24 % (MIB / 2), i % 61);
    uint64_t sum = mix_bytes(0, to, MIB / 16);
    memory_put(from, MIB);
    memory_put(to, MIB);
    return sum;
}

static uint64_t rep_stosq(uint64_t count)
{
    uint8_t *memory = memory_get(MIB);
    for (uint64_t i = 0; i < count; i++) {
        void *to = memory + i * 4096 % (MIB / 2);
        uint64_t len = 512;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(len) : "a"(i * RANDOM_SEED) : "memory");
    }
    uint64_t sum = mix_bytes(0, memory, MIB / 16);
    memory_put(memory, MIB);
    return sum;
}

static uint64_t repne_scasb(uint64_t count)
{
    uint8_t *memory = memory_get(MIB);
    uint64_t sum = 0;
    memset(memory, 'x', MIB);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = i * 97 % (MIB / 2), want = 100 + i % 400, len = ~(uint64_t)0;
        const void *here = memory + at;
        memory[at + want] = 0;
        __asm__ volatile("repne scasb" : "+D"(here), "+c"(len) : "a"(0) : "memory", "cc");
        memory[at + want] = 'x';
        sum = mix(sum, ~len);
    }
    memory_put(memory, MIB);
    return sum;
}

static uint64_t repe_cmpsb(uint64_t count)
{
    uint8_t *memory = memory_get(MIB);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t want = 50 + i % 400, len = 1000;
        const void *a = memory + i * 97 % (MIB / 4), *b = memory + MIB / 2;
        memory[MIB / 2 + want] = 1;
        __asm__ volatile("repe cmpsb" : "+S"(a), "+D"(b), "+c"(len) : : "memory", "cc");
        memory[MIB / 2 + want] = 0;
        sum = mix(sum, len);
    }
    memory_put(memory, MIB);
    return sum;
}

const struct program memory_programs[] = {
    {"copy-large", copy_large, 250, 10, NULL},
    {"copy-small", copy_small, 4000000, 10, NULL},
    {"fill", fill, 500, 10, NULL},
    {"stream", stream, 50, 4, NULL},
    {"random-cache", random_cache, 60000000, 4, NULL},
    {"random-large", random_large, 12000000, 4, NULL},
    {"chase-cache", chase_cache, 40000000, 4, NULL},
    {"chase-large", chase_large, 2000000, 1, NULL},
    {"pages", pages, 5000, 4, NULL},
    {"rep-movsb", rep_movsb, 2000000, 400, NULL},
    {"rep-movsb-short", rep_movsb_short, 50000000, 40, NULL},
    {"rep-stosq", rep_stosq, 2500000, 200, NULL},
    {"repne-scasb", repne_scasb, 3000000, 4, NULL},
    {"repe-cmpsb", repe_cmpsb, 4000000, 4, NULL},
    {NULL, NULL, 0, 0, NULL},
};
