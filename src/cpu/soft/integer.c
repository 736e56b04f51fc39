/*
 * Integer instructions of the soft engine, but strings (string.c) and all that leaves the segment
 * or the privilege level (far.c, system.c).
 *
 * Source: Intel SDM vol. 2. Arithmetic is done on the host's own unit: integer_sized.inc.
 * Threads: a vCPU's own.
 */
#include "cpu/soft/integer.h"

static inline uint8_t *byte_register(struct soft_vcpu *c, const struct x86_insn *insn,
                                     unsigned number)
{
    uint8_t *registers = (uint8_t *)c->gpr;

    /* Without REX, 4 to 7 are AH, CH, DH, BH. */
    if (number >= 4 && number < 8 && !(insn->rex & X86_REX))
        return registers + 8 * (number - 4) + 1;
    return registers + 8 * number;
}

/* Condition codes (Intel SDM vol. 1, appendix B) of c->arith. */
#define ARITH_OF 0x0001u
#define ARITH_CF 0x0100u
#define ARITH_PF 0x0400u
#define ARITH_AF 0x1000u
#define ARITH_ZF 0x4000u
#define ARITH_SF 0x8000u

static inline bool condition_holds(const struct soft_vcpu *c, unsigned code)
{
    unsigned f = c->arith;
    bool less = ((f >> 15) ^ f) & 1;
    bool holds = false;

    switch ((code >> 1) & 7) {
    case 0:
        holds = f & ARITH_OF;
        break;
    case 1:
        holds = f & ARITH_CF;
        break;
    case 2:
        holds = f & ARITH_ZF;
        break;
    case 3:
        holds = f & (ARITH_CF | ARITH_ZF);
        break;
    case 4:
        holds = f & ARITH_SF;
        break;
    case 5:
        holds = f & ARITH_PF;
        break;
    case 6:
        holds = less;
        break;
    case 7:
        holds = less || (f & ARITH_ZF);
        break;
    }
    return holds != (code & 1);
}

#define BITS 8
#include "cpu/soft/integer_sized.inc"
#define BITS 16
#include "cpu/soft/integer_sized.inc"
#define BITS 32
#include "cpu/soft/integer_sized.inc"
#define BITS 64
#include "cpu/soft/integer_sized.inc"

static void set_sized(struct soft_vcpu *c, const struct x86_insn *insn, unsigned number,
                      uint64_t value)
{
    switch (insn->operand_size) {
    case 1:
        reg_set8(c, insn, number, (uint8_t)value);
        break;
    case 2:
        reg_set16(c, insn, number, (uint16_t)value);
        break;
    case 4:
        reg_set32(c, insn, number, (uint32_t)value);
        break;
    default:
        c->gpr[number] = value;
    }
}

static uint64_t rm_sized(struct soft_vcpu *c, const struct soft_op *op)
{
    switch (op->insn.operand_size) {
    case 1:
        return rm_get8(c, op);
    case 2:
        return rm_get16(c, op);
    case 4:
        return rm_get32(c, op);
    default:
        return rm_get64(c, op);
    }
}

/* -- near control transfers -- */

/* The target is checked before anything changes; gives the value for RIP. */
static uint64_t branch_target(struct soft_vcpu *c, const struct soft_op *op, uint64_t target)
{
    if (c->code_size == X86_CODE_64) {
        if (!soft_is_canonical(target))
            soft_raise_code(c, X86_GP, 0);
        return target;
    }
    target = op->insn.operand_size == 2 ? (uint16_t)target : (uint32_t)target;
    if (target > c->seg[X86_CS].limit)
        soft_raise_code(c, X86_GP, 0);
    return target;
}

static uint64_t relative_target(struct soft_vcpu *c, const struct soft_op *op)
{
    return branch_target(c, op, c->block_rip + op->next + op->insn.immediate);
}

static void jmp(struct soft_vcpu *c, const struct soft_op *op)
{
    c->rip = relative_target(c, op);
}

static void jmp_ind(struct soft_vcpu *c, const struct soft_op *op)
{
    c->rip = branch_target(c, op, rm_sized(c, op));
}

/* In 64-bit mode the host's CPU stores the return address before it looks at the target, unlike the
 * manual's pseudocode (SDM vol. 2, CALL): a stack that faults comes first, and a target that does
 * leaves RSP. Elsewhere it was not tried. */
