/*
 * 32-bit task switches (JMP, CALL, IRET, interrupt and task gates), their faults, NT and backlinks,
 * the I/O map.
 *
 * Intel SDM vol. 3, 7; vol. 1, 18.5.2 (I/O permission bit map); AMD APM vol. 2, 12.
 */
#include "world.h"

enum slot {
    TSS_A = SEL_FREE, /* the task that tests switch to */
    TSS_BUSY = TSS_A + 8,
    TSS_ABSENT = TSS_BUSY + 8,
    TSS_SHORT = TSS_ABSENT + 8,
    GATE_TASK = TSS_SHORT + 8,
    GATE_TASK_USER = GATE_TASK + 8,
    DATA_ABSENT = GATE_TASK_USER + 8,
};

static struct tss32 task;
static u8 task_stack[4096] __attribute__((aligned(16)));
#define TASK_STACK_TOP (ADDRESS(task_stack) + sizeof(task_stack))

CODE32(k_target, "str %ebp\n pushf\n pop %edi\n mov %cr0, %esi" STOP);
CODE32(k_target_iret, "mov $0x31, %ebx\n iret\n" LABEL(k_target_again) "mov $0x42, %ebx" STOP);
CODE32(k_jmp, "ljmp *(%eax)\n" LABEL(k_jmp_after) "mov $5, %ecx" STOP);
CODE32(k_call, "lcall *(%eax)\n" LABEL(k_call_after) "str %ebp\n mov $5, %ecx" STOP);
CODE32(k_int, "int $0x84\n" LABEL(k_int_after) "mov $6, %ecx" STOP);
CODE32(k_ud, "ud2");
CODE32(k_bad_stack, "mov $0xfffffff0, %esp\n mov $0x88000000, %eax\n mov (%eax), %ecx" STOP);
CODE32(k_error, "mov (%esp), %edx\n str %ebp" STOP);
CODE32(k_iret, "iret");
LABEL_OF(k_target_again);
LABEL_OF(k_jmp_after);
LABEL_OF(k_call_after);
LABEL_OF(k_int_after);

static struct __attribute__((packed)) {
    u32 offset;
    u16 selector;
} far_pointer;

static void tables_reset(const u8 *target)
{
    legacy_reset();
    memory_set(&task, 0, sizeof(task));
    task.eip = (u32)ADDRESS(target);
    task.eflags = 2;
    task.eax = 0xa0a0a0a0;
    task.ecx = 0xc0c0c0c0;
    task.edx = 0xd0d0d0d0;
    task.ebx = 0xb0b0b0b0;
    task.esp = (u32)TASK_STACK_TOP;
    task.cs = SEL_KCODE32;
    task.ss = task.ds = task.es = SEL_KDATA;
    task.fs = SEL_UDATA;
    task.esp0 = (u32)ADDRESS(other_stack_top);
    task.ss0 = SEL_KDATA;
    task.io_map = sizeof(task);
    u32 base = (u32)ADDRESS(&task);
    gdt[TSS_A / 8] = segment(base, sizeof(task) - 1, 0x0089);
    gdt[TSS_BUSY / 8] = segment(base, sizeof(task) - 1, 0x008b);
    gdt[TSS_ABSENT / 8] = segment(base, sizeof(task) - 1, 0x0009);
    gdt[TSS_SHORT / 8] = segment(base, 0x66, 0x0089);
    gdt[GATE_TASK / 8] = legacy_gate(TSS_A, 0, 0x85);
    gdt[GATE_TASK_USER / 8] = legacy_gate(TSS_A, 0, 0xe5);
    gdt[DATA_ABSENT / 8] = segment(0, 0xfffff, 0xc013);
}

static struct context switch_run(const u8 *code, u16 selector)
{
    struct context c = context_legacy(code);
    far_pointer.selector = selector;
    c.rax = ADDRESS(&far_pointer);
    c.rdx = 0x1234;
    world_legacy(&c);
    return c;
}

static u64 busy(u16 selector)
{
    return gdt[selector / 8] >> 41 & 1;
}

