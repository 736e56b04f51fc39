/*
 * Paging in long mode and in the two legacy forms: permissions, reserved bits, error codes,
 * accessed and dirty bits, page sizes, accesses across two pages, invalidation.
 *
 * Intel SDM vol. 3, 4; the tables of table entries are 4-4 to 4-20, the error code is 4.7.
 */
#include "pages.h"
#include "world.h"

#define ERROR_P    1u
#define ERROR_W    2u
#define ERROR_U    4u
#define ERROR_RSVD 8u
#define ERROR_I    16u
#define ERROR_PK   32u

static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 test_pt[512] __attribute__((aligned(4096)));
static u64 end_tables[3][512] __attribute__((aligned(4096)));
static u8 frames[3][4096] __attribute__((aligned(4096)));
#define USER_END (1ul << 47)
#define VA(page) (TEST_REGION + (page)*0x1000ul)
#define FRAME(n) ADDRESS(frames[n])

CODE64(p_read, "mov (%rax), %rcx" STOP);
CODE64(p_write, "mov %rcx, (%rax)" STOP);
CODE64(p_exec, "jmp *%rax");
CODE64(p_rmw, "lock incl (%rax)" STOP);
CODE64(p_target, "int $0x81\n");
CODE64(p_rdpkru, ".byte 0x0f, 0x01, 0xee" STOP);
CODE64(p_wrpkru, ".byte 0x0f, 0x01, 0xef" STOP);

CODE64(p_gather_begin, "vmovdqu (%rdx), %ymm1\n vpxor %ymm0, %ymm0, %ymm0\n "
                       "vpcmpeqd %ymm2, %ymm2, %ymm2\n p_gather: "
                       "vpgatherdd %ymm2, (%rax,%ymm1,4), %ymm0\n p_vectors_get: "
                       "vmovdqu %ymm0, 32(%rdx)\n vmovdqu %ymm2, 64(%rdx)" STOP);
CODE64(p_masked_store, "vmovdqu (%rdx), %ymm2\n vpmaskmovd %ymm2, %ymm2, (%rax)" STOP);
extern const u8 p_gather[], p_vectors_get[];

enum access { READ, WRITE, EXEC, ACCESSES };
static const char *const access_names[] = {"read", "write", "fetch"};

static void flush(void)
{
    cr3_set(cr3_get());
}

static void tables_reset(void)
{
    memory_set(test_pd, 0, sizeof(test_pd));
    memory_set(test_pt, 0, sizeof(test_pt));
    boot_pdpt[2] = ADDRESS(test_pd) | P | W | U;
    test_pd[0] = ADDRESS(test_pt) | P | W | U;
    for (int i = 0; i < 3; i++)
        memory_set(frames[i], 0x10 * (i + 1), 4096);
    flush();
}

static struct context access_run(enum access access, bool user, u64 address, u64 flags)
{
    static const u8 *const codes[] = {p_read, p_write, p_exec};
    struct context c = user ? context_user(codes[access]) : context_kernel(codes[access]);
    c.rax = address;
    c.rcx = 0x1122334455667788;
    c.rflags |= flags;
    world_long(&c);
    return c;
}

struct rights {
    u64 pte, pde;
    bool wp, smep, smap, ac;
};

/* SDM vol. 3, 4.6.1. */
static bool access_allowed(const struct rights *r, enum access access, bool user)
{
    bool w = r->pte & r->pde & W, u = r->pte & r->pde & U, nx = (r->pte | r->pde) & NX;
    if (user)
        return u && (access == WRITE ? w : access == EXEC ? !nx : true);
    if (access == EXEC)
        return !nx && !(u && r->smep);
    if (u && r->smap && !r->ac)
        return false;
    return access == READ || w || !r->wp;
}

static void check_access(const struct rights *r, enum access access, bool user)
{
    test_pd[0] = ADDRESS(test_pt) | P | r->pde;
    test_pt[0] = FRAME(0) | P | r->pte;
    memory_copy(frames[0], p_target, 2);
    invlpg(VA(0));
    struct context c = access_run(access, user, VA(0), r->ac ? FLAG_AC : 0);
    if (access_allowed(r, access, user)) {
        CHECK(access_names[access], c.vector, STOP_VECTOR);
        CHECK("accessed", test_pt[0] & A, A);
        CHECK("accessed, upper level", test_pd[0] & A, A);
        CHECK("dirty", test_pt[0] & D, access == WRITE ? D : 0);
        return;
    }
    u64 error = ERROR_P | (access == WRITE ? ERROR_W : 0) | (user ? ERROR_U : 0) |
                (access == EXEC ? ERROR_I : 0);
    CHECK_TRAP(access_names[access], &c, PF, error,
               access == EXEC ? VA(0)
               : user         ? USER(access == READ ? p_read : p_write)
                              : ADDRESS(access == READ ? p_read : p_write));
    CHECK("CR2", c.cr2, VA(0));
    CHECK("not dirty", test_pt[0] & D, 0);
}

