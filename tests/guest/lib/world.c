/* Descriptor tables, contexts and runs. See world.h. */
#include "world.h"

#define SAME_OFFSET(field, number)                                                                 \
    _Static_assert(offsetof(struct context, field) == (number), #field)
SAME_OFFSET(r8, CTX_R8);
SAME_OFFSET(rip, CTX_RIP);
SAME_OFFSET(gs, CTX_GS);
SAME_OFFSET(vector, CTX_VECTOR);
SAME_OFFSET(has_error, CTX_HAS_ERROR);
SAME_OFFSET(cr2, CTX_CR2);

struct gate64 long_idt[256] __attribute__((aligned(16)));
u64 legacy_idt[256] __attribute__((aligned(16)));
struct table_register long_idtr, legacy_idtr;
struct tss64 tss64 __attribute__((aligned(16)));
struct tss32 tss32 __attribute__((aligned(16)));
u64 trap_top;
u64 host_cr0, host_cr3, host_cr4, host_efer;
u32 legacy_cr0, legacy_cr3, legacy_cr4, legacy_efer, legacy_soft_int, legacy_out_cr0;
u16 legacy_ldt;
u32 real_data_selector = SEL_KDATA16;
struct context legacy_context;
u8 scratch_code[4096] __attribute__((aligned(4096)));

void world_long_enter(struct context *c);
void world_legacy_enter(void);
void world_real_enter(void);
_Noreturn void guest_start(void);
extern u8 low_start[], low_end[], real_stubs[];

#define STACK(name)                                                                                \
    __asm__(".pushsection .bss\n.balign 4096\n.fill 8192\n.globl " #name "\n" #name                \
            ":\n.popsection\n")
STACK(test_stack_top);
STACK(trap_stack_top);
STACK(other_stack_top);

u64 segment(u32 base, u32 limit, u16 flags)
{
    return (u64)(base >> 24) << 56 | (u64)(flags & 0xf0ff) << 40 | (u64)(limit >> 16 & 15) << 48 |
           (u64)(base & 0xffffff) << 16 | (limit & 0xffff);
}

void long_gate_set(u64 vector, const void *handler, u8 type, u8 ist)
{
    u64 to = ADDRESS(handler);
    long_idt[vector] =
        (struct gate64){(u16)to, SEL_KCODE64, ist, type, (u16)(to >> 16), (u32)(to >> 32), 0};
}

void long_gate_reset(u64 vector)
{
    bool user = vector >= 0x80 || vector == BP || vector == OF;
    long_gate_set(vector, trap_stubs + 16 * vector, user ? 0xee : 0x8e, 1);
}

u64 legacy_gate(u16 selector, u32 offset, u8 type)
{
    return (u64)(offset >> 16) << 48 | (u64)type << 40 | (u64)selector << 16 | (offset & 0xffff);
}

void legacy_reset(void)
{
    legacy_cr0 = CR0_PE | CR0_ET | CR0_NE;
    legacy_cr3 = 0;
    legacy_cr4 = 0;
    legacy_efer = 0;
    legacy_soft_int = 0;
    legacy_ldt = 0;
    for (u64 i = 0; i < 256; i++) {
        bool user = i >= 0x80 || i == BP || i == OF;
        legacy_idt[i] =
            legacy_gate(SEL_KCODE32, (u32)ADDRESS(legacy_stubs) + (u32)i * 16, user ? 0xee : 0x8e);
    }
    memory_set(&tss32, 0, sizeof(tss32));
    tss32.esp0 = (u32)ADDRESS(other_stack_top);
    tss32.ss0 = SEL_KDATA;
    tss32.io_map = sizeof(tss32);
    gdt[SEL_TSS32 / 8] = segment((u32)ADDRESS(&tss32), sizeof(tss32) - 1, 0x0089);
}

static void long_reset(void)
{
    for (u64 i = 0; i < 256; i++)
        long_gate_reset(i);
    trap_top = ADDRESS(trap_stack_top);
    tss64.ist[0] = trap_top;
    tss64.ist[1] = ADDRESS(other_stack_top);
    tss64.rsp[0] = ADDRESS(other_stack_top);
    tss64.io_map = sizeof(tss64);
    gdt[SEL_TSS64 / 8] = segment((u32)ADDRESS(&tss64), sizeof(tss64) - 1, 0x0089);
    gdt[SEL_TSS64 / 8 + 1] = 0;
    long_idtr = (struct table_register){sizeof(long_idt) - 1, ADDRESS(long_idt)};
    legacy_idtr = (struct table_register){sizeof(legacy_idt) - 1, ADDRESS(legacy_idt)};
    __asm__ volatile("lidt %0; ltr %w1; lldt %w2"
                     :
                     : "m"(long_idtr), "r"(SEL_TSS64), "r"(0)
                     : "memory");
}

/* The real world's vector table (at 0) and the code below 1 MiB. */
static void low_init(void)
{
    memory_copy((void *)LOW_CODE, low_start, (size_t)(low_end - low_start));
    volatile u16 *table = low_pointer(0);
    for (u64 i = 0; i < 256; i++) {
        table[2 * i] = (u16)(LOW_CODE + (u64)(real_stubs - low_start) + 8 * i);
        table[2 * i + 1] = 0;
    }
}

_Noreturn void guest_start(void)
{
    outb(0x21, 0xff); /* both 8259s masked */
    outb(0xa1, 0xff);
    if (has(FEATURE_NX))
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    long_reset();
    legacy_reset();
    low_init();
    guest_main();
    guest_exit();
}

struct context context_kernel(const void *code)
{
    return (struct context){.rip = ADDRESS(code),
                            .rflags = FLAG_ONE,
                            .rsp = ADDRESS(test_stack_top),
                            .cs = SEL_KCODE64,
                            .ss = SEL_KDATA,
                            .ds = SEL_KDATA,
                            .es = SEL_KDATA};
}

struct context context_user(const void *code)
{
    return (struct context){.rip = USER(code),
                            .rflags = FLAG_ONE,
                            .rsp = USER(test_stack_top),
                            .cs = SEL_UCODE64,
                            .ss = SEL_UDATA,
                            .ds = SEL_UDATA,
                            .es = SEL_UDATA};
}

struct context context_compat(const void *code)
{
    struct context c = context_user(code);
    c.cs = SEL_UCODE32;
    return c;
}

struct context context_legacy(const void *code)
{
    struct context c = context_kernel(code);
    c.cs = SEL_KCODE32;
    c.fs = c.gs = SEL_KDATA;
    return c;
}

/* Ring 3 of the legacy world: without paging there is no user's view, the addresses are the image's
 * own. */
struct context context_legacy_user(const void *code)
{
    struct context c = context_legacy(code);
    c.cs = SEL_UCODE32;
    c.ss = c.ds = c.es = c.fs = c.gs = SEL_UDATA;
    return c;
}

struct context context_real(void)
{
    return (struct context){.cs = LOW_TEST >> 4,
                            .ds = LOW_DATA >> 4,
                            .es = LOW_DATA >> 4,
                            .fs = LOW_DATA >> 4,
                            .gs = LOW_DATA >> 4,
                            .ss = LOW_STACK >> 4,
                            .rsp = 0x1000,
                            .rflags = FLAG_ONE};
}

struct context context_v86(u64 flags)
{
    struct context c = context_real();
    c.rflags |= FLAG_VM | flags;
    return c;
}

void low_code_set(const void *code, const void *end)
{
    memory_copy((void *)LOW_TEST, code, (size_t)((const u8 *)end - (const u8 *)code));
}

void world_long(struct context *c)
{
    world_long_enter(c);
}

static void host_save(void)
{
    host_cr0 = cr0_get();
    host_cr3 = cr3_get();
    host_cr4 = cr4_get();
    host_efer = rdmsr(MSR_EFER);
}

/* The 16- and 32-bit code stores the low halves only. */
static void context_clear_results(struct context *c)
{
    c->vector = c->error = c->has_error = c->cr2 = 0;
}

void world_legacy(struct context *c)
{
    host_save();
    legacy_context = *c;
    context_clear_results(&legacy_context);
    world_legacy_enter();
    *c = legacy_context;
}

void world_real(struct context *c)
{
    struct context *low = (struct context *)LOW_CONTEXT;
    host_save();
    *low = *c;
    context_clear_results(low);
    world_real_enter();
    *c = *low;
    c->rip &= 0xffff;
    c->rflags &= 0xffff;
    c->cs &= 0xffff;
}

struct context run_kernel(const void *code)
{
    struct context c = context_kernel(code);
    world_long(&c);
    return c;
}

struct context run_user(const void *code)
{
    struct context c = context_user(code);
    world_long(&c);
    return c;
}

static const char *const trap_fields[] = {"vector", "error code", "RIP"};

/* Joins "what: field" for a message. */
static const char *trap_field_name(const char *what, unsigned field)
{
    static char text[128];
    size_t at = 0;
    for (; *what && at < 100; at++)
        text[at] = *what++;
    text[at++] = ',';
    text[at++] = ' ';
    for (const char *p = trap_fields[field]; *p; p++)
        text[at++] = *p;
    text[at] = 0;
    return text;
}

void check_trap(const char *file, int line, const char *what, const struct context *c, u64 vector,
                u64 error, u64 rip)
{
    u64 all_seen = c->vector;
    unsigned field = 0;
    u64 seen_error = c->has_error ? c->error : NO_ERROR;
    u64 expected = vector, seen = all_seen;
    if (seen == expected) {
        field = 1;
        seen = seen_error;
        expected = error;
    }
    if (seen == expected && rip != ~0ul) {
        field = 2;
        seen = c->rip;
        expected = rip;
    }
    check_eq(file, line, trap_field_name(what, field), seen, expected);
}

void scratch_set(const void *bytes, size_t len)
{
    static const u8 stop[] = {0xcd, 0x81};
    memory_copy(scratch_code, bytes, len);
    memory_copy(scratch_code + len, stop, sizeof(stop));
}

CODE64(code_rdmsr, "rdmsr" STOP);
CODE64(code_wrmsr, "wrmsr" STOP);
CODE64(code_xsetbv, "xsetbv" STOP);
CODE64(code_cr0, "mov %rax, %cr0" STOP);
CODE64(code_cr3, "mov %rax, %cr3" STOP);
CODE64(code_cr4, "mov %rax, %cr4" STOP);
CODE64(code_cr8, "mov %rax, %cr8" STOP);

static struct context run_msr(const void *code, u32 index, u64 value)
{
    struct context c = context_kernel(code);
    c.rcx = index;
    c.rax = (u32)value;
    c.rdx = value >> 32;
    world_long(&c);
    return c;
}

u64 rdmsr_safe(u32 msr, u64 *value)
{
    struct context c = run_msr(code_rdmsr, msr, 0);
    *value = c.rdx << 32 | c.rax;
    return c.vector;
}

u64 wrmsr_safe(u32 msr, u64 value)
{
    return run_msr(code_wrmsr, msr, value).vector;
}

u64 xsetbv_safe(u32 index, u64 value)
{
    return run_msr(code_xsetbv, index, value).vector;
}

u64 cr_write_safe(unsigned cr, u64 value)
{
    struct context c = context_kernel(cr == 0   ? code_cr0
                                      : cr == 3 ? code_cr3
                                      : cr == 4 ? code_cr4
                                                : code_cr8);
    c.rax = value;
    world_long(&c);
    return c.vector;
}