static void test_switches(void)
{
    part("task switch");
    tables_reset(k_target);
    struct context c = switch_run(k_jmp, TSS_A);
    CHECK_STOP("JMP", &c);
    CHECK("EAX of the new task", c.rax, 0xa0a0a0a0);
    CHECK("EBX", c.rbx, 0xb0b0b0b0);
    CHECK("ESP", c.rsp, TASK_STACK_TOP);
    CHECK("FS", c.fs & 0xffff, SEL_UDATA);
    CHECK("TR", c.rbp & 0xffff, TSS_A);
    CHECK("NT stays clear", c.rdi & FLAG_NT, 0);
    CHECK("CR0.TS is set", c.rsi & CR0_TS, CR0_TS);
    CHECK("the new task is busy", busy(TSS_A), 1);
    CHECK("the old one no longer", busy(SEL_TSS32), 0);
    CHECK("old EIP saved", tss32.eip, ADDRESS(k_jmp_after));
    CHECK("old EDX saved", tss32.edx, 0x1234);
    CHECK("old ESP saved", tss32.esp, ADDRESS(test_stack_top));
    CHECK("old CS saved", tss32.cs & 0xffff, SEL_KCODE32);
    CHECK("no backlink", task.link, 0);

    tables_reset(k_target);
    c = switch_run(k_call, TSS_A);
    CHECK_STOP("CALL", &c);
    CHECK("NT is set", c.rdi & FLAG_NT, FLAG_NT);
    CHECK("backlink", task.link & 0xffff, SEL_TSS32);
    CHECK("the old task stays busy", busy(SEL_TSS32), 1);
    CHECK("the new one is busy", busy(TSS_A), 1);
    CHECK("old EIP saved", tss32.eip, ADDRESS(k_call_after));

    tables_reset(k_target_iret);
    c = switch_run(k_call, TSS_A);
    CHECK_STOP("CALL, then IRET", &c);
    CHECK("back in the first task", c.rcx, 5);
    CHECK("TR", c.rbp & 0xffff, SEL_TSS32);
    CHECK("the second is free", busy(TSS_A), 0);
    CHECK("the first is busy", busy(SEL_TSS32), 1);
    CHECK("the second's EIP is after its IRET", task.eip, ADDRESS(k_target_again));
    CHECK("the second's EBX", task.ebx, 0x31);
    CHECK("NT is clear in its image", task.eflags & FLAG_NT, 0);

    tables_reset(k_target);
    c = switch_run(k_jmp, GATE_TASK);
    CHECK_STOP("JMP by a task gate", &c);
    CHECK("TR", c.rbp & 0xffff, TSS_A);
    tables_reset(k_target);
    task.cs = SEL_UCODE32;
    task.ss = task.ds = task.es = SEL_UDATA;
    c = switch_run(k_jmp, TSS_A);
    CHECK_VECTOR("to a task at ring 3, which may not read CR0", &c, GP, 0);
    CHECK("CPL", c.cs & 3, 3);
}

static void test_interrupt_gates(void)
{
    part("task gates in the IDT");
    tables_reset(k_target);
    legacy_idt[0x84] = legacy_gate(TSS_A, 0, 0xe5);
    struct context c = context_legacy(k_int);
    world_legacy(&c);
    CHECK_STOP("INT n", &c);
    CHECK("TR", c.rbp & 0xffff, TSS_A);
    CHECK("NT", c.rdi & FLAG_NT, FLAG_NT);
    CHECK("backlink", task.link & 0xffff, SEL_TSS32);
    CHECK("old EIP", tss32.eip, ADDRESS(k_int_after));
    CHECK("nothing pushed", c.rsp, TASK_STACK_TOP);
    tables_reset(k_target_iret);
    legacy_idt[0x84] = legacy_gate(TSS_A, 0, 0xe5);
    c = context_legacy(k_int);
    world_legacy(&c);
    CHECK("IRET from it goes on", c.rcx, 6);
    tables_reset(k_target);
    legacy_idt[UD] = legacy_gate(TSS_A, 0, 0x85);
    c = context_legacy_user(k_ud);
    world_legacy(&c);
    CHECK_STOP("#UD at ring 3 by a task gate", &c);
    CHECK("old EIP is the fault's", tss32.eip, ADDRESS(k_ud));
    CHECK("old CS", tss32.cs & 0xffff, SEL_UCODE32);
    tables_reset(k_error);
    legacy_idt[GP] = legacy_gate(TSS_A, 0, 0x85);
    c = switch_run(k_jmp, 0xfff8);
    CHECK_STOP("#GP by a task gate", &c);
    CHECK("error code on the new stack", c.rdx, 0xfff8);
    CHECK("ESP", c.rsp, TASK_STACK_TOP - 4);
    part("double fault");
    tables_reset(k_error);
    legacy_idt[DF] = legacy_gate(TSS_A, 0, 0x85);
    legacy_idt[UD] = 0;
    legacy_idt[NP] = 0;
    legacy_idt[GP] = 0;
    c = context_legacy(k_ud);
    world_legacy(&c);
    CHECK_STOP("no gates: the double fault's task", &c);
    CHECK("error code 0", c.rdx, 0);
    CHECK("TR", c.rbp & 0xffff, TSS_A);
    legacy_reset();
}

