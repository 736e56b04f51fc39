/*
 * From the Multiboot entry (32-bit, paging off) to guest_start() in long mode.
 *
 * The Multiboot specification 0.6.96, 3.1 and 3.2, gives the header and the state at entry.
 */
#include "layout.h"

    .section .multiboot, "ax"
    .balign 4
    .long 0x1badb002, 3, -(0x1badb002 + 3)

    .text
    .code32
    .globl start
start:
    cli
    cld
    mov $boot_stack_top, %esp
    mov %ebx, boot_info
    mov %cr4, %eax
    or $0x20, %eax              /* PAE */
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       /* EFER */
    rdmsr
    or $0x100, %eax             /* LME */
    wrmsr
    mov %cr0, %eax
    or $0x80010000, %eax        /* PG, WP */
    and $0x9fffffff, %eax       /* not CD, NW */
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $SEL_KCODE64, $start64
    .code64
start64:
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_stack_top, %rsp
    xor %ebp, %ebp
    call guest_start
1:  cli
    hlt
    jmp 1b

    .data
    .balign 16
    .globl gdt, boot_gdtr
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 08 kernel code 64 */
    .quad 0x00cf93000000ffff    /* 10 kernel data */
    .quad 0x00cffb000000ffff    /* 18 user code 32 */
    .quad 0x00cff3000000ffff    /* 20 user data */
    .quad 0x00affb000000ffff    /* 28 user code 64 */
    .quad 0x00cff3000000ffff    /* 30 user data, as SYSEXIT names it */
    .quad 0x00cf9b000000ffff    /* 38 kernel code 32 */
    .quad 0x00009b000000ffff    /* 40 kernel code 16 */
    .quad 0x000093000000ffff    /* 48 kernel data 16 */
    .quad 0x0000fb000000ffff    /* 50 user code 16 */
    .quad 0x0000f3000000ffff    /* 58 user data 16 */
    .fill (GDT_SLOTS - 12) * 8, 1, 0
boot_gdtr:
    .word GDT_SLOTS * 8 - 1
    .quad gdt

    .balign 4096
    .globl boot_pml4, boot_pdpt, boot_pd_low, boot_pd_mmio
boot_pml4:
    .quad boot_pdpt + 0x7
    .fill 511, 8, 0
boot_pdpt:
    .quad boot_pd_low + 0x3     /* the supervisor's view */
    .quad boot_pd_low + 0x7     /* the user's view of the same memory */
    .quad 0
    .quad boot_pd_mmio + 0x3
    .fill 508, 8, 0
boot_pd_low:
    .set i, 0
    .rept 512
    .quad i * 0x200000 + 0x87
    .set i, i + 1
    .endr
boot_pd_mmio:
    .set i, 0
    .rept 512
    .quad 0xc0000000 + i * 0x200000 + 0x93
    .set i, i + 1
    .endr

    .globl boot_info            /* the Multiboot information's address */
boot_info:
    .long 0

    .bss
    .balign 4096
    .fill 32768
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
