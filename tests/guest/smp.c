/*
 * Two processors: start by INIT and SIPI, IPIs, locked counters, TLB shootdown, cross-modifying
 * code. The memory model has litmus.c.
 *
 * Intel SDM vol. 3, 8.2 (memory ordering), 8.4 (start-up), 10.6 (IPIs).
 */
#include "cpus.h"

#define MSR_MTRR_DEF_TYPE 0x2ffu

static u32 other_id;
static u64 other_mtrr;

/* The other processor's own interrupts: a counter at vector 0xa0, which also ends HLT; an NMI's. */
u32 ipi_count, ap_nmi_count;
__asm__(".pushsection .text\n.globl ap_ipi, ap_nmi\nap_ipi: push %rax\n lock incl "
        "ipi_count\n mov $0xfee000b0, %eax\n"
        "movl $0, (%rax)\n pop %rax\n iretq\nap_nmi: lock incl ap_nmi_count\n iretq\n"
        ".popsection\n");
extern u8 ap_ipi[], ap_nmi[];

static void mtrr_job(void)
{
    other_mtrr = rdmsr(MSR_MTRR_DEF_TYPE);
}

static bool start_other(void)
{
    cpus_gate_set(0xa0, ap_ipi);
    cpus_gate_set(NMI, ap_nmi);
    if (cpus_start() < 2)
        return false;
    other_id = cpus[1].apic_id;
    cpu_run(1, mtrr_job);
    cpu_wait(1);
    return true;
}

/* Runs `theirs` there and `ours` here, at once. */
static void run_both(job_fn theirs, job_fn ours)
{
    cpu_run(1, theirs);
    ours();
    cpu_wait(1);
}

static void test_start(void)
{
    part("start");
    CHECK("PE clear in CR0 at SIPI", cpus_start_cr0() & 0x80000001, 0);
    CHECK("CS by the vector", cpus_start_cs(), LOW_AP >> 4);
    CHECK("its APIC ID is another", other_id != apic_read(APIC_ID) >> 24, true);
    CHECK("this is the bootstrap processor", rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
    tcg_wrong("TCG's INIT clears the MTRRs");
    CHECK("its MTRRs are as here", other_mtrr, rdmsr(MSR_MTRR_DEF_TYPE));
}

static void test_ipi(void)
{
    part("IPIs");
    for (u32 i = 1; i <= 100; i++) {
        apic_send(other_id, ICR_ASSERT | 0xa0);
        WAIT(*(volatile u32 *)&ipi_count == i);
        if (ipi_count != i)
            break;
    }
    CHECK("fixed, one by one", ipi_count, 100);
    apic_write(APIC_ICR, 0xc0000 | ICR_ASSERT | 0xa0);
    WAIT(*(volatile u32 *)&ipi_count == 101);
    CHECK("all but self", ipi_count, 101);
    apic_send(other_id, ICR_ASSERT | ICR_NMI);
    WAIT(*(volatile u32 *)&ap_nmi_count == 1);
    CHECK("NMI", ap_nmi_count, 1);
}

#define ROUNDS 200000u
static struct {
    u64 locked, exchanged, exchange_added;
    u8 bits[64];
    u64 spin, guarded;
    u64 wide[2] __attribute__((aligned(16)));
} shared __attribute__((aligned(64)));

static void count_job(void)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incq %0" : "+m"(shared.locked));
        u64 one = 1;
        __asm__ volatile("lock xaddq %1, %0" : "+m"(shared.exchange_added), "+r"(one));
        u64 old, seen = shared.exchanged;
        do {
            old = seen;
            __asm__ volatile("lock cmpxchgq %2, %1"
                             : "=a"(seen), "+m"(shared.exchanged)
                             : "r"(old + 1), "0"(old)
                             : "cc", "memory");
        } while (seen != old);
    }
}

static void spin_job(void)
{
    for (u32 i = 0; i < ROUNDS / 4; i++) {
        u64 taken;
        do {
            taken = 1;
            __asm__ volatile("xchgq %0, %1" : "+r"(taken), "+m"(shared.spin) : : "memory");
        } while (taken);
        *(volatile u64 *)&shared.guarded = *(volatile u64 *)&shared.guarded + 1;
        __asm__ volatile("movq $0, %0" : "=m"(shared.spin) : : "memory");
    }
}