static void check_switch_fault(const char *what, u16 selector, u64 vector, u64 error)
{
    struct context c = switch_run(k_jmp, selector);
    CHECK_TRAP(what, &c, vector, error, ADDRESS(k_jmp));
}

/* The T bit of a TSS: a debug exception before the task's first instruction, DR6.BT set. */
static void test_debug_trap(void)
{
    part("T bit of the TSS");
    tables_reset(k_target);
    task.trap = 1;
    dr6_set(0xffff0ff0);
    struct context c = switch_run(k_jmp, TSS_A);
    tcg_wrong_begin("TCG ignores the T bit");
    CHECK_TRAP("JMP to it", &c, DB, NO_ERROR, ADDRESS(k_target));
    CHECK("DR6.BT", dr6_get() & 0xe00f, 0x8000);
    tcg_wrong_end();
    dr6_set(0xffff0ff0);
    legacy_reset();
}

static void test_faults_before(void)
{
    part("faults before the switch");
    tables_reset(k_target);
    check_switch_fault("busy", TSS_BUSY, GP, TSS_BUSY);
    check_switch_fault("not present", TSS_ABSENT, NP, TSS_ABSENT);
    check_switch_fault("limit below 0x67", TSS_SHORT, TS, TSS_SHORT);
    tables_reset(k_target);
    struct context c = context_legacy_user(k_jmp);
    far_pointer.selector = TSS_A;
    c.rax = ADDRESS(&far_pointer);
    world_legacy(&c);
    CHECK_TRAP("DPL 0 from ring 3", &c, GP, TSS_A, ADDRESS(k_jmp));
    far_pointer.selector = GATE_TASK;
    c = context_legacy_user(k_jmp);
    c.rax = ADDRESS(&far_pointer);
    world_legacy(&c);
    CHECK_TRAP("task gate, DPL 0 from ring 3", &c, GP, GATE_TASK, ADDRESS(k_jmp));
    tables_reset(k_target);
    far_pointer.selector = GATE_TASK_USER;
    c = context_legacy_user(k_jmp);
    c.rax = ADDRESS(&far_pointer);
    world_legacy(&c);
    CHECK_STOP("task gate, DPL 3 from ring 3", &c);
    legacy_reset();
}

static void test_faults_after(void)
{
    static const struct {
        const char *what;
        u32 cs, ss, ds, ldt;
        u64 vector, error;
    } cases[] = {
        {"CS null", 0, SEL_KDATA, SEL_KDATA, 0, TS, 0},
        {"CS data", SEL_KDATA, SEL_KDATA, SEL_KDATA, 0, TS, SEL_KDATA},
        {"SS of another ring", SEL_KCODE32, SEL_UDATA, SEL_KDATA, 0, TS, SEL_UDATA & ~3u},
        {"SS read only", SEL_KCODE32, SEL_KCODE32, SEL_KDATA, 0, TS, SEL_KCODE32},
        {"DS not present", SEL_KCODE32, SEL_KDATA, DATA_ABSENT, 0, NP, DATA_ABSENT},
        {"DS a TSS", SEL_KCODE32, SEL_KDATA, SEL_TSS32, 0, TS, SEL_TSS32},
        {"LDT is data", SEL_KCODE32, SEL_KDATA, SEL_KDATA, SEL_KDATA, TS, SEL_KDATA},
    };
    part("faults after the switch");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        /* The fault comes in the new task, whose stack may not be loaded: by a task gate back to a
         * third TSS. */
        static struct tss32 rescue;
        tables_reset(k_target);
        memory_copy(&rescue, &task, sizeof(task));
        rescue.eip = (u32)ADDRESS(k_error);
        gdt[TSS_BUSY / 8] = segment((u32)ADDRESS(&rescue), sizeof(rescue) - 1, 0x0089);
        legacy_idt[cases[i].vector] = legacy_gate(TSS_BUSY, 0, 0x85);
        task.cs = cases[i].cs;
        task.ss = cases[i].ss;
        task.ds = cases[i].ds;
        task.ldt = cases[i].ldt;
        task.ebx = 0x77;
        struct context c = switch_run(k_jmp, TSS_A);
        CHECK_STOP(cases[i].what, &c);
        CHECK("error code", c.rdx, cases[i].error);
        CHECK("in the rescue task", c.rbp & 0xffff, TSS_BUSY);
        CHECK("the new task was entered", rescue.link & 0xffff, TSS_A);
        tcg_wrong("TCG saves the EIP of the old task");
        CHECK("its EIP is its first instruction", task.eip, ADDRESS(k_target));
        CHECK("its registers are loaded", task.ebx, 0x77);
    }
    legacy_reset();
}

