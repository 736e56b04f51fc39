/*
 * Differential test: random instruction sequences on the host CPU and in the soft engine must end
 * with the same registers, flags, vector and x87 state, memory and exception.
 *
 *     differential [--instructions N] [--seed S] [--one SEED] [--interpret]
 *
 * Each sequence has a seed of its own, derived from S, which is printed when it fails; `--one` runs
 * the shortest differing beginning of that sequence and prints its code and both states; where it
 * takes translations of earlier sequences, only S shows it again. S is 1, or in `make test-long`
 * the time. Last line: N passed, N failed.
 */
#include <cpuid.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "generate.h"
#include "native.h"

#define FLAGS_COMPARED    UINT64_C(0xcd5) /* CF PF AF ZF SF DF OF */
#define FAILURES_MAX      10
#define POOL_BYTES        0x20000
#define INSTRUCTIONS      10000000
#define INSTRUCTIONS_LONG 100000000 /* make test-long */

struct options {
    uint64_t instructions, seed, one;
    bool has_one, interpret;
};

struct run {
    struct native native;
    struct engine engine;
    struct generator generator;    /* of code */
    uint64_t pool[POOL_BYTES / 8]; /* random data */
    struct machine start, want, got;
    uint64_t instructions;
};

static uint8_t code_buffer[CODE_BYTES];

static void features_find(struct generator *g)
{
    uint32_t a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d)) {
        g->avx = (c >> 28) & 1;
        g->movbe = (c >> 22) & 1;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        g->bmi = ((b >> 3) & 1) && ((b >> 8) & 1);
        g->adx = (b >> 19) & 1;
        g->avx = g->avx && ((b >> 5) & 1);
    }
}

static double random_double(struct generator *g)
{
    return (double)(int64_t)generator_random(g) / 65536.0;
}

/* Registers at random, floating-point ones mostly ordinary numbers. `g` is not the generator of the
 * code, which may be cut short (see run_one()). */
static void machine_start(struct run *r, struct generator *g)
{
    struct machine *m = &r->start;
    uint64_t components = r->native.xsave_mask;

    memset(m, 0, sizeof *m);
    for (unsigned i = 0; i < 16; i++)
        m->gpr[i] = generator_random(g) >> (generator_random(g) % 64);
    m->gpr[4] = generator_stack(g);
    m->gpr[14] = generator_random(g) % 16;
    m->gpr[15] = DATA_MIDDLE;
    if (g->pointer)
        m->gpr[g->pointer] = generator_pointer(g);
    m->rip = CODE_BASE + g->start;
    m->rflags = 0x202 | (generator_random(g) & 0x8d5);
    m->xsave[0] = 0x7f;
    m->xsave[1] = 0x03;
    m->xsave[24] = 0x80;
    m->xsave[25] = 0x1f;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t bits = generator_random(g);
        double number = random_double(g);

        memcpy(m->xsave + 160 + 8 * i, i % 2 ? (void *)&bits : (void *)&number, 8);
        memcpy(m->xsave + 576 + 8 * i, i % 3 ? (void *)&bits : (void *)&number, 8);
    }
    memcpy(m->xsave + 512, &components, 8);
}

/* x87 and vector state, as far as a component is in use: a component in its initial state may be
 * left out of XSTATE_BV and of the image on either side. */
static void xsave_normalise(uint8_t *image)
{
    static const uint8_t x87_control[2] = {0x7f, 0x03};
    static const struct {
        unsigned component, offset, bytes;
    } parts[] = {{1, 160, 256}, {2, 576, 256}, {5, 1088, 64}, {6, 1152, 512}, {7, 1664, 1024}};
    uint64_t present;

    memcpy(&present, image + 512, 8);
    if (!(present & 1)) {
        memset(image, 0, 24);
        memset(image + 32, 0, 128);
        memcpy(image, x87_control, 2);
    }
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!(present >> parts[i].component & 1))
            memset(image + parts[i].offset, 0, parts[i].bytes);
    }
    memset(image + 28, 0, 4);        /* MXCSR_MASK */
    memset(image + 416, 0, 160);     /* unused, header */
    for (unsigned i = 0; i < 8; i++) /* the upper 6 bytes of each ST */
        memset(image + 42 + 16 * i, 0, 6);
    memset(image + 16, 0, 8); /* FDP: new CPUs set it at exceptions only */
}

