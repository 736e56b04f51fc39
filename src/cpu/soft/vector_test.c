/*
 * Differential test of the vector and x87 handlers: random instructions with random registers and
 * memory are executed natively, with the full state loaded, and by the handlers; everything that
 * a guest can see must be equal: registers, MXCSR, flags, the x87 image with its pointers, memory,
 * and the exception if there was one.
 *
 *     vector_test [--seed N] [--count N] [--stop N]      (also: --time, nanoseconds per class)
 *
 * Memory is the same for both: guest addresses are the host's, and one page with a guard behind it.
 */
#include <cpuid.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "cpu/soft/soft.h"
#include "cpu/soft/vector.h"
#include "cpu/x86/vector.h"

#define PAGE 4096u

/* -- the native side -- */

struct native {
    _Alignas(64) uint8_t zmm[32][64];
    uint8_t fx[512];
    uint64_t opmask[8];
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t rsp;
};
_Static_assert(offsetof(struct native, rsp) == 2760, "known to the assembly below");

__attribute__((used)) static struct native native_state;
__attribute__((used)) static uint8_t native_wide;
__attribute__((used)) static uint32_t native_mxcsr = 0x1f80;
void native_run(void);
extern uint8_t native_slot[];

#define ALL_VECTORS  "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define HIGH_VECTORS "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define GPRS(mov)                                                                                  \
    mov("rax", 0) mov("rcx", 1) mov("rdx", 2) mov("rbx", 3) mov("rbp", 5) mov("rsi", 6)            \
        mov("rdi", 7) mov("r8", 8) mov("r9", 9) mov("r10", 10) mov("r11", 11) mov("r12", 12)       \
            mov("r13", 13) mov("r14", 14) mov("r15", 15)
#define GPR_LOAD(name, n)  "mov native_state+2624+8*" #n "(%rip), %" name "\n"
#define GPR_STORE(name, n) "mov %" name ", native_state+2624+8*" #n "(%rip)\n"

__asm__(
    ".text\n.balign 4096\n.globl native_run\n.globl native_slot\n"
    "native_run:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, native_state+2760(%rip)\n"
    "fxrstor64 native_state+2048(%rip)\n"
    "cmpb $0, native_wide(%rip)\nje 1f\n"
    ".irp i," ALL_VECTORS "," HIGH_VECTORS "\n"
    "vmovups native_state+64*\\i(%rip), %zmm\\i\n.endr\n"
    ".irp i,0,1,2,3,4,5,6,7\nkmovq native_state+2560+8*\\i(%rip), %k\\i\n.endr\n"
    "jmp 2f\n1:\n"
    ".irp i," ALL_VECTORS "\nvmovups native_state+64*\\i(%rip), %ymm\\i\n.endr\n"
    "2:\npushq native_state+2752(%rip)\npopfq\n" GPRS(
        GPR_LOAD) "native_slot:\n.fill 16,1,0x90\n" GPRS(GPR_STORE) "mov native_state+2760(%rip), "
                                                                    "%rsp\n"
                                                                    "pushfq\npopq "
                                                                    "native_state+2752(%rip)\n"
                                                                    "fxsave64 "
                                                                    "native_state+2048(%rip)\n"
                                                                    "cmpb $0, "
                                                                    "native_wide(%rip)\nje 1f\n"
                                                                    ".irp i," ALL_VECTORS
                                                                    "," HIGH_VECTORS "\n"
                                                                    "vmovups %zmm\\i, "
                                                                    "native_state+64*\\i(%rip)\n."
                                                                    "endr\n"
                                                                    ".irp i,0,1,2,3,4,5,6,7\nkmovq "
                                                                    "%k\\i, "
                                                                    "native_state+2560+8*\\i(%rip)"
                                                                    "\n.endr\n"
                                                                    "jmp 2f\n1:\n"
                                                                    ".irp i," ALL_VECTORS
                                                                    "\nvmovups %ymm\\i, "
                                                                    "native_state+64*\\i(%rip)\n."
                                                                    "endr\n"
                                                                    "2:\nfninit\nldmxcsr "
                                                                    "native_mxcsr(%rip)"
                                                                    "\nvzeroupper\ncld\n"
                                                                    "pop %r15\npop %r14\npop "
                                                                    "%r13\npop %r12\npop %rbp\npop "
                                                                    "%rbx\nret\n"
                                                                    ".balign 4096\n");

struct trap {
    sigjmp_buf jump;
    int vector;
    uint32_t mxcsr;
    uint16_t fsw;
};
static struct trap trap; /* the signal handler can be given nothing */

static void trap_taken(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;

    (void)signal;
    (void)info;
    trap.vector = (int)u->uc_mcontext.gregs[REG_TRAPNO];
    trap.mxcsr = u->uc_mcontext.fpregs->mxcsr;
    trap.fsw = u->uc_mcontext.fpregs->swd;
    siglongjmp(trap.jump, 1);
}

/* -- the engine's side: what vector.c wants of the rest of the engine -- */

static uint8_t *arena; /* one page */
static jmp_buf engine_jump;
static int engine_vector;

void soft_pkru_set(struct soft_vcpu *c, uint32_t value)
{
    c->pkru = value;
}

void soft_code_mode_changed(struct soft_vcpu *c)
{
    (void)c; /* there is no code cache here */
}

