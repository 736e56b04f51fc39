/*
 * System registers and instructions: reserved bits, CPUID, XSAVE and FXSAVE, RDTSC and RDPMC, UMIP,
 * LMSW, CLTS, LOCK, MONITOR, privileges.
 *
 * Intel SDM vol. 3, 2.5 (control registers), 13 in vol. 1 (XSAVE), vol. 2 for the instructions.
 */
#include "world.h"

static void test_reserved_bits(u64 cr3, u64 cr4)
{
    CHECK("CR3, bit 62", cr_write_safe(3, cr3 | 1ul << 62), GP);
    CHECK("CR4, bit 15", cr_write_safe(4, cr4 | 1ul << 15), GP);
    CHECK("CR4, bit 63", cr_write_safe(4, cr4 | 1ul << 63), GP);
    if (!has(FEATURE_SMAP))
        CHECK("CR4.SMAP without the feature", cr_write_safe(4, cr4 | CR4_SMAP), GP);
    if (!has(FEATURE_SMEP))
        CHECK("CR4.SMEP without the feature", cr_write_safe(4, cr4 | CR4_SMEP), GP);
    if (!has(FEATURE_PCID))
        CHECK("CR4.PCIDE without the feature", cr_write_safe(4, cr4 | CR4_PCIDE), GP);
    if (!has(FEATURE_LA57))
        CHECK("CR4.LA57 without the feature", cr_write_safe(4, cr4 | 1ul << 12), GP);
    CHECK("CR4 is as before", cr4_get(), cr4);
}

