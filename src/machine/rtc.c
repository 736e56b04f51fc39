/*
 * The MC146818 real-time clock (see rtc.h). Register and bit names: Motorola MC146818A datasheet.
 *
 * The clock is the host's real time plus an offset that the guest's setting of the clock makes.
 * What happened since the last look (periodic, update, alarm) is found out by comparing two times;
 * a timer runs only while one of them is enabled as an interrupt. Threads: any, under `lock`.
 * Trusts nothing that the guest writes: any register values make some time.
 */
#include "machine/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "mem/bus_bytes.h"

#define REG_SECONDS       0x00u
#define REG_SECONDS_ALARM 0x01u
#define REG_MINUTES       0x02u
#define REG_MINUTES_ALARM 0x03u
#define REG_HOURS         0x04u
#define REG_HOURS_ALARM   0x05u
#define REG_WEEKDAY       0x06u
#define REG_DAY           0x07u
#define REG_MONTH         0x08u
#define REG_YEAR          0x09u
#define REG_A             0x0au
#define REG_B             0x0bu
#define REG_C             0x0cu
#define REG_D             0x0du
#define REG_RAM           0x0eu
#define REG_CENTURY       0x32u

#define A_UPDATING        0x80u
#define A_RATE            0x0fu
#define A_DEFAULT         0x26u /* 32768 Hz crystal, 1024 Hz */
#define B_SET             0x80u
#define B_INTERRUPTS      0x70u /* PIE, AIE, UIE: the same bits as PF, AF, UF in C */
#define B_BINARY          0x04u
#define B_24_HOURS        0x02u
#define C_IRQ             0x80u
#define C_PERIODIC        0x40u
#define C_ALARM           0x20u
#define C_UPDATE          0x10u
#define D_VALID           0x80u
#define HOURS_PM          0x80u
#define ALARM_ANY         0xc0u /* both bits: "don't care" */

#define SECONDS_PER_DAY   UINT64_C(86400)
#define UPDATE_NS         UINT64_C(244000) /* UIP rises this long before the update (t_BUC) */
#define CRYSTAL_HZ        UINT64_C(32768)

struct rtc_state {
    uint8_t index;
    uint8_t cmos[RTC_CMOS_BYTES]; /* time registers are valid while B_SET stops the clock */
    int64_t offset_ns;            /* guest's time - host's real time */
    uint64_t looked_ns;           /* guest's time up to which events are in register C */
};

struct rtc {
    pthread_mutex_t lock;
    struct rtc_state state;
    struct timer event;
    struct rtc_config config;
};

/* ---- time and registers; `lock` held ---- */

static uint64_t rtc_now_ns(const struct rtc *rtc)
{
    return clock_realtime_ns() + (uint64_t)rtc->state.offset_ns;
}

static uint8_t number_encode(const struct rtc *rtc, int number)
{
    if (rtc->state.cmos[REG_B] & B_BINARY)
        return (uint8_t)number;
    return (uint8_t)(number / 10 << 4 | number % 10);
}

static int number_decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->state.cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t hours_encode(const struct rtc *rtc, int hours)
{
    if (rtc->state.cmos[REG_B] & B_24_HOURS)
        return number_encode(rtc, hours);
    return number_encode(rtc, hours % 12 ? hours % 12 : 12) | (hours >= 12 ? HOURS_PM : 0);
}

static int hours_decode(const struct rtc *rtc, uint8_t value)
{
    if (rtc->state.cmos[REG_B] & B_24_HOURS)
        return number_decode(rtc, value);
    return number_decode(rtc, value & 0x7f) % 12 + (value & HOURS_PM ? 12 : 0);
}

static void time_to_registers(struct rtc *rtc)
{
    time_t seconds = (time_t)(rtc_now_ns(rtc) / NS_PER_SECOND);
    uint8_t *cmos = rtc->state.cmos;
    struct tm tm = {0};

    gmtime_r(&seconds, &tm);
    cmos[REG_SECONDS] = number_encode(rtc, tm.tm_sec);
    cmos[REG_MINUTES] = number_encode(rtc, tm.tm_min);
    cmos[REG_HOURS] = hours_encode(rtc, tm.tm_hour);
    cmos[REG_WEEKDAY] = number_encode(rtc, tm.tm_wday + 1);
    cmos[REG_DAY] = number_encode(rtc, tm.tm_mday);
    cmos[REG_MONTH] = number_encode(rtc, tm.tm_mon + 1);
    cmos[REG_YEAR] = number_encode(rtc, tm.tm_year % 100);
    cmos[REG_CENTURY] = number_encode(rtc, (tm.tm_year + 1900) / 100 % 100);
}