_Noreturn void soft_raise(struct soft_vcpu *c, uint8_t vector)
{
    (void)c;
    engine_vector = vector;
    longjmp(engine_jump, 1);
}

_Noreturn void soft_raise_code(struct soft_vcpu *c, uint8_t vector, uint32_t code)
{
    (void)code;
    soft_raise(c, vector);
}

uint64_t soft_linear(struct soft_vcpu *c, unsigned segment, uint64_t offset, unsigned size,
                     enum soft_access access)
{
    (void)c;
    (void)segment;
    (void)size;
    (void)access;
    return offset;
}

void soft_probe(struct soft_vcpu *c, uint64_t linear, unsigned length, enum soft_access access)
{
    uint64_t start = (uint64_t)(uintptr_t)arena;

    (void)access;
    if ((uint64_t)((int64_t)(linear << 16) >> 16) != linear)
        soft_raise(c, c->op->insn.segment == X86_SS ? X86_SSV : X86_GP);
    if (linear < start || linear - start > PAGE || length > PAGE - (linear - start))
        soft_raise(c, X86_PF);
}

void soft_load_bytes(struct soft_vcpu *c, uint64_t linear, void *to, unsigned length)
{
    soft_probe(c, linear, length, SOFT_READ);
    memcpy(to, (const void *)(uintptr_t)linear, length);
}

void soft_store_bytes(struct soft_vcpu *c, uint64_t linear, const void *from, unsigned length)
{
    soft_probe(c, linear, length, SOFT_WRITE);
    memcpy((void *)(uintptr_t)linear, from, length);
}

uint64_t soft_load(struct soft_vcpu *c, uint64_t linear, unsigned size)
{
    uint64_t value = 0;

    soft_load_bytes(c, linear, &value, size);
    return value;
}

uint32_t soft_load32(struct soft_vcpu *c, uint64_t linear)
{
    return (uint32_t)soft_load(c, linear, 4);
}

uint64_t soft_load64(struct soft_vcpu *c, uint64_t linear)
{
    return soft_load(c, linear, 8);
}

void soft_store(struct soft_vcpu *c, uint64_t linear, uint64_t value, unsigned size)
{
    soft_store_bytes(c, linear, &value, size);
}

void soft_store32(struct soft_vcpu *c, uint64_t linear, uint32_t value)
{
    soft_store(c, linear, value, 4);
}

void soft_store64(struct soft_vcpu *c, uint64_t linear, uint64_t value)
{
    soft_store(c, linear, value, 8);
}

/* -- random things -- */

struct fuzz {
    uint64_t seed;
    struct x86_cpuid cpuid;
    struct soft_vm vm;
    struct soft_vcpu *c;
    struct native before, after;
    uint8_t memory_before[PAGE], memory_after[PAGE];
    struct soft_op op;
    soft_handler *run;
    unsigned long count, passed, failed, traps, scratch, stop;
    int native_vector;
};