/* Each of 16 bytes goes up alike, or the 16-byte exchange is torn. */
static void wide_job(void)
{
    for (u32 i = 0; i < ROUNDS / 4; i++) {
        u64 low = 0, high = 0;
        u8 done;
        do
            __asm__ volatile("mov %0, %%rbx\n mov %1, %%rcx\n inc %%rbx\n inc %%rcx\n lock "
                             "cmpxchg16b %3\n sete %2"
                             : "+a"(low), "+d"(high), "=q"(done), "+m"(shared.wide)
                             :
                             : "rbx", "rcx", "cc", "memory");
        while (!done);
    }
}

static void test_locked(void)
{
    part("locked operations");
    run_both(count_job, count_job);
    CHECK("LOCK INC", shared.locked, 2 * ROUNDS);
    CHECK("LOCK XADD", shared.exchange_added, 2 * ROUNDS);
    CHECK("LOCK CMPXCHG", shared.exchanged, 2 * ROUNDS);
    run_both(spin_job, spin_job);
    CHECK("XCHG as a spin lock", shared.guarded, 2 * (ROUNDS / 4));
    if (has(FEATURE_CX16)) {
        run_both(wide_job, wide_job);
        CHECK("LOCK CMPXCHG16B, low", shared.wide[0], 2 * (ROUNDS / 4));
        CHECK("LOCK CMPXCHG16B, high", shared.wide[1], 2 * (ROUNDS / 4));
    }
}

/*
 * Locked operations whose operand lies in two pages, against the same of the other processor, and
 * against one that changes the upper half alone. Then the same in pages with running code.
 */
#define SPLITS 20000u
static u8 split_pages[2 * 4096] __attribute__((aligned(4096)));
#define SPLIT(bytes) ((void *)(split_pages + 4096 - (bytes) / 2))

static void split_job(void)
{
    for (u32 i = 0; i < SPLITS; i++) {
        u32 one = 1;
        __asm__ volatile("lock xaddl %1, %0" : "+m"(*(u32 *)SPLIT(4)), "+r"(one));
    }
}

static void split_half_job(void)
{
    for (u32 i = 0; i < SPLITS; i++)
        __asm__ volatile("lock incw %0" : "+m"(*(u16 *)(split_pages + 4096)));
}

static void split_spin_job(void)
{
    for (u32 i = 0; i < SPLITS; i++) {
        u32 taken;
        do {
            taken = 0x01010101;
            __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(*(u32 *)SPLIT(4)) : : "memory");
        } while (taken);
        *(volatile u64 *)&shared.guarded = *(volatile u64 *)&shared.guarded + 1;
        __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(*(u32 *)SPLIT(4)) : : "memory");
    }
}

/* Calls the code at both pages' other ends while it counts. */
static void split_code_job(void)
{
    for (u32 i = 0; i < SPLITS / 8; i++) {
        __asm__ volatile("lock incq %0" : "+m"(*(u64 *)SPLIT(8)));
        ((void (*)(void))(u64)ADDRESS(split_pages))();
        ((void (*)(void))(u64)ADDRESS(split_pages + 8191))();
    }
}

static void test_split(void)
{
    part("locked operations across pages");
    run_both(split_job, split_job);
    CHECK("LOCK XADD", *(u32 *)SPLIT(4), 2 * SPLITS);
    *(u32 *)SPLIT(4) = 0;
    run_both(split_job, split_half_job);
    CHECK("against the half that lies in one page", *(u32 *)SPLIT(4), SPLITS + (SPLITS << 16));
    *(u32 *)SPLIT(4) = 0;
    shared.guarded = 0;
    run_both(split_spin_job, split_spin_job);
    CHECK("XCHG as a spin lock", shared.guarded, 2 * SPLITS);
    split_pages[0] = split_pages[8191] = 0xc3; /* RET */
    *(u64 *)SPLIT(8) = 0;
    run_both(split_code_job, split_code_job);
    CHECK("beside code", *(u64 *)SPLIT(8), 2 * (SPLITS / 8));
}

/* Stores past the caches are ordered by SFENCE alone (SDM vol. 3, 8.2.2). */
#define STREAMED 200000u
static struct {
    volatile u32 value __attribute__((aligned(64)));
    volatile u32 flag __attribute__((aligned(64)));
} streamed;
static u32 streamed_late;

static void stream_theirs(void)
{
    for (u32 i = 1; i <= STREAMED; i++) {
        __asm__ volatile("movnti %1, %0\n sfence" : "=m"(streamed.value) : "r"(i) : "memory");
        streamed.flag = i;
    }
}

static void stream_ours(void)
{
    u32 flag;
    do {
        flag = streamed.flag;
        streamed_late += streamed.value < flag;
    } while (flag < STREAMED);
}