/* Every combination of the rights in two levels, the control bits and the access. */
static void test_matrix(void)
{
    static const u64 bits[] = {0, W, U, W | U, NX, W | NX, U | NX, W | U | NX};
    u64 cr0 = cr0_get(), cr4 = cr4_get();
    part("permissions");
    tables_reset();
    for (unsigned mode = 0; mode < 16; mode++) {
        struct rights r = {.wp = mode & 1, .smep = mode & 2, .smap = mode & 4, .ac = mode & 8};
        if ((r.smep && !has(FEATURE_SMEP)) || (r.smap && !has(FEATURE_SMAP)))
            continue;
        cr0_set(r.wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        cr4_set((cr4 & ~(CR4_SMEP | CR4_SMAP)) | (r.smep ? CR4_SMEP : 0) | (r.smap ? CR4_SMAP : 0));
        for (unsigned i = 0; i < 64; i++) {
            r.pte = bits[i & 7];
            r.pde = bits[i >> 3];
            for (unsigned j = 0; j < 2 * ACCESSES; j++)
                check_access(&r, j / 2, j & 1);
        }
    }
    cr0_set(cr0);
    cr4_set(cr4);
}

static void check_fault(const char *what, u64 address, enum access access, bool user, u64 error,
                        u64 cr2)
{
    struct context c = access_run(access, user, address, 0);
    CHECK_VECTOR(what, &c, PF, error);
    CHECK("CR2", c.cr2, cr2);
}

static u64 physical_bits(void)
{
    return cpuid(0x80000000, 0).eax >= 0x80000008 ? cpuid(0x80000008, 0).eax & 0xff : 36;
}

static void test_reserved(void)
{
    part("reserved bits");
    tcg_wrong_begin("TCG reports reserved bits without P");
    tables_reset();
    u64 top = 1ul << 51;
    bool narrow = physical_bits() < 52;
    if (narrow) {
        test_pt[0] = FRAME(0) | P | W | U | top;
        invlpg(VA(0));
        check_fault("PTE above the physical width, read", VA(0), READ, false, ERROR_P | ERROR_RSVD,
                    VA(0));
        check_fault("PTE above the physical width, user write", VA(0), WRITE, true,
                    ERROR_P | ERROR_RSVD | ERROR_W | ERROR_U, VA(0));
        test_pt[0] &= ~P;
        invlpg(VA(0));
        check_fault("the same, not present", VA(0), READ, false, 0, VA(0));
        test_pd[0] |= top;
        flush();
        check_fault("PDE above the physical width", VA(0), READ, false, ERROR_P | ERROR_RSVD,
                    VA(0));
        boot_pdpt[2] |= top;
        flush();
        check_fault("PDPTE above the physical width", VA(0), READ, false, ERROR_P | ERROR_RSVD,
                    VA(0));
    }
    tables_reset();
    test_pd[0] = P | W | U | PS | 0x2000;
    flush();
    check_fault("2 MiB page, bit 13", VA(0), READ, false, ERROR_P | ERROR_RSVD, VA(0));
    if (has(FEATURE_PAGE1G)) {
        boot_pdpt[2] = P | W | U | PS | 0x200000;
        flush();
        check_fault("1 GiB page, bit 21", VA(0), READ, false, ERROR_P | ERROR_RSVD, VA(0));
    }
    tables_reset();
    boot_pml4[1] = ADDRESS(boot_pdpt) | P | W | U | PS;
    flush();
    check_fault("PML4E with PS", 1ul << 39, READ, false, ERROR_P | ERROR_RSVD, 1ul << 39);
    boot_pml4[1] = 0;
    if (has(FEATURE_NX)) {
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
        test_pt[0] = FRAME(0) | P | W | U | NX;
        flush();
        check_fault("NX without EFER.NXE", VA(0), READ, false, ERROR_P | ERROR_RSVD, VA(0));
        test_pt[0] = 0;
        flush();
        check_fault("fetch without NXE and SMEP has no I bit", VA(0), EXEC, true, ERROR_U, VA(0));
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    }
    flush();
    tcg_wrong_end();
}

static void test_absent(void)
{
    part("not present");
    for (int level = 0; level < 3; level++) {
        tables_reset();
        test_pt[0] = FRAME(0) | W | U;
        if (level >= 1)
            test_pd[0] &= ~P;
        if (level >= 2)
            boot_pdpt[2] &= ~P;
        flush();
        for (unsigned j = 0; j < 2 * ACCESSES; j++) {
            bool user = j & 1;
            enum access access = j / 2;
            check_fault(access_names[access], VA(0) + 0x123, access, user,
                        (user ? ERROR_U : 0) | (access == WRITE ? ERROR_W : 0) |
                            (access == EXEC ? ERROR_I : 0),
                        VA(0) + 0x123);
        }
        CHECK("leaf stays as it was", test_pt[0], FRAME(0) | W | U);
    }
    tables_reset();
}

static void test_sizes(void)
{
    part("page sizes");
    tables_reset();
    test_pd[1] = P | W | U | PS; /* physical 0 */
    test_pd[3] = 0x200000 | P | U | PS;
    flush();
    struct context c = access_run(READ, true, TEST_REGION + 0x200000 + FRAME(1), 0);
    CHECK("2 MiB page, read", c.rcx, 0x2020202020202020);
    CHECK("accessed", test_pd[1] & (A | D), A);
    c = access_run(WRITE, true, TEST_REGION + 0x200000 + FRAME(1), 0);
    CHECK("2 MiB page, write", *(volatile u64 *)FRAME(1), 0x1122334455667788);
    CHECK("dirty", test_pd[1] & (A | D), A | D);
    check_fault("2 MiB page, read only", TEST_REGION + 0x600000, WRITE, true,
                ERROR_P | ERROR_W | ERROR_U, TEST_REGION + 0x600000);
    if (!has(FEATURE_PAGE1G)) {
        skip("1 GiB pages", "CPUID does not show them");
        return;
    }
    tables_reset();
    boot_pdpt[2] = P | W | U | PS;
    flush();
    c = access_run(READ, true, TEST_REGION + FRAME(2), 0);
    CHECK("1 GiB page, read", c.rcx, 0x3030303030303030);
    CHECK("accessed", boot_pdpt[2] & (A | D), A);
    c = access_run(WRITE, true, TEST_REGION + FRAME(2) + 8, 0);
    CHECK("1 GiB page, write", *(volatile u64 *)(FRAME(2) + 8), 0x1122334455667788);
    CHECK("dirty", boot_pdpt[2] & (A | D), A | D);
    tables_reset();
}

/* Two pages with different rights: all or nothing, and CR2 in the page at fault. */
static void test_crossing(void)
{
    part("across two pages");
    tables_reset();
    test_pt[0] = FRAME(2) | P | W | U;
    test_pt[1] = FRAME(0) | P | W | U;
    flush();
    struct context c = access_run(READ, true, VA(1) - 3, 0);
    CHECK("read of two frames", c.rcx, 0x1010101010303030);
    c = access_run(WRITE, true, VA(1) - 3, 0);
    CHECK("write, first frame", *(volatile u32 *)(FRAME(2) + 4092) >> 8, 0x667788);
    CHECK("write, second frame", *(volatile u64 *)FRAME(0) & 0xffffffffff, 0x1122334455);
    CHECK("both dirty", test_pt[0] & test_pt[1] & D, D);
    tables_reset();
    test_pt[0] = FRAME(2) | P | W | U;
    flush();
    check_fault("second absent, read", VA(1) - 3, READ, true, ERROR_U, VA(1));
    check_fault("second absent, write", VA(1) - 3, WRITE, true, ERROR_U | ERROR_W, VA(1));
    CHECK("nothing written", *(volatile u32 *)(FRAME(2) + 4092), 0x30303030);
    test_pt[1] = FRAME(0) | P | U;
    invlpg(VA(1));
    check_fault("second read only, write", VA(1) - 3, WRITE, true, ERROR_P | ERROR_U | ERROR_W,
                VA(1));
    CHECK("nothing written", *(volatile u32 *)(FRAME(2) + 4092), 0x30303030);
    test_pt[1] = FRAME(0) | P | W;
    invlpg(VA(1));
    check_fault("second for the kernel, read", VA(1) - 3, READ, true, ERROR_P | ERROR_U, VA(1));
    test_pt[0] = FRAME(2) | P | U;
    flush();
    check_fault("first at fault", VA(1) - 3, WRITE, true, ERROR_P | ERROR_U | ERROR_W, VA(1) - 3);
    part("instruction across two pages");
    static const u8 mov[] = {0xb9, 0x78, 0x56, 0x34, 0x12, 0xcd, 0x81};
    for (u64 first = 1; first < 5; first++) {
        tables_reset();
        memory_copy(frames[2] + 4096 - first, mov, first);
        memory_copy(frames[0], mov + first, sizeof(mov) - first);
        test_pt[0] = FRAME(2) | P | U;
        flush();
        check_fault("second absent", VA(1) - first, EXEC, true, ERROR_U | ERROR_I, VA(1));
        c = access_run(EXEC, true, VA(1) - first, 0);
        CHECK("RIP at the instruction's start", c.rip, VA(1) - first);
        test_pt[1] = FRAME(0) | P | U | NX;
        invlpg(VA(1));
        check_fault("second NX", VA(1) - first, EXEC, true, ERROR_P | ERROR_U | ERROR_I, VA(1));
        test_pt[1] = FRAME(0) | P | U;
        invlpg(VA(1));
        c = access_run(EXEC, true, VA(1) - first, 0);
        CHECK("both present", c.rcx, 0x12345678);
    }
}

CODE64(
    p_stack,
    "mov (%rsp), %rax\n add $1, %rcx\n pop %rbx" LABEL(p_stack_first) "push %rdx\n xor %ebp, "
                                                                      "%ebp" LABEL(p_stack_second) "push %rdi" LABEL(
                                                                          p_stack_call) "call 1f\n "
                                                                                        "1:" STOP);
LABEL_OF(p_stack_first);
LABEL_OF(p_stack_second);
LABEL_OF(p_stack_call);

static struct context stack_run(u64 rsp)
{
    struct context c = context_user(p_stack);
    c.rsp = rsp;
    c.rbp = 1;
    c.rdx = 2;
    c.rdi = 3;
    memory_set(frames[0], 0x10, 4096);
    memory_set(frames[1], 0x20, 4096);
    invlpg(VA(0));
    invlpg(VA(1));
    world_long(&c);
    return c;
}

/* Loads and stores of one function near RSP: each faults at its own time. */
static void test_stack(void)
{
    const u64 filled = 0x2020202020202020;
    volatile u64 *page = (u64 *)frames[1];
    part("pops, pushes and a call");
    tables_reset();
    for (unsigned i = 0; i < 20; i++) {
        test_pt[0] = FRAME(0) | P | W | U;
        test_pt[1] = FRAME(1) | P | W | U;
        struct context c = stack_run(VA(1) + 0x20);
        CHECK("all on one page", c.vector, STOP_VECTOR);
        CHECK("popped", c.rbx, filled);
        CHECK("RSP", c.rsp, VA(1) + 0x10);
        CHECK("pushed first", page[4], 2);
        CHECK("pushed second", page[3], 3);
        CHECK("return address", page[2], USER(p_stack_call) + 5);
        c = stack_run(VA(1));
        CHECK("on two pages", c.vector, STOP_VECTOR);
        CHECK("RSP", c.rsp, VA(1) - 0x10);
        CHECK("pushed first", page[0], 2);
        CHECK("pushed second", *(volatile u64 *)(frames[0] + 4088), 3);
        test_pt[1] = FRAME(1) | P | U;
        c = stack_run(VA(1) + 0x20);
        CHECK_TRAP("read only", &c, PF, ERROR_P | ERROR_W | ERROR_U, USER(p_stack_first));
        CHECK("CR2", c.cr2, VA(1) + 0x20);
        CHECK("not dirty", test_pt[1] & (A | D), A);
        CHECK("loaded", c.rax, filled);
        CHECK("popped", c.rbx, filled);
        CHECK("RSP", c.rsp, VA(1) + 0x28);
        CHECK("counted once", c.rcx, 1);
        CHECK("behind it", c.rbp, 1);
        test_pt[0] = 0;
        test_pt[1] = FRAME(1) | P | W | U;
        c = stack_run(VA(1));
        CHECK_TRAP("second push absent", &c, PF, ERROR_W | ERROR_U, USER(p_stack_second));
        CHECK("CR2", c.cr2, VA(1) - 8);
        CHECK("first pushed", page[0], 2);
        CHECK("RSP", c.rsp, VA(1));
        CHECK("between them", c.rbp, 0);
        c = stack_run(VA(1) + 8);
        CHECK_TRAP("call's push absent", &c, PF, ERROR_W | ERROR_U, USER(p_stack_call));
        CHECK("CR2", c.cr2, VA(1) - 8);
        CHECK("second pushed", page[0], 3);
        CHECK("RSP", c.rsp, VA(1));
    }
}

/* -- protection keys: SDM vol. 3, 4.6.2 -- */

static void pkru_set(u32 value)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static void check_key(unsigned key, unsigned bits, enum access access, bool user)
{
    bool user_page = test_pt[0] & U, wp = cr0_get() & CR0_WP;
    bool denied = access != EXEC && ((bits & 1) || ((bits & 2) && access == WRITE && (user || wp)));
    struct context c;

    if (user && !user_page)
        return;
    if (user_page)
        pkru_set(bits << 2 * key);
    else
        wrmsr(MSR_PKRS, (u64)bits << 2 * key);
    c = access_run(access, user, VA(0) + (access == EXEC ? 0 : 64), 0);
    CHECK(access_names[access], c.vector, denied ? PF : STOP_VECTOR);
    if (denied)
        CHECK("error code", c.error,
              ERROR_P | ERROR_PK | (user ? ERROR_U : 0) | (access == WRITE ? ERROR_W : 0));
    if (user_page)
        pkru_set(0);
    else
        wrmsr(MSR_PKRS, 0);
}

/* No INVLPG between two settings of the keys' rights: they count at once. */
static void check_keys(u64 rights)
{
    static const unsigned keys[] = {1, 2, 7, 8, 15};

    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        test_pt[0] = FRAME(0) | P | rights | (u64)keys[i] << 59;
        invlpg(VA(0));
        for (unsigned bits = 0; bits < 4; bits++) {
            for (unsigned j = 0; j < 2 * ACCESSES; j++)
                check_key(keys[i], bits, j / 2, j & 1);
        }
    }
}