static uint64_t random64(struct fuzz *f)
{
    uint64_t z = f->seed += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static unsigned below(struct fuzz *f, unsigned limit)
{
    return (unsigned)(random64(f) >> 33) % limit;
}

static uint32_t random_single(struct fuzz *f)
{
    static const uint32_t special[] = {0,          0x3f800000, 0x7f800000, 0x7fc00001,
                                       0x7f800001, 1,          0x007fffff, 0x00800000,
                                       0x7f7fffff, 0x4f000000, 0x33800000};
    uint32_t sign = (uint32_t)(random64(f) & 0x80000000u);

    if (below(f, 2))
        return special[below(f, sizeof special / 4)] | sign;
    return sign | (uint32_t)((0x30 + below(f, 0x20)) << 24) | (uint32_t)(random64(f) & 0xffffff);
}

static uint64_t random_double(struct fuzz *f)
{
    static const uint64_t special[] = {0,
                                       0x3ff0000000000000,
                                       0x7ff0000000000000,
                                       0x7ff8000000000001,
                                       0x7ff0000000000001,
                                       1,
                                       0x000fffffffffffff,
                                       0x0010000000000000,
                                       0x7fefffffffffffff,
                                       0x43e0000000000000,
                                       0x3810000000000000,
                                       0x36a0000000000000,
                                       0x47efffffffffffff};
    uint64_t sign = random64(f) & UINT64_C(0x8000000000000000);

    if (below(f, 2))
        return special[below(f, sizeof special / 8)] | sign;
    return sign | (uint64_t)(0x3c0 + below(f, 0x80)) << 52 | random64(f) >> 12;
}

static void random_bytes(struct fuzz *f, uint8_t *to, unsigned length)
{
    unsigned kind = below(f, 4);

    for (unsigned i = 0; i < length; i += 8) {
        uint64_t value = random64(f);

        if (kind == 0)
            value = random_double(f);
        else if (kind == 1)
            value = random_single(f) | (uint64_t)random_single(f) << 32;
        else if (kind == 2)
            value &= UINT64_C(0x0101010181ff0103) * (value >> 60);
        memcpy(to + i, &value, 8);
    }
}

static void random_st(struct fuzz *f, uint8_t *st)
{
    static const uint16_t exponents[] = {0, 0, 1, 0x3fff, 0x4000, 0x7fff, 0x7fff, 0x3ffe, 0x7ffe};
    uint64_t mantissa = random64(f);
    uint16_t exponent = (uint16_t)(0x3fe0 + below(f, 0x40));

    if (below(f, 2)) {
        exponent = exponents[below(f, sizeof exponents / 2)];
        mantissa = below(f, 2) ? UINT64_C(1) << 63 : mantissa;
        if (below(f, 4) == 0)
            mantissa = 0;
    }
    if (below(f, 8) && exponent)
        mantissa |= UINT64_C(1) << 63;
    exponent |= (uint16_t)(random64(f) & 0x8000);
    memcpy(st, &mantissa, 8);
    memcpy(st + 8, &exponent, 2);
}

static void random_x87(struct fuzz *f, uint8_t *fx)
{
    uint16_t fcw = (uint16_t)(0x40 | (random64(f) & 0x0f00) | 0x3f);
    uint16_t fsw = (uint16_t)(random64(f) & 0x7f7f);

    if (below(f, 4) == 0)
        fcw = (uint16_t)((fcw & 0xffc0) | (random64(f) & 0x3f));
    if (below(f, 8))
        fsw &= (uint16_t) ~(~fcw & 0x3f); /* no exception waits */
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    memset(fx, 0, 160);
    memcpy(fx, &fcw, 2);
    memcpy(fx + 2, &fsw, 2);
    fx[4] = (uint8_t)(below(f, 3) ? 0xff : random64(f));
    fx[8] = 0x11; /* FIP, FDP */
    fx[16] = 0x22;
    for (unsigned i = 0; i < 8; i++)
        random_st(f, fx + 32 + 16 * i);
}

static void random_state(struct fuzz *f, struct native *s)
{
    uint32_t mxcsr = (uint32_t)(random64(f) & 0xe040) | 0x1f80;

    for (unsigned i = 0; i < 32; i++) {
        random_bytes(f, s->zmm[i], 64);
        if (!native_wide)
            memset(s->zmm[i] + (i < 16 ? 32 : 0), 0, i < 16 ? 32 : 64);
        if (native_wide || i < 16)
            s->zmm[i][0] |= 1; /* no component is all zero: see XINUSE */
    }
    for (unsigned i = 0; i < 8; i++)
        s->opmask[i] = native_wide ? random64(f) | 1 : 0;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = random64(f) >> below(f, 64);
    if (below(f, 4) == 0)
        mxcsr &= (uint32_t) ~(random64(f) & 0x1f80);
    if (below(f, 2))
        mxcsr |= (uint32_t)(random64(f) & 0x3f);
    memset(s->fx, 0, sizeof s->fx);
    random_x87(f, s->fx);
    memcpy(s->fx + 24, &mxcsr, 4);
    s->rflags = 0x202 | (random64(f) & X86_RFLAGS_ARITH);
}

/* -- random instructions -- */

static unsigned put_modrm(struct fuzz *f, uint8_t *to)
{
    unsigned n = 0, modrm = (unsigned)random64(f) & 0xff;

    if (below(f, 2))
        modrm |= 0xc0;
    if (modrm >> 6 == 0 && (modrm & 7) == 5) /* RIP-relative: would be the test's own code */
        modrm |= 0x40;
    to[n++] = (uint8_t)modrm;
    if (modrm >> 6 != 3 && (modrm & 7) == 4) {
        unsigned sib = (unsigned)random64(f) & 0xff;
        if ((sib & 7) == 4 || (sib & 7) == 5)
            sib ^= 2; /* not the stack pointer, not a lone displacement */
        to[n++] = (uint8_t)sib;
    }
    for (unsigned i = 0; i < 5; i++) /* displacement and immediate */
        to[n++] = (uint8_t)(i == 2 || i == 3 ? 0 : random64(f));
    return n;
}

static unsigned put_legacy(struct fuzz *f, uint8_t *to)
{
    static const uint8_t prefix[] = {0x66, 0xf3, 0xf2};
    unsigned n = 0, map = below(f, 4);

    if (below(f, 3))
        to[n++] = prefix[below(f, 3)];
    if (below(f, 2))
        to[n++] = (uint8_t)(0x40 | (random64(f) & 15));
    to[n++] = 0x0f;
    if (map > 1)
        to[n++] = map == 2 ? 0x38 : 0x3a;
    to[n++] = (uint8_t)random64(f);
    return n;
}

static unsigned put_vex(struct fuzz *f, uint8_t *to)
{
    uint64_t bits = random64(f);

    to[0] = 0xc4;
    to[1] = (uint8_t)((bits & 0xe0) | (1 + below(f, 3)));
    to[2] = (uint8_t)(bits >> 8);
    if (below(f, 3) == 0)
        to[2] |= 0x78;
    if (below(f, 2))
        to[2] = (uint8_t)((to[2] & ~3) | 1);
    to[3] = (uint8_t)(bits >> 16);
    return 4;
}

static unsigned put_evex(struct fuzz *f, uint8_t *to)
{
    static const uint8_t maps[] = {1, 2, 3, 1, 2, 3, 5, 6};
    uint64_t bits = random64(f);

    to[0] = 0x62;
    to[1] = (uint8_t)((bits & 0xf0) | maps[below(f, 8)]);
    to[2] = (uint8_t)(bits >> 8 | 4);
    to[3] = (uint8_t)(bits >> 16);
    if (below(f, 3) == 0) {
        to[2] |= 0x78;
        to[3] |= 8;
    }
    if (below(f, 2))
        to[2] = (uint8_t)((to[2] & ~3) | 1);
    if (below(f, 2))
        to[3] &= 0x6f;
    to[4] = (uint8_t)(bits >> 24);
    return 5;
}

static unsigned put_state(struct fuzz *f, uint8_t *to)
{
    unsigned n = 0, kind = below(f, 8);

    if (below(f, 2))
        to[n++] = 0x48;
    to[n++] = 0x0f;
    to[n++] = kind == 7 ? 0xc7 : 0xae;
    to[n++] = (uint8_t)(kind == 7 ? 4 << 3 | 6 : kind << 3 | 6); /* [rsi] */
    return n;
}

static void put_instruction(struct fuzz *f, uint8_t bytes[32])
{
    unsigned n = 0, kind = below(f, 100);

    memset(bytes, 0x90, 32);
    if (kind < 2) {
        put_state(f, bytes);
        return;
    }
    if (kind < 20) {
        if (below(f, 4) == 0)
            bytes[n++] = (uint8_t)(0x40 | (random64(f) & 15));
        bytes[n++] = (uint8_t)(0xd8 | (random64(f) & 7));
    } else if (kind < 50) {
        n = put_legacy(f, bytes);
    } else if (kind < 75) {
        n = put_vex(f, bytes);
    } else {
        n = put_evex(f, bytes);
    }
    put_modrm(f, bytes + n);
}

static bool wanted(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_VECTOR:
    case X86_OP_X87:
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
    case X86_OP_LDMXCSR:
    case X86_OP_STMXCSR:
        if (insn->op != X86_OP_VECTOR && insn->op != X86_OP_X87 &&
            (insn->base == X86_RAX || insn->base == X86_RDX)) /* they hold XSAVE's mask */
            return false;
        return insn->base != X86_RSP && insn->index != X86_RSP && insn->base != X86_REG_RIP;
    default:
        return false;
    }
}