static void test_streamed(void)
{
    part("stores past the caches");
    run_both(stream_theirs, stream_ours);
    CHECK("MOVNTI behind SFENCE", streamed_late, 0);
}

/* TLB shootdown: the other processor reads a page while it is unmapped, told, and mapped elsewhere.
 */
static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));
static u32 page_a[1024] __attribute__((aligned(4096))), page_b[1024] __attribute__((aligned(4096)));
static volatile u32 shoot_request, shoot_done, shoot_wrong;
#define SHOOTS 2000u

static void shoot_theirs(void)
{
    volatile u32 *page = (volatile u32 *)TEST_REGION;
    cr3_set(cr3_get());
    shoot_done = 0xffffffff;
    for (u32 i = 1; i <= SHOOTS; i++) {
        u32 sum = 0;
        while (shoot_request < i)
            sum += *page;
        invlpg(TEST_REGION);
        shoot_wrong += *page != (i & 1 ? 0xb : 0xa);
        (void)sum;
        shoot_done = i;
    }
}

static void shoot_ours(void)
{
    WAIT(shoot_done == 0xffffffff);
    for (u32 i = 1; i <= SHOOTS; i++) {
        test_pt[0] = ADDRESS(i & 1 ? page_b : page_a) | 7;
        __asm__ volatile("" : : : "memory");
        shoot_request = i;
        WAIT(shoot_done == i);
    }
}

static void test_shootdown(void)
{
    part("TLB shootdown");
    boot_pdpt[2] = ADDRESS(test_pd) | 7;
    test_pd[0] = ADDRESS(test_pt) | 7;
    test_pt[0] = ADDRESS(page_a) | 7;
    cr3_set(cr3_get());
    page_a[0] = 0xa;
    page_b[0] = 0xb;
    run_both(shoot_theirs, shoot_ours);
    CHECK("stale reads after INVLPG", shoot_wrong, 0);
    CHECK("rounds", shoot_done, SHOOTS);
}

/* Accessed and dirty bits set by one processor must not lose bits that the other sets by a locked
 * operation. */
static volatile u32 dirty_stop;

static void dirty_theirs(void)
{
    for (u32 i = 0; i < 20000; i++) {
        invlpg(TEST_REGION);
        *(volatile u32 *)TEST_REGION = i;
    }
    dirty_stop = 1;
}

static u32 dirty_lost;
static void dirty_ours(void)
{
    u64 bit = 1ul << 9; /* a bit that is the software's */
    while (!dirty_stop) {
        u8 was;
        __asm__ volatile("lock btsq $9, %0\n setc %1"
                         : "+m"(test_pt[0]), "=q"(was)
                         :
                         : "memory", "cc");
        dirty_lost += was != 0;
        __asm__ volatile("lock btrq $9, %0\n setc %1"
                         : "+m"(test_pt[0]), "=q"(was)
                         :
                         : "memory", "cc");
        dirty_lost += was == 0;
        __asm__ volatile("lock andq $-0x61, %0" : "+m"(test_pt[0]) : : "memory", "cc");
    }
    (void)bit;
}

static void test_dirty(void)
{
    part("A and D against locked changes");
    test_pt[0] = ADDRESS(page_a) | 7;
    run_both(dirty_theirs, dirty_ours);
    CHECK("software's bits lost", dirty_lost, 0);
    CHECK("the frame stays", test_pt[0] & 0xffffffff000, ADDRESS(page_a));
}

/* Cross-modifying code by the book (SDM vol. 3, 8.1.3): change, flag; wait, serialize, run. */
struct rounds {
    volatile u32 given, done, wrong;
};

static void round_give(struct rounds *rounds, u32 i)
{
    __asm__ volatile("" : : : "memory");
    rounds->given = i;
    WAIT(rounds->done == i);
}

static void round_wait(const struct rounds *rounds, u32 i)
{
    while (rounds->given < i)
        pause();
    cpuid(0, 0);
}

static void check_rounds(job_fn theirs, job_fn ours, const struct rounds *rounds, u32 count)
{
    run_both(theirs, ours);
    CHECK("stale code or data", rounds->wrong, 0);
    CHECK("rounds", rounds->done, count);
}

CODE64(patched, ".balign 16\n mov $0, %eax\n ret\n");
static struct rounds patch;
#define PATCHES 2000u

