// The benchmark's programs: small loops in C, each of which gives a checksum that must be the same
// wherever it runs.
#ifndef FREEHOLD_BENCH_PROGRAM_H
#define FREEHOLD_BENCH_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct program {
    const char *name;
    uint64_t (*run)(uint64_t count); // a checksum, which depends on the count only
    uint64_t count;                  // about 0.15 s natively on a current server
    unsigned divisor;                // QEMU's TCG gets a count that many times smaller
    bool (*possible)(void);          // whether this CPU has what it needs; NULL: any has
};

// Each ends with an entry without a name.
extern const struct program integer_programs[];
extern const struct program branch_programs[];
extern const struct program float_programs[];
extern const struct program vector_programs[];
extern const struct program memory_programs[];
extern const struct program code_programs[];
extern const struct program kernel_programs[];
extern const struct program thread_programs[];

// A sequence of numbers that look random (Marsaglia's xorshift64*).
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1d;
}

#define RANDOM_SEED 0x9e3779b97f4a7c15u

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * 0x100000001b3u + (sum >> 29);
}

// The same value, of which the compiler knows nothing, so that it can't move work out of a loop.
static inline uint64_t opaque(uint64_t value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

uint64_t mix_bytes(uint64_t sum, const void *bytes, uint64_t size);

// Memory for one program, which ends when it can't have it.
void *memory_get(uint64_t size_bytes);
void memory_put(void *memory, uint64_t size_bytes);
_Noreturn void program_fail(const char *what);

#endif
