/*
 * Numbers that the assembly and the C of the test guests share: selectors, addresses, the end of a
 * run.
 *
 * Threads: none; trusts everything, since a guest is its own whole machine.
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

/* The debug-exit device ends the guest: the VMM's status is (value << 1) | 1, so 33 is success and
 * 35 failure. */
#define EXIT_PORT    0xf4
#define EXIT_SUCCESS 0x10
#define EXIT_FAILURE 0x11

/*
 * GDT selectors. The order serves SYSCALL/SYSRET (STAR = 0x0018_0008: user code 32, data, code 64
 * follow each other) and SYSENTER/SYSEXIT (SYSENTER_CS = 8: +8, +16, +24, +32, +40) at once.
 */
#define SEL_KCODE64 0x08
#define SEL_KDATA   0x10
#define SEL_UCODE32 0x1b
#define SEL_UDATA   0x23
#define SEL_UCODE64 0x2b
#define SEL_UDATA2  0x33
#define SEL_KCODE32 0x38
#define SEL_KCODE16 0x40
#define SEL_KDATA16 0x48
#define SEL_UCODE16 0x53
#define SEL_UDATA16 0x5b
#define SEL_TSS64   0x60 /* two slots */
#define SEL_TSS32   0x70
#define SEL_LDT     0x78 /* two slots in long mode */
#define SEL_FREE    0x88 /* first slot that tests may fill */
#define GDT_SLOTS   64

/* Low memory: below 1 MiB, for real mode and the start of application processors. */
#define LOW_CODE    0x7000  /* copy of the 16-bit part of world.S */
#define LOW_CONTEXT 0x6000  /* struct context of the real-mode world */
#define LOW_AP      0x8000  /* copy of the application processor's start */
#define LOW_TEST    0x10000 /* real-mode and v8086 test code, segment 0x1000 */
#define LOW_DATA    0x20000 /* their data, segment 0x2000 */
#define LOW_STACK   0x30000 /* their stack, segment 0x3000 */

/* Virtual: 0-1 GiB maps itself for the supervisor; the same memory again at 1-2 GiB for the user;
 * 2-3 GiB is free. */
#define USER_OFFSET 0x40000000
#define TEST_REGION 0x80000000

/* Offsets in struct context (world.h), which asserts them. */
#define CTX_RAX       0
#define CTX_RCX       8
#define CTX_RDX       16
#define CTX_RBX       24
#define CTX_RSP       32
#define CTX_RBP       40
#define CTX_RSI       48
#define CTX_RDI       56
#define CTX_R8        64
#define CTX_RIP       128
#define CTX_RFLAGS    136
#define CTX_CS        144
#define CTX_SS        152
#define CTX_DS        160
#define CTX_ES        168
#define CTX_FS        176
#define CTX_GS        184
#define CTX_VECTOR    192
#define CTX_ERROR     200
#define CTX_HAS_ERROR 208
#define CTX_CR2       216

#endif