/* FSTENV with 66 and the like are fine; general registers must not be RSP. */
static bool touches_rsp(const struct x86_insn *insn, const struct x86_vector_insn *v)
{
    (void)insn;
    return (v->reg.class == X86_CLASS_GPR && v->reg.number == X86_RSP) ||
           (v->rm.class == X86_CLASS_GPR && v->rm.number == X86_RSP);
}

static bool choose(struct fuzz *f)
{
    struct x86_vector_insn v = {0};
    struct soft_op *op = &f->op;
    uint8_t bytes[32];

    put_instruction(f, bytes);
    memset(op, 0, sizeof *op);
    if (x86_decode(&op->insn, X86_CODE_64, bytes, 15) != X86_DECODE_OK || !wanted(&op->insn))
        return false;
    op->next = op->insn.length;
    if (op->insn.op == X86_OP_VECTOR || op->insn.op == X86_OP_X87) {
        if (!x86_vector_describe(&op->insn, f->cpuid.feature, &v) || touches_rsp(&op->insn, &v))
            return false;
    }
    f->run = soft_vector_handler(&f->vm, op);
    return f->run != NULL;
}

/* Places the memory operand: mostly inside the page, sometimes over its end. */
static void place_memory(struct fuzz *f)
{
    const struct x86_insn *insn = &f->op.insn;
    uint64_t *gpr = f->before.gpr;
    uint64_t misplaced = below(f, 4) ? 0 : below(f, 64);
    uint64_t target = (uint64_t)(uintptr_t)arena + 64 * below(f, 64) + misplaced;

    if (insn->op != X86_OP_VECTOR && insn->op != X86_OP_X87) {
        target = (uint64_t)(uintptr_t)arena + 64 * below(f, 20);
        gpr[X86_RAX] &= 0xe7;
        gpr[X86_RDX] &= 0;
        target += misplaced;
        if (insn->op == X86_OP_XRSTOR && below(f, 4)) {
            uint64_t header[8] = {random64(f) & 0xe7};
            if (below(f, 2))
                header[1] = header[0] | UINT64_C(1) << 63;
            memcpy((void *)(uintptr_t)(target + 512), header, sizeof header);
        }
        if ((insn->op == X86_OP_XRSTOR || insn->op == X86_OP_FXRSTOR) && below(f, 8))
            memset((void *)(uintptr_t)(target + 26), 0, 2);
        memset((void *)(uintptr_t)(target + 13), 0, 3); /* FIP and FDP canonical: hosts differ */
        memset((void *)(uintptr_t)(target + 21), 0, 3);
    }
    if (!insn->memory) {
        gpr[X86_RDI] = target - (target & 64); /* whether a zero mask faults is not defined */
        return;
    }
    if (insn->index < 16 && insn->index == insn->base)
        gpr[insn->index] = 0;
    else if (insn->index < 16)
        gpr[insn->index] = below(f, 256);
    if (insn->base < 16) {
        target -= (uint64_t)insn->displacement;
        if (insn->index < 16)
            target -= insn->index == insn->base ? 0 : gpr[insn->index] << insn->scale;
        gpr[insn->base] = target;
    }
}

