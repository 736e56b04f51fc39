/*
 * Checks that lockstep finds nothing where nothing is, and that it finds translated code that is
 * wrong: a loop runs in 64-bit mode, its translation is spoilt, and the block must be named.
 */
#include "cpu/soft/lockstep.h"

#include "base/endian.h"
#include "base/test.h"
#include "cpu/soft/translate_internal.h"

#define RAM_BYTES  UINT64_C(0x400000)
#define TABLES_GPA UINT64_C(0x1000)
#define CODE_GPA   UINT64_C(0x8000)
#define LOOP_GPA   (CODE_GPA + 5)

/* MOV ECX, 5000; loop: ADD EAX, 11223344h; MOV [RDI], EAX; XOR EBX, [RDI]; DEC ECX; JNZ loop; HLT
 */
static const uint8_t code[] = {0xb9, 0x88, 0x13, 0x00, 0x00, 0x05, 0x44, 0x33, 0x22, 0x11,
                               0x89, 0x07, 0x33, 0x1f, 0xff, 0xc9, 0x75, 0xf3, 0xf4};

struct guest {
    struct mem *mem;
    struct x86_cpuid cpuid;
    struct cpu_vm *vm;
    struct vcpu *vcpu;
    struct cpu_exit exit;
};

static void tables_set(uint8_t *ram)
{
    store_le64(ram + TABLES_GPA, (TABLES_GPA + 0x1000) | 3);
    store_le64(ram + TABLES_GPA + 0x1000, (TABLES_GPA + 0x2000) | 3);
    store_le64(ram + TABLES_GPA + 0x2000, 0x83);
    store_le64(ram + TABLES_GPA + 0x2008, 0x200083);
}

static bool guest_start(struct guest *g)
{
    static struct x86_state s;
    struct error err = {0};

    x86_state_reset(&s, true, 0);
    s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
    s.cr3 = TABLES_GPA;
    s.cr4 = X86_CR4_PAE;
    s.efer = X86_EFER_LME | X86_EFER_LMA;
    s.seg[X86_CS] = (struct x86_segment){.selector = 8, .attributes = 0x209b};
    s.seg[X86_SS] = (struct x86_segment){.selector = 16, .attributes = 0xc093, .limit = UINT32_MAX};
    s.rip = CODE_GPA;
    s.gpr[X86_RDI] = 0x9000;
    return cpu_engine_lockstep.state_set(g->vcpu, &s, &err) == 0;
}

static bool guest_new(struct guest *g, bool blocks)
{
    struct x86_cpuid_config cpu = {.model = "host", .vcpu_count = 1, .tsc_hz = 1000000000};
    struct cpu_config config = {.vcpu_count = 1, .lockstep_blocks = blocks};
    struct error err = {0};
    uint8_t *ram;

    if (x86_cpuid_build(&cpu, &g->cpuid, &err) < 0 || mem_new(&g->mem) < 0 ||
        mem_add_ram(g->mem, 0, RAM_BYTES, &err) < 0)
        return false;
    ram = mem_span(g->mem, 0, RAM_BYTES);
    tables_set(ram);
    memcpy(ram + CODE_GPA, code, sizeof code);
    config.mem = g->mem;
    config.cpuid = &g->cpuid;
    return cpu_engine_lockstep.vm_new(&config, &g->vm, &err) == 0 &&
           cpu_engine_lockstep.vcpu_new(g->vm, 0, &g->vcpu, &err) == 0 && guest_start(g);
}

static void guest_free(struct guest *g)
{
    cpu_engine_lockstep.vcpu_free(g->vcpu);
    cpu_engine_lockstep.vm_free(g->vm);
    mem_free(g->mem);
}

/* Changes a constant of the loop in the leader's translated code; how often it was there. */
static unsigned translation_spoil(struct guest *g)
{
    const struct lockstep *l = (const struct lockstep *)(void *)g->vcpu;
    struct soft_translator *t = l->lead->soft.translator;
    unsigned found = 0;

    for (size_t i = t->fixed_bytes; i + 4 <= t->used; i++) {
        if (load_le32(t->write + i) == 0x11223344) {
            t->write[i]++;
            found++;
        }
    }
    return found;
}

static void test_equal(struct test *t)
{
    struct guest g = {0};

    CHECK(t, guest_new(&g, false));
    cpu_engine_lockstep.run(g.vcpu, &g.exit);
    CHECK_EQ(t, g.exit.kind, CPU_EXIT_HALT);
    guest_free(&g);
}

static void broken_check(struct test *t, bool blocks)
{
    struct guest g = {0};

    CHECK(t, guest_new(&g, blocks));
    cpu_engine_lockstep.run(g.vcpu, &g.exit);
    CHECK_EQ(t, g.exit.kind, CPU_EXIT_HALT);
    CHECK(t, translation_spoil(&g) > 0);
    CHECK(t, guest_start(&g));
    cpu_engine_lockstep.run(g.vcpu, &g.exit);
    CHECK_EQ(t, g.exit.kind, CPU_EXIT_FAILED);
    CHECK(t, strstr(g.exit.failed, "rax") != NULL);
    CHECK_EQ(t, ((struct lockstep *)(void *)g.vcpu)->culprit, LOOP_GPA);
    guest_free(&g);
}

static void test_broken(struct test *t)
{
    broken_check(t, false);
}

static void test_broken_blocks(struct test *t)
{
    broken_check(t, true);
}

/* What a device writes comes to both; what nobody announced is found by the comparison of all
 * memory, but only when it is still there the second time. */
static void test_memory(struct test *t)
{
    char text[LOCKSTEP_TEXT] = "";
    const uint32_t value = 0x1234;
    struct guest g = {0};
    struct lockstep *l;

    CHECK(t, guest_new(&g, false));
    l = (struct lockstep *)(void *)g.vcpu;
    CHECK_EQ(t, mem_write(g.mem, CODE_GPA + 6, &value, 4), 0);
    cpu_engine_lockstep.run(g.vcpu, &g.exit);
    CHECK_EQ(t, g.exit.kind, CPU_EXIT_HALT);
    CHECK(t, !lockstep_memory_differs(l, text));
    *(uint8_t *)mem_span(g.mem, 0xa000, 1) = 1;
    CHECK(t, !lockstep_memory_differs(l, text));
    CHECK(t, lockstep_memory_differs(l, text));
    CHECK(t, strstr(text, "0xa000") != NULL);
    guest_free(&g);
}

int main(void)
{
    struct test t = {0};

    TEST_RUN(&t, test_equal);
    TEST_RUN(&t, test_broken);
    TEST_RUN(&t, test_broken_blocks);
    TEST_RUN(&t, test_memory);
    return test_end(&t);
}