static void call_to(struct soft_vcpu *c, const struct soft_op *op, uint64_t target)
{
    uint64_t rsp = c->gpr[X86_RSP];

    if (c->code_size != X86_CODE_64)
        target = branch_target(c, op, target);
    soft_push(c, soft_rip_next(c), op->insn.operand_size);
    if (c->code_size == X86_CODE_64 && !soft_is_canonical(target)) {
        c->gpr[X86_RSP] = rsp;
        soft_raise_code(c, X86_GP, 0);
    }
    c->rip = target;
}

static void call(struct soft_vcpu *c, const struct soft_op *op)
{
    call_to(c, op, c->block_rip + op->next + op->insn.immediate);
}

static void call_ind(struct soft_vcpu *c, const struct soft_op *op)
{
    call_to(c, op, rm_sized(c, op));
}

/* What lies at SS:RSP + offset, without popping it. */
static uint64_t stack_peek(struct soft_vcpu *c, uint64_t offset, unsigned size)
{
    uint64_t at = (c->gpr[X86_RSP] + offset) & soft_stack_mask(c);

    return soft_load(c, soft_linear(c, X86_SS, at, size, SOFT_READ), size);
}

static void ret(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t target = branch_target(c, op, stack_peek(c, 0, size));

    soft_stack_set(c, c->gpr[X86_RSP] + size + op->insn.immediate);
    c->rip = target;
}

