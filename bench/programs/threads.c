// Two busy threads at once, for what a second virtual CPU is worth; the count is for each of them.

#include "program.h"

#include <pthread.h>

static void *calls_work(void *argument)
{
    uint64_t *number = argument, state = *number, sum = 0;
    for (uint64_t i = 0; i < *number; i++) {
        uint64_t random = random_next(&state);
        sum = random & 1 ? mix(sum, random) : sum / ((random >> 50) + 1);
    }
    *number = sum;
    return NULL;
}

static void *memory_work(void *argument)
{
    enum { LEN = 1 << 16 };
    uint64_t *number = argument, *numbers = memory_get(LEN * sizeof *numbers);
    uint64_t state = RANDOM_SEED, sum = 0;
    for (uint64_t i = 0; i < *number; i++) {
        uint64_t *at = numbers + random_next(&state) % LEN;
        sum += *at += i;
    }
    memory_put(numbers, LEN * sizeof *numbers);
    *number = sum;
    return NULL;
}

static uint64_t together(void *(*work)(void *), unsigned threads, uint64_t count)
{
    pthread_t ids[2];
    uint64_t numbers[2] = {count, count};
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(ids + i, NULL, work, numbers + i) != 0)
            program_fail("thread");
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    return numbers[0];
}

static uint64_t calls_1(uint64_t count)
{
    return together(calls_work, 1, count);
}

static uint64_t calls_2(uint64_t count)
{
    return together(calls_work, 2, count);
}

static uint64_t memory_1(uint64_t count)
{
    return together(memory_work, 1, count);
}

static uint64_t memory_2(uint64_t count)
{
    return together(memory_work, 2, count);
}

const struct program thread_programs[] = {
    {"arithmetic-1", calls_1, 30000000, 1, NULL},
    {"arithmetic-2", calls_2, 30000000, 1, NULL},
    {"memory-1", memory_1, 80000000, 1, NULL},
    {"memory-2", memory_2, 80000000, 1, NULL},
    {NULL, NULL, 0, 0, NULL},
};