/* timegm() normalizes whatever numbers the registers hold. The new second begins now. */
static void registers_to_time(struct rtc *rtc)
{
    const uint8_t *cmos = rtc->state.cmos;
    struct tm tm = {
        .tm_sec = number_decode(rtc, cmos[REG_SECONDS]),
        .tm_min = number_decode(rtc, cmos[REG_MINUTES]),
        .tm_hour = hours_decode(rtc, cmos[REG_HOURS]),
        .tm_mday = number_decode(rtc, cmos[REG_DAY]),
        .tm_mon = number_decode(rtc, cmos[REG_MONTH]) - 1,
        .tm_year =
            number_decode(rtc, cmos[REG_CENTURY]) * 100 + number_decode(rtc, cmos[REG_YEAR]) - 1900,
    };
    time_t seconds = timegm(&tm);

    if (seconds < 0)
        seconds = 0;
    rtc->state.offset_ns = (int64_t)((uint64_t)seconds * NS_PER_SECOND - clock_realtime_ns());
    rtc->state.looked_ns = rtc_now_ns(rtc);
}

static bool is_time_register(unsigned reg)
{
    return reg == REG_CENTURY || (reg <= REG_YEAR && reg != REG_SECONDS_ALARM &&
                                  reg != REG_MINUTES_ALARM && reg != REG_HOURS_ALARM);
}

/* ---- events; `lock` held ---- */

/* The periodic interrupt's period, 0: off (table "Periodic interrupt rate"). */
static uint64_t period_ns(const struct rtc *rtc)
{
    unsigned rate = rtc->state.cmos[REG_A] & A_RATE;

    if (rate == 0)
        return 0;
    if (rate < 3)
        rate += 7;
    return (NS_PER_SECOND << (rate - 1)) / CRYSTAL_HZ;
}

static bool alarm_field_matches(uint8_t alarm, int wanted, int now)
{
    return alarm >= ALARM_ANY || wanted == now;
}

/* Seconds from `second` (of the day) to the next alarm, 0 to 86399; 86400: never. */
static uint64_t alarm_distance(const struct rtc *rtc, uint64_t second)
{
    const uint8_t *cmos = rtc->state.cmos;
    int hours = hours_decode(rtc, cmos[REG_HOURS_ALARM]);
    int minutes = number_decode(rtc, cmos[REG_MINUTES_ALARM]);
    int seconds = number_decode(rtc, cmos[REG_SECONDS_ALARM]);
    uint64_t distance = 0;

    while (distance < SECONDS_PER_DAY) {
        int at = (int)((second + distance) % SECONDS_PER_DAY);

        if (!alarm_field_matches(cmos[REG_HOURS_ALARM], hours, at / 3600))
            distance += (uint64_t)(3600 - at % 3600);
        else if (!alarm_field_matches(cmos[REG_MINUTES_ALARM], minutes, at / 60 % 60))
            distance += (uint64_t)(60 - at % 60);
        else if (!alarm_field_matches(cmos[REG_SECONDS_ALARM], seconds, at % 60))
            distance++;
        else
            return distance;
    }
    return SECONDS_PER_DAY;
}

/* Notes in register C what happened since the last look. */
static void events_look(struct rtc *rtc)
{
    uint64_t now = rtc_now_ns(rtc), before = rtc->state.looked_ns, period = period_ns(rtc);
    uint64_t passed = now / NS_PER_SECOND - before / NS_PER_SECOND;
    uint8_t events = 0;

    if (now < before || rtc->state.cmos[REG_B] & B_SET)
        passed = 0; /* the host's clock was set back, or ours stands */
    if (period && now / period != before / period)
        events |= C_PERIODIC;
    if (passed) {
        uint64_t next = before / NS_PER_SECOND + 1;

        events |= C_UPDATE;
        if (alarm_distance(rtc, next % SECONDS_PER_DAY) < passed)
            events |= C_ALARM;
    }
    rtc->state.looked_ns = now;
    rtc->state.cmos[REG_C] |= events;
}