/* VSIB: small indexes, so that most elements lie in the page. */
static void place_indexes(struct fuzz *f)
{
    const struct x86_vector_insn *v;
    struct x86_vector_insn vector;
    uint8_t *index;

    if (f->op.insn.op != X86_OP_VECTOR || !f->op.insn.memory)
        return;
    if (!x86_vector_describe(&f->op.insn, f->cpuid.feature, &vector))
        return;
    v = &vector;
    if (v->memory != X86_MEMORY_GATHER && v->memory != X86_MEMORY_SCATTER)
        return;
    f->before.gpr[f->op.insn.base] =
        (uint64_t)(uintptr_t)arena + 1024 - (uint64_t)f->op.insn.displacement;
    index = f->before.zmm[x86_vector_index(&f->op.insn)];
    for (unsigned i = 0; i < 64; i += v->index_bytes) {
        int64_t value = (int64_t)below(f, 200) - 40;
        memcpy(index + i, &value, v->index_bytes);
    }
}

/* -- both executions -- */

static void run_native(struct fuzz *f)
{
    native_state = f->before;
    memset(native_slot, 0x90, 16);
    memcpy(native_slot, f->op.insn.bytes, f->op.insn.length);
    trap.vector = -1;
    if (sigsetjmp(trap.jump, 0) == 0)
        native_run();
    f->native_vector = trap.vector;
    f->after = native_state;
    memcpy(f->memory_after, arena, PAGE);
}

static void vcpu_load(struct fuzz *f)
{
    struct soft_vcpu *c = f->c;
    uint64_t flags = f->before.rflags;

    memcpy(c->vector.zmm, f->before.zmm, sizeof c->vector.zmm);
    memcpy(c->vector.opmask, f->before.opmask, sizeof c->vector.opmask);
    memcpy(c->vector.fxsave, f->before.fx, 160);
    memcpy(&c->vector.mxcsr, f->before.fx + 24, 4);
    memcpy(c->gpr, f->before.gpr, sizeof f->before.gpr);
    c->arith = (uint16_t)((flags & 0xff) << 8 | (flags & X86_RFLAGS_OF ? 1 : 0));
    c->block_rip = (uint64_t)(uintptr_t)native_slot;
    c->op = &f->op;
    engine_vector = -1;
}

static void run_engine(struct fuzz *f)
{
    vcpu_load(f);
    if (setjmp(engine_jump) == 0)
        f->run(f->c, &f->op);
}

static bool differs(struct fuzz *f, const char *what, const void *got, const void *want,
                    unsigned length)
{
    const uint8_t *a = got, *b = want;

    if (memcmp(a, b, length) == 0)
        return false;
    printf("failed: %s, seed state %" PRIu64 ", test %lu:", what, (uint64_t)f->seed, f->count);
    for (unsigned i = 0; i < f->op.insn.length; i++)
        printf(" %02x", f->op.insn.bytes[i]);
    printf("\n  got ");
    for (unsigned i = 0; i < length && i < 64; i++)
        printf("%02x%s", a[i], i % 8 == 7 ? " " : "");
    printf("\n  want ");
    for (unsigned i = 0; i < length && i < 64; i++)
        printf("%02x%s", b[i], i % 8 == 7 ? " " : "");
    printf("\n");
    return true;
}

static bool registers_differ(struct fuzz *f, const struct native *want)
{
    struct soft_vcpu *c = f->c;
    uint32_t flags = (uint32_t)(c->arith >> 8 | (c->arith & 1) << 11) & X86_RFLAGS_ARITH;
    uint32_t native_flags = (uint32_t)want->rflags & X86_RFLAGS_ARITH;
    uint8_t fx[160];

    for (unsigned i = 0; i < 32; i++) {
        if (differs(f, "vector register", c->vector.zmm[i], want->zmm[i], 64))
            return true;
    }
    memcpy(fx, c->vector.fxsave, sizeof fx);
    memcpy(fx + 24, want->fx + 24, 8);
    return differs(f, "opmask", c->vector.opmask, want->opmask, 64) ||
           differs(f, "MXCSR", &c->vector.mxcsr, want->fx + 24, 4) ||
           differs(f, "x87 control", fx, want->fx, 32) ||
           differs(f, "x87 registers", fx + 32, want->fx + 32, 128) ||
           differs(f, "general registers", c->gpr, want->gpr, 128) ||
           differs(f, "flags", &flags, &native_flags, 4);
}

static bool is_gather(const struct fuzz *f)
{
    return f->op.insn.vex != X86_VEX_NONE && f->op.insn.map == 2 && f->op.insn.memory &&
           ((f->op.insn.opcode & 0xfc) == 0x90 || (f->op.insn.opcode & 0xfc) == 0xa0);
}

static bool is_dot_product(const struct fuzz *f)
{
    return f->op.insn.map == 3 && (f->op.insn.opcode & 0xfe) == 0x40;
}

/* A processor stores 80 bits in two parts, of which the first stays where the second faults. */
static bool is_split_store(const struct fuzz *f)
{
    return f->native_vector == X86_PF && f->op.insn.op == X86_OP_X87;
}

static bool is_mmx_store(const struct fuzz *f)
{
    const struct x86_insn *insn = &f->op.insn;

    return insn->vex == X86_VEX_NONE && insn->map == 1 && insn->memory && insn->pp == 0 &&
           (insn->opcode == 0x7e || insn->opcode == 0x7f || insn->opcode == 0xe7);
}

/* After a fault nothing may have changed but MXCSR's flags, and TOP before an MMX store; a gather
 * may have got on. */
