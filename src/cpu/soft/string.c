/*
 * String instructions and port I/O of the soft engine.
 *
 * A REP instruction commits each iteration, so that a fault or an interrupt in the middle leaves
 * RCX, RSI and RDI as hardware does and the instruction restarts where it was (Intel SDM vol. 2,
 * REP). In 64-bit code whole runs inside one page are done at once (leaf_string.c). A long REP
 * comes back to the run loop now and then (c->rip stays on it), so that interrupts are served.
 * Threads: a vCPU's own.
 */
#include "cpu/soft/integer.h"
#include "cpu/soft/leaf.h"

#define ITERATIONS_MAX 4096

static uint64_t index_get(const struct soft_vcpu *c, const struct x86_insn *insn, unsigned number)
{
    uint64_t value = c->gpr[number];

    return insn->address_size == 8   ? value
           : insn->address_size == 4 ? (uint32_t)value
                                     : (uint16_t)value;
}

static void index_advance(struct soft_vcpu *c, const struct x86_insn *insn, unsigned number)
{
    uint64_t step = insn->operand_size;

    if (c->rflags & X86_RFLAGS_DF)
        step = -step;
    soft_index_set(c, insn, number, c->gpr[number] + step);
}

static uint64_t source(struct soft_vcpu *c, const struct x86_insn *insn)
{
    return soft_linear_of(c, insn->segment, index_get(c, insn, X86_RSI), insn->operand_size,
                          SOFT_READ);
}

static uint64_t destination(struct soft_vcpu *c, const struct x86_insn *insn,
                            enum soft_access access)
{
    return soft_linear_of(c, X86_ES, index_get(c, insn, X86_RDI), insn->operand_size, access);
}

static void accumulator_set(struct soft_vcpu *c, const struct x86_insn *insn, uint64_t value)
{
    if (insn->operand_size == 4)
        c->gpr[X86_RAX] = (uint32_t)value;
    else
        memcpy(&c->gpr[X86_RAX], &value, insn->operand_size);
}

static void compare(struct soft_vcpu *c, const struct x86_insn *insn, uint64_t a, uint64_t b)
{
    unsigned shift = 64u - 8u * insn->operand_size;
    uint16_t flags = 0;
    uint8_t low_a = (uint8_t)a, low_b = (uint8_t)b;
    uint16_t low_flags = 0;

    /* Shifted to the top, all flags but PF and AF come out right in 64 bits; those two belong to
     * the low byte. */
    __asm__("cmpb %[b], %[a]\n\tlahf\n\tmovb $0, %%al"
            : "+&a"(low_flags)
            : [a] "q"(low_a), [b] "q"(low_b)
            : "cc");
    __asm__("cmpq %[b], %[a]\n\tlahf\n\tseto %%al"
            : "+&a"(flags)
            : [a] "r"(a << shift), [b] "r"(b << shift)
            : "cc");
    c->string_arith = (uint16_t)((flags & 0xc101) | (low_flags & 0x1400));
}

/* -- one iteration each -- */

static void movs(struct soft_vcpu *c, const struct x86_insn *insn)
{
    uint64_t value = soft_load(c, source(c, insn), insn->operand_size);

    soft_store(c, destination(c, insn, SOFT_WRITE), value, insn->operand_size);
    index_advance(c, insn, X86_RSI);
    index_advance(c, insn, X86_RDI);
}

static void stos(struct soft_vcpu *c, const struct x86_insn *insn)
{
    soft_store(c, destination(c, insn, SOFT_WRITE), c->gpr[X86_RAX], insn->operand_size);
    index_advance(c, insn, X86_RDI);
}

static void lods(struct soft_vcpu *c, const struct x86_insn *insn)
{
    accumulator_set(c, insn, soft_load(c, source(c, insn), insn->operand_size));
    index_advance(c, insn, X86_RSI);
}