/* The last x87 instruction (FOP, FIP), where the host does not tell: its kernel's signal frames
 * lose parts, and AMD's CPUs keep it for exceptions only. */
static void last_x87_forget(struct run *r)
{
    uint64_t fip;

    memcpy(&fip, r->want.xsave + 8, 8);
    if (r->want.vector < 0 && fip != 0)
        return;
    memset(r->want.xsave + 6, 0, 10);
    memset(r->got.xsave + 6, 0, 10);
}

static const char *compare(struct run *r)
{
    if (r->want.vector != r->got.vector)
        return "exception";
    if (r->want.rip != r->got.rip)
        return "RIP";
    if (r->want.fault_address != r->got.fault_address)
        return "fault address";
    if (r->want.fault_code != r->got.fault_code)
        return "error code";
    if (memcmp(r->want.gpr, r->got.gpr, sizeof r->want.gpr) != 0)
        return "general registers";
    if ((r->want.rflags ^ r->got.rflags) & FLAGS_COMPARED)
        return "flags";
    xsave_normalise(r->want.xsave);
    xsave_normalise(r->got.xsave);
    last_x87_forget(r);
    if (memcmp(r->want.xsave, r->got.xsave, XSAVE_BYTES) != 0)
        return "x87 or vector registers";
    if (memcmp(r->native.data, r->engine.data, DATA_BYTES) != 0)
        return "memory";
    return NULL;
}

static void data_store(struct run *r, uint64_t address, uint64_t value)
{
    memcpy(r->native.data + (address - DATA_BASE), &value, sizeof value);
}

/* Random, but for what programs need. Who returns once too often is at the end. */
static void data_start(struct run *r, struct generator *g)
{
    uint64_t from = generator_random(g) % ((POOL_BYTES - DATA_BYTES) / 8);

    memcpy(r->native.data, r->pool + from, DATA_BYTES);
    data_store(r, DATA_FUEL, 1 + generator_random(g) % 40);
    for (unsigned i = 0; i < TABLE_ENTRIES; i++)
        data_store(r, DATA_TABLE + 8 * i, g->table[i]);
    for (unsigned i = 0; g->returns && i < 32; i++)
        data_store(r, STACK_TOP + 8 * i, EXIT_BASE);
    memcpy(r->engine.data, r->native.data, DATA_BYTES);
}

/* At most `limit` instructions of the sequence with this seed. Some run more than once, from other
 * states, so that the engine meets what it has translated and linked before. */
static const char *sequence_run(struct run *r, uint64_t seed, unsigned limit)
{
    struct generator *g = &r->generator, states;
    const char *what = NULL;
    unsigned count, runs;

    *g = (struct generator){.random = seed,
                            .avx = g->avx,
                            .bmi = g->bmi,
                            .movbe = g->movbe,
                            .adx = g->adx,
                            .feature = g->feature,
                            .code = code_buffer,
                            .capacity = sizeof code_buffer};
    native_watch(seed);
    runs = generator_random(g) % 3 == 0 ? 3 : 1;
    count = 10 + (unsigned)(generator_random(g) % 300);
    generate(g, count, limit);
    r->instructions += g->count;
    memcpy(r->native.code + g->start, g->code + g->start, g->length - g->start);
    engine_load(&r->engine, g->start, g->code + g->start, g->length - g->start);
    states = *g;
    states.random = ~seed;
    for (unsigned i = 0; i < runs && !what; i++) {
        machine_start(r, &states);
        data_start(r, &states);
        r->want = r->start;
        native_run(&r->native, &r->want);
        r->got = r->start;
        engine_run(&r->engine, &r->got);
        what = compare(r);
    }
    return what;
}

