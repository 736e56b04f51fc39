/*
 * Processors that hammer the same page with locked and plain accesses. Each owns some bytes and
 * bits of every word and knows what they must be, whatever the others do to the rest of it.
 *
 * Intel SDM vol. 3, 8.1.2 (locked operations are atomic against all accesses, in pieces of a word
 * too) and 8.1.1 (plain accesses inside a line are whole). Option rounds=N (20,000).
 */
#include "cpus.h"

#define PAGES 2u
#define SIDES 2u
/* Two pages, so that words may lie across; the last bytes are for code. */
static u8 area[PAGES * 4096] __attribute__((aligned(4096)));
#define CODE_AT (PAGES * 4096 - 64)

/* What one processor owns of a word of 8 bytes: bits under `mask`, known to be `value`. */
struct owned {
    u64 mask, value;
};
#define WORDS 16u
static struct {
    u64 offset[WORDS];
    struct owned owned[SIDES][WORDS];
    u64 wrong[SIDES];
    u64 sum[SIDES]; /* of what was added to the shared counter */
    u64 rounds;
    u64 base; /* of the area: its own address or the user's view of it */
} game;

static u64 random_next(u64 *state)
{
    u64 s = *state;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return *state = s;
}

/* -- operations that change bits of the owner alone -- */

#define LOCKED(name, text)                                                                         \
    static u64 name(void *at, u64 value)                                                           \
    {                                                                                              \
        __asm__ volatile(text : "+m"(*(volatile u64 *)at), "+r"(value) : : "memory", "cc", "rax"); \
        return value;                                                                              \
    }
LOCKED(lock_or, "lock orq %1, %0")
LOCKED(lock_and, "lock andq %1, %0")
LOCKED(lock_xor, "lock xorq %1, %0")
LOCKED(lock_or32, "lock orl %k1, %0")
LOCKED(lock_xor32, "lock xorl %k1, %0")
LOCKED(lock_bts, "lock btsq %1, %0")
LOCKED(lock_btr, "lock btrq %1, %0")

/* Sets the owner's bits by comparison and exchange of the whole word. */
static void lock_set(void *at, struct owned *o, u64 value)
{
    u64 old = *(volatile u64 *)at, seen;
    for (;;) {
        u64 next = (old & ~o->mask) | (value & o->mask);
        seen = old;
        __asm__ volatile("lock cmpxchgq %2, %0"
                         : "+m"(*(volatile u64 *)at), "+a"(seen)
                         : "r"(next)
                         : "memory", "cc");
        if (seen == old)
            break;
        old = seen;
    }
    o->value = value & o->mask;
}

/* A byte that the owner has whole, by plain instructions. */
static void plain_byte(u8 *at, struct owned *o, u64 r)
{
    unsigned byte = r & 7;
    u64 mask = 0xfful << (8 * byte), value = (r >> 8) & 0xff, old = (o->value & mask) >> (8 * byte);
    u8 exchanged;
    if ((o->mask & mask) != mask)
        return;
    switch (r >> 16 & 3) {
    case 0:
        *(volatile u8 *)(at + byte) = (u8)value;
        break;
    case 1:
        __asm__ volatile("addb %1, %0" : "+m"(at[byte]) : "q"((u8)value) : "memory", "cc");
        value = (old + value) & 0xff;
        break;
    case 2:
        __asm__ volatile("incb %0" : "+m"(at[byte]) : : "memory", "cc");
        value = (old + 1) & 0xff;
        break;
    default:
        exchanged = (u8)value;
        __asm__ volatile("xchgb %1, %0" : "+m"(at[byte]), "+q"(exchanged) : : "memory");
    }
    o->value = (o->value & ~mask) | value << (8 * byte);
}

