// Integer arithmetic: sieve, big numbers, hashes and ciphers in plain C.

#include "program.h"

#include <string.h>

static uint64_t sieve(uint64_t count)
{
    enum { LIMIT = 1 << 18 };
    static uint8_t composite[LIMIT];
    uint64_t sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        memset(composite, 0, sizeof composite);
        uint64_t primes = 0;
        for (uint64_t i = 2; i < LIMIT; i++) {
            if (composite[i])
                continue;
            primes++;
            for (uint64_t j = i * i; j < LIMIT; j += i)
                composite[j] = 1;
        }
        sum = mix(sum, primes);
    }
    return sum;
}

// Schoolbook multiplication of numbers of 64 words, the basis of every public-key cipher.
static uint64_t bignum(uint64_t count)
{
    enum { WORDS = 64 };
    uint64_t a[WORDS], b[WORDS], product[2 * WORDS], state = RANDOM_SEED, sum = 0;
    for (int i = 0; i < WORDS; i++) {
        a[i] = random_next(&state);
        b[i] = random_next(&state);
    }
    for (uint64_t round = 0; round < count; round++) {
        memset(product, 0, sizeof product);
        for (int i = 0; i < WORDS; i++) {
            uint64_t carry = 0;
            for (int j = 0; j < WORDS; j++) {
                unsigned __int128 term = (unsigned __int128)a[i] * b[j] + product[i + j] + carry;
                product[i + j] = (uint64_t)term;
                carry = (uint64_t)(term >> 64);
            }
            product[i + WORDS] = carry;
        }
        memcpy(a, product + WORDS / 2, sizeof a);
        sum = mix(sum, product[WORDS]);
    }
    return sum;
}

// Digits of pi by Rabinowitz' and Wagon's spigot: nearly all divisions.
static uint64_t pi_digits(uint64_t count)
{
    enum { DIGITS = 300, TERMS = DIGITS * 10 / 3 + 1 };
    uint64_t sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        uint32_t rest[TERMS];
        for (int i = 0; i < TERMS; i++)
            rest[i] = 2;
        for (int digit = 0; digit < DIGITS; digit++) {
            uint32_t carry = 0;
            for (uint32_t i = TERMS - 1; i > 0; i--) {
                uint32_t value = rest[i] * 10 + carry * (i + 1);
                rest[i] = value % (2 * i + 1);
                carry = value / (2 * i + 1);
            }
            uint32_t value = rest[0] * 10 + carry * 2;
            rest[0] = value % 10;
            sum = mix(sum, value / 10);
        }
    }
    return sum;
}

static uint32_t rotate_right(uint32_t value, unsigned bits)
{
    return value >> bits | value << (32 - bits);
}

// The shape of SHA-256's rounds; the constants are from a generator of our own.
static uint64_t hash(uint64_t count)
{
    uint32_t constants[64], words[64], v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint64_t state = RANDOM_SEED;
    for (int i = 0; i < 64; i++)
        constants[i] = (uint32_t)random_next(&state);
    for (uint64_t block = 0; block < count; block++) {
        for (uint32_t i = 0; i < 16; i++)
            words[i] = (uint32_t)block * 0x01000193 + i;
        for (int i = 16; i < 64; i++) {
            uint32_t x = words[i - 15], y = words[i - 2];
            words[i] = words[i - 16] + words[i - 7] +
                       (rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3) +
                       (rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10);
        }
        for (int i = 0; i < 64; i++) {
            uint32_t e = v[4], a = v[0];
            uint32_t t = v[7] + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) +
                         ((e & v[5]) ^ (~e & v[6])) + constants[i] + words[i];
            uint32_t u = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
                         ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += t;
            v[0] = t + u;
        }
    }
    return mix_bytes(0, v, sizeof v);
}

static void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    *a += *b, *d = rotate_right(*d ^ *a, 16);
    *c += *d, *b = rotate_right(*b ^ *c, 20);
    *a += *b, *d = rotate_right(*d ^ *a, 24);
    *c += *d, *b = rotate_right(*b ^ *c, 25);
}

// ChaCha20's block function (RFC 8439, 2.3).
static uint64_t chacha(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t block = 0; block < count; block++) {
        uint32_t x[16];
        for (uint32_t i = 0; i < 16; i++)
            x[i] = i * 0x9e3779b9 + (uint32_t)block;
        for (int round = 0; round < 10; round++) {
            for (int i = 0; i < 4; i++)
                quarter_round(x + i, x + 4 + i, x + 8 + i, x + 12 + i);
            for (int i = 0; i < 4; i++)
                quarter_round(x + i, x + 4 + (i + 1) % 4, x + 8 + (i + 2) % 4,
                              x + 12 + (i + 3) % 4);
        }
        sum = mix(sum, x[3] ^ (uint64_t)x[14] << 32);
    }
    return sum;
}

static uint64_t crc(uint64_t count)
{
    uint32_t table[256], value = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
    }
    for (uint64_t i = 0; i < count; i++)
        value = value >> 8 ^ table[(value ^ (uint32_t)(i >> 3)) & 0xff];
    return value;
}

static uint64_t power_modulo(uint64_t base, uint64_t exponent, uint64_t modulus)
{
    uint64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            result = (uint64_t)((unsigned __int128)result * base % modulus);
        base = (uint64_t)((unsigned __int128)base * base % modulus);
    }
    return result;
}

static uint64_t modexp(uint64_t count)
{
    uint64_t state = RANDOM_SEED, sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum = mix(sum, power_modulo(random_next(&state) >> 1, random_next(&state),
                                    random_next(&state) >> 1 | 1));
    return sum;
}

// Steps of Collatz' sequences, with shifts and bit counts.
static uint64_t bits(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t steps = 0;
        for (uint64_t n = i; n != 1; steps++) {
            unsigned zeros = (unsigned)__builtin_ctzll(n);
            n = zeros ? n >> zeros : 3 * n + 1;
        }
        sum = mix(sum, steps + (uint64_t)__builtin_popcountll(i) + (uint64_t)__builtin_clzll(i));
    }
    return sum;
}

static uint64_t matrix(uint64_t count)
{
    enum { SIZE = 64 };
    static uint32_t a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (uint32_t i = 0; i < SIZE * SIZE; i++) {
        a[i / SIZE][i % SIZE] = i * 2654435761u;
        b[i / SIZE][i % SIZE] = i * 40503u;
    }
    for (uint64_t round = 0; round < count; round++) {
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                uint32_t sum = 0;
                for (int k = 0; k < SIZE; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
        a[round % SIZE][0] ^= c[0][round % SIZE];
    }
    return mix_bytes(0, c, sizeof c);
}

const struct program integer_programs[] = {
    {"sieve", sieve, 300, 1, NULL},         {"bignum", bignum, 50000, 1, NULL},
    {"pi-digits", pi_digits, 120, 1, NULL}, {"hash", hash, 300000, 1, NULL},
    {"chacha", chacha, 1000000, 1, NULL},   {"crc", crc, 80000000, 1, NULL},
    {"modexp", modexp, 400000, 1, NULL},    {"bits", bits, 2000000, 1, NULL},
    {"matrix", matrix, 3000, 1, NULL},      {NULL, NULL, 0, 0, NULL},
};
