/*
 * Timers: local APIC (one-shot, periodic, TSC deadline), x2APIC, PIT by the 8259s and by the I/O
 * APIC, HPET, RTC.
 *
 * Intel SDM vol. 3, 10.5.4 and 10.12; Intel 8254 and 8259A data sheets; IA-PC HPET 1.0a; MC146818A
 * data sheet. Only order and rough proportion of times are checked: the host may be busy.
 */
#include "apic.h"
#include "world.h"

#define TIMER_VECTOR 0x91
#define PIC_BASE     0xa0 /* IRQ 0-15 of the 8259s: vectors 0xa0-0xaf */
#define IOAPIC       0xfec00000ul
#define HPET         0xfed00000ul
#define TSC          0x10
#define TSC_ADJUST   0x3b
#define TSC_DEADLINE 0x6e0
#define X2APIC(reg)  (0x800 + ((reg) >> 4))

CODE64(m_wait, "sti\n 1: pause\n dec %rcx\n jnz 1b\n cli" STOP);

/* Waits with IF = 1; the vector that came, or STOP_VECTOR. */
static u64 wait_any(u64 rounds)
{
    struct context c = context_kernel(m_wait);
    c.rcx = rounds;
    world_long(&c);
    return c.vector;
}

#define LONG_WAIT  100000000ul
#define SHORT_WAIT 200000ul

static void ioapic_write(u32 reg, u32 value)
{
    *(volatile u32 *)IOAPIC = reg;
    *(volatile u32 *)(IOAPIC + 0x10) = value;
}

static u32 ioapic_read(u32 reg)
{
    *(volatile u32 *)IOAPIC = reg;
    return *(volatile u32 *)(IOAPIC + 0x10);
}

static void pin_route(u32 pin, u32 low)
{
    ioapic_write(0x10 + 2 * pin + 1, apic_read(APIC_ID));
    ioapic_write(0x10 + 2 * pin, low);
}

static void test_apic_timer(void)
{
    part("local APIC timer");
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER_VECTOR);
    apic_write(APIC_TIMER_INITIAL, 1000000);
    CHECK("one-shot", wait_any(LONG_WAIT), TIMER_VECTOR);
    CHECK("in service", apic_read(APIC_ISR + 0x40) >> 17 & 1, 1);
    apic_eoi();
    CHECK("EOI", apic_read(APIC_ISR + 0x40) >> 17 & 1, 0);
    CHECK("counted down to 0", apic_read(APIC_TIMER_CURRENT), 0);
    CHECK("only once", wait_any(SHORT_WAIT), STOP_VECTOR);
    apic_write(APIC_LVT_TIMER, 1u << 17 | TIMER_VECTOR);
    apic_write(APIC_TIMER_INITIAL, 1000000);
    for (int i = 0; i < 5; i++) {
        CHECK("periodic", wait_any(LONG_WAIT), TIMER_VECTOR);
        apic_eoi();
    }
    apic_write(APIC_TIMER_INITIAL, 0);
    wait_any(SHORT_WAIT);
    apic_eoi();
    CHECK("stopped by 0", wait_any(SHORT_WAIT), STOP_VECTOR);
    apic_write(APIC_LVT_TIMER, 1u << 16 | TIMER_VECTOR);
    apic_write(APIC_TIMER_INITIAL, 1000);
    CHECK("masked", wait_any(SHORT_WAIT), STOP_VECTOR);
    apic_write(APIC_LVT_TIMER, TIMER_VECTOR);
    apic_write(APIC_TIMER_INITIAL, 0xffffffff);
    u32 first = apic_read(APIC_TIMER_CURRENT), last = first;
    for (int i = 0; i < 100000 && last == first; i++)
        last = apic_read(APIC_TIMER_CURRENT);
    CHECK("the count goes down", last < first, true);
    /* Divide by 128 against divide by 1, over the same time of the TSC. */
    u64 spans[2];
    for (int i = 0; i < 2; i++) {
        apic_write(APIC_TIMER_DIVIDE, i ? 0xa : 0xb);
        apic_write(APIC_TIMER_INITIAL, 0xffffffff);
        for (u64 start = rdtsc(); rdtsc() - start < 20000000;)
            ;
        spans[i] = 0xffffffff - apic_read(APIC_TIMER_CURRENT);
    }
    CHECK("divide by 128 is 30 to 500 times slower",
          spans[0] > spans[1] * 30 && spans[0] < spans[1] * 500, true);
    apic_write(APIC_TIMER_INITIAL, 0);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, 1u << 16);
}