static bool fault_differs(struct fuzz *f)
{
    if (differs(f, "exception", &engine_vector, &f->native_vector, sizeof engine_vector))
        return true;
    if (is_gather(f))
        return false;
    f->after = f->before;
    if (f->native_vector == X86_XM || f->native_vector == X86_PF)
        memcpy(f->after.fx + 24, &trap.mxcsr, 4);
    if (f->native_vector != X86_UD && is_mmx_store(f))
        x87_top_set(f->after.fx, trap.fsw >> 11 & 7);
    if (f->native_vector == X86_XM && is_dot_product(f)) /* stops half-way: see vector.c */
        memcpy(f->after.fx + 24, &f->c->vector.mxcsr, 4);
    if (f->native_vector == X86_XM && f->c->vector.mxcsr & ~(f->c->vector.mxcsr >> 7) & 0x18)
        f->after.fx[24] = (uint8_t)((f->after.fx[24] & 0xdf) | (f->c->vector.mxcsr & 0x20));
    return registers_differ(f, &f->after);
}

static bool is_half_precision(const struct x86_insn *insn)
{
    return insn->vex == X86_VEX_EVEX && (insn->map >= 5 || (insn->map == 3 && insn->pp == 0));
}

static void mask_exceptions(struct native *s)
{
    s->fx[24] |= 0x80;
    s->fx[25] |= 0x1f;
}

static void test_one(struct fuzz *f)
{
    bool bad;

    random_state(f, &f->before);
    if (is_half_precision(&f->op.insn)) /* unmasked exceptions: not exact, see vector.c */
        mask_exceptions(&f->before);
    if (!f->op.stub)
        f->scratch++;
    if (below(f, 4) == 0)
        random_bytes(f, arena, PAGE);
    place_memory(f);
    place_indexes(f);
    f->before.gpr[X86_RSP] = 0;
    memcpy(f->memory_before, arena, PAGE);
    run_native(f);
    memcpy(arena, f->memory_before, PAGE);
    run_engine(f);
    if (engine_vector >= 0 || f->native_vector >= 0) {
        f->traps++;
        bad = fault_differs(f);
    } else {
        bad = registers_differ(f, &f->after);
    }
    if (!bad && !is_gather(f) && !is_split_store(f)) {
        for (unsigned i = 0; !bad && i < PAGE; i += 64)
            bad = differs(f, "memory", arena + i, f->memory_after + i, 64);
    }
    f->count++;
    if (bad)
        f->failed++;
    else
        f->passed++;
}

/* -- setting up -- */

static void feature(struct fuzz *f, enum x86_feature number, uint32_t reg, unsigned bit)
{
    f->cpuid.feature[number] = reg >> bit & 1;
}

