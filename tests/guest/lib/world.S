/*
 * The three worlds in which a test runs code: long mode, legacy protected mode, real mode (world.h).
 *
 * Each loads a struct context, runs until any exception or interrupt, stores the state at that point back into the
 * context and returns to its C caller in long mode. One processor at a time uses these.
 */
#include "layout.h"

    .text
    .code64
    .macro save_host
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, host_rsp
    .endm

/* void world_long_enter(struct context *context) */
    .globl world_long_enter, world_long_iretq
world_long_enter:
    save_host
    mov %rdi, current_context
    mov CTX_DS(%rdi), %ds
    mov CTX_ES(%rdi), %es
    mov %fs, %eax               /* a reload would reset a base that the test has set */
    cmp %ax, CTX_FS(%rdi)
    je 1f
    mov CTX_FS(%rdi), %fs
1:  mov %gs, %eax
    cmp %ax, CTX_GS(%rdi)
    je 1f
    mov CTX_GS(%rdi), %gs
1:  pushq CTX_SS(%rdi)
    pushq CTX_RSP(%rdi)
    pushq CTX_RFLAGS(%rdi)
    pushq CTX_CS(%rdi)
    pushq CTX_RIP(%rdi)
    mov CTX_RAX(%rdi), %rax
    mov CTX_RCX(%rdi), %rcx
    mov CTX_RDX(%rdi), %rdx
    mov CTX_RBX(%rdi), %rbx
    mov CTX_RBP(%rdi), %rbp
    mov CTX_RSI(%rdi), %rsi
    mov CTX_R8(%rdi), %r8
    mov CTX_R8 + 8(%rdi), %r9
    mov CTX_R8 + 16(%rdi), %r10
    mov CTX_R8 + 24(%rdi), %r11
    mov CTX_R8 + 32(%rdi), %r12
    mov CTX_R8 + 40(%rdi), %r13
    mov CTX_R8 + 48(%rdi), %r14
    mov CTX_R8 + 56(%rdi), %r15
    mov CTX_RDI(%rdi), %rdi
world_long_iretq:
    iretq

    .balign 16
    .globl trap_stubs
trap_stubs:
    .set i, 0
    .rept 256
    pushq $i
    jmp trap_common
    .balign 16
    .set i, i + 1
    .endr

trap_common:
    push %rdi
    mov current_context, %rdi
    test %rdi, %rdi
    jz trap_unexpected
    mov %rax, CTX_RAX(%rdi)
    mov %rcx, CTX_RCX(%rdi)
    mov %rdx, CTX_RDX(%rdi)
    mov %rbx, CTX_RBX(%rdi)
    mov %rbp, CTX_RBP(%rdi)
    mov %rsi, CTX_RSI(%rdi)
    mov %r8, CTX_R8(%rdi)
    mov %r9, CTX_R8 + 8(%rdi)
    mov %r10, CTX_R8 + 16(%rdi)
    mov %r11, CTX_R8 + 24(%rdi)
    mov %r12, CTX_R8 + 32(%rdi)
    mov %r13, CTX_R8 + 40(%rdi)
    mov %r14, CTX_R8 + 48(%rdi)
    mov %r15, CTX_R8 + 56(%rdi)
    popq CTX_RDI(%rdi)
    popq CTX_VECTOR(%rdi)
    xor %eax, %eax
    mov %rax, CTX_ERROR(%rdi)
    mov %rax, CTX_HAS_ERROR(%rdi)
    lea 40(%rsp), %rcx          /* a frame without error code begins here when it ends at the stack's top */
    cmp %rcx, trap_top
    je 1f
    popq CTX_ERROR(%rdi)
    movq $1, CTX_HAS_ERROR(%rdi)
1:  popq CTX_RIP(%rdi)
    popq CTX_CS(%rdi)
    popq CTX_RFLAGS(%rdi)
    popq CTX_RSP(%rdi)
    popq CTX_SS(%rdi)
    mov %cr2, %rax
    mov %rax, CTX_CR2(%rdi)
    mov %ds, CTX_DS(%rdi)
    mov %es, CTX_ES(%rdi)
    mov %fs, CTX_FS(%rdi)
    mov %gs, CTX_GS(%rdi)
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    movq $0, current_context
    mov host_rsp, %rsp
    cld
    mov %rsp, %rax              /* IRETQ, so that an NMI no longer blocks the next */
    pushq $SEL_KDATA
    push %rax
    pushq $2
    pushq $SEL_KCODE64
    pushq $host_resume
    iretq
host_resume:
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

trap_unexpected:
    mov 8(%rsp), %rdi           /* vector */
    lea 16(%rsp), %rsi          /* error code or RIP, and on */
    mov %cr2, %rdx
    cld
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    call guest_unexpected

