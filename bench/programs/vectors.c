// Vector code, from SSE2 to AVX-512, and the instructions for AES, SHA and carry-less products.

#include "program.h"

#include <cpuid.h>
#include <immintrin.h>

enum { WORDS = 1 << 12 };
static _Alignas(64) uint32_t left[WORDS];
static _Alignas(64) uint32_t right[WORDS];
static _Alignas(64) float floats[WORDS];

static void arrays_fill(void)
{
    uint64_t state = RANDOM_SEED;
    for (int i = 0; i < WORDS; i++) {
        left[i] = (uint32_t)random_next(&state);
        right[i] = (uint32_t)random_next(&state);
        floats[i] = (float)(left[i] % 1000) * 0.01f;
    }
}

static uint64_t arrays_sum(void)
{
    return mix_bytes(mix_bytes(mix_bytes(0, left, sizeof left), right, sizeof right), floats,
                     sizeof floats);
}

static uint64_t sse2_integers(uint64_t count)
{
    arrays_fill();
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 4) {
            __m128i a = _mm_load_si128((const __m128i *)(left + i));
            __m128i b = _mm_load_si128((const __m128i *)(right + i));
            __m128i sum = _mm_add_epi32(a, _mm_slli_epi32(b, 3));
            __m128i greater = _mm_cmpgt_epi32(a, b);
            sum = _mm_xor_si128(sum, _mm_and_si128(greater, _mm_mul_epu32(a, b)));
            _mm_store_si128((__m128i *)(left + i), sum);
        }
    return arrays_sum();
}

static uint64_t sse2_floats(uint64_t count)
{
    arrays_fill();
    __m128 scale = _mm_set1_ps(0.75f), base = _mm_set1_ps(0.5f);
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 4) {
            __m128 x = _mm_load_ps(floats + i);
            x = _mm_add_ps(_mm_mul_ps(x, scale), _mm_sqrt_ps(_mm_add_ps(x, base)));
            _mm_store_ps(floats + i, _mm_min_ps(x, _mm_set1_ps(100)));
        }
    return arrays_sum();
}

// Looks for a byte as a C library's strlen and memchr do.
static uint64_t sse2_search(uint64_t count)
{
    arrays_fill();
    const uint8_t *bytes = (const uint8_t *)left;
    uint64_t sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        __m128i wanted = _mm_set1_epi8((char)(round * 7));
        for (unsigned i = 0; i < sizeof left; i += 16) {
            __m128i here = _mm_loadu_si128((const __m128i *)(bytes + i));
            unsigned found = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(here, wanted));
            if (found)
                sum = mix(sum, i + (unsigned)__builtin_ctz(found));
        }
    }
    return sum;
}

static bool has_ssse3(void)
{
    return __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1");
}

__attribute__((target("sse4.1"))) static uint64_t sse4_shuffle(uint64_t count)
{
    arrays_fill();
    const __m128i order = _mm_set_epi8(3, 7, 11, 15, 2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12);
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 4) {
            __m128i x = _mm_shuffle_epi8(_mm_load_si128((const __m128i *)(left + i)), order);
            __m128i y = _mm_load_si128((const __m128i *)(right + i));
            x = _mm_blend_epi16(_mm_mullo_epi32(x, y), _mm_abs_epi8(x), 0x5a);
            _mm_store_si128((__m128i *)(left + i), _mm_alignr_epi8(x, y, 5));
        }
    return arrays_sum();
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((target("avx2"))) static uint64_t avx2_integers(uint64_t count)
{
    arrays_fill();
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 8) {
            __m256i a = _mm256_load_si256((const __m256i *)(left + i));
            __m256i b = _mm256_load_si256((const __m256i *)(right + i));
            __m256i product = _mm256_mullo_epi32(a, b);
            product = _mm256_add_epi32(product, _mm256_srlv_epi32(a, _mm256_set1_epi32(7)));
            product =
                _mm256_permutevar8x32_epi32(product, _mm256_and_si256(b, _mm256_set1_epi32(7)));
            _mm256_store_si256((__m256i *)(left + i), product);
        }
    return arrays_sum();
}

__attribute__((target("avx2,fma"))) static uint64_t avx2_floats(uint64_t count)
{
    arrays_fill();
    __m256 scale = _mm256_set1_ps(0.75f), base = _mm256_set1_ps(0.5f);
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 8) {
            __m256 x = _mm256_load_ps(floats + i);
            __m256 y = _mm256_fmadd_ps(x, scale, base);
            y = _mm256_fnmadd_ps(y, _mm256_set1_ps(0.01f), _mm256_max_ps(x, y));
            _mm256_store_ps(floats + i, _mm256_min_ps(y, _mm256_set1_ps(100)));
        }
    return arrays_sum();
}

__attribute__((target("avx2"))) static uint64_t avx2_gather(uint64_t count)
{
    arrays_fill();
    __m256i sum = _mm256_setzero_si256();
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 8) {
            __m256i at = _mm256_load_si256((const __m256i *)(right + i));
            at = _mm256_and_si256(_mm256_add_epi32(at, sum), _mm256_set1_epi32(WORDS - 1));
            sum = _mm256_add_epi32(sum, _mm256_i32gather_epi32((const int *)left, at, 4));
        }
    return mix_bytes(0, &sum, sizeof sum);
}