static void features_find(struct fuzz *f)
{
    uint32_t a, b, c, d;

    __cpuid(1, a, b, c, d);
    feature(f, X86_FEATURE_SSE3, c, 0);
    feature(f, X86_FEATURE_PCLMUL, c, 1);
    feature(f, X86_FEATURE_SSSE3, c, 9);
    feature(f, X86_FEATURE_FMA, c, 12);
    feature(f, X86_FEATURE_SSE41, c, 19);
    feature(f, X86_FEATURE_SSE42, c, 20);
    feature(f, X86_FEATURE_AES, c, 25);
    feature(f, X86_FEATURE_XSAVE, c, 26);
    feature(f, X86_FEATURE_AVX, c, 28);
    feature(f, X86_FEATURE_F16C, c, 29);
    __cpuid_count(7, 0, a, b, c, d);
    f->cpuid.count = 1;
    f->cpuid.leaf[0] = (struct x86_cpuid_leaf){.function = 7, .ebx = b};
    feature(f, X86_FEATURE_AVX2, b, 5);
    feature(f, X86_FEATURE_SHA, b, 29);
    feature(f, X86_FEATURE_GFNI, c, 8);
    feature(f, X86_FEATURE_VAES, c, 9);
    feature(f, X86_FEATURE_VPCLMULQDQ, c, 10);
    feature(f, X86_FEATURE_AVX512F, b, 16);
    feature(f, X86_FEATURE_AVX512DQ, b, 17);
    feature(f, X86_FEATURE_AVX512IFMA, b, 21);
    feature(f, X86_FEATURE_AVX512CD, b, 28);
    feature(f, X86_FEATURE_AVX512BW, b, 30);
    feature(f, X86_FEATURE_AVX512VL, b, 31);
    feature(f, X86_FEATURE_AVX512VBMI, c, 1);
    feature(f, X86_FEATURE_AVX512VBMI2, c, 6);
    feature(f, X86_FEATURE_AVX512VNNI, c, 11);
    feature(f, X86_FEATURE_AVX512BITALG, c, 12);
    feature(f, X86_FEATURE_AVX512VPOPCNTDQ, c, 14);
    feature(f, X86_FEATURE_AVX512FP16, d, 23);
    __cpuid_count(7, 1, a, b, c, d);
    feature(f, X86_FEATURE_AVX_VNNI, a, 4);
    feature(f, X86_FEATURE_AVX512BF16, a, 5);
    __cpuid_count(13, 1, a, b, c, d);
    feature(f, X86_FEATURE_XSAVEOPT, a, 0);
    feature(f, X86_FEATURE_XSAVEC, a, 1);
    native_wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

static bool set_up(struct fuzz *f)
{
    struct sigaction action = {.sa_sigaction = trap_taken, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct error err = {0};

    for (int i = 0; i < 4; i++)
        sigaction((const int[]){SIGSEGV, SIGBUS, SIGILL, SIGFPE}[i], &action, NULL);
    arena = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED)
        return false;
    arena += PAGE;
    if (mprotect(arena, PAGE, PROT_READ | PROT_WRITE) != 0 ||
        mprotect((void *)((uintptr_t)native_run & ~(uintptr_t)(PAGE - 1)), PAGE,
                 PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return false;
    features_find(f);
    f->c = aligned_alloc(64, (sizeof *f->c + 63) & ~(size_t)63);
    if (!f->c)
        return false;
    memset(f->c, 0, sizeof *f->c);
    f->vm.vcpu_count = 1;
    f->vm.cpuid = &f->cpuid;
    if (soft_vector_init(&f->vm, &err) != 0) {
        printf("%s\n", err.text);
        return false;
    }
    f->c->vm = &f->vm;
    f->c->cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_MP;
    f->c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    f->c->xcr0 = native_wide ? 0xe7 : 7;
    f->c->code_size = X86_CODE_64;
    f->c->long_mode = true;
    return true;
}

/* -- single instructions -- */

static bool op_prepare(struct fuzz *f, const uint8_t *bytes, size_t length)
{
    memset(&f->op, 0, sizeof f->op);
    if (x86_decode(&f->op.insn, X86_CODE_64, bytes, length) != X86_DECODE_OK)
        return false;
    f->op.next = f->op.insn.length;
    f->run = soft_vector_handler(&f->vm, &f->op);
    return f->run != NULL;
}

/* -- speed -- */

static void time_one(struct fuzz *f, const char *name, const uint8_t *bytes)
{
    struct timespec start, end;

    if (!op_prepare(f, bytes, 15))
        return;
    random_state(f, &f->before);
    f->before.fx[0] = 0x7f;
    f->before.fx[1] = 0x03;
    f->before.fx[2] = 0;
    f->before.fx[3] = 0;
    f->before.gpr[X86_RSI] = (uint64_t)(uintptr_t)arena;
    memcpy(f->before.fx + 24, &native_mxcsr, 4);
    vcpu_load(f);
    if (setjmp(engine_jump) != 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < 1000000; i++)
        f->run(f->c, &f->op);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%-28s %6.1f ns\n", name,
           ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) /
               1e6);
}

static void time_all(struct fuzz *f)
{
    time_one(f, "paddd xmm1, xmm2", (const uint8_t[15]){0x66, 0x0f, 0xfe, 0xca});
    time_one(f, "movdqu xmm1, [rsi]", (const uint8_t[15]){0xf3, 0x0f, 0x6f, 0x0e});
    time_one(f, "movdqu [rsi], xmm1", (const uint8_t[15]){0xf3, 0x0f, 0x7f, 0x0e});
    time_one(f, "addsd xmm1, xmm2", (const uint8_t[15]){0xf2, 0x0f, 0x58, 0xca});
    time_one(f, "vpaddd ymm1, ymm2, ymm3", (const uint8_t[15]){0xc5, 0xed, 0xfe, 0xcb});
    time_one(f, "movq rax, xmm1", (const uint8_t[15]){0x66, 0x48, 0x0f, 0x7e, 0xc8});
    time_one(f, "paddd mm1, mm2", (const uint8_t[15]){0x0f, 0xfe, 0xca});
    time_one(f, "fadd st, st(1)", (const uint8_t[15]){0xd8, 0xc1});
    time_one(f, "fld qword [rsi]", (const uint8_t[15]){0xdd, 0x06});
    time_one(f, "fst qword [rsi]", (const uint8_t[15]){0xdd, 0x16});
}

/* -- the checks before execution -- */

struct check_case {
    const char *name;
    uint8_t bytes[8];
    uint64_t cr0, cr4, xcr0;
    int vector; /* expected, -1: none */
};

#define CR0 (X86_CR0_PE | X86_CR0_NE)
#define CR4 (X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT)

static const struct check_case check_cases[] = {
    {"paddd", {0x66, 0x0f, 0xfe, 0xca}, CR0, CR4, 7, -1},
    {"paddd, EM", {0x66, 0x0f, 0xfe, 0xca}, CR0 | X86_CR0_EM, CR4, 7, X86_UD},
    {"paddd, no OSFXSR", {0x66, 0x0f, 0xfe, 0xca}, CR0, 0, 7, X86_UD},
    {"paddd, TS", {0x66, 0x0f, 0xfe, 0xca}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"paddd, EM and TS", {0x66, 0x0f, 0xfe, 0xca}, CR0 | X86_CR0_EM | X86_CR0_TS, CR4, 7, X86_UD},
    {"mmx paddd, no OSFXSR", {0x0f, 0xfe, 0xca}, CR0, 0, 7, -1},
    {"mmx paddd, EM", {0x0f, 0xfe, 0xca}, CR0 | X86_CR0_EM, CR4, 7, X86_UD},
    {"mmx paddd, TS", {0x0f, 0xfe, 0xca}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"vpaddd", {0xc5, 0xe9, 0xfe, 0xcb}, CR0, CR4, 7, -1},
    {"vpaddd, no OSXSAVE", {0xc5, 0xe9, 0xfe, 0xcb}, CR0, X86_CR4_OSFXSR, 7, X86_UD},
    {"vpaddd, XCR0", {0xc5, 0xe9, 0xfe, 0xcb}, CR0, CR4, 3, X86_UD},
    {"vpaddd, TS", {0xc5, 0xe9, 0xfe, 0xcb}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"vpaddd, real mode", {0xc5, 0xe9, 0xfe, 0xcb}, X86_CR0_NE, CR4, 7, X86_UD},
    {"fld1, TS", {0xd9, 0xe8}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"fld1, EM", {0xd9, 0xe8}, CR0 | X86_CR0_EM, CR4, 7, X86_NM},
    {"fwait, TS", {0x9b}, CR0 | X86_CR0_TS, CR4, 7, -1},
    {"fwait, TS and MP", {0x9b}, CR0 | X86_CR0_TS | X86_CR0_MP, CR4, 7, X86_NM},
    {"fninit, TS", {0xdb, 0xe3}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"fxsave, TS", {0x0f, 0xae, 0x06}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"xsave, no OSXSAVE", {0x0f, 0xae, 0x26}, CR0, X86_CR4_OSFXSR, 7, X86_UD},
    {"xsave, TS", {0x0f, 0xae, 0x26}, CR0 | X86_CR0_TS, CR4, 7, X86_NM},
    {"ldmxcsr, no OSFXSR", {0x0f, 0xae, 0x16}, CR0, 0, 7, X86_UD},
    {"emms, EM", {0x0f, 0x77}, CR0 | X86_CR0_EM, CR4, 7, X86_UD},
};

static void check_run(struct fuzz *f, const struct check_case *k)
{
    struct soft_vcpu *c = f->c;
    uint64_t cr0 = c->cr0, cr4 = c->cr4, xcr0 = c->xcr0;
    bool good = op_prepare(f, k->bytes, sizeof k->bytes);

    random_state(f, &f->before);
    memcpy(f->before.fx, (const uint8_t[4]){0x7f, 0x03, 0, 0}, 4);
    f->before.gpr[X86_RSI] = (uint64_t)(uintptr_t)arena;
    c->cr0 = k->cr0;
    c->cr4 = k->cr4;
    c->xcr0 = k->xcr0;
    if (good)
        run_engine(f);
    c->cr0 = cr0;
    c->cr4 = cr4;
    c->xcr0 = xcr0;
    if (good && engine_vector == k->vector) {
        f->passed++;
        return;
    }
    f->failed++;
    printf("failed: %s: exception %d, want %d\n", k->name, good ? engine_vector : -2, k->vector);
}

/* With CR0.NE = 0 a waiting exception is ignored, and still there afterwards. */
static void check_ignored_exception(struct fuzz *f)
{
    uint64_t cr0 = f->c->cr0;
    bool good = op_prepare(f, (const uint8_t[2]){0xd9, 0xe8}, 2); /* fld1 */

    random_state(f, &f->before);
    memcpy(f->before.fx, (const uint8_t[5]){0x7e, 0x03, 0x81, 0x80, 0}, 5);
    f->c->cr0 = X86_CR0_PE;
    if (good)
        run_engine(f);
    f->c->cr0 = cr0;
    good = good && engine_vector == -1 && f->c->vector.fxsave[0] == 0x7e &&
           f->c->vector.fxsave[2] == 0x81 && f->c->vector.fxsave[4] == 0x80;
    if (!good)
        printf("failed: an exception that CR0.NE = 0 hides\n");
    *(good ? &f->passed : &f->failed) += 1;
}

/* Whole state out and in again. */
static void check_state_copy(struct fuzz *f)
{
    static uint8_t first[X86_XSAVE_BYTES], second[X86_XSAVE_BYTES];
    bool good;

    random_state(f, &f->before);
    vcpu_load(f);
    soft_xsave_get(f->c, first);
    memset(&f->c->vector, 0x55, sizeof f->c->vector);
    good = soft_xsave_set(f->c, first);
    soft_xsave_get(f->c, second);
    good = good && memcmp(first, second, sizeof first) == 0;
    first[520] = 1; /* XCOMP_BV: the standard format has none */
    good = good && !soft_xsave_set(f->c, first);
    if (!good)
        printf("failed: copying the whole state\n");
    *(good ? &f->passed : &f->failed) += 1;
}

int main(int argc, char **argv)
{
    static struct fuzz f = {.stop = 20};
    unsigned long count = 300000;
    uint64_t seed = 1;
    bool timing = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--time") == 0)
            timing = true;
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--count") == 0)
            count = strtoul(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--stop") == 0)
            f.stop = strtoul(argv[++i], NULL, 0);
    }
    f.seed = seed;
    if (!set_up(&f)) {
        printf("cannot set up\n0 passed, 1 failed\n");
        return 1;
    }
    printf("seed %" PRIu64 ", %lu instructions\n", seed, count);
    if (timing)
        time_all(&f);
    for (size_t i = 0; i < sizeof check_cases / sizeof *check_cases; i++)
        check_run(&f, &check_cases[i]);
    check_ignored_exception(&f);
    check_state_copy(&f);
    while (f.count < count && f.failed < f.stop) {
        if (choose(&f))
            test_one(&f);
    }
    printf("%lu exceptions among them, %lu by a scratch stub\n", f.traps, f.scratch);
    printf("%lu executions agree, %lu differ\n", f.passed, f.failed);
    printf("%d passed, %d failed\n", f.failed == 0, f.failed != 0);
    return f.failed ? 1 : 0;
}