/* void world_legacy_enter(void): the context is legacy_context, the environment legacy_cr0 and so on. */
    .globl world_legacy_enter
world_legacy_enter:
    save_host
    pushq $SEL_KCODE32
    pushq $1f
    lretq
    .code32
    .macro leave_long
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    mov legacy_efer, %eax
    xor %edx, %edx
    wrmsr
    mov legacy_cr4, %eax
    mov %eax, %cr4
    .endm
1:  leave_long
    mov legacy_cr3, %eax
    mov %eax, %cr3
    mov legacy_cr0, %eax
    mov %eax, %cr0
    jmp 1f
1:  lidt legacy_idtr
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $legacy_stack_top, %esp
    andb $~2, gdt + SEL_TSS32 + 5
    mov $SEL_TSS32, %eax
    ltr %ax
    lldt legacy_ldt
    testl $0x20000, legacy_context + CTX_RFLAGS
    jnz 3f
    testb $3, legacy_context + CTX_CS
    jnz 2f
    mov legacy_context + CTX_SS, %ss
    mov legacy_context + CTX_RSP, %esp
    jmp 4f
3:  pushl legacy_context + CTX_GS
    pushl legacy_context + CTX_FS
    pushl legacy_context + CTX_DS
    pushl legacy_context + CTX_ES
2:  pushl legacy_context + CTX_SS
    pushl legacy_context + CTX_RSP
4:  pushl legacy_context + CTX_RFLAGS
    pushl legacy_context + CTX_CS
    pushl legacy_context + CTX_RIP
    mov legacy_context + CTX_RAX, %eax
    mov legacy_context + CTX_RCX, %ecx
    mov legacy_context + CTX_RDX, %edx
    mov legacy_context + CTX_RBX, %ebx
    mov legacy_context + CTX_RBP, %ebp
    mov legacy_context + CTX_RSI, %esi
    mov legacy_context + CTX_RDI, %edi
    testb $2, legacy_context + CTX_RFLAGS + 2
    jnz legacy_iret             /* v8086 mode takes its data segments from the frame */
    mov %cs:legacy_context + CTX_ES, %es
    mov %cs:legacy_context + CTX_FS, %fs
    mov %cs:legacy_context + CTX_GS, %gs
    mov %cs:legacy_context + CTX_DS, %ds
    .globl legacy_iret
legacy_iret:
    iretl

    .balign 16
    .globl legacy_stubs
legacy_stubs:
    .set i, 0
    .rept 256
    pushl $i
    jmp legacy_common
    .balign 16
    .set i, i + 1
    .endr

legacy_common:
    pushl %ds
    pushl $SEL_KDATA
    popl %ds
    mov %eax, legacy_context + CTX_RAX
    mov %ecx, legacy_context + CTX_RCX
    mov %edx, legacy_context + CTX_RDX
    mov %ebx, legacy_context + CTX_RBX
    mov %ebp, legacy_context + CTX_RBP
    mov %esi, legacy_context + CTX_RSI
    mov %edi, legacy_context + CTX_RDI
    popl legacy_context + CTX_DS
    mov %es, legacy_context + CTX_ES
    mov %fs, legacy_context + CTX_FS
    mov %gs, legacy_context + CTX_GS
    popl %eax
    mov %eax, legacy_context + CTX_VECTOR
    movl $0, legacy_context + CTX_ERROR
    movl $0, legacy_context + CTX_HAS_ERROR
    cmp $32, %eax
    jae 1f
    cmpl $0, legacy_soft_int    /* the test runs INT n, which has no error code */
    jne 1f
    mov $0x00227d00, %ecx       /* #DF #TS #NP #SS #GP #PF #AC #CP */
    bt %eax, %ecx
    jnc 1f
    popl legacy_context + CTX_ERROR
    movl $1, legacy_context + CTX_HAS_ERROR
1:  popl legacy_context + CTX_RIP
    popl legacy_context + CTX_CS
    popl legacy_context + CTX_RFLAGS
    testb $2, legacy_context + CTX_RFLAGS + 2
    jnz 3f
    testb $3, legacy_context + CTX_CS
    jnz 2f
    mov %esp, legacy_context + CTX_RSP
    mov %ss, legacy_context + CTX_SS
    jmp 4f
2:  popl legacy_context + CTX_RSP
    popl legacy_context + CTX_SS
    jmp 4f
3:  popl legacy_context + CTX_RSP
    popl legacy_context + CTX_SS
    popl legacy_context + CTX_ES
    popl legacy_context + CTX_DS
    popl legacy_context + CTX_FS
    popl legacy_context + CTX_GS
4:  mov %cr2, %eax
    mov %eax, legacy_context + CTX_CR2