static void patch_theirs(void)
{
    for (u32 i = 1; i <= PATCHES; i++) {
        round_wait(&patch, i);
        u32 got = ((u32(*)(void))(u64)ADDRESS(patched))();
        patch.wrong += got != i;
        patch.done = i;
    }
}

static void patch_ours(void)
{
    for (u32 i = 1; i <= PATCHES; i++) {
        *(volatile u32 *)(ADDRESS(patched) + 1) = i;
        round_give(&patch, i);
    }
}

static void test_patch(void)
{
    part("cross-modifying code");
    check_rounds(patch_theirs, patch_ours, &patch, PATCHES);
}

/*
 * One processor makes code beside data that it changes all the time, on pages that the other runs
 * code of: each piece is new to both, or has been something else before. The other one stores
 * there, too.
 */
#define MAKES     3000u
#define MAKE_STEP 48u
static u8 make_page[4096] __attribute__((aligned(4096)));
static struct rounds make;

static u8 *make_place(u32 i)
{
    return make_page + i * MAKE_STEP % (sizeof(make_page) - 2 * MAKE_STEP);
}

static u32 make_call(u32 i)
{
    return ((u32(*)(void))(u64)ADDRESS(make_place(i)))();
}

static void make_theirs(void)
{
    for (u32 i = 1; i <= MAKES; i++) {
        round_wait(&make, i);
        make.wrong += make_call(i) != i;
        *(volatile u32 *)(make_place(i) + 16) += 1;
        make.done = i;
    }
}

static void make_ours(void)
{
    for (u32 i = 1; i <= MAKES; i++) {
        u8 *at = make_place(i);
        u32 before = *(volatile u32 *)(at + 32);
        at[0] = 0xb8; /* MOV EAX, i; RET */
        *(volatile u32 *)(at + 1) = i;
        at[5] = 0xc3;
        for (u32 data = 0; data < 20; data++)
            *(volatile u32 *)(at + 32) += 1;
        *(volatile u32 *)(at + 16) = i;
        if (i % 3 == 0)
            make.wrong += make_call(i) != i;
        round_give(&make, i);
        make.wrong += *(volatile u32 *)(at + 16) != i + 1;
        make.wrong += *(volatile u32 *)(at + 32) != before + 20;
    }
}

static void test_make(void)
{
    part("code made beside data");
    check_rounds(make_theirs, make_ours, &make, MAKES);
}

/* The same function comes back, while data is stored all around it, by either of them. */
#define BACKS 2000u
static u8 back_page[4096] __attribute__((aligned(4096)));
static struct rounds back;

static u32 back_call(void)
{
    return ((u32(*)(void))(u64)ADDRESS(back_page + 2048))();
}

static void back_theirs(void)
{
    for (u32 i = 1; i <= BACKS; i++) {
        round_wait(&back, i);
        for (u32 call = 0; call < 5; call++)
            back.wrong += back_call() != i / 3 % 4;
        if (i % 5 == 0) {
            for (u32 data = 3000; data < 3400; data += 4)
                *(volatile u32 *)(back_page + data) = i;
        }
        back.done = i;
    }
}

static void back_ours(void)
{
    back_page[2048] = 0xb8; /* MOV EAX, imm32; RET */
    back_page[2053] = 0xc3;
    for (u32 i = 1; i <= BACKS; i++) {
        for (u32 data = 1024; data < 2048; data += 64)
            *(volatile u32 *)(back_page + data) = i;
        *(volatile u32 *)(back_page + 2049) = i / 3 % 4;
        for (u32 data = 2064; data < 3000; data += 64)
            *(volatile u32 *)(back_page + data) = i;
        round_give(&back, i);
        if (i % 7 == 0)
            back.wrong += back_call() != i / 3 % 4;
        for (u32 data = 1024; data < 2048; data += 64)
            back.wrong += *(volatile u32 *)(back_page + data) != i;
        back.wrong += i >= 5 && *(volatile u32 *)(back_page + 3396) != i / 5 * 5;
    }
}

static void test_back(void)
{
    part("code that comes back");
    check_rounds(back_theirs, back_ours, &back, BACKS);
}

void guest_main(void)
{
    if (!start_other()) {
        skip("two processors", "no second one answered INIT and SIPI: there is one CPU");
        CHECK("this is the bootstrap processor", rdmsr(MSR_APIC_BASE) >> 8 & 1, 1);
        return;
    }
    test_start();
    test_ipi();
    test_locked();
    test_split();
    test_streamed();
    test_shootdown();
    test_dirty();
    test_patch();
    test_make();
    test_back();
}