static void check_pkru_register(void)
{
    struct context c = context_user(p_rdpkru);

    cr4_set(cr4_get() & ~CR4_PKE);
    CHECK("not enabled", cpuid(7, 0).ecx & 0x10, 0);
    world_long(&c);
    CHECK_TRAP("RDPKRU when it is not enabled", &c, UD, NO_ERROR, USER(p_rdpkru));
    cr4_set(cr4_get() | CR4_PKE);
    CHECK("enabled", cpuid(7, 0).ecx & 0x10, 0x10);
    c = context_user(p_wrpkru);
    c.rax = 0x12345670;
    c.rcx = c.rdx = 0;
    world_long(&c);
    CHECK_STOP("WRPKRU in user mode", &c);
    c = context_user(p_rdpkru);
    c.rcx = 1ul << 32;
    c.rdx = ~0ul;
    world_long(&c);
    CHECK_STOP("RDPKRU in user mode", &c);
    CHECK("EAX", c.rax, 0x12345670);
    CHECK("EDX", c.rdx, 0);
    c.rip = USER(p_rdpkru);
    c.rcx = 1;
    world_long(&c);
    CHECK_TRAP("RDPKRU with ECX", &c, GP, 0, USER(p_rdpkru));
    c = context_user(p_wrpkru);
    c.rcx = 0;
    c.rdx = 1;
    world_long(&c);
    CHECK_TRAP("WRPKRU with EDX", &c, GP, 0, USER(p_wrpkru));
    pkru_set(0);
}