return_to_long:
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $legacy_stack_top, %esp
    cld
    mov %cr0, %eax
    mov %eax, legacy_out_cr0
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov host_cr4, %eax
    mov %eax, %cr4
    mov host_cr3, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    mov host_efer, %eax
    xor %edx, %edx
    wrmsr
    mov host_cr0, %eax
    mov %eax, %cr0
    ljmp $SEL_KCODE64, $1f
    .code64
1:  mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    lldt %ax
    lidt long_idtr
    lgdt boot_gdtr
    andb $~2, gdt + SEL_TSS64 + 5
    mov $SEL_TSS64, %eax
    ltr %ax
    mov host_rsp, %rsp
    jmp host_resume

/* void world_real_enter(void): the context is at LOW_CONTEXT. */
    .globl world_real_enter
world_real_enter:
    save_host
    pushq $SEL_KCODE32
    pushq $1f
    lretq
    .code32
1:  leave_long
    mov real_data_selector, %eax /* flat data here leaves "unreal" limits behind */
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov $SEL_KDATA16, %eax
    mov %eax, %ss
    ljmp $SEL_KCODE16, $(LOW_CODE + real_enter16 - low_start)

    .code16
    .globl low_start, low_end
    .balign 16
low_start:
real_enter16:
    lidt %cs:(LOW_CODE + real_idtr - low_start)
    mov %cr0, %eax
    and $~1, %al
    mov %eax, %cr0
    ljmp $0, $(LOW_CODE + 1f - low_start)
1:  mov %cs:(LOW_CONTEXT + CTX_SS), %ss
    mov %cs:(LOW_CONTEXT + CTX_RSP), %esp
    pushw %cs:(LOW_CONTEXT + CTX_RFLAGS)
    pushw %cs:(LOW_CONTEXT + CTX_CS)
    pushw %cs:(LOW_CONTEXT + CTX_RIP)
    mov %cs:(LOW_CONTEXT + CTX_RAX), %eax
    mov %cs:(LOW_CONTEXT + CTX_RCX), %ecx
    mov %cs:(LOW_CONTEXT + CTX_RDX), %edx
    mov %cs:(LOW_CONTEXT + CTX_RBX), %ebx
    mov %cs:(LOW_CONTEXT + CTX_RBP), %ebp
    mov %cs:(LOW_CONTEXT + CTX_RSI), %esi
    mov %cs:(LOW_CONTEXT + CTX_RDI), %edi
    mov %cs:(LOW_CONTEXT + CTX_ES), %es
    mov %cs:(LOW_CONTEXT + CTX_FS), %fs
    mov %cs:(LOW_CONTEXT + CTX_GS), %gs
    mov %cs:(LOW_CONTEXT + CTX_DS), %ds
    iretw
    .balign 8
    .globl real_stubs
real_stubs:
    .set i, 0
    .rept 256
    pushw $i
    jmp real_common
    .balign 8
    .set i, i + 1
    .endr
real_common:
    mov %eax, %cs:(LOW_CONTEXT + CTX_RAX)
    mov %ecx, %cs:(LOW_CONTEXT + CTX_RCX)
    mov %edx, %cs:(LOW_CONTEXT + CTX_RDX)
    mov %ebx, %cs:(LOW_CONTEXT + CTX_RBX)
    mov %ebp, %cs:(LOW_CONTEXT + CTX_RBP)
    mov %esi, %cs:(LOW_CONTEXT + CTX_RSI)
    mov %edi, %cs:(LOW_CONTEXT + CTX_RDI)
    popw %cs:(LOW_CONTEXT + CTX_VECTOR)
    popw %cs:(LOW_CONTEXT + CTX_RIP)
    popw %cs:(LOW_CONTEXT + CTX_CS)
    popw %cs:(LOW_CONTEXT + CTX_RFLAGS)
    mov %esp, %cs:(LOW_CONTEXT + CTX_RSP)
    mov %ss, %cs:(LOW_CONTEXT + CTX_SS)
    mov %ds, %cs:(LOW_CONTEXT + CTX_DS)
    mov %es, %cs:(LOW_CONTEXT + CTX_ES)
    mov %fs, %cs:(LOW_CONTEXT + CTX_FS)
    mov %gs, %cs:(LOW_CONTEXT + CTX_GS)
    cli
    lgdtl %cs:(LOW_CODE + real_gdtr - low_start)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $SEL_KCODE32, $return_to_long
    .balign 4
real_idtr:
    .word 0x3ff
    .long 0
real_gdtr:
    .word GDT_SLOTS * 8 - 1
    .long gdt
low_end:

    .code64
    .bss
    .balign 4096
    .fill 8192
    .globl legacy_stack_top
legacy_stack_top:
    .globl host_rsp, current_context
host_rsp:
    .quad 0
current_context:
    .quad 0

    .section .note.GNU-stack, "", @progbits