static void states_print(const struct run *r)
{
    for (unsigned i = 0; i < 16; i++)
        printf("  r%-2u host %016" PRIx64 " engine %016" PRIx64 "%s\n", i, r->want.gpr[i],
               r->got.gpr[i], r->want.gpr[i] == r->got.gpr[i] ? "" : " <--");
    printf("  rip host %" PRIx64 " engine %" PRIx64 ", flags host %" PRIx64 " engine %" PRIx64
           ", vector host %d engine %d, address host %" PRIx64 " engine %" PRIx64
           ", code host %x engine %x\n",
           r->want.rip, r->got.rip, r->want.rflags, r->got.rflags, r->want.vector, r->got.vector,
           r->want.fault_address, r->got.fault_address, r->want.fault_code, r->got.fault_code);
    for (unsigned i = 0; i < XSAVE_BYTES; i++) {
        if (r->want.xsave[i] != r->got.xsave[i])
            printf("  xsave[%u] host %02x engine %02x\n", i, r->want.xsave[i], r->got.xsave[i]);
    }
    for (unsigned i = 0; i < DATA_BYTES; i++) {
        if (r->native.data[i] != r->engine.data[i])
            printf("  data[%#x] host %02x engine %02x\n", i, r->native.data[i], r->engine.data[i]);
    }
}

static void code_print(const struct run *r)
{
    FILE *file = fopen("differential.bin", "wb");

    if (file) {
        fwrite(r->generator.code + r->generator.start, 1, r->generator.length - r->generator.start,
               file);
        fclose(file);
        printf("  code: objdump -D -b binary -m i386:x86-64 --adjust-vma=%#" PRIx64
               " differential.bin\n",
               (uint64_t)(CODE_BASE + r->generator.start));
    }
}

/* Shows the shortest beginning of the sequence that differs already. */
static int run_one(struct run *r, uint64_t seed)
{
    const char *what = sequence_run(r, seed, UINT_MAX);

    for (unsigned limit = 1; what; limit++) {
        const char *shorter = sequence_run(r, seed, limit);

        if (shorter) {
            what = shorter;
            break;
        }
    }

    printf("seed %" PRIu64 ": %s\n", seed, what ? what : "no difference");
    states_print(r);
    code_print(r);
    return what ? 1 : 0;
}

static int run_many(struct run *r, const struct options *options)
{
    unsigned passed = 0, failed = 0;

    for (uint64_t i = 0; r->instructions < options->instructions && failed < FAILURES_MAX; i++) {
        struct generator seeds = {.random = (options->seed << 32) + i};
        uint64_t seed = generator_random(&seeds);
        const char *what = sequence_run(r, seed, UINT_MAX);

        if (!what) {
            passed++;
            continue;
        }
        failed++;
        printf("seed %" PRIu64 " differs: %s (see it with --one %" PRIu64 ")\n", seed, what, seed);
    }
    printf("seed %" PRIu64 ": %" PRIu64 " instructions in %u sequences: %u end alike, %u differ\n",
           options->seed, r->instructions, passed + failed, passed, failed);
    printf("%d passed, %d failed\n", failed == 0, failed != 0);
    return failed ? 1 : 0;
}

static bool options_parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        uint64_t *number = strcmp(argv[i], "--instructions") == 0 ? &o->instructions
                           : strcmp(argv[i], "--seed") == 0       ? &o->seed
                           : strcmp(argv[i], "--one") == 0        ? &o->one
                                                                  : NULL;

        if (strcmp(argv[i], "--interpret") == 0) {
            o->interpret = true;
        } else if (number && i + 1 < argc) {
            o->has_one = o->has_one || number == &o->one;
            *number = strtoull(argv[++i], NULL, 0);
        } else {
            fprintf(stderr, "differential: unknown option %s\n", argv[i]);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static struct run r;
    struct options options = {.instructions = INSTRUCTIONS, .seed = 1};
    const char *lengthy = getenv("FREEHOLD_TEST_LONG");

    if (lengthy && *lengthy) {
        options.instructions = INSTRUCTIONS_LONG;
        options.seed = (uint32_t)time(NULL);
    }
    if (!options_parse(argc, argv, &options))
        return 2;
    features_find(&r.generator);
    if (!native_init(&r.native) || !engine_init(&r.engine, options.interpret))
        return 1;
    for (unsigned i = 0; i < POOL_BYTES / 8; i++)
        r.pool[i] = generator_random(&r.generator);
    r.generator.feature = r.engine.cpuid.feature;
    return options.has_one ? run_one(&r, options.one) : run_many(&r, &options);
}