static void test_keys(void)
{
    u64 cr0 = cr0_get(), cr4 = cr4_get();

    part("protection keys");
    if (!has(FEATURE_PKU) || !has(FEATURE_PKS)) {
        skip("protection keys", "CPUID does not show them");
        CHECK("CR4.PKE without the feature", cr_write_safe(4, cr4 | CR4_PKE), GP);
        return;
    }
    tables_reset();
    memory_copy(frames[0], p_target, 2);
    cr4_set(cr4 | CR4_PKE | CR4_PKS);
    check_pkru_register();
    CHECK("IA32_PKRS has 32 bits", wrmsr_safe(MSR_PKRS, 1ul << 32), GP);
    for (unsigned wp = 0; wp < 2; wp++) {
        cr0_set(wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        check_keys(W | U);
        check_keys(W);
    }
    cr0_set(cr0);
    cr4_set(cr4);
    tables_reset();
}

static u64 read_at(u64 address)
{
    return access_run(READ, true, address, 0).rcx & 0xff;
}

static void test_invalidation(void)
{
    part("invalidation");
    tables_reset();
    test_pt[0] = FRAME(0) | P | U;
    flush();
    CHECK("before", read_at(VA(0)), 0x10);
    test_pt[0] = FRAME(1) | P | U;
    invlpg(VA(0) + 0x777);
    CHECK("INVLPG", read_at(VA(0)), 0x20);
    test_pt[0] = FRAME(2) | P | U;
    flush();
    CHECK("MOV to CR3", read_at(VA(0)), 0x30);
    test_pt[0] = 0;
    invlpg(VA(0));
    CHECK("unmapped", access_run(READ, true, VA(0), 0).vector, PF);
    test_pt[0] = FRAME(0) | P | U;
    CHECK("mapped again: absent entries are not cached", read_at(VA(0)), 0x10);
    cr4_set(cr4_get() | CR4_PGE);
    test_pt[0] = FRAME(1) | P | U | G;
    invlpg(VA(0));
    CHECK("global", read_at(VA(0)), 0x20);
    test_pt[0] = FRAME(2) | P | U | G;
    invlpg(VA(0));
    CHECK("INVLPG of a global page", read_at(VA(0)), 0x30);
    test_pt[0] = FRAME(0) | P | U | G;
    cr4_set(cr4_get() & ~CR4_PGE);
    CHECK("CR4.PGE cleared", read_at(VA(0)), 0x10);
    /* A smaller right in an upper level. */
    CHECK("upper level, before", access_run(READ, true, VA(0), 0).vector, STOP_VECTOR);
    test_pd[0] &= ~U;
    flush();
    CHECK("upper level loses U", access_run(READ, true, VA(0), 0).vector, PF);
    test_pd[0] |= U;
    flush();
    /* A page table that is replaced, and one that maps itself. */
    test_pt[1] = ADDRESS(test_pt) | P | W | U;
    flush();
    struct context c = context_user(p_write);
    c.rax = VA(1);
    c.rcx = FRAME(1) | P | U;
    world_long(&c);
    invlpg(VA(0));
    CHECK("page table written by its own mapping", read_at(VA(0)), 0x20);
}

CODE64(p_invpcid, "invpcid (%rdi), %rax" STOP);

static u64 invpcid_safe(u64 type, u64 pcid, u64 address)
{
    u64 descriptor[2] = {pcid, address};
    struct context c = context_kernel(p_invpcid);
    c.rax = type;
    c.rdi = ADDRESS(descriptor);
    world_long(&c);
    return c.vector;
}

static void test_pcid(void)
{
    part("PCID");
    if (!has(FEATURE_PCID)) {
        skip("PCID", "CPUID does not show it");
        return;
    }
    tables_reset();
    u64 root = cr3_get();
    cr3_set(root | 8);
    CHECK("PCIDE with CR3[11:0] not 0", cr_write_safe(4, cr4_get() | CR4_PCIDE), GP);
    cr3_set(root);
    CHECK("PCIDE", cr_write_safe(4, cr4_get() | CR4_PCIDE), STOP_VECTOR);
    static const u64 types[] = {0, 1, 2, 3};
    for (size_t i = 0; i < 4 && has(FEATURE_INVPCID); i++) {
        cr3_set(root | 5);
        test_pt[0] = FRAME(0) | P | U;
        invlpg(VA(0));
        CHECK("before", read_at(VA(0)), 0x10);
        test_pt[0] = FRAME(1) | P | U;
        cr3_set(root | 6 | 1ul << 63);
        CHECK("INVPCID", invpcid_safe(types[i], types[i] < 2 ? 5 : 0, types[i] ? 0 : VA(0)),
              STOP_VECTOR);
        cr3_set(root | 5 | 1ul << 63);
        CHECK("after INVPCID", read_at(VA(0)), 0x20);
    }
    test_pt[0] = FRAME(2) | P | U;
    cr3_set(root | 5);
    CHECK("MOV to CR3 without bit 63", read_at(VA(0)), 0x30);
    CHECK("bit 63 reads as 0", cr3_get(), root | 5);
    cr3_set(root);
    CHECK("PCIDE off", cr_write_safe(4, cr4_get() & ~CR4_PCIDE), STOP_VECTOR);
    if (!has(FEATURE_INVPCID))
        return;
    CHECK("INVPCID type 4", invpcid_safe(4, 0, 0), GP);
    CHECK("INVPCID with a reserved bit", invpcid_safe(0, 1ul << 12, 0), GP);
    CHECK("INVPCID of a PCID without PCIDE", invpcid_safe(0, 1, 0), GP);
    CHECK("INVPCID of a non-canonical address", invpcid_safe(0, 0, 1ul << 63), GP);
}

static u64 user_read(void)
{
    return access_run(READ, true, VA(0), 0).rcx;
}

/* What a PCID kept must not show where the architecture drops it: more PCIDs than any engine keeps,
 * each used twice, and a global page that is invalidated from another one. */
static void test_pcid_kept(void)
{
    part("PCIDs kept");
    if (!has(FEATURE_PCID))
        return;
    tables_reset();
    u64 root = cr3_get(), cr4 = cr4_get();
    cr4_set(cr4 | CR4_PCIDE | CR4_PGE);
    for (u64 round = 0; round < 3; round++) {
        for (u64 pcid = 1; pcid < 24; pcid++) {
            test_pt[0] = FRAME((pcid + round) % 3) | P | U;
            cr3_set(root | pcid);
            CHECK("loaded", user_read(), 0x1010101010101010 * ((pcid + round) % 3 + 1));
            cr3_set(root | (pcid - 1) | 1ul << 63);
            invlpg(VA(0));
            CHECK("kept, INVLPG", user_read(), 0x1010101010101010 * ((pcid + round) % 3 + 1));
        }
    }
    for (u64 pcid = 1; pcid < 4; pcid++) {
        test_pt[0] = FRAME(0) | P | U | G;
        cr3_set(root | pcid);
        invlpg(VA(0));
        (void)user_read();
        test_pt[0] = FRAME(1) | P | U | G;
        cr3_set(root | (pcid + 7) | 1ul << 63);
        invlpg(VA(0));
        cr3_set(root | pcid | 1ul << 63);
        CHECK("global page, INVLPG from elsewhere", user_read(), 0x2020202020202020);
    }
    cr3_set(root);
    cr4_set(cr4);
    test_pt[0] = FRAME(2) | P | U;
    flush();
    CHECK("PCIDE off", user_read(), 0x3030303030303030);
}

CODE64(p_stac, "stac\n mov (%rdi), %rax\n clac\n" LABEL(p_stac_after) "mov (%rdi), %rbx" STOP);
LABEL_OF(p_stac_after);
CODE64(p_stac_more, "stac\n mov (%rdi), %rax\n mov 8(%rsi), %rcx\n mov %rcx, 16(%rsi)\n "
                    "clac\n" LABEL(p_stac_more_after) "mov 8(%rsi), %rbx" STOP);
LABEL_OF(p_stac_more_after);
CODE64(p_stac_popf, "pushfq\n stac\n mov (%rdi), %rax\n mov %rcx, (%rsi)\n "
                    "popfq\n" LABEL(p_stac_popf_after) "mov %rbx, (%rsi)" STOP);
LABEL_OF(p_stac_popf_after);

/* In a loop, beside code: the translator remembers where such a store went. */
CODE64(p_stac_beside,
       "1: stac\n mov %al, (%rdi)\n clac\n" LABEL(p_stac_beside_after) "mov %al, 1(%rdi)\n "
                                                                       "dec %rcx\n jnz 1b" STOP);
LABEL_OF(p_stac_beside_after);

static void check_stac_beside(void)
{
    static const u8 code_beside[] = {0xb8, 5, 0, 0, 0, 0xcd, 0x81}; /* MOV EAX, 5; STOP */

    memory_copy(frames[0] + 3000, code_beside, sizeof(code_beside));
    for (int i = 0; i < 30; i++) {
        CHECK("code in the page", run_kernel(frames[0] + 3000).rax, 5);
        struct context c = context_kernel(p_stac_beside);
        c.rdi = VA(0) + 64;
        c.rcx = 2;
        world_long(&c);
        CHECK_TRAP("beside code", &c, PF, ERROR_P | ERROR_W, ADDRESS(p_stac_beside_after));
    }
}

/* SMAP holds again at once, though the page was touched a moment ago. */
static void test_stac(void)
{
    static const struct {
        const u8 *code;
        u64 end;
    } pieces[] = {{p_stac, ADDRESS(p_stac_after)},
                  {p_stac_more, ADDRESS(p_stac_more_after)},
                  {p_stac_popf, ADDRESS(p_stac_popf_after)}};

    part("STAC and CLAC");
    if (!has(FEATURE_SMAP))
        return;
    u64 cr4 = cr4_get();
    tables_reset();
    test_pt[0] = FRAME(0) | P | U | W;
    cr4_set(cr4 | CR4_SMAP);
    for (int i = 0; i < 30; i++) {
        struct context c = context_kernel(pieces[i % 3].code);
        c.rdi = VA(0);
        c.rsi = VA(0);
        world_long(&c);
        CHECK_TRAP("after it", &c, PF, ERROR_P | (i % 3 == 2 ? ERROR_W : 0), pieces[i % 3].end);
    }
    for (int i = 0; i < 60; i++) { /* the same code without SMAP, and with it again */
        cr4_set(i / 20 % 2 ? cr4 | CR4_SMAP : cr4 & ~CR4_SMAP);
        struct context c = context_kernel(pieces[i % 2].code);
        c.rdi = VA(0);
        c.rsi = VA(0);
        world_long(&c);
        if (i / 20 % 2)
            CHECK_TRAP("SMAP on", &c, PF, ERROR_P, pieces[i % 2].end);
        else
            CHECK_STOP("SMAP off", &c);
        CHECK("AC", c.rflags & FLAG_AC, 0);
    }
    cr4_set(cr4 | CR4_SMAP);
    check_stac_beside();
    cr4_set(cr4);
}

static void test_atomic_rmw(void)
{
    part("read-modify-write");
    tables_reset();
    test_pt[0] = FRAME(0) | P | U;
    flush();
    struct context c = context_user(p_rmw);
    c.rax = VA(0);
    world_long(&c);
    CHECK_TRAP("LOCK INC of a read-only page is a write fault", &c, PF, ERROR_P | ERROR_W | ERROR_U,
               USER(p_rmw));
    CHECK("unchanged", *(volatile u32 *)FRAME(0), 0x10101010);
}

/* The legacy forms: the same image, reached at its own address; the test page at TEST_REGION. */
static u32 pd32[1024] __attribute__((aligned(4096)));
static u32 pt32[1024] __attribute__((aligned(4096)));
static u64 pdpt_pae[4] __attribute__((aligned(32)));

CODE32(l_read, "mov (%eax), %ecx" STOP);
CODE32(l_write, "mov %ecx, (%eax)" STOP);
CODE32(l_paging_off, "mov %cr0, %edx\n and $0x7fffffff, %edx\n mov %edx, %cr0\n mov (%eax), %ecx\n "
                     "or $0x80000000, %edx\n"
                     "mov %edx, %cr0\n mov (%ebx), %esi" STOP);

static struct context legacy_access(bool write, bool user, u64 address)
{
    const u8 *code = write ? l_write : l_read;
    struct context c = user ? context_legacy_user(code) : context_legacy(code);
    c.rax = address;
    c.rcx = 0xcafe;
    world_legacy(&c);
    return c;
}

static void legacy_checks(void)
{
    struct context c = legacy_access(false, true, VA(0) + 8);
    CHECK_STOP("user read", &c);
    CHECK("value", c.rcx, 0x10101010);
    c = legacy_access(true, false, VA(0) + 8);
    CHECK_STOP("kernel write", &c);
    CHECK("value written", *(volatile u32 *)(FRAME(0) + 8), 0xcafe);
    c = legacy_access(true, true, VA(1));
    CHECK_VECTOR("user write to a read-only page", &c, PF, ERROR_P | ERROR_W | ERROR_U);
    CHECK("CR2", c.cr2, VA(1));
    c = legacy_access(true, false, VA(1));
    CHECK_VECTOR("kernel write to it with WP", &c, PF, ERROR_P | ERROR_W);
    c = legacy_access(false, true, VA(2));
    CHECK_VECTOR("user read of a kernel page", &c, PF, ERROR_P | ERROR_U);
    c = legacy_access(false, false, VA(3));
    CHECK_VECTOR("absent", &c, PF, 0);
    legacy_cr0 &= ~(u32)CR0_WP;
    c = legacy_access(true, false, VA(1));
    CHECK_STOP("kernel write without WP", &c);
    legacy_cr0 |= (u32)CR0_WP;
    c = context_legacy(l_paging_off);
    c.rax = FRAME(2);
    c.rbx = VA(0) + 16;
    world_legacy(&c);
    CHECK_STOP("paging off and on", &c);
    CHECK("physical read", c.rcx, 0x30303030);
    CHECK("virtual read", c.rsi, 0x10101010);
}

static void test_two_level(void)
{
    part("two-level paging");
    tables_reset();
    for (u32 i = 0; i < 32; i++)
        pd32[i] = i << 22 | (u32)(P | W | U | PS);
    pd32[TEST_REGION >> 22] = (u32)(ADDRESS(pt32) | P | W | U);
    pt32[0] = (u32)(FRAME(0) | P | W | U);
    pt32[1] = (u32)(FRAME(1) | P | U);
    pt32[2] = (u32)(FRAME(2) | P | W);
    pd32[513] = (u32)(P | U | PS);
    legacy_cr3 = (u32)ADDRESS(pd32);
    legacy_cr4 = (u32)CR4_PSE;
    legacy_cr0 |= (u32)(CR0_PG | CR0_WP);
    legacy_checks();
    CHECK("accessed and dirty", pt32[0] & (A | D), A | D);
    CHECK("accessed only", pt32[2] & (A | D), 0);
    struct context c = legacy_access(false, true, TEST_REGION + 0x400000 + FRAME(1));
    CHECK("4 MiB page", c.rcx & 0xff, 0xfe); /* written without WP above */
    CHECK("accessed", pd32[513] & (A | D), A);
    c = legacy_access(true, true, TEST_REGION + 0x400000);
    CHECK_VECTOR("4 MiB page, read only", &c, PF, ERROR_P | ERROR_W | ERROR_U);
    pd32[513] |= 1u << 21;
    c = legacy_access(false, true, TEST_REGION + 0x400000);
    tcg_wrong("TCG reports reserved bits without P");
    CHECK_VECTOR("4 MiB page, bit 21", &c, PF, ERROR_P | ERROR_RSVD | ERROR_U);
    legacy_reset();
}

static void test_pae(void)
{
    part("PAE paging");
    tables_reset();
    test_pt[0] = FRAME(0) | P | W | U;
    test_pt[1] = FRAME(1) | P | U;
    test_pt[2] = FRAME(2) | P | W;
    test_pt[4] = FRAME(2) | P | W | U | NX;
    test_pd[1] = P | U | PS;
    pdpt_pae[0] = ADDRESS(boot_pd_low) | P;
    pdpt_pae[2] = ADDRESS(test_pd) | P;
    legacy_cr3 = (u32)ADDRESS(pdpt_pae);
    legacy_cr4 = (u32)CR4_PAE;
    legacy_efer = (u32)EFER_NXE;
    legacy_cr0 |= (u32)(CR0_PG | CR0_WP);
    legacy_checks();
    CHECK("accessed and dirty", test_pt[0] & (A | D), A | D);
    struct context c = legacy_access(false, true, TEST_REGION + 0x200000 + FRAME(2));
    CHECK("2 MiB page", c.rcx, 0x30303030);
    c = context_legacy((void *)VA(4));
    world_legacy(&c);
    CHECK_TRAP("NX", &c, PF, ERROR_P | ERROR_I, VA(4));
    c = legacy_access(false, true, 0xc0000000);
    CHECK_VECTOR("PDPTE not present", &c, PF, ERROR_U);
    legacy_reset();
}

CODE32(l_pdpte_cached,
       "mov (%eax), %ecx\n movl $0, (%ebx)\n invlpg (%eax)\n mov (%eax), %edx\n mov %cr3, %esi\n"
       "mov %esi, %cr3\n" LABEL(l_pdpte_gone) "mov (%eax), %edi" STOP);
LABEL_OF(l_pdpte_gone);
CODE32(l_bad_pdpte, "mov %eax, %cr3" STOP);

/* PDPTEs are read, and checked, by MOV to CR3 (SDM vol. 3, 4.4.1). */
static void test_pdpte(void)
{
    static u64 bad[4] __attribute__((aligned(32)));
    part("PAE PDPTEs");
    pdpt_pae[0] = ADDRESS(boot_pd_low) | P;
    bad[0] = ADDRESS(boot_pd_low) | P | W;
    legacy_cr3 = (u32)ADDRESS(pdpt_pae);
    legacy_cr4 = (u32)CR4_PAE;
    legacy_cr0 |= (u32)(CR0_PG | CR0_WP);
    if (on_tcg()) {
        skip("reserved bits of PDPTEs", "TCG reads them at each walk, and is lost");
    } else {
        struct context c = context_legacy(l_bad_pdpte);
        c.rax = ADDRESS(bad);
        world_legacy(&c);
        CHECK_TRAP("reserved bit in a PDPTE", &c, GP, 0, ADDRESS(l_bad_pdpte));
        tables_reset();
        test_pt[0] = FRAME(0) | P | W;
        pdpt_pae[2] = ADDRESS(test_pd) | P;
        c = context_legacy(l_pdpte_cached);
        c.rax = VA(0);
        c.rbx = ADDRESS(&pdpt_pae[2]);
        world_legacy(&c);
        CHECK_TRAP("a PDPTE cleared in memory counts from the next MOV to CR3", &c, PF, 0,
                   ADDRESS(l_pdpte_gone));
        CHECK("before", c.rcx, 0x10101010);
        CHECK("until then", c.rdx, 0x10101010);
    }
    legacy_reset();
}

/* Where an engine's TLB might take an unused entry for one of the address: the first and last pages
 * of the halves, and with alignment checks on. */
static void test_ends(void)
{
    static const u64 high[] = {-8ul,       -0x800ul,     -0x1000ul,        -0x2000ul,
                               -1ul << 47, USER_END - 8, USER_END - 0x1000};
    static const u64 beyond[] = {USER_END, 1ul << 63, 0xffff7ffffffffff8, (1ul << 63) - 8};
    u64 cr0 = cr0_get();
    part("the ends of the address space");
    tables_reset();
    for (unsigned i = 0; i < 40; i++) {
        u64 flags = i & 1 ? FLAG_AC : 0;
        cr0_set(flags ? cr0 | CR0_AM : cr0);
        for (unsigned j = 0; j < sizeof(high) / sizeof(high[0]); j++) {
            struct context c = access_run(i / 2 & 1, true, high[j], flags);
            CHECK("page fault", c.vector, PF);
            CHECK("CR2", c.cr2, high[j]);
        }
        for (unsigned j = 0; j < sizeof(beyond) / sizeof(beyond[0]); j++)
            CHECK("not canonical", access_run(i / 2 & 1, true, beyond[j], flags).vector, GP);
    }
    cr0_set(cr0);
}

CODE64(p_over_jmp, ".byte 0xeb, 0x40");
CODE64(p_over_jcc, "cmp %eax, %eax\n .byte 0x74, 0x40");
CODE64(p_over_call, ".byte 0xe8, 0x40, 0, 0, 0");
CODE64(p_over_call_near, "xor %ecx, %ecx\n .byte 0xe8, 0x40, 0, 0, 0");
CODE64(p_over_ret, "push $1\n rolq $47, (%rsp)\n ret");
CODE64(p_over_end, "add $1, %ecx");

/* A branch to no address faults itself and leaves the stack alone; code that runs on faults behind
 * its end (SDM vol. 1, 3.3.7.1; vol. 2, the branches' pages). */
static void test_over_the_end(void)
{
    static const struct over {
        const char *name;
        const u8 *begin, *end;
        u64 branch, pushed;
        bool runs_on;
    } overs[] = {
        {"JMP", p_over_jmp, p_over_jmp_end, 0, 0, false},
        {"Jcc", p_over_jcc, p_over_jcc_end, 2, 0, false},
        {"CALL", p_over_call, p_over_call_end, 0, 0, false},
        {"CALL behind another instruction", p_over_call_near, p_over_call_near_end, 2, 0, false},
        {"RET", p_over_ret, p_over_ret_end, 7, 8, false},
        {"no branch", p_over_end, p_over_end_end, 0, 0, true},
    };
    const u64 page = USER_END - 0x1000;
    u64 old = boot_pml4[255];
    part("code at the end of the lower half");
    memory_set(end_tables, 0, sizeof(end_tables));
    boot_pml4[255] = ADDRESS(end_tables[0]) | P | W;
    end_tables[0][511] = ADDRESS(end_tables[1]) | P | W;
    end_tables[1][511] = ADDRESS(end_tables[2]) | P | W;
    end_tables[2][511] = FRAME(0) | P | W;
    flush();
    for (unsigned i = 0; i < sizeof(overs) / sizeof(overs[0]); i++) {
        const struct over *over = &overs[i];
        size_t length = (size_t)(over->end - over->begin);
        memory_set(frames[0], 0x90, 4096);
        memory_copy(frames[0] + 4096 - length, over->begin, length);
        for (unsigned j = 0; j < 20; j++) {
            struct context c = context_kernel(p_exec);
            u64 rsp = c.rsp;
            c.rax = USER_END - length;
            world_long(&c);
            CHECK_TRAP(over->name, &c, GP, 0,
                       over->runs_on ? USER_END : page + 4096 - length + over->branch);
            CHECK("RSP", c.rsp, rsp - over->pushed);
            CHECK("times run", c.rcx, over->runs_on);
        }
    }
    boot_pml4[255] = old;
    flush();
}

/* How the translator makes lookup keys of its modes and generations, were they no secret. */
static u64 scramble(u64 key)
{
    key *= 0x9e3779b97f4a7c15;
    return (key ^ key >> 29) * 0xbf58476d1ce4e5b9;
}

/* Addresses whose lookup key would be that of an empty entry: they fault as all others do. */
static void test_guessed(void)
{
    static const u8 modes[] = {2, 2 | 8, 2 | 16, 2 | 8 | 16};
    part("addresses made for the translator's tables");
    for (u64 i = 0; i < 20; i++)
        CHECK("not canonical", access_run(EXEC, false, 1ul << 63, 0).vector, GP);
    for (u64 generation = 2; generation < 1000; generation++) {
        for (unsigned i = 0; i < sizeof(modes); i++) {
            u64 address = -scramble(generation << 5 | modes[i]);
            u64 vector = access_run(EXEC, modes[i] & 16, address, 0).vector;
            CHECK("faults", vector == GP || vector == PF, 1);
        }
    }
}

CODE64(p_load_ds, "mov %eax, %ds" STOP);

/* Descriptor tables are read and written with the supervisor's rights, whatever the CPL (SDM vol.
 * 3, 4.6.1). */
static void test_implicit(void)
{
    struct __attribute__((packed)) {
        u16 limit;
        u64 base;
    } old, moved;
    static const u8 code_beside[] = {0xb8, 5, 0, 0, 0, 0xcd, 0x81}; /* MOV EAX, 5; STOP */
    part("implicit supervisor accesses");
    tables_reset();
    memory_copy(frames[0], gdt, GDT_SLOTS * 8);
    u64 *table = (u64 *)frames[0];
    table[SEL_FREE / 8] = segment(0, 0xfffff, 0xc0f2); /* not yet accessed */
    test_pt[0] = FRAME(0) | P;                         /* supervisor, read only */
    flush();
    __asm__ volatile("sgdt %0" : "=m"(old));
    moved = old;
    moved.base = VA(0);
    __asm__ volatile("lgdt %0" : : "m"(moved));
    struct context c = context_user(p_load_ds);
    c.rax = SEL_UDATA;
    world_long(&c);
    CHECK_STOP("descriptor in a supervisor's page, from ring 3", &c);
    c = context_user(p_load_ds);
    c.rax = SEL_FREE | 3;
    world_long(&c);
    tcg_wrong("TCG writes the accessed bit past the page's rights");
    CHECK_VECTOR("accessed bit in a read-only page: the fault is the supervisor's", &c, PF,
                 ERROR_P | ERROR_W);
    test_pt[0] |= W;
    invlpg(VA(0));
    c = context_user(p_load_ds);
    c.rax = SEL_FREE | 3;
    world_long(&c);
    CHECK_STOP("writable", &c);
    CHECK("the accessed bit is set", table[SEL_FREE / 8] >> 40 & 1, 1);
    table[SEL_FREE / 8] = segment(0, 0xfffff, 0xc0f2);
    memory_copy(frames[0] + 3000, code_beside, sizeof(code_beside));
    CHECK("code in the table's page", run_kernel(frames[0] + 3000).rax, 5);
    c = context_user(p_load_ds);
    c.rax = SEL_FREE | 3;
    world_long(&c);
    CHECK_STOP("writable, beside code", &c);
    CHECK("the accessed bit is set there, too", table[SEL_FREE / 8] >> 40 & 1, 1);
    test_pt[0] = 0;
    invlpg(VA(0));
    __asm__ volatile("lgdt %0" : : "m"(old));
}

static struct context vectors_run(const u8 *code, u64 address, u32 (*area)[8])
{
    struct context c = context_kernel(code);
    c.rax = address;
    c.rdx = ADDRESS(area);
    world_long(&c);
    return c;
}

/* SDM vol. 2, VPGATHERDD: what was loaded before a fault is in the result and out of the mask. */
static void test_gather(void)
{
    static u32 area[3][8] = {{0, 1, 1024, 2, 1025, 3, 4, 1026}};
    struct context c;
    tables_reset();
    test_pt[0] = FRAME(0) | P | W;
    for (u32 i = 0; i < 1024; i++) {
        ((u32 *)(void *)frames[0])[i] = 100 + i;
        ((u32 *)(void *)frames[1])[i] = 2000 + i;
    }
    for (int i = 0; i < 3; i++) { /* not in the TLB, in it, in it again */
        test_pt[1] = 0;
        invlpg(VA(1));
        c = vectors_run(p_gather_begin, VA(0), area);
        CHECK_VECTOR("gather from a page that is not present", &c, PF, 0);
        CHECK("where", c.cr2, VA(1));
        c = vectors_run(p_vectors_get, 0, area);
        CHECK("the first was loaded", area[1][0], 100);
        CHECK("the second", area[1][1], 101);
        CHECK("the third was not", area[1][2], 0);
        CHECK("the first is done", area[2][0], 0);
        CHECK("the third is not", area[2][2], 0xffffffff);
        test_pt[1] = FRAME(1) | P | W;
        c = vectors_run(p_gather, VA(0), area);
        CHECK_STOP("the rest", &c);
        CHECK("the third", area[1][2], 2000);
        CHECK("the fourth", area[1][3], 102);
        CHECK("the last", area[1][7], 2002);
        CHECK("all are done", area[2][2] | area[2][7], 0);
        c = vectors_run(p_gather_begin, VA(0), area);
        CHECK_STOP("all at once", &c);
        CHECK("the first", area[1][0], 100);
        CHECK("the last", area[1][7], 2002);
    }
}

/* What a mask keeps out is not touched: it does not fault, and makes no page dirty. */
static void test_masked_store(void)
{
    static u32 area[1][8];
    struct context c;
    tables_reset();
    test_pt[0] = FRAME(0) | P | W;
    for (int i = 0; i < 2; i++) {
        memory_set(area, 0, sizeof area);
        c = vectors_run(p_masked_store, VA(0), area);
        CHECK_STOP("nothing is stored", &c);
        CHECK("not dirty", test_pt[0] & D, 0);
        c = vectors_run(p_masked_store, VA(1), area);
        CHECK_STOP("nothing to a page that is not present", &c);
        area[0][1] = 0x80001234 + (u32)i;
        c = vectors_run(p_masked_store, VA(1) - 8, area);
        CHECK_STOP("before the page's end", &c);
        CHECK("stored", *(u32 *)(void *)(frames[0] + 4092), 0x80001234 + (u32)i);
        CHECK("beside it", *(u32 *)(void *)(frames[0] + 4088), 0x10101010);
        CHECK("dirty", test_pt[0] & D, D);
        area[0][2] = 0x80000000;
        c = vectors_run(p_masked_store, VA(1) - 8, area);
        CHECK_VECTOR("behind it", &c, PF, ERROR_W);
        CHECK("where", c.cr2, VA(1));
        test_pt[0] &= ~D;
        invlpg(VA(0));
    }
}

static void test_vectors(void)
{
    part("vectors under masks");
    if (!(cpuid(7, 0).ebx >> 5 & 1)) {
        skip("gathers and masked stores", "no AVX2");
        return;
    }
    cr4_set(cr4_get() | CR4_OSFXSR | CR4_OSXSAVE);
    xsetbv_safe(0, 7);
    test_gather();
    test_masked_store();
}

void guest_main(void)
{
    test_guessed(); /* first: it knows the beginning only */
    test_matrix();
    test_reserved();
    test_absent();
    test_ends();
    test_over_the_end();
    test_sizes();
    test_crossing();
    test_stack();
    test_keys();
    test_invalidation();
    test_pcid();
    test_pcid_kept();
    test_stac();
    test_atomic_rmw();
    test_implicit();
    test_vectors();
    test_two_level();
    test_pae();
    test_pdpte();
}