static void word_change(u8 *at, struct owned *o, u64 r)
{
    u64 bits = random_next(&r) & o->mask;
    unsigned bit = (unsigned)(random_next(&r) & 63);

    switch (r >> 32 & 7) {
    case 0:
        (void)lock_or(at, bits);
        o->value |= bits;
        break;
    case 1:
        (void)lock_and(at, bits | ~o->mask);
        o->value &= bits;
        break;
    case 2:
        (void)lock_xor(at, bits);
        o->value ^= bits;
        break;
    case 3:
        (void)lock_or32(at, (u32)bits);
        o->value |= (u32)bits;
        break;
    case 4:
        (void)lock_xor32(at + 4, bits >> 32);
        o->value ^= bits & 0xffffffff00000000;
        break;
    case 5:
        if (o->mask >> bit & 1) {
            (void)(r & 1 ? lock_bts(at, bit) : lock_btr(at, bit));
            o->value = (o->value & ~(1ul << bit)) | (r & 1) << bit;
        }
        break;
    case 6:
        lock_set(at, o, r);
        break;
    default:
        plain_byte(at, o, r);
    }
}

#define COUNTER 128u
static volatile u64 *counter_at(void)
{
    return (volatile u64 *)(game.base + COUNTER);
}

static void count(u32 me, u64 r)
{
    u64 add = r & 0xff;
    if (r & 0x100)
        __asm__ volatile("lock addq %1, %0" : "+m"(*counter_at()) : "r"(add) : "memory", "cc");
    else
        __asm__ volatile("lock xaddq %1, %0" : "+m"(*counter_at()), "+r"(add) : : "memory", "cc");
    game.sum[me] += r & 0xff;
}

static void hammer_job(void)
{
    u32 me = cpu_index();
    u64 state = 0x9e3779b97f4a7c15 * (me + 1) + game.rounds + game.base;

    for (u64 i = 0; i < game.rounds; i++) {
        u64 r = random_next(&state);
        u32 word = (u32)(r % WORDS);
        u8 *at = (u8 *)(game.base + game.offset[word]);
        struct owned *o = &game.owned[me][word];

        game.wrong[me] += (*(volatile u64 *)at & o->mask) != o->value;
        word_change(at, o, random_next(&state));
        game.wrong[me] += (*(volatile u64 *)at & o->mask) != o->value;
        if ((r >> 20) % 4 == 0)
            count(me, r >> 24);
        if ((r >> 20) % 64 == 1)
            ((void (*)(void))ADDRESS(area + CODE_AT + 16 * me))();
    }
}

/* Where the words lie: in lines of their own, beside each other, across lines, across the pages. */
static const u64 places[][2] = {{512, 64}, {1024, 8}, {2048 + 61, 64}, {4096 - 4, 1024}};

static void game_run(const char *what, u64 step, u64 first, u64 base, u64 rounds)
{
    /* By whole bytes in turn, and by odd bits. */
    static const u64 masks[2] = {0x00ff00ff00ff00ff, 0x5555ff00aaaa00ff};

    memory_set(&game, 0, sizeof(game));
    memory_set(area, 0, sizeof(area));
    area[CODE_AT] = area[CODE_AT + 16] = 0xc3; /* RET */
    for (u32 i = 0; i < WORDS; i++) {
        game.offset[i] = first + i * step % 2048;
        if (step == 1024) /* one word across the pages, the rest beside it */
            game.offset[i] = i == 0 ? first : 256 + 8 * i;
        game.owned[0][i].mask = masks[i & 1];
        game.owned[1][i].mask = ~masks[i & 1];
    }
    game.rounds = rounds;
    game.base = base;
    cpus_run(SIDES, hammer_job);
    CHECK(what, game.wrong[0], 0);
    CHECK(what, game.wrong[1], 0);
    CHECK("the counter of both", *counter_at(), game.sum[0] + game.sum[1]);
    for (u32 i = 0; i < WORDS; i++)
        CHECK("a word at the end", *(volatile u64 *)(base + game.offset[i]),
              game.owned[0][i].value | game.owned[1][i].value);
}

void guest_main(void)
{
    static const char *const names[] = {"in lines of their own", "in the same lines",
                                        "across lines", "across pages"};
    u64 rounds = option("rounds", 20000);

    CHECK("this is the bootstrap processor", rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
    if (cpus_start() < SIDES) {
        skip("two processors", "there is one CPU");
        return;
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        /* Two words may not overlap; across lines, the host may make each locked one slow. */
        u64 some = i < 2 ? rounds : rounds / 8;
        part(names[i]);
        game_run("own bits, at the own address", places[i][1], places[i][0], ADDRESS(area), some);
        game_run("own bits, at another", places[i][1], places[i][0], USER(area), some);
    }
}
