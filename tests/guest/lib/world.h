/*
 * Runs a piece of code in a chosen world (long mode, legacy protected or v8086 mode, real mode)
 * from a given register state until any exception or interrupt, and gives the state at that point.
 *
 * CODE64/32/16 define pieces; STOP (INT 0x81) ends one on purpose. In ring 0 of the legacy world
 * and in the real world the frames are pushed on the context's own stack, which must be good (or
 * the vector a task gate).
 */
#ifndef GUEST_WORLD_H
#define GUEST_WORLD_H

#include "guest.h"

struct context {
    u64 rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rip, rflags, cs, ss, ds, es, fs, gs;
    u64 vector, error, has_error, cr2; /* set by the run */
};

#define CODE_OF(bits, name, text)                                                                  \
    extern u8 name[], name##_end[];                                                                \
    __asm__(".pushsection .text\n.balign 16\n.globl " #name ", " #name "_end\n.code" #bits         \
            "\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection\n")
#define CODE64(name, text) CODE_OF(64, name, text)
#define CODE32(name, text) CODE_OF(32, name, text)
#define CODE16(name, text) CODE_OF(16, name, text)
#define STOP               "\n int $0x81\n"
#define STOP_LEN           2
/* A place inside a piece that C can name; declare it with LABEL_OF. */
#define LABEL(name)     "\n.globl " #name "\n" #name ":\n"
#define LABEL_OF(name)  extern u8 name[]

#define ADDRESS(symbol) ((u64)(uintptr_t)(symbol))
#define USER(symbol)    (ADDRESS(symbol) + USER_OFFSET)

/* A fresh context: all registers 0, a stack, flat segments. */
struct context context_kernel(const void *code);
struct context context_user(const void *code);
struct context context_compat(const void *code); /* ring 3, 32-bit, same tables */

void world_long(struct context *c);
/* Shorthand: a ring-0 (ring-3) run of `code` with fresh state; gives the state at its end. */
struct context run_kernel(const void *code);
struct context run_user(const void *code);

/* Checks how a run ended. ANY for an error code means none must have been pushed. */
#define NO_ERROR (~0ul)
void check_trap(const char *file, int line, const char *what, const struct context *c, u64 vector,
                u64 error, u64 rip);
#define CHECK_TRAP(what, c, vector, error, rip)                                                    \
    check_trap(__FILE_NAME__, __LINE__, what, c, vector, error, rip)
/* The same without the RIP. */
#define CHECK_VECTOR(what, c, vector, error)                                                       \
    check_trap(__FILE_NAME__, __LINE__, what, c, vector, error, ~0ul)
/* The run reached its STOP, without a look at which. */
#define CHECK_STOP(what, c)                                                                        \
    check_trap(__FILE_NAME__, __LINE__, what, c, STOP_VECTOR, NO_ERROR, ~0ul)

/* The legacy world: descriptor tables as in long mode, its own IDT, and this environment. */
extern u32 legacy_cr0, legacy_cr3, legacy_cr4, legacy_efer, legacy_soft_int, legacy_out_cr0;
extern u16 legacy_ldt;
extern u64 legacy_idt[256];
struct context context_legacy(const void *code);      /* ring 0, 32-bit, flat */
struct context context_legacy_user(const void *code); /* ring 3, 32-bit, flat */
struct context context_v86(u64 flags);                /* at LOW_TEST, with LOW_DATA and LOW_STACK */
void world_legacy(struct context *c);
void legacy_reset(void); /* paging off, IDT and TSS as at the start */
/* Copies 16-bit code to LOW_TEST. */
void low_code_set(const void *code, const void *end);

/* The real world; `real_data_selector` SEL_KDATA makes it "unreal" (4 GiB limits), SEL_KDATA16
 * plain. */
extern u32 real_data_selector;
struct context context_real(void); /* at LOW_TEST, with LOW_DATA and LOW_STACK */
void world_real(struct context *c);

/* Descriptor tables. */
extern u64 gdt[GDT_SLOTS];
struct gate64 {
    u16 offset_low, selector;
    u8 ist, type;
    u16 offset_mid;
    u32 offset_high, zero;
};
/* As LGDT and LIDT take it. */
struct table_register {
    u16 limit;
    u64 base;
} __attribute__((packed));

extern struct gate64 long_idt[256];
void long_gate_set(u64 vector, const void *handler, u8 type, u8 ist);
void long_gate_reset(u64 vector);
u64 legacy_gate(u16 selector, u32 offset, u8 type);
/* A segment descriptor: `flags` are bits 40-55 (type, S, DPL, P, then AVL, L, D, G at 12-15), limit
 * is raw. */
u64 segment(u32 base, u32 limit, u16 flags);

struct tss64 {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7];
    u64 reserved2;
    u16 reserved3, io_map;
    u8 map[8193];
} __attribute__((packed));
extern struct tss64 tss64;

struct tss32 {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
        edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_map;
    u8 map[8193];
} __attribute__((packed));
extern struct tss32 tss32;
#define TSS64_SIZE sizeof(struct tss64)
#define TSS32_SIZE sizeof(struct tss32)

extern u8 test_stack_top[];  /* of contexts */
extern u8 trap_stack_top[];  /* IST 1: all gates use it unless a test changes them */
extern u8 other_stack_top[]; /* free for a test: IST 2, RSP0 */
extern u8 legacy_stack_top[];
extern u64 trap_top; /* where the frame of the next trap is expected to end */
extern u8 trap_stubs[], legacy_stubs[], world_long_iretq[], legacy_iret[];
extern u64 boot_pml4[512], boot_pdpt[512], boot_pd_low[512], boot_pd_mmio[512];
extern u8 image_end[];

/* A page that tests fill with machine code; executable by both rings. Appends STOP. */
extern u8 scratch_code[4096];
void scratch_set(const void *bytes, size_t len);
#define SCRATCH(...)                                                                               \
    do {                                                                                           \
        static const u8 scratch_bytes[] = {__VA_ARGS__};                                           \
        scratch_set(scratch_bytes, sizeof(scratch_bytes));                                         \
    } while (0)

/* RDMSR and WRMSR that report a fault: the vector, or STOP_VECTOR when all went well. */
u64 rdmsr_safe(u32 msr, u64 *value);
u64 wrmsr_safe(u32 msr, u64 value);
u64 cr_write_safe(unsigned cr, u64 value);
u64 xsetbv_safe(u32 index, u64 value);

#endif