static void test_control(void)
{
    part("control registers");
    u64 cr0 = cr0_get(), cr4 = cr4_get(), cr3 = cr3_get();
    tcg_wrong("TCG ignores the upper half of CR0");
    CHECK("CR0, bit 32", cr_write_safe(0, cr0 | 1ul << 32), GP);
    cr0_set(cr0);
    CHECK("CR0.ET reads as 1", (cr_write_safe(0, cr0 & ~CR0_ET), cr0_get() & CR0_ET), CR0_ET);
    tcg_wrong("TCG does not check NW without CD");
    CHECK("CR0.NW without CD", cr_write_safe(0, (cr0 | 1ul << 29) & ~(1ul << 30)), GP);
    cr0_set(cr0);
    if (on_tcg())
        skip("reserved bits of CR3 and CR4", "TCG hangs or is lost");
    else
        test_reserved_bits(cr3, cr4);
    CHECK("CR8, 15", cr_write_safe(8, 15), STOP_VECTOR);
    CHECK("CR8 reads back", cr8_get(), 15);
    cr8_set(0);
    tcg_wrong("TCG ignores reserved bits of CR8");
    CHECK("CR8, 16", cr_write_safe(8, 16), GP);
    cr8_set(0);
    u64 efer = rdmsr(MSR_EFER);
    CHECK("EFER.LMA", efer & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
    cr2_set(0x8000000012345678);
    CHECK("CR2 takes anything", cr2_get(), 0x8000000012345678);
}

struct system_case {
    const char *what;
    u8 code[8];
    u8 len;
    u64 kernel, user; /* vectors; GP has error code 0 */
    const char *tcg;
};

#define OK STOP_VECTOR

static const struct system_case system_cases[] = {
    {"MOV from CR0", {0x0f, 0x20, 0xc0}, 3, OK, GP},
    {"MOV from CR1", {0x0f, 0x20, 0xc8}, 3, UD, UD, "TCG checks the privilege first"},
    {"MOV from CR5", {0x0f, 0x20, 0xe8}, 3, UD, UD, "TCG checks the privilege first"},
    {"MOV from CR8", {0x44, 0x0f, 0x20, 0xc0}, 4, OK, GP},
    {"MOV from CR9", {0x44, 0x0f, 0x20, 0xc8}, 4, UD, UD, "TCG checks the privilege first"},
    {"MOV from DR0", {0x0f, 0x21, 0xc0}, 3, OK, GP},
    {"CLTS", {0x0f, 0x06}, 2, OK, GP},
    {"INVD is left out; WBINVD", {0x0f, 0x09}, 2, OK, GP},
    {"INVLPG", {0x0f, 0x01, 0x38}, 3, OK, GP},
    {"INVLPG of a register", {0x0f, 0x01, 0xff}, 3, UD, UD},
    {"SIDT of memory", {0x0f, 0x01, 0x0c, 0x24}, 4, OK, OK},
    {"SMSW", {0x0f, 0x01, 0xe0}, 3, OK, OK},
    {"STR", {0x0f, 0x00, 0xc8}, 3, OK, OK},
    {"SLDT", {0x0f, 0x00, 0xc0}, 3, OK, OK},
    {"LLDT 0", {0x31, 0xc0, 0x0f, 0x00, 0xd0}, 5, OK, GP},
    {"RDTSC", {0x0f, 0x31}, 2, OK, OK},
    {"RSM", {0x0f, 0xaa}, 2, UD, UD},
    {"CLI", {0xfa}, 1, OK, GP},
    {"UD0", {0x0f, 0xff, 0xc0}, 3, UD, UD},
    {"LOCK NOP", {0xf0, 0x90}, 2, UD, UD},
    {"LOCK ADD to a register", {0xf0, 0x01, 0xc0}, 3, UD, UD},
    {"LOCK ADD to memory", {0xf0, 0x83, 0x04, 0x24, 0}, 5, OK, OK},
    {"LOCK MOV to memory", {0xf0, 0x89, 0x04, 0x24}, 4, UD, UD, "TCG takes it"},
    {"LOCK CMP to memory", {0xf0, 0x83, 0x3c, 0x24, 0}, 5, UD, UD},
    {"LOCK ADD from memory", {0xf0, 0x03, 0x04, 0x24}, 4, UD, UD},
    {"LOCK BT", {0xf0, 0x0f, 0xba, 0x24, 0x24, 0}, 6, UD, UD, "TCG takes it"},
    {"LOCK BTS", {0xf0, 0x0f, 0xba, 0x2c, 0x24, 0}, 6, OK, OK},
    {"LOCK NEG", {0xf0, 0xf7, 0x1c, 0x24}, 4, OK, OK},
    {"LOCK TEST", {0xf0, 0xf7, 0x04, 0x24, 0, 0, 0, 0}, 8, UD, UD, "TCG takes it"},
    {"LOCK SHL", {0xf0, 0xd1, 0x24, 0x24}, 4, UD, UD, "TCG takes it"},
    {"XCHG with LOCK", {0xf0, 0x87, 0x04, 0x24}, 4, OK, OK},
    {"CMPXCHG8B of a register", {0x0f, 0xc7, 0xc8}, 3, UD, UD},
    {"LEA of a register", {0x8d, 0xc0}, 2, UD, UD},
    {"MOV to CS", {0x8e, 0xc8}, 2, UD, UD},
    {"MOV to segment 6", {0x8e, 0xf0}, 2, UD, UD},
    {"MOV from segment 7", {0x8c, 0xf8}, 2, UD, UD},
    {"JMP far to a register", {0xff, 0xe8}, 2, UD, UD},
    {"group 5, 7", {0xff, 0xf8}, 2, UD, UD},
    {"group 4, 2", {0xfe, 0xd0}, 2, UD, UD},
    {"group 1A, 1", {0x8f, 0xc8}, 2, UD, UD, "TCG takes it"},
    {"group 11, 1", {0xc7, 0xc8, 0, 0, 0, 0}, 6, UD, UD, "TCG takes it"},
    {"VMCALL and the like, undefined form", {0x0f, 0x01, 0xc5}, 3, UD, UD},
    {"PAUSE", {0xf3, 0x90}, 2, OK, OK},
    {"ENDBR64 is a NOP", {0xf3, 0x0f, 0x1e, 0xfa}, 4, OK, OK},
    {"long NOP", {0x0f, 0x1f, 0x44, 0, 0}, 5, OK, OK},
    {"PREFETCHW", {0x0f, 0x0d, 0x0c, 0x24}, 4, OK, OK},
};

static void test_instructions(void)
{
    part("instructions");
    for (size_t i = 0; i < sizeof(system_cases) / sizeof(system_cases[0]); i++) {
        const struct system_case *t = &system_cases[i];
        scratch_set(t->code, t->len);
        if (t->tcg)
            tcg_wrong_begin(t->tcg);
        struct context c = context_kernel(scratch_code);
        c.rsp -= 64;
        c.rax = ADDRESS(test_stack_top) - 64;
        world_long(&c);
        CHECK_VECTOR(t->what, &c, t->kernel, t->kernel == GP ? 0 : NO_ERROR);
        c = context_user(scratch_code);
        c.rsp -= 64;
        c.rax = USER(test_stack_top) - 64;
        world_long(&c);
        CHECK_VECTOR(t->what, &c, t->user, t->user == GP ? 0 : NO_ERROR);
        tcg_wrong_end();
    }
    if (!has(FEATURE_MONITOR)) {
        SCRATCH(0x0f, 0x01, 0xc8);
        CHECK("MONITOR without the feature", run_kernel(scratch_code).vector, UD);
        SCRATCH(0x0f, 0x01, 0xc9);
        CHECK("MWAIT without the feature", run_kernel(scratch_code).vector, UD);
    }
}

CODE64(s_rdtscp, "rdtscp" STOP);
CODE64(s_rdtsc, "rdtsc" STOP);
CODE64(s_rdpmc, "xor %ecx, %ecx\n rdpmc" STOP);
CODE64(s_rdpid, ".byte 0xf3, 0x0f, 0xc7, 0xf8" STOP);

static void test_time(void)
{
    part("RDTSC, RDTSCP, RDPMC");
    u64 cr4 = cr4_get();
    if (has(FEATURE_RDTSCP)) {
        wrmsr(MSR_TSC_AUX, 0x1234);
        struct context c = run_user(s_rdtscp);
        CHECK_STOP("RDTSCP", &c);
        CHECK("TSC_AUX", c.rcx, 0x1234);
        CHECK("32-bit halves", (c.rax | c.rdx) >> 32, 0);
        if (has(FEATURE_RDPID)) {
            c = run_user(s_rdpid);
            CHECK("RDPID", c.rax, 0x1234);
        }
    }
    cr4_set(cr4 | CR4_TSD);
    struct context c = run_user(s_rdtsc);
    CHECK_TRAP("RDTSC with TSD at ring 3", &c, GP, 0, USER(s_rdtsc));
    c = run_kernel(s_rdtsc);
    CHECK_STOP("RDTSC with TSD at ring 0", &c);
    if (has(FEATURE_RDTSCP)) {
        c = run_user(s_rdtscp);
        CHECK_TRAP("RDTSCP with TSD at ring 3", &c, GP, 0, USER(s_rdtscp));
    }
    cr4_set(cr4 & ~CR4_PCE);
    c = run_user(s_rdpmc);
    CHECK_TRAP("RDPMC at ring 3 without PCE", &c, GP, 0, USER(s_rdpmc) + 2);
    cr4_set(cr4);
    u64 before = rdtsc(), value;
    CHECK("TSC by RDMSR", rdmsr_safe(0x10, &value), STOP_VECTOR);
    tcg_wrong("TCG reads its offset only");
    CHECK("agrees with RDTSC", value >= before && value - before < 1ul << 40, true);
}

static void test_umip(void)
{
    static const u8 codes[5][4] = {{0x0f, 0x01, 0x04, 0x24},
                                   {0x0f, 0x01, 0x0c, 0x24},
                                   {0x0f, 0x00, 0xc0, 0x90},
                                   {0x0f, 0x00, 0xc8, 0x90},
                                   {0x0f, 0x01, 0xe0, 0x90}};
    static const char *const names[5] = {"SGDT", "SIDT", "SLDT", "STR", "SMSW"};
    part("UMIP");
    if (!has(FEATURE_UMIP)) {
        skip("UMIP", "CPUID does not show it");
        return;
    }
    cr4_set(cr4_get() | CR4_UMIP);
    for (int i = 0; i < 5; i++) {
        scratch_set(codes[i], 4);
        struct context c = context_user(scratch_code);
        c.rsp -= 64;
        world_long(&c);
        CHECK_TRAP(names[i], &c, GP, 0, USER(scratch_code));
        c = context_kernel(scratch_code);
        c.rsp -= 64;
        world_long(&c);
        CHECK_STOP(names[i], &c);
    }
    cr4_set(cr4_get() & ~CR4_UMIP);
}

CODE64(s_stac, "stac\n pushfq\n pop %rax\n clac\n pushfq\n pop %rcx" STOP);

static void test_stac(void)
{
    part("STAC and CLAC");
    if (!has(FEATURE_SMAP)) {
        skip("STAC and CLAC", "CPUID does not show SMAP");
        return;
    }
    struct context c = run_kernel(s_stac);
    CHECK_STOP("at ring 0", &c);
    CHECK("STAC", c.rax & FLAG_AC, FLAG_AC);
    CHECK("CLAC", c.rcx & FLAG_AC, 0);
    c = run_user(s_stac);
    CHECK_TRAP("at ring 3", &c, UD, NO_ERROR, USER(s_stac));
}

CODE64(s_lmsw, "lmsw %ax\n smsw %ecx\n lmsw %dx" STOP);
CODE64(s_clts, "mov %cr0, %rax\n or $8, %rax\n mov %rax, %cr0\n clts\n mov %cr0, %rax" STOP);

static void test_machine_status(void)
{
    part("LMSW, SMSW, CLTS");
    struct context c = context_kernel(s_lmsw);
    u64 cr0 = cr0_get();
    c.rax = CR0_TS; /* PE is not cleared by LMSW */
    c.rdx = cr0 & 0xf;
    world_long(&c);
    CHECK_STOP("LMSW", &c);
    CHECK("PE stays, TS set", c.rcx & 0xf, CR0_PE | CR0_TS);
    CHECK("SMSW r32 gives all of CR0", c.rcx & CR0_PG, CR0_PG);
    cr0_set(cr0);
    c = run_kernel(s_clts);
    CHECK("CLTS", c.rax & CR0_TS, 0);
}

/* SDM vol. 3, 11.11.2 and 11.12.2: reserved bits and memory types. */
static void test_memory_types(void)
{
    static const struct {
        const char *what;
        u32 msr;
        u64 value;
    } cases[] = {
        {"PAT, type 2", 0x277, 0x0007040600070402},
        {"PAT, bit 63", 0x277, 0x8007040600070406},
        {"default type 2", 0x2ff, 0xc02},
        {"default type 7, which only the PAT has", 0x2ff, 0xc07},
        {"default type, bit 9", 0x2ff, 0xe06},
        {"default type, bit 32", 0x2ff, 0x100000c06},
        {"fixed range, type 3", 0x250, 0x0606060606030606},
        {"fixed range, type 7", 0x26f, 0x0706060606060606},
        {"variable base, type 2", 0x200, 0xc0000002},
        {"variable base, bit 8", 0x200, 0xc0000100},
        {"variable base, bit 63", 0x200, 0x80000000c0000000},
        {"variable mask, bit 10", 0x201, 0xffc000400},
        {"variable mask, bit 63", 0x201, 0x8000000fc0000800},
        {"IA32_MTRRCAP is read-only", 0xfe, 0},
    };
    part("memory types");
    for (u64 i = 0; i < sizeof cases / sizeof *cases; i++) {
        u64 before = rdmsr(cases[i].msr);
        tcg_wrong("TCG takes any value");
        CHECK(cases[i].what, wrmsr_safe(cases[i].msr, cases[i].value), GP);
        if (!on_tcg())
            CHECK("unchanged", rdmsr(cases[i].msr), before);
        else
            wrmsr(cases[i].msr, before);
    }
    u64 base = rdmsr(0x200), mask = rdmsr(0x201);
    CHECK("variable base", wrmsr_safe(0x200, 0xc0000001), STOP_VECTOR);
    CHECK("variable mask", wrmsr_safe(0x201, 0xfc0000000), STOP_VECTOR);
    CHECK("reads back", rdmsr(0x200), 0xc0000001);
    wrmsr(0x200, base);
    wrmsr(0x201, mask);
}

static void test_cpuid(void)
{
    part("CPUID");
    struct cpuid max = cpuid(0, 0), one = cpuid(1, 0), ext = cpuid(0x80000000, 0);
    CHECK("leaf 1 and more", max.eax >= 1, true);
    CHECK("extended leaf 0x80000008", ext.eax >= 0x80000008, true);
    static const u8 base[] = {
        0, 3, 4, 5, 6, 8, 15, 23, 24, 25, 26}; /* FPU PSE TSC MSR PAE CX8 CMOV MMX FXSR SSE SSE2 */
    for (size_t i = 0; i < sizeof(base); i++)
        CHECK("bits of x86-64", one.edx >> base[i] & 1, 1);
    CHECK("long mode", cpuid(0x80000001, 0).edx >> 29 & 1, 1);
    u64 cr4 = cr4_get();
    if (has(FEATURE_XSAVE)) {
        cr4_set(cr4 | CR4_OSXSAVE);
        CHECK("OSXSAVE follows CR4, on", cpuid(1, 0).ecx >> 27 & 1, 1);
        cr4_set(cr4 & ~CR4_OSXSAVE);
        CHECK("OSXSAVE follows CR4, off", cpuid(1, 0).ecx >> 27 & 1, 0);
        cr4_set(cr4);
    }
    u64 bits = cpuid(0x80000008, 0).eax;
    CHECK("physical address width", (bits & 0xff) >= 36 && (bits & 0xff) <= 52, true);
    CHECK("linear address width", (bits >> 8 & 0xff) == 48 || (bits >> 8 & 0xff) == 57, true);
}

static u8 area[8192] __attribute__((aligned(64)));
static u8 other[8192] __attribute__((aligned(64)));

CODE64(x_fxsave, "fninit\n fld1\n fldz\n mov $0x1122334455667788, %rax\n movq %rax, %xmm5\n movq "
                 "%rax, %xmm15\n fxsave (%rdi)" STOP);
CODE64(x_fxsave64, "fxsave64 (%rdi)" STOP);
CODE64(x_fxrstor, "fxrstor (%rdi)\n movq %xmm5, %rax\n fnstsw %ax\n mov %eax, %ecx\n movq %xmm5, "
                  "%rax\n fnstcw (%rsi)" STOP);
CODE64(x_fxsave_again, "fxsave (%rdi)\n mov $0x600d, %eax" STOP);
CODE64(x_fxrstor_only, "fxrstor (%rdi)" STOP);
CODE64(x_xsave, "xsave (%rdi)" STOP);
CODE64(x_xsaveopt, "xsaveopt (%rdi)" STOP);
CODE64(x_xrstor, "xrstor (%rdi)\n movq %xmm5, %rcx" STOP);
CODE64(x_ymm_set, "mov $0x0102030405060708, %rax\n movq %rax, %xmm5\n vmovq %rax, %xmm6\n "
                  "vinsertf128 $1, %xmm6, %ymm5, %ymm5" STOP);
CODE64(x_ymm_get, "vextractf128 $1, %ymm5, %xmm6\n vmovq %xmm6, %rax\n vmovq %xmm5, %rcx" STOP);
CODE64(x_vex_upper, "vmovq %xmm5, %xmm5\n vextractf128 $1, %ymm5, %xmm6\n vmovq %xmm6, %rax" STOP);
CODE64(x_xgetbv, "xgetbv" STOP);

static struct context run_area(const u8 *code, u64 at, u64 mask)
{
    struct context c = context_kernel(code);
    c.rdi = at;
    c.rsi = ADDRESS(other);
    c.rax = (u32)mask;
    c.rdx = mask >> 32;
    world_long(&c);
    return c;
}

static void test_fxsave(void)
{
    part("FXSAVE");
    cr0_set((cr0_get() | CR0_MP | CR0_NE) & ~(CR0_EM | CR0_TS));
    cr4_set(cr4_get() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    memory_set(area, 0xee, 512);
    struct context c = run_area(x_fxsave, ADDRESS(area), 0);
    CHECK_STOP("FXSAVE", &c);
    CHECK("control word", *(u16 *)area, 0x37f);
    CHECK("status word: top 6", *(u16 *)(area + 2), 0x3000);
    CHECK("abridged tag word", area[4], 0xc0);
    CHECK("MXCSR", *(u32 *)(area + 24), 0x1f80);
    CHECK("ST0 is 0", *(u64 *)(area + 32), 0);
    CHECK("ST1 is 1", *(u64 *)(area + 48), 0x8000000000000000);
    CHECK("its exponent", *(u16 *)(area + 56), 0x3fff);
    CHECK("XMM5", *(u64 *)(area + 160 + 80), 0x1122334455667788);
    CHECK("XMM15", *(u64 *)(area + 160 + 240), 0x1122334455667788);
    CHECK("the software's bytes stay", *(u64 *)(area + 464), 0xeeeeeeeeeeeeeeee);
    *(u64 *)(area + 160 + 80) = 0x55aa;
    *(u16 *)area = 0x27f;
    c = run_area(x_fxrstor, ADDRESS(area), 0);
    CHECK_STOP("FXRSTOR", &c);
    CHECK("XMM5", c.rax, 0x55aa);
    CHECK("status word", c.rcx & 0xffff, 0x3000);
    CHECK("control word", *(u16 *)other, 0x27f);
    c = run_area(x_fxsave64, ADDRESS(area) + 8, 0);
    tcg_wrong("TCG does not check the alignment");
    CHECK_TRAP("misaligned", &c, GP, 0, ADDRESS(x_fxsave64));
    *(u32 *)(area + 24) = 0x80001f80;
    c = run_area(x_fxrstor, ADDRESS(area), 0);
    tcg_wrong("TCG takes reserved bits of MXCSR");
    CHECK_TRAP("reserved bit of MXCSR", &c, GP, 0, ADDRESS(x_fxrstor));
}

static void test_xcr0(void)
{
    part("XCR0");
    CHECK("XSETBV without OSXSAVE", xsetbv_safe(0, 3), UD);
    cr4_set(cr4_get() | CR4_OSXSAVE);
    CHECK("x87 cleared", xsetbv_safe(0, 2), GP);
    CHECK("YMM without XMM", xsetbv_safe(0, 5), GP);
    CHECK("reserved bit", xsetbv_safe(0, 3 | 1ul << 62), GP);
    CHECK("bit 63", xsetbv_safe(0, 3 | 1ul << 63), GP);
    CHECK("XCR1", xsetbv_safe(1, 3), GP);
    CHECK("x87 and SSE", xsetbv_safe(0, 3), STOP_VECTOR);
    struct context c = context_user(x_xgetbv);
    world_long(&c);
    CHECK("XGETBV", c.rax, 3);
    CHECK("size of what is enabled", cpuid(13, 0).ebx, 576);
    if (has(FEATURE_AVX)) {
        c = run_kernel(x_ymm_set);
        CHECK_VECTOR("AVX without XCR0", &c, UD, NO_ERROR);
        CHECK("with AVX", xsetbv_safe(0, 7), STOP_VECTOR);
        CHECK("size with YMM", cpuid(13, 0).ebx, cpuid(13, 2).ebx + 256);
    }
    u32 allowed = cpuid(13, 0).eax;
    CHECK("x87 and SSE are allowed", allowed & 3, 3);
}

static void test_xsave(void)
{
    part("XSAVE");
    bool avx = has(FEATURE_AVX);
    u32 ymm = cpuid(13, 2).ebx;
    memory_set(area, 0, sizeof(area));
    struct context c;
    if (avx) {
        c = run_kernel(x_ymm_set);
        CHECK_STOP("YMM5", &c);
    }
    c = run_area(x_xsave, ADDRESS(area), ~0ul);
    CHECK_STOP("XSAVE", &c);
    CHECK("XSTATE_BV, SSE", area[512] & 2, 2);
    if (avx) {
        CHECK("XSTATE_BV, YMM", area[512] & 4, 4);
        CHECK("XMM5", *(u64 *)(area + 160 + 80), 0x0102030405060708);
        CHECK("upper half of YMM5", *(u64 *)(area + ymm + 80), 0x0102030405060708);
        memory_copy(other, area, sizeof(area));
        *(u64 *)(area + ymm + 80) = 0x99;
        c = run_area(x_xrstor, ADDRESS(area), 7);
        CHECK_STOP("XRSTOR", &c);
        c = run_kernel(x_ymm_get);
        CHECK("upper half", c.rax, 0x99);
        CHECK("lower half", c.rcx, 0x0102030405060708);
        area[512] = 3; /* YMM in its initial state */
        run_area(x_xrstor, ADDRESS(area), 7);
        c = run_kernel(x_ymm_get);
        CHECK("initial state by XSTATE_BV", c.rax, 0);
        area[512] = 7;
        run_area(x_xrstor, ADDRESS(area), 7);
        area[512] = 0;
        run_area(x_xrstor, ADDRESS(area), 3); /* not asked for YMM */
        c = run_kernel(x_ymm_get);
        CHECK("not in the mask: unchanged", c.rax, 0x99);
        c = run_kernel(x_vex_upper);
        CHECK("VEX of 128 bits clears the upper half", c.rax, 0);
    }
    memory_copy(area, other, avx ? sizeof(area) : 0);
    area[512 + 8] = 1;
    c = run_area(x_xrstor, ADDRESS(area), 7);
    CHECK_TRAP("XCOMP_BV without compaction", &c, GP, 0, ADDRESS(x_xrstor));
    area[512 + 8] = 0;
    area[512 + 7] = 0x40;
    c = run_area(x_xrstor, ADDRESS(area), 7);
    CHECK_TRAP("XSTATE_BV beyond XCR0", &c, GP, 0, ADDRESS(x_xrstor));
    area[512 + 7] = 0;
    c = run_area(x_xsave, ADDRESS(area) + 16, 7);
    tcg_wrong("TCG does not check the alignment");
    CHECK_TRAP("XSAVE misaligned", &c, GP, 0, ADDRESS(x_xsave));
    if (has(FEATURE_XSAVEOPT)) {
        memory_set(other, 0, sizeof(other));
        c = run_area(x_xsaveopt, ADDRESS(other), 2);
        CHECK_STOP("XSAVEOPT", &c);
        CHECK("only what was asked for", other[512] & ~2, 0);
    }
    memory_set(area, 0x77, 8192);
    memory_set(area + 512, 0, 64);
    c = run_area(x_xsave, ADDRESS(area), 0);
    CHECK("empty mask stores no state", area[160], 0x77);
    cr4_set(cr4_get() & ~CR4_OSXSAVE);
    c = run_area(x_xsave, ADDRESS(area), 7);
    CHECK_TRAP("XSAVE without OSXSAVE", &c, UD, NO_ERROR, ADDRESS(x_xsave));
    cr4_set(cr4_get() | CR4_OSXSAVE);
    cr0_set(cr0_get() | CR0_TS);
    c = run_area(x_xsave, ADDRESS(area), 7);
    tcg_wrong("TCG does not check TS");
    CHECK_TRAP("XSAVE with TS", &c, NM, NO_ERROR, ADDRESS(x_xsave));
    cr0_set(cr0_get() & ~CR0_TS);
}

/* PCI Express space of a bus that is not there: reads give ones, writes vanish. */
#define MMIO_HOLE 0xe0f00000ul

/* The instructions that touch a device most often run to their end. */
static void test_mmio(void)
{
    part("FXSAVE and XSAVE to devices");
    struct context c = run_area(x_fxsave_again, MMIO_HOLE, 0);
    CHECK_STOP("FXSAVE", &c);
    CHECK("goes on", c.rax, 0x600d);
    c = run_area(x_fxsave_again, MMIO_HOLE + 0x1000 - 256, 0);
    CHECK_STOP("FXSAVE over two pages", &c);
    c = run_area(x_fxrstor_only, MMIO_HOLE, 0);
    tcg_wrong("TCG takes reserved bits of MXCSR");
    CHECK_TRAP("FXRSTOR of ones", &c, GP, 0, ADDRESS(x_fxrstor_only));
    if (!has(FEATURE_XSAVE))
        return;
    xsetbv_safe(0, cpuid(13, 0).eax);
    c = run_area(x_xsave, MMIO_HOLE, ~0ul);
    CHECK_STOP("XSAVE of everything", &c);
    c = run_area(x_xrstor, MMIO_HOLE, ~0ul);
    CHECK_TRAP("XRSTOR of ones", &c, GP, 0, ADDRESS(x_xrstor));
    xsetbv_safe(0, cpuid(13, 0).eax & 7);
}

CODE64(x_xsavec, "xsavec (%rdi)" STOP);
CODE64(x_xgetbv1, "mov $1, %ecx\n xgetbv" STOP);

/* The compacted form, SDM vol. 1, 13.4.3. */
static void test_xsavec(void)
{
    part("XSAVEC");
    if (!has(FEATURE_XSAVEC) || !has(FEATURE_AVX)) {
        skip("XSAVEC", "CPUID does not show it");
        return;
    }
    xsetbv_safe(0, 7);
    run_kernel(x_ymm_set);
    memory_set(area, 0x66, sizeof(area));
    struct context c = run_area(x_xsavec, ADDRESS(area), 6);
    CHECK_STOP("XSAVEC", &c);
    CHECK("XCOMP_BV", *(u64 *)(area + 520), 1ul << 63 | 6);
    CHECK("XSTATE_BV has no x87", *(u64 *)(area + 512) & 1, 0);
    CHECK("upper half of YMM5 right after the header", *(u64 *)(area + 576 + 80),
          0x0102030405060708);
    CHECK("x87's part is untouched", *(u64 *)(area + 32), 0x6666666666666666);
    *(u64 *)(area + 576 + 80) = 0x98;
    c = run_area(x_xrstor, ADDRESS(area), 6);
    CHECK_TRAP("XRSTOR, reserved bytes of the header not 0", &c, GP, 0, ADDRESS(x_xrstor));
    memory_set(area + 528, 0, 48);
    c = run_area(x_xrstor, ADDRESS(area), 6);
    CHECK_STOP("XRSTOR of the compacted form", &c);
    c = run_kernel(x_ymm_get);
    CHECK("upper half", c.rax, 0x98);
    *(u64 *)(area + 520) = 1ul << 63 | 2;
    c = run_area(x_xrstor, ADDRESS(area), 6);
    CHECK_TRAP("XSTATE_BV beyond XCOMP_BV", &c, GP, 0, ADDRESS(x_xrstor));
    if (cpuid(13, 1).eax & 4) {
        run_kernel(x_ymm_set);
        c = run_kernel(x_xgetbv1);
        CHECK_STOP("XGETBV of 1", &c);
        CHECK("YMM is in use", c.rax & 4, 4);
    }
}

void guest_main(void)
{
    test_control();
    test_memory_types();
    test_cpuid();
    test_instructions();
    test_time();
    test_umip();
    test_stac();
    test_machine_status();
    test_fxsave();
    if (has(FEATURE_XSAVE)) {
        test_xcr0();
        test_xsave();
        test_xsavec();
    } else {
        skip("XSAVE", "CPUID does not show it");
    }
    test_mmio();
}