static void test_iret_nested(void)
{
    part("IRET with NT");
    tables_reset(k_target);
    struct context c = context_legacy(k_iret);
    c.rflags |= FLAG_NT;
    tss32.link = SEL_KDATA;
    legacy_idt[TS] = legacy_gate(TSS_A, 0, 0x85);
    task.eip = (u32)ADDRESS(k_error);
    c.rip = ADDRESS(k_iret);
    world_legacy(&c);
    /* The entry's own IRETD loads NT; the one in the run then takes the backlink. */
    CHECK_STOP("backlink to no TSS", &c);
    CHECK("#TS with the backlink", c.rdx, SEL_KDATA);
    legacy_reset();
}

static void test_inner_stack(void)
{
    part("stack of the inner ring");
    tables_reset(k_error);
    legacy_idt[TS] = legacy_gate(TSS_A, 0, 0x85);
    tss32.ss0 = SEL_UDATA;
    struct context c = context_legacy_user(k_int);
    world_legacy(&c);
    CHECK_STOP("SS0 of another ring", &c);
    CHECK("#TS with SS0", c.rdx & ~1ul, SEL_UDATA & ~3u);
    CHECK("old EIP", tss32.eip, ADDRESS(k_int));
    legacy_reset();
}

/* The 80286's forms (SDM vol. 3, 7.6): a 16-bit TSS, 16-bit interrupt and call gates. */
static u16 task16[22];
CODE16(k_target16, "pushf\n pop %di\n str %bp" STOP);
CODE16(k_frame16, "pop %ax\n pop %bx\n pop %cx\n mov %sp, %dx" STOP);
CODE32(k_int85, "int $0x85" STOP);
CODE32(k_call16, "pushw $0x1111\n pushw $0x2222\n lcall *(%eax)" STOP);
CODE16(k_call16_target, "pop %ax\n pop %bx\n pop %cx\n pop %dx\n pop %di\n pop %si" STOP);

static void test_sixteen(void)
{
    part("16-bit TSS and gates");
    tables_reset(k_target);
    low_code_set(k_target16, k_target16_end);
    gdt[DATA_ABSENT / 8] = segment(LOW_TEST, 0xffff, 0x009b);
    gdt[TSS_BUSY / 8] = segment((u32)ADDRESS(task16), 43, 0x0081);
    static const u16 image[22] = {[8] = 2,
                                  [9] = 0xaaaa,
                                  [10] = 0xcccc,
                                  [11] = 0xdddd,
                                  [12] = 0xbbbb,
                                  [13] = 0x3000,
                                  [15] = 0x5151,
                                  [17] = SEL_KDATA16,
                                  [18] = DATA_ABSENT,
                                  [19] = SEL_KDATA16,
                                  [20] = SEL_KDATA16};
    memory_copy(task16, image, sizeof(image));
    struct context c = switch_run(k_call, TSS_BUSY);
    CHECK_STOP("CALL of a 16-bit TSS", &c);
    CHECK("AX", c.rax & 0xffff, 0xaaaa);
    CHECK("BX", c.rbx & 0xffff, 0xbbbb);
    CHECK("SI", c.rsi & 0xffff, 0x5151);
    CHECK("SP", c.rsp & 0xffff, 0x3000);
    CHECK("CS", c.cs & 0xffff, DATA_ABSENT);
    CHECK("NT", c.rdi & FLAG_NT, FLAG_NT);
    CHECK("TR", c.rbp & 0xffff, TSS_BUSY);
    CHECK("backlink", task16[0], SEL_TSS32);
    CHECK("FS is null", c.fs & 0xffff, 0);
    tables_reset(k_target);
    low_code_set(k_frame16, k_frame16_end);
    gdt[DATA_ABSENT / 8] = segment(LOW_TEST, 0xffff, 0x009b);
    legacy_idt[0x85] = legacy_gate(DATA_ABSENT, 0, 0x86);
    c = context_legacy(k_int85);
    c.rflags |= FLAG_CF;
    world_legacy(&c);
    CHECK_STOP("16-bit interrupt gate", &c);
    CHECK("IP", c.rax & 0xffff, (ADDRESS(k_int85) + 2) & 0xffff);
    CHECK("CS", c.rbx & 0xffff, SEL_KCODE32);
    CHECK("FLAGS", c.rcx & 0xffff, FLAG_ONE | FLAG_CF);
    low_code_set(k_call16_target, k_call16_target_end);
    gdt[GATE_TASK / 8] = legacy_gate(DATA_ABSENT, 0, 0xe4) | 2ul << 32;
    far_pointer.selector = GATE_TASK;
    c = context_legacy_user(k_call16);
    c.rax = ADDRESS(&far_pointer);
    world_legacy(&c);
    CHECK_STOP("16-bit call gate from ring 3", &c);
    CHECK("IP", c.rax & 0xffff, (ADDRESS(k_call16_end) - STOP_LEN) & 0xffff);
    CHECK("CS", c.rbx & 0xffff, SEL_UCODE32);
    CHECK("word 1", c.rcx & 0xffff, 0x2222);
    CHECK("word 2", c.rdx & 0xffff, 0x1111);
    CHECK("SP", c.rdi & 0xffff, (ADDRESS(test_stack_top) - 4) & 0xffff);
    CHECK("SS", c.rsi & 0xffff, SEL_UDATA);
    legacy_reset();
}

