/*
 * Interrupts at every boundary: a loop whose state is a chain of additions with carry is
 * interrupted by the local APIC's timer after ever longer delays, its registers and flags go
 * through memory, and it goes on. In the end nothing may tell.
 *
 * Intel SDM vol. 3, 6.6 (an interrupt comes between two instructions) and 10.5.4.
 */
#include "apic.h"
#include "world.h"

#define TIMER_VECTOR 0x91
#define ROUNDS       200u
#define ROUNDS_MAX                                                                                 \
    51200u /* where the host is busy, timers come late: then a longer loop is needed */
#define DELAY_MAX  4000u /* ticks: about as long as the loop takes */
#define DELAY_STEP 11u

/* Each indirect jump is a place where translated code looks for requests. */
CODE64(chain, "1: add %rsi, %rax\n lea 2f(%rip), %rdx\n jmp *%rdx\n"
              "2: adc %rax, %rbx\n lea 3f(%rip), %r8\n jmp *%r8\n"
              "3: adc %rbx, %rdi\n lea 4f(%rip), %r9\n jmp *%r9\n"
              "4: adc $0, %rbp\n rol $7, %rsi\n call 5f\n adc %rbp, %r10\n dec %rcx\n jnz 1b" STOP
              "5: lea (%rsi,%rdi), %r11\n sub %r11, %rax\n ret");

static struct context chain_start(u32 rounds)
{
    struct context c = context_kernel(chain);
    c.rax = 0x123456789abcdef0;
    c.rbx = 0xfedcba9876543210;
    c.rsi = 0x9e3779b97f4a7c15;
    c.rdi = c.rbp = c.r10 = 0;
    c.rcx = rounds;
    return c;
}

static bool same(const struct context *a, const struct context *b)
{
    return a->rax == b->rax && a->rbx == b->rbx && a->rcx == b->rcx && a->rdx == b->rdx &&
           a->rsi == b->rsi && a->rdi == b->rdi && a->rbp == b->rbp && a->rsp == b->rsp &&
           a->r8 == b->r8 && a->r9 == b->r9 && a->r10 == b->r10 && a->r11 == b->r11 &&
           a->rip == b->rip && ((a->rflags ^ b->rflags) & ~FLAG_IF) == 0;
}

static u64 places; /* bit n: an interrupt came before the byte n of the loop (modulo 64) */
static u32 interrupts;

/* Runs the loop to its end; each interrupt starts the timer again. */
static struct context chain_run(u32 rounds, u32 delay)
{
    struct context c = chain_start(rounds);
    c.rflags |= FLAG_IF;
    apic_write(APIC_TIMER_INITIAL, delay);
    for (;;) {
        world_long(&c);
        if (c.vector != TIMER_VECTOR)
            break;
        interrupts++;
        places |= 1ul << ((c.rip - ADDRESS(chain)) & 63);
        apic_eoi();
        apic_write(APIC_TIMER_INITIAL, delay);
    }
    apic_write(APIC_TIMER_INITIAL, 0);
    return c;
}

static bool at_several_places(void)
{
    return (places & (places - 1)) != 0;
}

static void sweep(u32 rounds)
{
    struct context expected = chain_start(rounds), c;
    u32 wrong = 0, other = 0;
    world_long(&expected);
    CHECK_STOP("without interrupts", &expected);
    for (u32 delay = DELAY_STEP; delay < DELAY_MAX; delay += DELAY_STEP) {
        c = chain_run(rounds, delay);
        other += c.vector != STOP_VECTOR;
        wrong += !same(&c, &expected);
    }
    CHECK("other exceptions", other, 0);
    CHECK("wrong results", wrong, 0);
}

/*
 * Flags that the code behind a jump overwrites at once, so that only an interrupt shows them: in
 * code that is new each time, where translated code comes to C for its jumps' targets. A piece is
 *     xor %ecx, %ecx; lea step(%rdx), %edx; cmp %edx, %eax; mov (%rbx), %rcx; jmp the next one
 */
#define PIECE_BYTES  32u
#define PIECES       512u
#define FRESH_ROUNDS 60u
#define FLAGS_ARITH  (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)
static u8 pieces[PIECES * PIECE_BYTES + STOP_LEN] __attribute__((aligned(4096)));

static void pieces_make(u32 step)
{
    static const u8 piece[] = {
        0x31, 0xc9, 0x8d, 0x92, 0, 0, 0, 0, 0x39, 0xd0, 0x48, 0x8b, 0x0b, 0xeb, PIECE_BYTES - 15};
    for (u32 i = 0; i < PIECES; i++) {
        u8 *at = pieces + (size_t)i * PIECE_BYTES;
        memory_copy(at, piece, sizeof(piece));
        *(volatile u32 *)(at + 4) = step + i;
    }
    pieces[PIECES * PIECE_BYTES] = 0xcd;
    pieces[PIECES * PIECE_BYTES + 1] = 0x81;
}

static u64 compare_flags(u64 a, u64 b)
{
    u64 flags;
    __asm__("cmp %k2, %k1\n pushfq\n pop %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
    return flags & FLAGS_ARITH;
}

static void test_fresh(void)
{
    part("flags where nothing but an interrupt shows them");
    u32 met = 0, wrong = 0;
    u64 word = 0;
    for (u32 round = 1; round <= FRESH_ROUNDS; round++) {
        pieces_make(round * 0x9e3779b1u);
        struct context c = context_kernel(pieces);
        c.rax = round * 0x1234567u;
        c.rbx = ADDRESS(&word);
        c.rflags |= FLAG_IF;
        for (;;) {
            apic_write(APIC_TIMER_INITIAL, 200 + 77 * round);
            world_long(&c);
            if (c.vector != TIMER_VECTOR)
                break;
            apic_eoi();
            if (c.rip == ADDRESS(pieces) || (c.rip - ADDRESS(pieces)) % PIECE_BYTES != 0)
                continue;
            met++;
            wrong += (c.rflags & FLAGS_ARITH) != compare_flags(c.rax, c.rdx);
        }
        CHECK_STOP("to the end", &c);
    }
    apic_write(APIC_TIMER_INITIAL, 0);
    CHECK("there were interrupts at jumps", met > 0, true);
    CHECK("wrong flags", wrong, 0);
}

void guest_main(void)
{
    apic_enable();
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER_VECTOR);
    part("a loop that is interrupted");
    sweep(ROUNDS);
    for (u32 rounds = 4 * ROUNDS; rounds <= ROUNDS_MAX && !at_several_places(); rounds *= 4)
        sweep(rounds);
    CHECK("there were interrupts", interrupts > 100, true);
    CHECK("at several places", at_several_places(), true);
    test_fresh();
}