static void test_deadline(void)
{
    part("TSC deadline");
    if (!has(FEATURE_TSC_DEADLINE)) {
        skip("TSC deadline", "CPUID does not show it");
        return;
    }
    apic_write(APIC_LVT_TIMER, 2u << 17 | TIMER_VECTOR);
    u64 deadline = rdtsc() + 20000000;
    wrmsr(TSC_DEADLINE, deadline);
    CHECK("reads back", rdmsr(TSC_DEADLINE), deadline);
    CHECK("fires", wait_any(LONG_WAIT), TIMER_VECTOR);
    CHECK("not early", rdtsc() >= deadline, true);
    CHECK("is 0 then", rdmsr(TSC_DEADLINE), 0);
    apic_eoi();
    wrmsr(TSC_DEADLINE, rdtsc() + 20000000);
    wrmsr(TSC_DEADLINE, 0);
    CHECK("disarmed by 0", wait_any(SHORT_WAIT), STOP_VECTOR);
    wrmsr(TSC_DEADLINE, 1);
    CHECK("in the past: at once", wait_any(LONG_WAIT), TIMER_VECTOR);
    apic_eoi();
    apic_write(APIC_LVT_TIMER, 1u << 16);
    wrmsr(TSC_DEADLINE, rdtsc() + 1000);
    CHECK("not in this mode: MSR stays 0", rdmsr(TSC_DEADLINE), 0);
}

static void pic_init(u8 mask1, u8 mask2)
{
    outb(0x20, 0x11);
    outb(0x21, PIC_BASE);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, PIC_BASE + 8);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, mask1);
    outb(0xa1, mask2);
}

static void pit_set(u8 mode, u16 count)
{
    outb(0x43, (u8)(0x30 | mode << 1));
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}

static u16 pit_read(void)
{
    outb(0x43, 0);
    u16 low = inb(0x40);
    return (u16)(low | inb(0x40) << 8);
}

static void test_pit_pic(void)
{
    part("PIT by the 8259s");
    apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT */
    pic_init(0xfe, 0xff);
    pit_set(2, 11932); /* 100 Hz */
    for (int i = 0; i < 3; i++) {
        CHECK("periodic", wait_any(LONG_WAIT), PIC_BASE);
        outb(0x20, 0x0b);
        CHECK("in service", inb(0x20) & 1, 1);
        outb(0x20, 0x20);
        outb(0x20, 0x0b);
        CHECK("EOI", inb(0x20) & 1, 0);
    }
    outb(0x21, 0xff);
    CHECK("masked", wait_any(SHORT_WAIT), STOP_VECTOR);
    u16 first = pit_read(), now = first;
    for (int i = 0; i < 100000 && now == first; i++)
        now = pit_read();
    CHECK("the count moves", now != first, true);
    pit_set(0, 11932);
    outb(0x21, 0xfe);
    wait_any(SHORT_WAIT); /* an edge of mode 2 may still be latched */
    outb(0x20, 0x20);
    outb(0x43, 0xe2); /* read-back: status of counter 0 */
    CHECK("mode 0 in the read-back status", inb(0x40) >> 1 & 7, 0);
    outb(0x21, 0xff);
    apic_write(APIC_LVT_LINT0, 1u << 16);
}

static void test_pit_ioapic(void)
{
    part("PIT by the I/O APIC");
    CHECK("pins", (ioapic_read(1) >> 16 & 0xff) + 1 >= 24, true);
    pit_set(2, 11932);
    pin_route(2, 0x93);
    for (int i = 0; i < 3; i++) {
        CHECK("pin 2", wait_any(LONG_WAIT), 0x93);
        apic_eoi();
    }
    pin_route(2, 1u << 16 | 0x93);
    wait_any(SHORT_WAIT);
    apic_eoi();
    CHECK("masked", wait_any(SHORT_WAIT), STOP_VECTOR);
    CHECK("the entry reads back", ioapic_read(0x14) & 0x100ff, 0x10093);
}

/* Counter 2, with its output read at port 0x61: independent of any interrupt. */
static void test_pit_gate(void)
{
    part("PIT counter 2");
    outb(0x61, (u8)((inb(0x61) & 0xfc) | 1));
    outb(0x43, 0xb0);
    outb(0x42, 0x88);
    outb(0x42, 0x13); /* 5000: 4.2 ms */
    u64 start = rdtsc();
    CHECK("output low at first", inb(0x61) & 0x20, 0);
    while (!(inb(0x61) & 0x20) && rdtsc() - start < 20000000000ul)
        ;
    CHECK("high at the end", inb(0x61) & 0x20, 0x20);
    CHECK("after a time", rdtsc() - start > 1000000, true);
}

static u64 hpet_read(u32 reg)
{
    return *(volatile u64 *)(HPET + reg);
}