/* The next event after the last look: counted from there, none can slip through in between. */
static void event_arm(struct rtc *rtc)
{
    uint64_t looked = rtc->state.looked_ns, now = rtc_now_ns(rtc), period = period_ns(rtc);
    uint64_t next_second = looked / NS_PER_SECOND + 1, next = UINT64_MAX, at;
    uint8_t b = rtc->state.cmos[REG_B];

    if ((b & C_PERIODIC) && period)
        next = (looked / period + 1) * period;
    if ((b & C_UPDATE) && !(b & B_SET) && next_second * NS_PER_SECOND < next)
        next = next_second * NS_PER_SECOND;
    if ((b & C_ALARM) && !(b & B_SET)) {
        uint64_t distance = alarm_distance(rtc, next_second % SECONDS_PER_DAY);

        at = (next_second + distance) * NS_PER_SECOND;
        if (distance < SECONDS_PER_DAY && at < next)
            next = at;
    }
    if (next == UINT64_MAX)
        timer_cancel(&rtc->event);
    else
        timer_arm(&rtc->event, clock_monotonic_ns() + (next > now ? next - now : 0));
}

static void interrupt_update(struct rtc *rtc)
{
    uint8_t *cmos = rtc->state.cmos;
    bool level;

    events_look(rtc);
    level = cmos[REG_C] & cmos[REG_B] & B_INTERRUPTS;
    if (level)
        cmos[REG_C] |= C_IRQ;
    irq_line_set(&rtc->config.irq, level);
    event_arm(rtc);
}

static void event_expired(void *opaque)
{
    struct rtc *rtc = opaque;

    pthread_mutex_lock(&rtc->lock);
    interrupt_update(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers; `lock` held ---- */

static bool update_in_progress(const struct rtc *rtc)
{
    return !(rtc->state.cmos[REG_B] & B_SET) &&
           rtc_now_ns(rtc) % NS_PER_SECOND >= NS_PER_SECOND - UPDATE_NS;
}

/* Reading C takes the interrupt back. */
static uint8_t flags_take(struct rtc *rtc)
{
    uint8_t flags;

    interrupt_update(rtc);
    flags = rtc->state.cmos[REG_C];
    rtc->state.cmos[REG_C] = 0;
    irq_line_set(&rtc->config.irq, false);
    return flags;
}

static uint8_t register_read(struct rtc *rtc, unsigned reg)
{
    if (is_time_register(reg) && !(rtc->state.cmos[REG_B] & B_SET))
        time_to_registers(rtc);
    if (reg == REG_A)
        return rtc->state.cmos[REG_A] | (update_in_progress(rtc) ? A_UPDATING : 0);
    if (reg == REG_C)
        return flags_take(rtc);
    if (reg == REG_D)
        return D_VALID;
    return rtc->state.cmos[reg];
}

static void time_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
    bool running = !(rtc->state.cmos[REG_B] & B_SET);

    if (running)
        time_to_registers(rtc);
    rtc->state.cmos[reg] = value;
    if (running)
        registers_to_time(rtc);
}

/* Setting SET stops the clock and updates; clearing it starts from what the registers hold. */
static void control_write(struct rtc *rtc, uint8_t value)
{
    bool was_set = rtc->state.cmos[REG_B] & B_SET;

    if ((value & B_SET) && !was_set)
        time_to_registers(rtc);
    if (value & B_SET)
        value &= (uint8_t)~C_UPDATE; /* SET clears UIE */
    rtc->state.cmos[REG_B] = value;
    if (!(value & B_SET) && was_set)
        registers_to_time(rtc);
}

static void register_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
    events_look(rtc);
    if (is_time_register(reg))
        time_write(rtc, reg, value);
    else if (reg == REG_A)
        rtc->state.cmos[REG_A] = value & (uint8_t)~A_UPDATING;
    else if (reg == REG_B)
        control_write(rtc, value);
    else if (reg != REG_C && reg != REG_D)
        rtc->state.cmos[reg] = value;
    interrupt_update(rtc);
}

/* ---- ports: 0x70 index (bit 7 masks NMIs elsewhere), 0x71 data ---- */