static void cmps(struct soft_vcpu *c, const struct x86_insn *insn)
{
    /* In the host's order, which shows where both fault. */
    uint64_t b = soft_load(c, destination(c, insn, SOFT_READ), insn->operand_size);
    uint64_t a = soft_load(c, source(c, insn), insn->operand_size);

    compare(c, insn, a, b);
    index_advance(c, insn, X86_RSI);
    index_advance(c, insn, X86_RDI);
}

static void scas(struct soft_vcpu *c, const struct x86_insn *insn)
{
    uint64_t b = soft_load(c, destination(c, insn, SOFT_READ), insn->operand_size);

    compare(c, insn, c->gpr[X86_RAX], b);
    index_advance(c, insn, X86_RDI);
}

static void port_require(struct soft_vcpu *c, uint16_t port, unsigned size)
{
    if (!soft_io_permitted(c, port, size))
        soft_raise_code(c, X86_GP, 0);
}

/* I/O breakpoints (CR4.DE, R/W = 2): reported after the instruction. */
static void port_watch(struct soft_vcpu *c, uint16_t port, unsigned size)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};

    if (!(c->dr7 & 0xff) || !(c->cr4 & X86_CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned control = (unsigned)(c->dr7 >> (16 + 4 * i)) & 15;
        uint64_t length = lengths[control >> 2];
        uint64_t from = c->dr[i] & ~(length - 1);

        if (((c->dr7 >> (2 * i)) & 3) && (control & 3) == 2 && port < from + length &&
            from < (uint64_t)port + size)
            c->pending_db |= UINT64_C(1) << i;
    }
}

static uint32_t port_access(struct soft_vcpu *c, uint16_t port, unsigned size,
                            const uint32_t *write)
{
    struct cpu_exit exit = {.kind = CPU_EXIT_IO};

    exit.io.port = port;
    exit.io.size = (uint8_t)size;
    exit.io.write = write != NULL;
    exit.io.value = write ? *write : 0;
    port_watch(c, port, size);
    return (uint32_t)soft_io(c, &exit);
}

static unsigned port_size(const struct x86_insn *insn)
{
    return insn->operand_size == 8 ? 4 : insn->operand_size; /* REX.W is ignored */
}

static void ins(struct soft_vcpu *c, const struct x86_insn *insn)
{
    uint16_t port = (uint16_t)c->gpr[X86_RDX];
    unsigned size = port_size(insn);
    uint64_t to;

    port_require(c, port, size);
    to = destination(c, insn, SOFT_WRITE);
    soft_probe(c, to, size, SOFT_WRITE); /* a fault must come before the device is read */
    soft_store(c, to, port_access(c, port, size, NULL), size);
    index_advance(c, insn, X86_RDI);
}

static void outs(struct soft_vcpu *c, const struct x86_insn *insn)
{
    uint16_t port = (uint16_t)c->gpr[X86_RDX];
    unsigned size = port_size(insn);
    uint32_t value;

    port_require(c, port, size);
    value = (uint32_t)soft_load(c, source(c, insn), size);
    (void)port_access(c, port, size, &value);
    index_advance(c, insn, X86_RSI);
}

/* -- repetition -- */

typedef void iteration(struct soft_vcpu *c, const struct x86_insn *insn);

struct string_op {
    iteration *one;
    bool leaf;     /* soft_leaf_string() knows it */
    bool compares; /* REPE and REPNE look at ZF */
};

/* As many iterations at once as can be; true: that was all. Elsewhere limits differ from element
 * to element, or the instruction is to be seen at each. */
static bool finished_by_leaf(struct soft_vcpu *c, const struct soft_op *op,
                             const struct string_op *string)
{
    return string->leaf && c->code_size == X86_CODE_64 && op->insn.address_size == 8 &&
           !c->stepping && soft_leaf_string(c, op);
}

