/*
 * The local APIC as tests use it, by its page or by MSRs (x2APIC). Intel SDM vol. 3, 10.
 */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "guest.h"

#define APIC_PAGE          0xfee00000ul
#define APIC_ID            0x20
#define APIC_VERSION       0x30
#define APIC_TPR           0x80
#define APIC_EOI           0xb0
#define APIC_SVR           0xf0
#define APIC_ISR           0x100
#define APIC_IRR           0x200
#define APIC_ICR           0x300
#define APIC_ICR_HIGH      0x310
#define APIC_LVT_TIMER     0x320
#define APIC_LVT_LINT0     0x350
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE  0x3e0

static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(APIC_PAGE + reg);
}

static inline void apic_write(u32 reg, u32 value)
{
    *(volatile u32 *)(APIC_PAGE + reg) = value;
}

static inline void apic_enable(void)
{
    apic_write(APIC_TPR, 0);
    apic_write(APIC_SVR, 0x1ff);
}

static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

/* Sends `command` (the low half of the ICR) to one APIC ID, and waits for the APIC to take it. */
static inline void apic_send(u32 id, u32 command)
{
    apic_write(APIC_ICR_HIGH, id << 24);
    apic_write(APIC_ICR, command);
    for (int i = 0; i < 1000000 && apic_read(APIC_ICR) & 1u << 12; i++)
        pause();
}

#define ICR_SELF    (1u << 18)
#define ICR_NMI     0x400u
#define ICR_INIT    0x500u
#define ICR_STARTUP 0x600u
#define ICR_ASSERT  (1u << 14)

#endif