static void hpet_write(u32 reg, u64 value)
{
    *(volatile u64 *)(HPET + reg) = value;
}

/* Registers that lie together, and memory in between: each access happens once, in its turn. */
static void hpet_among_memory(u64 id)
{
    u32 cell[2] = {0, 0};
    u64 first, config, again;

    for (unsigned i = 0; i < 100; i++) {
        __asm__ volatile("mov (%[hpet]), %[first]\n incl (%[cell])\n mov 0x10(%[hpet]), %[config]\n"
                         "incl 4(%[cell])\n mov %[config], 0x10(%[hpet])\n"
                         "incl (%[cell])\n mov (%[hpet]), %[again]\n incl 4(%[cell])"
                         : [first] "=&r"(first), [config] "=&r"(config), [again] "=&r"(again)
                         : [hpet] "r"(HPET), [cell] "r"(cell)
                         : "memory", "cc");
        if (first != id || config != 0 || again != id)
            break;
    }
    CHECK("first read", first, id);
    CHECK("second register", config, 0);
    CHECK("last read", again, id);
    CHECK("memory in between", cell[0] == 200 && cell[1] == 200, true);
}

static void test_hpet(void)
{
    part("HPET");
    u64 id = hpet_read(0), period_fs = id >> 32;
    if (id == 0 || id == ~0ul) {
        skip("HPET", "none at its address");
        return;
    }
    CHECK("period is at most 100 ns", period_fs > 0 && period_fs <= 100000000, true);
    hpet_write(0x10, 0);
    u64 count = hpet_read(0xf0);
    for (volatile int i = 0; i < 10000; i++)
        ;
    CHECK("stopped", hpet_read(0xf0), count);
    hpet_among_memory(id);
    hpet_write(0xf0, 0);
    hpet_write(0x10, 1);
    u64 a = hpet_read(0xf0), b = a;
    for (int i = 0; i < 100000 && b == a; i++)
        b = hpet_read(0xf0);
    CHECK("runs", b > a, true);
    u64 ms = 1000000000000ul / period_fs;
    u32 routes = (u32)(hpet_read(0x100) >> 32);
    u32 pin = 23;
    while (pin > 2 && !(routes >> pin & 1))
        pin--;
    CHECK("timer 0 has a route", routes >> pin & 1, 1);
    outb(0x43, 0x30); /* the PIT, which may share pin 2, waits for a count */
    pin_route(pin, 0x94);
    hpet_write(0x108, hpet_read(0xf0) + 5 * ms);
    hpet_write(0x100, (u64)pin << 9 | 4);
    CHECK("one-shot", wait_any(LONG_WAIT), 0x94);
    apic_eoi();
    hpet_write(0x10, 0);
    hpet_write(0xf0, 0);
    hpet_write(0x100, (u64)pin << 9 | 4 | 8 | 0x40);
    hpet_write(0x108, 2 * ms);
    hpet_write(0x108, 2 * ms);
    hpet_write(0x10, 1);
    for (int i = 0; i < 3; i++) {
        CHECK("periodic", wait_any(LONG_WAIT), 0x94);
        apic_eoi();
    }
    hpet_write(0x100, 0);
    hpet_write(0x10, 0);
    pin_route(pin, 1u << 16);
    wait_any(SHORT_WAIT);
    apic_eoi();
}