static bool repeat_ends(const struct soft_vcpu *c, const struct x86_insn *insn)
{
    bool zero = (c->string_arith & 0x4000) != 0;

    return insn->prefixes & X86_PREFIX_REP ? !zero : zero;
}

/* Whatever ends an instruction in its middle shows in its flags; the vCPU's own wish to empty its
 * caches can wait. */
static bool should_return(const struct soft_vcpu *c, unsigned iterations)
{
    uint32_t request = atomic_load_explicit(&c->request, memory_order_relaxed);

    return c->stepping || iterations >= ITERATIONS_MAX || (request & ~SOFT_REQUEST_CLEAR) != 0;
}

static void repeat(struct soft_vcpu *c, const struct soft_op *op, const struct string_op *string)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t count = soft_count_get(c, insn);

    /* A fault in the middle of a comparison restores the flags from before the first (SDM vol. 2,
     * REP), wherever this stopped in between: they are set only at the end. */
    c->string_arith = c->arith;
    for (unsigned i = 0; count > 0; i++) {
        if (finished_by_leaf(c, op, string)) {
            c->rip = soft_rip_next(c);
            return;
        }
        string->one(c, insn);
        count = soft_count_get(c, insn) - 1;
        soft_index_set(c, insn, X86_RCX, count);
        soft_io_commit(c);
        if (string->compares && repeat_ends(c, insn))
            break;
        if (count > 0 && should_return(c, i)) {
            c->rip = soft_rip_current(c);
            c->rf_kept = true; /* the instruction is not complete */
            c->partial = true;
            c->fuel++;
            if (c->stepping) /* the trap's handler sees those of this iteration */
                c->arith = c->string_arith;
            return;
        }
    }
    c->arith = c->string_arith;
    c->rip = soft_rip_next(c);
}

static void string(struct soft_vcpu *c, const struct soft_op *op)
{
    static const struct string_op ops[] = {
        {movs, true, false}, {stos, true, false}, {lods, true, false},  {cmps, true, true},
        {scas, true, true},  {ins, false, false}, {outs, false, false},
    };
    const struct x86_insn *insn = &op->insn;
    unsigned which = insn->op == X86_OP_MOVS   ? 0
                     : insn->op == X86_OP_STOS ? 1
                     : insn->op == X86_OP_LODS ? 2
                     : insn->op == X86_OP_CMPS ? 3
                     : insn->op == X86_OP_SCAS ? 4
                     : insn->op == X86_OP_INS  ? 5
                                               : 6;

    if (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) {
        repeat(c, op, &ops[which]);
        return;
    }
    c->string_arith = c->arith;
    ops[which].one(c, insn);
    c->arith = c->string_arith;
    if (op->sets_rip)
        c->rip = soft_rip_next(c);
}

static void in(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint16_t port = (uint16_t)(insn->form == X86_FORM_IMM ? insn->immediate : c->gpr[X86_RDX]);
    unsigned size = port_size(insn);
    uint64_t value;

    port_require(c, port, size);
    value = port_access(c, port, size, NULL);
    if (size == 4)
        c->gpr[X86_RAX] = (uint32_t)value;
    else
        memcpy(&c->gpr[X86_RAX], &value, size);
}

static void out(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint16_t port = (uint16_t)(insn->form == X86_FORM_IMM ? insn->immediate : c->gpr[X86_RDX]);
    unsigned size = port_size(insn);
    uint32_t value = (uint32_t)c->gpr[X86_RAX];

    if (size < 4)
        value &= (1u << (8 * size)) - 1;
    port_require(c, port, size);
    (void)port_access(c, port, size, &value);
}

soft_handler *soft_string_handler(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOVS:
    case X86_OP_STOS:
    case X86_OP_LODS:
    case X86_OP_CMPS:
    case X86_OP_SCAS:
    case X86_OP_INS:
    case X86_OP_OUTS:
        return string;
    case X86_OP_IN:
        return in;
    case X86_OP_OUT:
        return out;
    default:
        return NULL;
    }
}