CODE32(k_in8, "in %dx, %al" STOP);
CODE32(k_in16, "in %dx, %ax" STOP);
CODE32(k_in32, "in %dx, %eax" STOP);
CODE64(k_in8_long, "in %dx, %al" STOP);

static struct context io_run(const u8 *code, u16 port, u64 iopl)
{
    struct context c = context_legacy_user(code);
    c.rdx = port;
    c.rflags |= FLAG_IOPL(iopl);
    world_legacy(&c);
    return c;
}

static void test_io_map(void)
{
    part("I/O permission");
    legacy_reset();
    struct context c = io_run(k_in8, 0x80, 0);
    CHECK_TRAP("no map", &c, GP, 0, ADDRESS(k_in8));
    c = io_run(k_in8, 0x80, 3);
    CHECK_STOP("IOPL 3", &c);
    tss32.io_map = offsetof(struct tss32, map);
    memory_set(tss32.map, 0xff, sizeof(tss32.map));
    tss32.map[0x10] = 0xf0; /* ports 0x80-0x83 */
    c = io_run(k_in8, 0x80, 0);
    CHECK_STOP("bit clear", &c);
    c = io_run(k_in8, 0x84, 0);
    CHECK_TRAP("bit set", &c, GP, 0, ADDRESS(k_in8));
    c = io_run(k_in32, 0x80, 0);
    CHECK_STOP("four bits clear", &c);
    c = io_run(k_in32, 0x81, 0);
    CHECK_TRAP("one of four set", &c, GP, 0, ADDRESS(k_in32));
    c = io_run(k_in16, 0x82, 0);
    CHECK_STOP("two bits clear", &c);
    tss32.map[0x10] = 0x7f; /* port 0x87 */
    tss32.map[0x11] = 0xfe; /* port 0x88 */
    c = io_run(k_in16, 0x87, 0);
    CHECK_STOP("bits in two bytes", &c);
    c = io_run(k_in16, 0x88, 0);
    CHECK_TRAP("second set", &c, GP, 0, ADDRESS(k_in16));
    tss32.map[0x10] = 0;
    gdt[SEL_TSS32 / 8] = segment((u32)ADDRESS(&tss32), offsetof(struct tss32, map) + 0x10, 0x0089);
    c = io_run(k_in8, 0x80, 0);
    CHECK_TRAP("the byte after the map is beyond the limit", &c, GP, 0, ADDRESS(k_in8));
    legacy_reset();
    part("I/O permission in long mode");
    c = context_user(k_in8_long);
    c.rdx = 0x80;
    world_long(&c);
    CHECK_TRAP("no map", &c, GP, 0, USER(k_in8_long));
    tss64.io_map = offsetof(struct tss64, map);
    memory_set(tss64.map, 0xff, sizeof(tss64.map));
    tss64.map[0x10] = 0xfe;
    c = context_user(k_in8_long);
    c.rdx = 0x80;
    world_long(&c);
    CHECK_STOP("bit clear", &c);
    c = context_user(k_in8_long);
    c.rdx = 0x81;
    world_long(&c);
    CHECK_TRAP("bit set", &c, GP, 0, USER(k_in8_long));
    tss64.io_map = sizeof(tss64);
}

void guest_main(void)
{
    test_switches();
    test_interrupt_gates();
    test_debug_trap();
    test_faults_before();
    test_faults_after();
    test_iret_nested();
    test_inner_stack();
    test_sixteen();
    test_io_map();
}