static bool has_aes(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
}

__attribute__((target("aes"))) static uint64_t aes_counter(uint64_t count)
{
    arrays_fill();
    const __m128i *keys = (const __m128i *)left;
    __m128i counter = _mm_setzero_si128(), sum = counter;
    for (uint64_t block = 0; block < count; block++) {
        counter = _mm_add_epi64(counter, _mm_set_epi64x(0, 1));
        __m128i x = _mm_xor_si128(counter, keys[0]);
        for (int round = 1; round < 10; round++)
            x = _mm_aesenc_si128(x, keys[round]);
        sum = _mm_xor_si128(sum, _mm_aesenclast_si128(x, keys[10]));
    }
    return mix_bytes(0, &sum, sizeof sum);
}

__attribute__((target("pclmul"))) static uint64_t carryless_products(uint64_t count)
{
    arrays_fill();
    __m128i hash = _mm_set_epi64x(0x1234567, 0x89abcdef), key = _mm_set_epi64x(0x5a5a, 0xc3c3c3);
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 4) {
            hash = _mm_xor_si128(hash, _mm_load_si128((const __m128i *)(left + i)));
            __m128i low = _mm_clmulepi64_si128(hash, key, 0x00);
            __m128i high = _mm_clmulepi64_si128(hash, key, 0x11);
            hash = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), high);
        }
    return mix_bytes(0, &hash, sizeof hash);
}

// CPUID.(7, 0), which has what __builtin_cpu_supports() of some compilers can't name.
static bool has_feature(unsigned ebx_bit, unsigned ecx_bit)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & ebx_bit) == ebx_bit &&
           (ecx & ecx_bit) == ecx_bit;
}

static bool has_sha(void)
{
    return has_feature(1u << 29, 0) && has_ssse3();
}

__attribute__((target("sha,sse4.1"))) static uint64_t sha256_rounds(uint64_t count)
{
    arrays_fill();
    const __m128i *words = (const __m128i *)left;
    __m128i a = _mm_set1_epi32(0x6a09e667), b = _mm_set1_epi32(0x3c6ef372);
    for (uint64_t block = 0; block < count; block++) {
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = words[(block * 4 + (uint64_t)i) % (WORDS / 4)];
        for (int i = 0; i < 16; i++) {
            __m128i next = _mm_sha256msg1_epu32(w[0], w[1]);
            next = _mm_sha256msg2_epu32(_mm_add_epi32(next, _mm_alignr_epi8(w[3], w[2], 4)), w[3]);
            b = _mm_sha256rnds2_epu32(b, a, w[0]);
            a = _mm_sha256rnds2_epu32(a, b, _mm_shuffle_epi32(w[0], 0x0e));
            w[0] = w[1], w[1] = w[2], w[2] = w[3], w[3] = next;
        }
    }
    return mix_bytes(mix_bytes(0, &a, sizeof a), &b, sizeof b);
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) static uint64_t avx512_integers(uint64_t count)
{
    arrays_fill();
    for (uint64_t round = 0; round < count; round++)
        for (int i = 0; i < WORDS; i += 16) {
            __m512i a = _mm512_load_si512(left + i), b = _mm512_load_si512(right + i);
            __mmask16 greater = _mm512_cmpgt_epu32_mask(a, b);
            a = _mm512_mask_mullo_epi32(a, greater, a, b);
            a = _mm512_rolv_epi32(_mm512_ternarylogic_epi32(a, b, a, 0x96), b);
            _mm512_store_si512(left + i, a);
        }
    return arrays_sum();
}

static bool has_vaes(void)
{
    return has_avx512() && has_feature(0, 1u << 9);
}

__attribute__((target("vaes,avx512f"))) static uint64_t avx512_aes(uint64_t count)
{
    arrays_fill();
    __m512i sum = _mm512_setzero_si512();
    for (uint64_t block = 0; block < count; block++) {
        __m512i x = _mm512_xor_si512(sum, _mm512_set1_epi64((long long)block));
        for (int round = 0; round < 10; round++)
            x = _mm512_aesenc_epi128(x, _mm512_load_si512(left + round * 16));
        sum = _mm512_xor_si512(sum, x);
    }
    return mix_bytes(0, &sum, sizeof sum);
}

const struct program vector_programs[] = {
    {"sse2-integers", sse2_integers, 250000, 20, NULL},
    {"sse2-floats", sse2_floats, 200000, 20, NULL},
    {"sse2-search", sse2_search, 150000, 20, NULL},
    {"sse4-shuffle", sse4_shuffle, 300000, 20, has_ssse3},
    {"avx2-integers", avx2_integers, 500000, 20, has_avx2},
    {"avx2-floats", avx2_floats, 600000, 20, has_avx2},
    {"avx2-gather", avx2_gather, 40000, 20, has_avx2},
    {"aes-counter", aes_counter, 80000000, 20, has_aes},
    {"carryless-products", carryless_products, 80000, 20, has_aes},
    {"sha256-rounds", sha256_rounds, 4000000, 20, has_sha},
    {"avx512-integers", avx512_integers, 800000, 20, has_avx512},
    {"avx512-aes", avx512_aes, 20000000, 20, has_vaes},
    {NULL, NULL, 0, 0, NULL},
};