#define JCC(code)                                                                                  \
    static void jcc_##code(struct soft_vcpu *c, const struct soft_op *op)                          \
    {                                                                                              \
        c->rip = condition_holds(c, 0x##code) ? relative_target(c, op) : soft_rip_next(c);         \
    }
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(a)
JCC(b)
JCC(c)
JCC(d)
JCC(e)
JCC(f)

static soft_handler *const jcc_handlers[16] = {jcc_0, jcc_1, jcc_2, jcc_3, jcc_4, jcc_5,
                                               jcc_6, jcc_7, jcc_8, jcc_9, jcc_a, jcc_b,
                                               jcc_c, jcc_d, jcc_e, jcc_f};

uint64_t soft_count_get(const struct soft_vcpu *c, const struct x86_insn *insn)
{
    uint64_t count = c->gpr[X86_RCX];

    return insn->address_size == 8   ? count
           : insn->address_size == 4 ? (uint32_t)count
                                     : (uint16_t)count;
}

void soft_index_set(struct soft_vcpu *c, const struct x86_insn *insn, unsigned number,
                    uint64_t value)
{
    if (insn->address_size == 8)
        c->gpr[number] = value;
    else if (insn->address_size == 4)
        c->gpr[number] = (uint32_t)value;
    else
        memcpy(&c->gpr[number], &value, 2);
}

static void loop(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t count = soft_count_get(c, insn) - 1;
    bool zero = (c->arith & ARITH_ZF) != 0;
    bool taken = insn->address_size == 8   ? count != 0
                 : insn->address_size == 4 ? (uint32_t)count != 0
                                           : (uint16_t)count != 0;
    uint64_t rip = soft_rip_next(c);

    if (insn->op == X86_OP_LOOPE)
        taken = taken && zero;
    if (insn->op == X86_OP_LOOPNE)
        taken = taken && !zero;
    if (taken)
        rip = relative_target(c, op);
    soft_index_set(c, insn, X86_RCX, count);
    c->rip = rip;
}

static void jcxz(struct soft_vcpu *c, const struct soft_op *op)
{
    c->rip = soft_count_get(c, &op->insn) == 0 ? relative_target(c, op) : soft_rip_next(c);
}

/* -- the stack -- */

static void push(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value = op->insn.form == X86_FORM_IMM ? op->insn.immediate : rm_sized(c, op);

    soft_push(c, value, op->insn.operand_size);
}

static void pop(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned size = insn->operand_size;
    uint64_t value = stack_peek(c, 0, size);
    uint64_t before = c->gpr[X86_RSP], after, offset;

    soft_stack_set(c, before + size);
    if (!insn->memory) {
        set_sized(c, insn, insn->rm, value);
        return;
    }
    /* An address that uses RSP sees it after the pop; a fault sees it before. */
    after = c->gpr[X86_RSP];
    offset = soft_effective(c, op);
    c->gpr[X86_RSP] = before;
    soft_store(c, soft_linear_of(c, insn->segment, offset, size, SOFT_WRITE), value, size);
    c->gpr[X86_RSP] = after;
}

static void pusha(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t mask = soft_stack_mask(c), rsp = c->gpr[X86_RSP];

    for (unsigned i = 0; i < 8; i++) {
        uint64_t at = (rsp - (i + 1) * size) & mask;

        soft_store(c, soft_linear(c, X86_SS, at, size, SOFT_WRITE), c->gpr[i], size);
    }
    soft_stack_set(c, rsp - 8 * size);
}

static void popa(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t value[8];

    for (unsigned i = 0; i < 8; i++)
        value[7 - i] = stack_peek(c, (uint64_t)i * size, size);
    for (unsigned i = 0; i < 8; i++) {
        if (i != X86_RSP)
            set_sized(c, &op->insn, i, value[i]);
    }
    soft_stack_set(c, c->gpr[X86_RSP] + 8 * size);
}

/* ENTER (SDM vol. 2): the frame is built in memory first, RBP and RSP change last. */
static void enter(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned size = insn->operand_size, level = (insn->immediate >> 16) & 31;
    uint64_t mask = soft_stack_mask(c), rsp = c->gpr[X86_RSP], rbp = c->gpr[X86_RBP];
    uint64_t frame = rsp - size;

    soft_store(c, soft_linear(c, X86_SS, frame & mask, size, SOFT_WRITE), rbp, size);
    rsp = frame;
    for (unsigned i = 1; i < level; i++) {
        uint64_t link;

        rbp -= size;
        link = soft_load(c, soft_linear(c, X86_SS, rbp & mask, size, SOFT_READ), size);
        rsp -= size;
        soft_store(c, soft_linear(c, X86_SS, rsp & mask, size, SOFT_WRITE), link, size);
    }
    if (level > 0) {
        rsp -= size;
        soft_store(c, soft_linear(c, X86_SS, rsp & mask, size, SOFT_WRITE), frame, size);
    }
    rsp -= insn->immediate & 0xffff;
    soft_probe(c, soft_linear(c, X86_SS, rsp & mask, size, SOFT_WRITE), size, SOFT_WRITE);
    set_sized(c, insn, X86_RBP, c->code_size == X86_CODE_64 && size != 2 ? frame : frame & mask);
    soft_stack_set(c, rsp);
}

static void leave(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t at = c->gpr[X86_RBP] & soft_stack_mask(c);
    uint64_t value = soft_load(c, soft_linear(c, X86_SS, at, size, SOFT_READ), size);

    soft_stack_set(c, c->gpr[X86_RBP] + size);
    set_sized(c, &op->insn, X86_RBP, value);
}

/* -- small ones -- */

static void setcc(struct soft_vcpu *c, const struct soft_op *op)
{
    rm_set8(c, op, condition_holds(c, op->insn.opcode));
}

static void lahf_sahf(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t *ah = (uint8_t *)c->gpr + 1;

    if (c->code_size == X86_CODE_64)
        soft_require_feature(c, X86_FEATURE_LAHF);
    if (op->insn.op == X86_OP_LAHF)
        *ah = (uint8_t)(c->arith >> 8) | 2;
    else
        c->arith = (uint16_t)((c->arith & ARITH_OF) | (*ah & 0xd5u) << 8);
}

static void convert(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t rax = c->gpr[X86_RAX];
    int64_t value = insn->operand_size == 2   ? (int8_t)rax
                    : insn->operand_size == 4 ? (int16_t)rax
                                              : (int32_t)rax;

    set_sized(c, insn, X86_RAX, (uint64_t)value);
}

static void convert_double(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned sign = 8u * op->insn.operand_size - 1;
    uint64_t value = (c->gpr[X86_RAX] >> sign) & 1 ? UINT64_MAX : 0;

    set_sized(c, &op->insn, X86_RDX, value);
}

static void bswap(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned number = op->insn.rm;

    if (op->insn.operand_size == 8)
        c->gpr[number] = __builtin_bswap64(c->gpr[number]);
    else if (op->insn.operand_size == 4)
        c->gpr[number] = __builtin_bswap32((uint32_t)c->gpr[number]);
    else
        reg_set16(c, &op->insn, number, 0); /* undefined by the manual; what Intel's CPUs do */
}

static void flag_op(struct soft_vcpu *c, const struct soft_op *op)
{
    switch (op->insn.op) {
    case X86_OP_CLC:
        c->arith &= (uint16_t)~ARITH_CF;
        break;
    case X86_OP_STC:
        c->arith |= ARITH_CF;
        break;
    case X86_OP_CMC:
        c->arith ^= ARITH_CF;
        break;
    case X86_OP_CLD:
        c->rflags &= ~X86_RFLAGS_DF;
        break;
    default:
        c->rflags |= X86_RFLAGS_DF;
    }
}

static void xlat(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t offset = c->gpr[X86_RBX] + (uint8_t)c->gpr[X86_RAX];
    uint8_t value;

    if (insn->address_size == 4)
        offset = (uint32_t)offset;
    else if (insn->address_size == 2)
        offset = (uint16_t)offset;
    value = soft_load8(c, soft_linear_of(c, insn->segment, offset, 1, SOFT_READ));
    *(uint8_t *)c->gpr = value;
}

static void bound(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t linear = soft_operand(c, op, 2 * size, SOFT_READ);
    uint64_t low = soft_load(c, linear, size), high = soft_load(c, linear + size, size);
    bool inside;

    if (size == 2) {
        int16_t index = (int16_t)c->gpr[op->insn.reg];

        inside = index >= (int16_t)low && index <= (int16_t)high;
    } else {
        int32_t index = (int32_t)c->gpr[op->insn.reg];

        inside = index >= (int32_t)low && index <= (int32_t)high;
    }
    if (!inside)
        soft_raise(c, X86_BR);
}

/* Naturally aligned compare-and-exchange of 8 or 16 bytes; a locked one in every case. */
static void cmpxchg8b(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t expected = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    uint64_t wanted = (uint32_t)c->gpr[X86_RBX] | c->gpr[X86_RCX] << 32;
    uint64_t *d = soft_rmw_begin(c, soft_operand(c, op, 8, SOFT_WRITE), 8);
    bool same = __atomic_compare_exchange_n(d, &expected, wanted, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST);

    soft_rmw_end(c);
    c->arith = (uint16_t)((c->arith & ~ARITH_ZF) | (same ? ARITH_ZF : 0));
    if (!same) {
        c->gpr[X86_RAX] = (uint32_t)expected;
        c->gpr[X86_RDX] = expected >> 32;
    }
}

static void cmpxchg16b(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t low = c->gpr[X86_RAX], high = c->gpr[X86_RDX];
    uint64_t linear;
    void *d;
    bool same;

    soft_require_feature(c, X86_FEATURE_CX16);
    linear = soft_operand(c, op, 16, SOFT_WRITE);
    if (linear & 15)
        soft_raise_code(c, X86_GP, 0);
    d = soft_rmw_begin(c, linear, 16);
    __asm__ volatile("lock cmpxchg16b %[d]"
                     : [d] "+m"(*(unsigned __int128 *)d), "+a"(low), "+d"(high), "=@ccz"(same)
                     : "b"(c->gpr[X86_RBX]), "c"(c->gpr[X86_RCX])
                     : "memory");
    soft_rmw_end(c);
    c->arith = (uint16_t)((c->arith & ~ARITH_ZF) | (same ? ARITH_ZF : 0));
    if (!same) {
        c->gpr[X86_RAX] = low;
        c->gpr[X86_RDX] = high;
    }
}

static void crc32(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t crc = c->gpr[op->insn.reg], s;

    soft_require_feature(c, X86_FEATURE_SSE42);
    s = rm_sized(c, op);
    switch (op->insn.operand_size) {
    case 1:
        __asm__("crc32b %b[s], %k[d]" : [d] "+r"(crc) : [s] "q"(s));
        break;
    case 2:
        __asm__("crc32w %w[s], %k[d]" : [d] "+r"(crc) : [s] "r"(s));
        break;
    case 4:
        __asm__("crc32l %k[s], %k[d]" : [d] "+r"(crc) : [s] "r"(s));
        break;
    default:
        __asm__("crc32q %[s], %[d]" : [d] "+r"(crc) : [s] "r"(s));
    }
    c->gpr[op->insn.reg] = crc;
}

static void movnti(struct soft_vcpu *c, const struct soft_op *op)
{
    if (op->insn.operand_size == 8)
        mov_mem_reg64(c, op);
    else
        mov_mem_reg32(c, op);
}

/* -- decimal adjustment, outside 64-bit mode only -- */

static uint16_t flags_of(uint8_t value)
{
    uint16_t flags = 0;

    __asm__("testb %[v], %[v]\n\tlahf\n\tmovb $0, %%al" : "=a"(flags) : [v] "q"(value) : "cc");
    return flags;
}

static void decimal_adjust(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t al = (uint8_t)c->gpr[X86_RAX], before = al;
    bool subtract = op->insn.op == X86_OP_DAS;
    bool cf = (c->arith & ARITH_CF) != 0, af = (c->arith & ARITH_AF) != 0;
    bool carry = before > 0x99 || cf;
    uint16_t flags;

    af = af || (before & 15) > 9;
    if (af) {
        cf = carry || (subtract ? before < 6 : before > 0xf9);
        al = (uint8_t)(subtract ? al - 6 : al + 6);
    } else {
        cf = carry;
    }
    if (carry)
        al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
    flags = flags_of(al);
    *(uint8_t *)c->gpr = al;
    c->arith =
        (uint16_t)((flags & ~(ARITH_CF | ARITH_AF)) | (cf ? ARITH_CF : 0) | (af ? ARITH_AF : 0));
}

static void ascii_adjust(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    bool adjust = (ax & 15) > 9 || (c->arith & ARITH_AF);

    if (adjust)
        ax = (uint16_t)(op->insn.op == X86_OP_AAA ? ax + 0x106 : ax - 0x106);
    ax &= 0xff0f;
    memcpy(&c->gpr[X86_RAX], &ax, 2);
    c->arith = (uint16_t)((flags_of((uint8_t)ax) & ~(ARITH_CF | ARITH_AF)) |
                          (adjust ? ARITH_CF | ARITH_AF : 0));
}

static void ascii_multiply(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    uint8_t base = (uint8_t)op->insn.immediate;

    if (op->insn.op == X86_OP_AAM) {
        uint8_t al = (uint8_t)ax;

        if (base == 0)
            soft_raise(c, X86_DE);
        ax = (uint16_t)((al / base) << 8 | al % base);
    } else {
        ax = (uint8_t)(ax + (ax >> 8) * base);
    }
    memcpy(&c->gpr[X86_RAX], &ax, 2);
    c->arith = flags_of((uint8_t)ax);
}

static void salc(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    *(uint8_t *)c->gpr = c->arith & ARITH_CF ? 0xff : 0;
}

/* -- BMI and ADX -- */

static void require_vex(struct soft_vcpu *c, enum x86_feature feature)
{
    soft_require_feature(c, feature);
    if (soft_is_real(c) || soft_is_v86(c))
        soft_raise(c, X86_UD);
}

/* d = insn(a, b) in the operand's width, with or without flags. */
#define BMI(name, feature, text32, text64)                                                         \
    static void name(struct soft_vcpu *c, const struct soft_op *op)                                \
    {                                                                                              \
        uint64_t m, v = c->gpr[op->insn.vvvv & 15], d;                                             \
        uint16_t flags = c->arith;                                                                 \
        require_vex(c, feature);                                                                   \
        m = rm_sized(c, op);                                                                       \
        if (op->insn.operand_size == 8)                                                            \
            __asm__("addb $0x7f, %%al\n\tsahf\n\t" text64 "\n\tlahf\n\tseto %%al"                  \
                    : [d] "=&r"(d), "+&a"(flags)                                                   \
                    : [m] "r"(m), [v] "r"(v)                                                       \
                    : "cc");                                                                       \
        else                                                                                       \
            __asm__("addb $0x7f, %%al\n\tsahf\n\t" text32 "\n\tlahf\n\tseto %%al"                  \
                    : [d] "=&r"(d), "+&a"(flags)                                                   \
                    : [m] "r"(m), [v] "r"(v)                                                       \
                    : "cc");                                                                       \
        c->gpr[BMI_DESTINATION] = d;                                                               \
        c->arith = flags;                                                                          \
    }
#define BMI_DESTINATION op->insn.reg
BMI(andn, X86_FEATURE_BMI1, "andn %k[m], %k[v], %k[d]", "andn %q[m], %q[v], %q[d]")
BMI(bextr, X86_FEATURE_BMI1, "bextr %k[v], %k[m], %k[d]", "bextr %q[v], %q[m], %q[d]")
BMI(bzhi, X86_FEATURE_BMI2, "bzhi %k[v], %k[m], %k[d]", "bzhi %q[v], %q[m], %q[d]")
BMI(pdep, X86_FEATURE_BMI2, "pdep %k[m], %k[v], %k[d]", "pdep %q[m], %q[v], %q[d]")
BMI(pext, X86_FEATURE_BMI2, "pext %k[m], %k[v], %k[d]", "pext %q[m], %q[v], %q[d]")
BMI(sarx, X86_FEATURE_BMI2, "sarx %k[v], %k[m], %k[d]", "sarx %q[v], %q[m], %q[d]")
BMI(shlx, X86_FEATURE_BMI2, "shlx %k[v], %k[m], %k[d]", "shlx %q[v], %q[m], %q[d]")
BMI(shrx, X86_FEATURE_BMI2, "shrx %k[v], %k[m], %k[d]", "shrx %q[v], %q[m], %q[d]")
#undef BMI_DESTINATION
#define BMI_DESTINATION (op->insn.vvvv & 15)
BMI(blsr, X86_FEATURE_BMI1, "blsr %k[m], %k[d]", "blsr %q[m], %q[d]")
BMI(blsmsk, X86_FEATURE_BMI1, "blsmsk %k[m], %k[d]", "blsmsk %q[m], %q[d]")
BMI(blsi, X86_FEATURE_BMI1, "blsi %k[m], %k[d]", "blsi %q[m], %q[d]")
#undef BMI_DESTINATION
#undef BMI

static void mulx(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned low = insn->vvvv & 15;
    uint64_t m;

    require_vex(c, X86_FEATURE_BMI2);
    m = rm_sized(c, op);
    if (insn->operand_size == 8) {
        unsigned __int128 product = (unsigned __int128)m * c->gpr[X86_RDX];

        c->gpr[low] = (uint64_t)product;
        c->gpr[insn->reg] = (uint64_t)(product >> 64);
    } else {
        uint64_t product = (uint64_t)(uint32_t)m * (uint32_t)c->gpr[X86_RDX];

        c->gpr[low] = (uint32_t)product;
        c->gpr[insn->reg] = product >> 32;
    }
}

static void rorx(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned count = (unsigned)op->insn.immediate;
    uint64_t m;

    require_vex(c, X86_FEATURE_BMI2);
    m = rm_sized(c, op);
    if (op->insn.operand_size == 8) {
        count &= 63;
        m = m >> count | m << (-count & 63);
    } else {
        count &= 31;
        m = (uint32_t)((uint32_t)m >> count | (uint32_t)m << (-count & 31));
    }
    c->gpr[op->insn.reg] = m;
}

/* ADCX uses CF alone, ADOX OF alone. */
static void adx(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t flag = op->insn.op == X86_OP_ADCX ? ARITH_CF : ARITH_OF;
    unsigned __int128 sum;
    uint64_t m;

    soft_require_feature(c, X86_FEATURE_ADX);
    m = rm_sized(c, op);
    sum = c->arith & flag ? 1 : 0;
    if (op->insn.operand_size == 8) {
        sum += (unsigned __int128)m + c->gpr[op->insn.reg];
        c->gpr[op->insn.reg] = (uint64_t)sum;
        sum >>= 64;
    } else {
        sum += (uint64_t)(uint32_t)m + (uint32_t)c->gpr[op->insn.reg];
        c->gpr[op->insn.reg] = (uint32_t)sum;
        sum >>= 32;
    }
    c->arith = (uint16_t)((c->arith & ~flag) | (sum ? flag : 0));
}

/* -- the tables -- */

#define BY_SIZE(name)                                                                              \
    {                                                                                              \
        name##8, name##16, name##32, name##64                                                      \
    }
#define BY_SIZE3(name)                                                                             \
    {                                                                                              \
        NULL, name##16, name##32, name##64                                                         \
    }

/* Two-operand arithmetic and MOV: where the operands lie decides once, here. */
enum variant { REG_REG, REG_IMM, REG_MEM, MEM_REG, MEM_IMM, VARIANTS };

struct variants {
    uint16_t op;
    soft_handler *handler[VARIANTS][4];
};

#define VARIANTS_OF(op, name)                                                                      \
    {                                                                                              \
        X86_OP_##op,                                                                               \
        {                                                                                          \
            [REG_REG] = BY_SIZE(name##_reg_reg), [REG_IMM] = BY_SIZE(name##_reg_imm),              \
            [REG_MEM] = BY_SIZE(name##_reg_mem), [MEM_REG] = BY_SIZE(name##_mem_reg),              \
            [MEM_IMM] = BY_SIZE(name##_mem_imm)                                                    \
        }                                                                                          \
    }

static const struct variants variants[] = {
    VARIANTS_OF(ADD, add), VARIANTS_OF(OR, or),   VARIANTS_OF(ADC, adc), VARIANTS_OF(SBB, sbb),
    VARIANTS_OF(AND, and), VARIANTS_OF(SUB, sub), VARIANTS_OF(XOR, xor), VARIANTS_OF(MOV, mov),
};

static enum variant variant_of(const struct x86_insn *insn)
{
    if (!insn->memory)
        return insn->form == X86_FORM_RM_IMM ? REG_IMM : REG_REG;
    if (insn->form == X86_FORM_RM_IMM)
        return MEM_IMM;
    return insn->form == X86_FORM_REG_RM ? REG_MEM : MEM_REG;
}

struct sized {
    uint16_t op;
    soft_handler *handler[4];
};

static const struct sized sized[] = {
    {X86_OP_INC, BY_SIZE(inc_rm)},      {X86_OP_DEC, BY_SIZE(dec_rm)},
    {X86_OP_NOT, BY_SIZE(not_rm)},      {X86_OP_NEG, BY_SIZE(neg_rm)},
    {X86_OP_ROL, BY_SIZE(rol_rm)},      {X86_OP_ROR, BY_SIZE(ror_rm)},
    {X86_OP_RCL, BY_SIZE(rcl_rm)},      {X86_OP_RCR, BY_SIZE(rcr_rm)},
    {X86_OP_SHL, BY_SIZE(shl_rm)},      {X86_OP_SHR, BY_SIZE(shr_rm)},
    {X86_OP_SAR, BY_SIZE(sar_rm)},      {X86_OP_SHLD, BY_SIZE3(shld_rm)},
    {X86_OP_SHRD, BY_SIZE3(shrd_rm)},   {X86_OP_BT, BY_SIZE3(bt_rm)},
    {X86_OP_BTS, BY_SIZE3(bts_rm)},     {X86_OP_BTR, BY_SIZE3(btr_rm)},
    {X86_OP_BTC, BY_SIZE3(btc_rm)},     {X86_OP_BSF, BY_SIZE3(bsf_reg_rm)},
    {X86_OP_BSR, BY_SIZE3(bsr_reg_rm)}, {X86_OP_IMUL2, BY_SIZE3(imul2_reg_rm)},
    {X86_OP_IMUL3, BY_SIZE3(imul3)},    {X86_OP_CMOV, BY_SIZE3(cmov)},
    {X86_OP_MOVZX8, BY_SIZE3(movzx8_)}, {X86_OP_MOVZX16, BY_SIZE3(movzx16_)},
    {X86_OP_MOVSX8, BY_SIZE3(movsx8_)}, {X86_OP_MOVSX16, BY_SIZE3(movsx16_)},
    {X86_OP_MOVSXD, BY_SIZE3(movsxd_)}, {X86_OP_LEA, BY_SIZE3(lea)},
    {X86_OP_MOVBE, BY_SIZE3(movbe)},    {X86_OP_XCHG, BY_SIZE(xchg)},
    {X86_OP_XADD, BY_SIZE(xadd)},       {X86_OP_CMPXCHG, BY_SIZE(cmpxchg)},
    {X86_OP_MUL, BY_SIZE(mul)},         {X86_OP_IMUL1, BY_SIZE(mul)},
    {X86_OP_DIV, BY_SIZE(div)},         {X86_OP_IDIV, {div8, idiv16, idiv32, idiv64}},
};

static unsigned size_index(const struct x86_insn *insn)
{
    return (unsigned)__builtin_ctz(insn->operand_size);
}

static soft_handler *comparison_handler(const struct x86_insn *insn)
{
    static soft_handler *const cmp[3][4] = {BY_SIZE(cmp_rm_reg), BY_SIZE(cmp_reg_rm),
                                            BY_SIZE(cmp_rm_imm)};
    static soft_handler *const test[3][4] = {BY_SIZE(test_rm_reg), BY_SIZE(test_reg_rm),
                                             BY_SIZE(test_rm_imm)};
    unsigned form = insn->form == X86_FORM_RM_REG ? 0 : insn->form == X86_FORM_REG_RM ? 1 : 2;

    return (insn->op == X86_OP_CMP ? cmp : test)[form][size_index(insn)];
}

/* Counts that older processors decode as scans, or not at all. */
#define OPTIONAL_SCAN(name, needed, otherwise)                                                     \
    static void name##_or_scan(struct soft_vcpu *c, const struct soft_op *op)                      \
    {                                                                                              \
        static soft_handler *const counts[4] = BY_SIZE3(name##_reg_rm);                            \
        static soft_handler *const scans[4] = BY_SIZE3(otherwise##_reg_rm);                        \
        unsigned size = size_index(&op->insn);                                                     \
        (c->vm->cpuid->feature[needed] ? counts : scans)[size](c, op);                             \
    }
OPTIONAL_SCAN(tzcnt, X86_FEATURE_BMI1, bsf)
OPTIONAL_SCAN(lzcnt, X86_FEATURE_LZCNT, bsr)

static void popcnt(struct soft_vcpu *c, const struct soft_op *op)
{
    static soft_handler *const counts[4] = BY_SIZE3(popcnt_reg_rm);

    soft_require_feature(c, X86_FEATURE_POPCNT);
    counts[size_index(&op->insn)](c, op);
}

static soft_handler *single_handler(const struct x86_insn *insn)
{
    static soft_handler *const handlers[X86_OP_COUNT] = {
        [X86_OP_JMP] = jmp,
        [X86_OP_JMP_IND] = jmp_ind,
        [X86_OP_CALL] = call,
        [X86_OP_CALL_IND] = call_ind,
        [X86_OP_RET] = ret,
        [X86_OP_LOOP] = loop,
        [X86_OP_LOOPE] = loop,
        [X86_OP_LOOPNE] = loop,
        [X86_OP_JCXZ] = jcxz,
        [X86_OP_PUSH] = push,
        [X86_OP_POP] = pop,
        [X86_OP_PUSHA] = pusha,
        [X86_OP_POPA] = popa,
        [X86_OP_ENTER] = enter,
        [X86_OP_LEAVE] = leave,
        [X86_OP_SETCC] = setcc,
        [X86_OP_LAHF] = lahf_sahf,
        [X86_OP_SAHF] = lahf_sahf,
        [X86_OP_CBW] = convert,
        [X86_OP_CWD] = convert_double,
        [X86_OP_BSWAP] = bswap,
        [X86_OP_CLC] = flag_op,
        [X86_OP_STC] = flag_op,
        [X86_OP_CMC] = flag_op,
        [X86_OP_CLD] = flag_op,
        [X86_OP_STD] = flag_op,
        [X86_OP_XLAT] = xlat,
        [X86_OP_BOUND] = bound,
        [X86_OP_CRC32] = crc32,
        [X86_OP_MOVNTI] = movnti,
        [X86_OP_DAA] = decimal_adjust,
        [X86_OP_DAS] = decimal_adjust,
        [X86_OP_AAA] = ascii_adjust,
        [X86_OP_AAS] = ascii_adjust,
        [X86_OP_AAM] = ascii_multiply,
        [X86_OP_AAD] = ascii_multiply,
        [X86_OP_SALC] = salc,
        [X86_OP_ANDN] = andn,
        [X86_OP_BEXTR] = bextr,
        [X86_OP_BZHI] = bzhi,
        [X86_OP_PDEP] = pdep,
        [X86_OP_PEXT] = pext,
        [X86_OP_SARX] = sarx,
        [X86_OP_SHLX] = shlx,
        [X86_OP_SHRX] = shrx,
        [X86_OP_BLSR] = blsr,
        [X86_OP_BLSMSK] = blsmsk,
        [X86_OP_BLSI] = blsi,
        [X86_OP_MULX] = mulx,
        [X86_OP_RORX] = rorx,
        [X86_OP_ADCX] = adx,
        [X86_OP_ADOX] = adx,
        [X86_OP_TZCNT] = tzcnt_or_scan,
        [X86_OP_LZCNT] = lzcnt_or_scan,
        [X86_OP_POPCNT] = popcnt,
    };

    if (insn->op == X86_OP_CMPXCHG8B)
        return insn->operand_size == 8 ? cmpxchg16b : cmpxchg8b;
    if (insn->op == X86_OP_JCC)
        return jcc_handlers[insn->opcode & 15];
    return handlers[insn->op];
}

static soft_handler *integer_handler(const struct x86_insn *insn)
{
    if (insn->op == X86_OP_CMP || insn->op == X86_OP_TEST)
        return comparison_handler(insn);
    for (unsigned i = 0; i < sizeof variants / sizeof *variants; i++) {
        if (variants[i].op == insn->op)
            return variants[i].handler[variant_of(insn)][size_index(insn)];
    }
    for (unsigned i = 0; i < sizeof sized / sizeof *sized; i++) {
        if (sized[i].op == insn->op)
            return sized[i].handler[size_index(insn)];
    }
    return single_handler(insn);
}

soft_handler *soft_handler_for(const struct x86_insn *insn)
{
    soft_handler *handler = integer_handler(insn);

    if (!handler)
        handler = soft_string_handler(insn);
    if (!handler)
        handler = soft_control_handler(insn);
    return handler ? handler : soft_system_handler(insn);
}