static uint8_t rtc_read8(void *opaque, unsigned port)
{
    struct rtc *rtc = opaque;
    uint8_t value = 0xff; /* the index cannot be read */

    pthread_mutex_lock(&rtc->lock);
    if (port == 1)
        value = register_read(rtc, rtc->state.index);
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

static void rtc_write8(void *opaque, unsigned port, uint8_t value)
{
    struct rtc *rtc = opaque;

    pthread_mutex_lock(&rtc->lock);
    if (port == 1)
        register_write(rtc, rtc->state.index, value);
    else
        rtc->state.index = value % RTC_CMOS_BYTES;
    pthread_mutex_unlock(&rtc->lock);
}

static uint64_t rtc_read(void *rtc, uint64_t offset, unsigned size)
{
    return bus_bytes_read(rtc, offset, size, rtc_read8);
}

static void rtc_write(void *rtc, uint64_t offset, unsigned size, uint64_t value)
{
    bus_bytes_write(rtc, offset, size, value, rtc_write8);
}

static const struct bus_ops rtc_ops = {.read = rtc_read, .write = rtc_write};

/* ---- construction ---- */

static void cmos_set16(uint8_t *cmos, unsigned low, uint64_t value)
{
    if (value > UINT16_MAX)
        value = UINT16_MAX;
    cmos[low] = (uint8_t)value;
    cmos[low + 1] = (uint8_t)(value >> 8);
}

static uint64_t size_above(uint64_t bytes, uint64_t start, uint64_t unit)
{
    return bytes > start ? (bytes - start) / unit : 0;
}

/* The cells that firmware reads memory sizes and the number of CPUs from. */
static void cmos_fill(uint8_t *cmos, const struct rtc_config *config)
{
    uint64_t low = config->ram_below_4g_bytes, mib = UINT64_C(1) << 20;
    uint64_t high_units = config->ram_above_4g_bytes >> 16;
    uint64_t extended_kib = size_above(low, mib, 1024);

    cmos_set16(cmos, 0x15, 640);
    cmos_set16(cmos, 0x17, extended_kib);
    cmos_set16(cmos, 0x30, extended_kib);
    cmos_set16(cmos, 0x34, size_above(low, 16 * mib, 65536));
    cmos_set16(cmos, 0x5b, high_units & 0xffff);
    cmos[0x5d] = (uint8_t)(high_units >> 16);
    cmos[0x5f] = (uint8_t)(config->vcpu_count - 1);
}

/* RESET clears the interrupts' enables and flags; time and RAM stay ("RESET"). */
void rtc_reset(struct rtc *rtc)
{
    pthread_mutex_lock(&rtc->lock);
    rtc->state.index = 0;
    if (rtc->state.cmos[REG_B] & B_SET) /* a guest that stopped the clock has gone */
        control_write(rtc, rtc->state.cmos[REG_B] & (uint8_t)~B_SET);
    rtc->state.cmos[REG_B] &= B_BINARY | B_24_HOURS;
    rtc->state.cmos[REG_C] = 0;
    rtc->state.looked_ns = rtc_now_ns(rtc);
    interrupt_update(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

void rtc_cmos_set(struct rtc *rtc, uint8_t index, uint8_t value)
{
    if (index < REG_RAM || index >= RTC_CMOS_BYTES)
        return;
    pthread_mutex_lock(&rtc->lock);
    rtc->state.cmos[index] = value;
    pthread_mutex_unlock(&rtc->lock);
}

int rtc_new(const struct rtc_config *config, struct rtc **out)
{
    struct rtc *rtc = calloc(1, sizeof *rtc);
    struct bus_range range = {"rtc", 0x70, 2, &rtc_ops, rtc};
    int rc;

    if (!rtc)
        return -ENOMEM;
    pthread_mutex_init(&rtc->lock, NULL);
    rtc->config = *config;
    timer_init(&rtc->event, config->loop, event_expired, rtc);
    cmos_fill(rtc->state.cmos, config);
    rtc->state.cmos[REG_A] = A_DEFAULT;
    rtc->state.cmos[REG_B] = B_24_HOURS;
    rtc_reset(rtc);
    rc = bus_add(config->ports, &range);
    if (rc < 0)
        rtc_free(rtc);
    else
        *out = rtc;
    return rc;
}

void rtc_free(struct rtc *rtc)
{
    if (!rtc)
        return;
    bus_remove(rtc->config.ports, 0x70, rtc);
    timer_cancel(&rtc->event);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}
