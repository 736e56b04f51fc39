/* The start of the other processors, and their jobs. See cpus.h. */
#include "cpus.h"

#define STACK_BYTES 16384

struct cpu cpus[CPUS_MAX];
struct gate64 cpus_idt[256] __attribute__((aligned(16)));
struct __attribute__((packed)) {
    u16 limit;
    u64 base;
} cpus_idtr;

/*
 * Copied to LOW_AP, entered in real mode with CS:IP = (LOW_AP >> 4):0. They may come all at once:
 * none uses a stack before it has its number.
 */
__asm__(".pushsection .text\n.globl ap_start, ap_end\n.code16\n.balign 16\nap_start:\n"
        "cli\n mov %cs, %ax\n mov %ax, %ds\n mov %cr0, %eax\n mov %eax, (4f - ap_start)\n mov %cs, "
        "(5f - ap_start)\n"
        "lgdtl (3f - ap_start)\n or $1, %al\n and $0x9fffffff, %eax\n mov %eax, %cr0\n ljmpl "
        "$0x38, $ap_protected\n"
        ".balign 4\n3: .word 64*8-1\n .long gdt\n"
        ".globl ap_cr0, ap_cs\n.balign 4\nap_cr0: 4: .long 0\nap_cs: 5: .long 0\nap_end:\n"
        ".code32\nap_protected:\n mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
        "mov %cr4, %eax\n or $0x620, %eax\n mov %eax, %cr4\n mov $boot_pml4, %eax\n mov %eax, "
        "%cr3\n mov $0xc0000080, %ecx\n rdmsr\n"
        "or $0x100, %eax\n wrmsr\n mov %cr0, %eax\n or $0x80010000, %eax\n mov %eax, %cr0\n ljmp "
        "$8, $1f\n"
        ".code64\n1: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
        "mov $1, %edi\n lock xadd %edi, cpus_number\n cmp $8, %edi\n jae 2f\n"
        "lea 1(%rdi), %rsp\n shl $14, %rsp\n add $cpus_stacks, %rsp\n"
        "lidt cpus_idtr\n call cpu_main\n 2: cli\n hlt\n jmp 2b\n"
        ".globl cpus_fault\ncpus_fault: cli\n hlt\n jmp cpus_fault\n.popsection\n"
        ".pushsection .bss\n.balign 16384\ncpus_stacks: .fill 8 * 16384\n.popsection\n"
        ".pushsection .data\n.balign 4\ncpus_number: .long 1\n.popsection\n");
extern u8 ap_start[], ap_end[], ap_cr0[], ap_cs[], cpus_fault[], cpus_stacks[];
extern volatile u32 cpus_number;

void cpu_main(u32 index);
void cpu_main(u32 index)
{
    struct cpu *cpu = &cpus[index];
    apic_enable();
    cpu->apic_id = apic_read(APIC_ID) >> 24;
    __asm__ volatile("sti" : : : "memory");
    cpu->alive = 1;
    for (;;) {
        job_fn run = cpu->job;
        if (run) {
            run();
            __asm__ volatile("" : : : "memory");
            cpu->job = NULL;
        }
        pause();
    }
}

void cpus_gate_set(u64 vector, const void *to)
{
    u64 at = ADDRESS(to);
    cpus_idt[vector] =
        (struct gate64){(u16)at, SEL_KCODE64, 0, 0x8e, (u16)(at >> 16), (u32)(at >> 32), 0};
}

u32 cpus_start_cr0(void)
{
    return *(volatile u32 *)low_pointer(LOW_AP + (u64)(ap_cr0 - ap_start));
}

u16 cpus_start_cs(void)
{
    return *(volatile u16 *)low_pointer(LOW_AP + (u64)(ap_cs - ap_start));
}

static void delay(u64 rounds)
{
    for (u64 i = 0; i < rounds; i++)
        pause();
}

/* Until no more of them come for some time, for longer if there should be more. */
static u32 count_alive(u64 wanted)
{
    u32 count = 1;
    for (u64 quiet = 0; quiet < (count == 1 || count < wanted ? 20000000 : 2000000); quiet++) {
        if (count < CPUS_MAX && cpus[count].alive) {
            count++;
            quiet = 0;
        }
        pause();
    }
    return count;
}

u32 cpus_start(void)
{
    for (u64 i = 0; i < 256; i++)
        if (cpus_idt[i].selector == 0)
            cpus_gate_set(i, cpus_fault);
    cpus_idtr.limit = sizeof(cpus_idt) - 1;
    cpus_idtr.base = ADDRESS(cpus_idt);
    memory_copy((void *)LOW_AP, ap_start, (size_t)(ap_end - ap_start));
    apic_enable();
    cpus[0].apic_id = apic_read(APIC_ID) >> 24;
    apic_write(APIC_ICR_HIGH, 0);
    apic_write(APIC_ICR, 0xc0000 | ICR_ASSERT | ICR_INIT); /* all but self */
    delay(1000000);
    apic_write(APIC_ICR, 0xc0000 | ICR_ASSERT | ICR_STARTUP | LOW_AP >> 12);
    delay(100000);
    if (cpus_number == 1)
        apic_write(APIC_ICR, 0xc0000 | ICR_ASSERT | ICR_STARTUP | LOW_AP >> 12);
    u64 wanted = option("cpus", 0);
    u32 count = count_alive(wanted);
    if (wanted != 0)
        CHECK("processors that answer INIT and SIPI", count, wanted);
    return count;
}

u32 cpu_index(void)
{
    u64 at = (u64)__builtin_frame_address(0) - ADDRESS(cpus_stacks);
    return at < CPUS_MAX * STACK_BYTES ? (u32)(at / STACK_BYTES) : 0;
}

void cpu_run(u32 index, job_fn job)
{
    __asm__ volatile("" : : : "memory");
    cpus[index].job = job;
}

void cpu_wait(u32 index)
{
    WAIT(!cpus[index].job);
    CHECK("the other processor finished", cpus[index].job == NULL, true);
}

void cpus_run(u32 count, job_fn job)
{
    for (u32 i = 1; i < count; i++)
        cpu_run(i, job);
    job();
    for (u32 i = 1; i < count; i++)
        cpu_wait(i);
}

void cpus_meet(u32 count)
{
    static volatile u32 waiting, turn;
    u32 now = turn, one = 1;
    __asm__ volatile("lock xaddl %0, %1" : "+r"(one), "+m"(waiting) : : "memory", "cc");
    if (one + 1 == count) {
        waiting = 0;
        __asm__ volatile("" : : : "memory");
        turn = now + 1;
        return;
    }
    while (turn == now)
        pause();
}