static u8 rtc_read(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void rtc_write(u8 reg, u8 value)
{
    outb(0x70, reg);
    outb(0x71, value);
}

static void test_rtc(void)
{
    part("RTC");
    CHECK("valid RAM and time", rtc_read(0xd) & 0x80, 0x80);
    u8 month = rtc_read(8), hour = rtc_read(4) & 0x7f;
    CHECK("month", month >= 1 && month <= 0x12, true);
    CHECK("hour", hour <= 0x23, true);
    rtc_write(0x34 + 0x20, 0x5a);
    CHECK("RAM", rtc_read(0x34 + 0x20), 0x5a);
    u8 b = rtc_read(0xb);
    rtc_write(0xa, 0x26); /* 1024 Hz */
    rtc_read(0xc);
    pin_route(8, 0x95);
    rtc_write(0xb, (u8)(b | 0x40));
    for (int i = 0; i < 3; i++) {
        CHECK("periodic interrupt", wait_any(LONG_WAIT), 0x95);
        CHECK("its flag", rtc_read(0xc) & 0xc0, 0xc0);
        apic_eoi();
    }
    rtc_write(0xb, b);
    rtc_read(0xc);
    pin_route(8, 1u << 16);
    wait_any(SHORT_WAIT);
    apic_eoi();
}

static void test_x2apic(void)
{
    part("x2APIC");
    if (!has(FEATURE_X2APIC)) {
        skip("x2APIC", "CPUID does not show it");
        return;
    }
    u64 value, base = rdmsr(MSR_APIC_BASE), id = apic_read(APIC_ID) >> 24;
    CHECK("its MSRs before", rdmsr_safe(X2APIC(APIC_ID), &value), GP);
    CHECK("switch on", wrmsr_safe(MSR_APIC_BASE, base | 1ul << 10), STOP_VECTOR);
    CHECK("ID", rdmsr(X2APIC(APIC_ID)), id);
    CHECK("version", rdmsr(X2APIC(APIC_VERSION)) & 0xff, 0x14);
    wrmsr(0x83f, 0x96); /* self IPI */
    CHECK("self IPI", wait_any(LONG_WAIT), 0x96);
    wrmsr(X2APIC(APIC_EOI), 0);
    wrmsr(X2APIC(APIC_ICR), id << 32 | 0x97);
    CHECK("IPI by the 64-bit ICR", wait_any(LONG_WAIT), 0x97);
    wrmsr(X2APIC(APIC_EOI), 0);
    wrmsr(X2APIC(APIC_LVT_TIMER), TIMER_VECTOR);
    wrmsr(X2APIC(APIC_TIMER_INITIAL), 100000);
    CHECK("timer", wait_any(LONG_WAIT), TIMER_VECTOR);
    wrmsr(X2APIC(APIC_EOI), 0);
    CHECK("EOI of another value than 0", wrmsr_safe(X2APIC(APIC_EOI), 1), GP);
    CHECK("write of the ID", wrmsr_safe(X2APIC(APIC_ID), 0), GP);
    CHECK("read of EOI", rdmsr_safe(X2APIC(APIC_EOI), &value), GP);
    CHECK("reserved bit of SVR", wrmsr_safe(X2APIC(APIC_SVR), 1ul << 32), GP);
    CHECK("ICR high does not exist", rdmsr_safe(X2APIC(APIC_ICR_HIGH), &value), GP);
    CHECK("back to xAPIC directly", wrmsr_safe(MSR_APIC_BASE, base), GP);
    CHECK("off", wrmsr_safe(MSR_APIC_BASE, base & ~(3ul << 10)), STOP_VECTOR);
    CHECK("CPUID shows no APIC then", cpuid(1, 0).edx >> 9 & 1, 0);
    CHECK("from off to x2APIC", wrmsr_safe(MSR_APIC_BASE, (base & ~(3ul << 10)) | 1ul << 10), GP);
    CHECK("from off to xAPIC", wrmsr_safe(MSR_APIC_BASE, base), STOP_VECTOR);
    apic_enable();
}

static void test_tsc(void)
{
    part("TSC");
    u64 last = rdtsc();
    bool monotonic = true;
    for (int i = 0; i < 10000; i++) {
        u64 now = rdtsc();
        monotonic &= now >= last;
        last = now;
    }
    CHECK("never back", monotonic, true);
}

/* SDM vol. 3, 17.17.3: what is written moves the TSC by the difference, and follows WRMSR to it. */
static void test_tsc_adjust(void)
{
    part("IA32_TSC_ADJUST");
    if (!(cpuid(7, 0).ebx & 2)) {
        skip("IA32_TSC_ADJUST", "CPUID does not show it");
        return;
    }
    const u64 far = 1ul << 50;
    CHECK("0 after reset", rdmsr(TSC_ADJUST), 0);
    u64 before = rdtsc();
    wrmsr(TSC_ADJUST, far);
    u64 after = rdtsc();
    CHECK("reads back", rdmsr(TSC_ADJUST), far);
    CHECK("moves the TSC", after - before >= far && after - before < far + far / 2, true);
    before = rdtsc();
    wrmsr(TSC, before - (far - 100));
    after = rdmsr(TSC_ADJUST);
    CHECK("follows a write of the TSC", after <= 100 || 0 - after < 1ul << 40, true);
    wrmsr(TSC_ADJUST, 0);
    CHECK("0 again", rdmsr(TSC_ADJUST), 0);
    after = rdtsc();
    CHECK("and the TSC with it", before - after > far / 2 && before - after < far, true);
}

void guest_main(void)
{
    for (u32 pin = 0; pin < 24; pin++)
        ioapic_write(0x10 + 2 * pin, 1u << 16);
    apic_enable();
    test_tsc();
    test_tsc_adjust();
    test_apic_timer();
    test_deadline();
    test_pit_pic();
    test_pit_ioapic();
    test_pit_gate();
    test_hpet();
    test_rtc();
    test_x2apic();
}
