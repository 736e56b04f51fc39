/*
 * Integer instructions of one operand size: included by integer.c four times, with BITS 8, 16, 32
 * and 64. Not a header of its own.
 *
 * Arithmetic runs on the host's own unit and its flags are taken by LAHF and SETO, so results and
 * flags (undefined ones too) are the host's. `restore` puts the guest's flags into the host's first,
 * for instructions that read them or may leave some unchanged.
 */
#define CONCAT2(a, b) a##b
#define CONCAT(a, b)  CONCAT2(a, b)
#define NAME(name)    CONCAT(name, BITS)
#define TYPE          CONCAT(CONCAT(uint, BITS), _t)
#define STYPE         CONCAT(CONCAT(int, BITS), _t)
#define LOAD          NAME(soft_load)
#define STORE         NAME(soft_store)
#define BYTES         (BITS / 8)

#if BITS == 8
#define REG_CONSTRAINT "q"
#else
#define REG_CONSTRAINT "r"
#endif

static inline TYPE NAME(reg_get)(const struct soft_vcpu *c, const struct x86_insn *insn,
                                 unsigned number)
{
#if BITS == 8
    return *byte_register((struct soft_vcpu *)(uintptr_t)c, insn, number);
#else
    (void)insn;
    return (TYPE)c->gpr[number];
#endif
}

static inline void NAME(reg_set)(struct soft_vcpu *c, const struct x86_insn *insn, unsigned number,
                                 TYPE value)
{
#if BITS == 8
    *byte_register(c, insn, number) = value;
#elif BITS == 16
    (void)insn;
    memcpy(&c->gpr[number], &value, 2);
#else
    (void)insn;
    c->gpr[number] = value;
#endif
}

static inline TYPE NAME(rm_get)(struct soft_vcpu *c, const struct soft_op *op)
{
    if (op->insn.memory)
        return LOAD(c, soft_operand(c, op, BYTES, SOFT_READ));
    return NAME(reg_get)(c, &op->insn, op->insn.rm);
}

static inline void NAME(rm_set)(struct soft_vcpu *c, const struct soft_op *op, TYPE value)
{
    if (op->insn.memory)
        STORE(c, soft_operand(c, op, BYTES, SOFT_WRITE), value);
    else
        NAME(reg_set)(c, &op->insn, op->insn.rm, value);
}

/* -- two-operand arithmetic -- */

/* `d op= s`, on a register or, through a pointer, in memory; locked where the guest says so. */
#define ARITHMETIC(name, insn_text, prologue)                                                      \
    static inline TYPE NAME(name##_value)(struct soft_vcpu * c, TYPE d, TYPE s)                    \
    {                                                                                              \
        uint16_t flags = c->arith;                                                                 \
        __asm__(prologue insn_text " %[s], %[d]\n\tlahf\n\tseto %%al"                              \
                : [d] "+&" REG_CONSTRAINT(d), "+&a"(flags)                                         \
                : [s] REG_CONSTRAINT(s)                                                            \
                : "cc");                                                                           \
        c->arith = flags;                                                                          \
        return d;                                                                                  \
    }                                                                                              \
    static inline void NAME(name##_memory)(struct soft_vcpu * c, const struct soft_op *op, TYPE s) \
    {                                                                                              \
        TYPE *d = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);                \
        uint16_t flags = c->arith;                                                                 \
        if (op->insn.prefixes & X86_PREFIX_LOCK)                                                   \
            __asm__ volatile(prologue "lock " insn_text " %[s], %[d]\n\tlahf\n\tseto %%al"         \
                             : [d] "+m"(*d), "+&a"(flags)                                          \
                             : [s] REG_CONSTRAINT(s)                                               \
                             : "cc", "memory");                                                    \
        else                                                                                       \
            __asm__ volatile(prologue insn_text " %[s], %[d]\n\tlahf\n\tseto %%al"                 \
                             : [d] "+m"(*d), "+&a"(flags)                                          \
                             : [s] REG_CONSTRAINT(s)                                               \
                             : "cc", "memory");                                                    \
        soft_rmw_end(c);                                                                           \
        c->arith = flags;                                                                          \
    }                                                                                              \
    static void NAME(name##_reg_reg)(struct soft_vcpu * c, const struct soft_op *op)               \
    {                                                                                              \
        const struct x86_insn *insn = &op->insn;                                                   \
        bool to_reg = insn->form == X86_FORM_REG_RM;                                               \
        unsigned d = to_reg ? insn->reg : insn->rm, s = to_reg ? insn->rm : insn->reg;             \
        NAME(reg_set)                                                                              \
        (c, insn, d,                                                                               \
         NAME(name##_value)(c, NAME(reg_get)(c, insn, d), NAME(reg_get)(c, insn, s)));             \
    }                                                                                              \
    static void NAME(name##_reg_imm)(struct soft_vcpu * c, const struct soft_op *op)               \
    {                                                                                              \
        NAME(reg_set)                                                                              \
        (c, &op->insn, op->insn.rm,                                                                \
         NAME(name##_value)(c, NAME(reg_get)(c, &op->insn, op->insn.rm),                           \
                            (TYPE)op->insn.immediate));                                            \
    }                                                                                              \
    static void NAME(name##_reg_mem)(struct soft_vcpu * c, const struct soft_op *op)               \
    {                                                                                              \
        TYPE s = LOAD(c, soft_operand(c, op, BYTES, SOFT_READ));                                   \
        NAME(reg_set)                                                                              \
        (c, &op->insn, op->insn.reg,                                                               \
         NAME(name##_value)(c, NAME(reg_get)(c, &op->insn, op->insn.reg), s));                     \
    }                                                                                              \
    static void NAME(name##_mem_reg)(struct soft_vcpu * c, const struct soft_op *op)               \
    {                                                                                              \
        NAME(name##_memory)(c, op, NAME(reg_get)(c, &op->insn, op->insn.reg));                     \
    }                                                                                              \
    static void NAME(name##_mem_imm)(struct soft_vcpu * c, const struct soft_op *op)               \
    {                                                                                              \
        NAME(name##_memory)(c, op, (TYPE)op->insn.immediate);                                      \
    }

#define RESTORE_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
ARITHMETIC(add, "add", "")
ARITHMETIC(or, "or", "")
ARITHMETIC(and, "and", "")
ARITHMETIC(sub, "sub", "")
ARITHMETIC(xor, "xor", "")
ARITHMETIC(adc, "adc", RESTORE_FLAGS)
ARITHMETIC(sbb, "sbb", RESTORE_FLAGS)
#undef ARITHMETIC

/* Flags alone: CMP and TEST. */
#define COMPARISON(name, insn_text)                                                                \
    static inline void NAME(name##_flags)(struct soft_vcpu * c, TYPE d, TYPE s)                    \
    {                                                                                              \
        uint16_t flags = 0;                                                                        \
        __asm__(insn_text " %[s], %[d]\n\tlahf\n\tseto %%al"                                       \
                : "+&a"(flags)                                                                     \
                : [d] REG_CONSTRAINT(d), [s] REG_CONSTRAINT(s)                                     \
                : "cc");                                                                           \
        c->arith = flags;                                                                          \
    }                                                                                              \
    static void NAME(name##_rm_reg)(struct soft_vcpu * c, const struct soft_op *op)                \
    {                                                                                              \
        TYPE d = NAME(rm_get)(c, op);                                                              \
        NAME(name##_flags)(c, d, NAME(reg_get)(c, &op->insn, op->insn.reg));                       \
    }                                                                                              \
    static void NAME(name##_reg_rm)(struct soft_vcpu * c, const struct soft_op *op)                \
    {                                                                                              \
        TYPE s = NAME(rm_get)(c, op);                                                              \
        NAME(name##_flags)(c, NAME(reg_get)(c, &op->insn, op->insn.reg), s);                       \
    }                                                                                              \
    static void NAME(name##_rm_imm)(struct soft_vcpu * c, const struct soft_op *op)                \
    {                                                                                              \
        NAME(name##_flags)(c, NAME(rm_get)(c, op), (TYPE)op->insn.immediate);                      \
    }
COMPARISON(cmp, "cmp")
COMPARISON(test, "test")
#undef COMPARISON

/* -- one-operand arithmetic -- */

#define UNARY(name, insn_text)                                                                     \
    static void NAME(name##_rm)(struct soft_vcpu * c, const struct soft_op *op)                    \
    {                                                                                              \
        uint16_t flags = c->arith;                                                                 \
        if (!op->insn.memory) {                                                                    \
            TYPE d = NAME(reg_get)(c, &op->insn, op->insn.rm);                                     \
            __asm__(RESTORE_FLAGS insn_text " %[d]\n\tlahf\n\tseto %%al"                           \
                    : [d] "+&" REG_CONSTRAINT(d), "+&a"(flags)                                     \
                    :                                                                              \
                    : "cc");                                                                       \
            NAME(reg_set)(c, &op->insn, op->insn.rm, d);                                           \
            c->arith = flags;                                                                      \
            return;                                                                                \
        }                                                                                          \
        TYPE *d = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);                \
        if (op->insn.prefixes & X86_PREFIX_LOCK)                                                   \
            __asm__ volatile(RESTORE_FLAGS "lock " insn_text " %[d]\n\tlahf\n\tseto %%al"          \
                             : [d] "+m"(*d), "+&a"(flags)                                          \
                             :                                                                     \
                             : "cc", "memory");                                                    \
        else                                                                                       \
            __asm__ volatile(RESTORE_FLAGS insn_text " %[d]\n\tlahf\n\tseto %%al"                  \
                             : [d] "+m"(*d), "+&a"(flags)                                          \
                             :                                                                     \
                             : "cc", "memory");                                                    \
        soft_rmw_end(c);                                                                           \
        c->arith = flags;                                                                          \
    }
#if BITS == 8
#define SUFFIX "b"
#elif BITS == 16
#define SUFFIX "w"
#elif BITS == 32
#define SUFFIX "l"
#else
#define SUFFIX "q"
#endif
UNARY(inc, "inc" SUFFIX)
UNARY(dec, "dec" SUFFIX)
UNARY(not, "not" SUFFIX)
UNARY(neg, "neg" SUFFIX)
#undef UNARY

/* -- shifts and rotates -- */

static inline uint8_t NAME(shift_count)(const struct soft_vcpu *c, const struct x86_insn *insn)
{
    return insn->by_cl ? (uint8_t)c->gpr[X86_RCX] : (uint8_t)insn->immediate;
}

/* The count is masked by the host as the guest's would be; a count of 0 leaves all flags. */
#define SHIFT(name, insn_text)                                                                     \
    static void NAME(name##_rm)(struct soft_vcpu * c, const struct soft_op *op)                    \
    {                                                                                              \
        uint8_t count = NAME(shift_count)(c, &op->insn);                                           \
        uint16_t flags = c->arith;                                                                 \
        TYPE *memory = NULL;                                                                       \
        TYPE d;                                                                                    \
        if (op->insn.memory) {                                                                     \
            memory = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);             \
            d = *memory;                                                                           \
        } else {                                                                                   \
            d = NAME(reg_get)(c, &op->insn, op->insn.rm);                                          \
        }                                                                                          \
        __asm__(RESTORE_FLAGS insn_text " %%cl, %[d]\n\tlahf\n\tseto %%al"                         \
                : [d] "+&" REG_CONSTRAINT(d), "+&a"(flags)                                         \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        if (memory) {                                                                              \
            *memory = d;                                                                           \
            soft_rmw_end(c);                                                                       \
        } else {                                                                                   \
            NAME(reg_set)(c, &op->insn, op->insn.rm, d);                                           \
        }                                                                                          \
        c->arith = flags;                                                                          \
    }
SHIFT(rol, "rol")
SHIFT(ror, "ror")
SHIFT(rcl, "rcl")
SHIFT(rcr, "rcr")
SHIFT(shl, "shl")
SHIFT(shr, "shr")
SHIFT(sar, "sar")
#undef SHIFT

#if BITS != 8
#define SHIFT_DOUBLE(name, insn_text)                                                              \
    static void NAME(name##_rm)(struct soft_vcpu * c, const struct soft_op *op)                    \
    {                                                                                              \
        uint8_t count = NAME(shift_count)(c, &op->insn);                                           \
        TYPE s = NAME(reg_get)(c, &op->insn, op->insn.reg);                                        \
        uint16_t flags = c->arith;                                                                 \
        TYPE *memory = NULL;                                                                       \
        TYPE d;                                                                                    \
        if (op->insn.memory) {                                                                     \
            memory = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);             \
            d = *memory;                                                                           \
        } else {                                                                                   \
            d = NAME(reg_get)(c, &op->insn, op->insn.rm);                                          \
        }                                                                                          \
        __asm__(RESTORE_FLAGS insn_text " %%cl, %[s], %[d]\n\tlahf\n\tseto %%al"                   \
                : [d] "+&r"(d), "+&a"(flags)                                                       \
                : "c"(count), [s] "r"(s)                                                           \
                : "cc");                                                                           \
        if (memory) {                                                                              \
            *memory = d;                                                                           \
            soft_rmw_end(c);                                                                       \
        } else {                                                                                   \
            NAME(reg_set)(c, &op->insn, op->insn.rm, d);                                           \
        }                                                                                          \
        c->arith = flags;                                                                          \
    }
SHIFT_DOUBLE(shld, "shld")
SHIFT_DOUBLE(shrd, "shrd")
#undef SHIFT_DOUBLE

/* -- bit tests: a register offset reaches beyond the operand in memory (a bit string) -- */

static uint64_t NAME(bit_address)(struct soft_vcpu *c, const struct soft_op *op,
                                  enum soft_access access)
{
    uint64_t offset = soft_effective(c, op);
    const struct x86_insn *insn = &op->insn;

    if (insn->form == X86_FORM_RM_REG) {
        STYPE index = (STYPE)NAME(reg_get)(c, insn, insn->reg);

        offset += (uint64_t)((int64_t)(index >> (BITS == 16 ? 4 : BITS == 32 ? 5 : 6)) * BYTES);
        if (insn->address_size == 4)
            offset = (uint32_t)offset;
        else if (insn->address_size == 2)
            offset = (uint16_t)offset;
    }
    return soft_linear_of(c, insn->segment, offset, BYTES, access);
}

#define BIT_TEST(name, insn_text, writes)                                                          \
    static void NAME(name##_rm)(struct soft_vcpu * c, const struct soft_op *op)                    \
    {                                                                                              \
        const struct x86_insn *insn = &op->insn;                                                   \
        TYPE index = insn->form == X86_FORM_RM_REG ? NAME(reg_get)(c, insn, insn->reg)             \
                                                   : (TYPE)insn->immediate;                        \
        uint16_t flags = c->arith;                                                                 \
        index &= BITS - 1;                                                                         \
        if (!insn->memory || !(writes)) {                                                          \
            TYPE d = insn->memory ? LOAD(c, NAME(bit_address)(c, op, SOFT_READ))                   \
                                  : NAME(reg_get)(c, insn, insn->rm);                              \
            __asm__(RESTORE_FLAGS insn_text " %[i], %[d]\n\tlahf\n\tseto %%al"                     \
                    : [d] "+&r"(d), "+&a"(flags)                                                   \
                    : [i] "r"(index)                                                               \
                    : "cc");                                                                       \
            if (writes)                                                                            \
                NAME(reg_set)(c, insn, insn->rm, d);                                               \
        } else {                                                                                   \
            TYPE *d = soft_rmw_begin(c, NAME(bit_address)(c, op, SOFT_WRITE), BYTES);              \
            if (insn->prefixes & X86_PREFIX_LOCK)                                                  \
                __asm__ volatile(RESTORE_FLAGS "lock " insn_text " %[i], %[d]\n\tlahf\n\tseto %%al" \
                                 : [d] "+m"(*d), "+&a"(flags)                                      \
                                 : [i] "r"(index)                                                  \
                                 : "cc", "memory");                                                \
            else                                                                                   \
                __asm__ volatile(RESTORE_FLAGS insn_text " %[i], %[d]\n\tlahf\n\tseto %%al"        \
                                 : [d] "+m"(*d), "+&a"(flags)                                      \
                                 : [i] "r"(index)                                                  \
                                 : "cc", "memory");                                                \
            soft_rmw_end(c);                                                                       \
        }                                                                                          \
        c->arith = flags;                                                                          \
    }
BIT_TEST(bts, "bts", true)
BIT_TEST(btr, "btr", true)
BIT_TEST(btc, "btc", true)

static void NAME(bt_rm)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    TYPE index = insn->form == X86_FORM_RM_REG ? NAME(reg_get)(c, insn, insn->reg)
                                               : (TYPE)insn->immediate;
    TYPE d = insn->memory ? LOAD(c, NAME(bit_address)(c, op, SOFT_READ))
                          : NAME(reg_get)(c, insn, insn->rm);
    uint16_t flags = c->arith;

    __asm__(RESTORE_FLAGS "bt %[i], %[d]\n\tlahf\n\tseto %%al"
            : "+&a"(flags)
            : [i] "r"(index), [d] "r"(d)
            : "cc");
    c->arith = flags;
}
#undef BIT_TEST

/* -- bit scans and counts: the whole host register goes through, so that what the host leaves
 * unchanged stays unchanged -- */

#if BITS == 16
#define MODIFIER "w"
#elif BITS == 32
#define MODIFIER "k"
#else
#define MODIFIER "q"
#endif
#define SCAN(name, insn_text)                                                                      \
    static void NAME(name##_reg_rm)(struct soft_vcpu * c, const struct soft_op *op)                \
    {                                                                                              \
        uint64_t s = NAME(rm_get)(c, op);                                                          \
        uint64_t d = c->gpr[op->insn.reg];                                                         \
        uint16_t flags = c->arith;                                                                 \
        __asm__(RESTORE_FLAGS insn_text " %" MODIFIER "[s], %" MODIFIER "[d]\n\tlahf\n\tseto %%al" \
                : [d] "+&r"(d), "+&a"(flags)                                                       \
                : [s] "r"(s)                                                                       \
                : "cc");                                                                           \
        c->gpr[op->insn.reg] = d;                                                                  \
        c->arith = flags;                                                                          \
    }
SCAN(bsf, "bsf")
SCAN(bsr, "bsr")
SCAN(tzcnt, "tzcnt")
SCAN(lzcnt, "lzcnt")
SCAN(popcnt, "popcnt")
SCAN(imul2, "imul")
#undef SCAN

static void NAME(imul3)(struct soft_vcpu *c, const struct soft_op *op)
{
    TYPE s = NAME(rm_get)(c, op);
    TYPE d = (TYPE)op->insn.immediate;
    uint16_t flags = c->arith;

    __asm__(RESTORE_FLAGS "imul %[s], %[d]\n\tlahf\n\tseto %%al"
            : [d] "+&r"(d), "+&a"(flags)
            : [s] "r"(s)
            : "cc");
    NAME(reg_set)(c, &op->insn, op->insn.reg, d);
    c->arith = flags;
}

static void NAME(cmov)(struct soft_vcpu *c, const struct soft_op *op)
{
    TYPE s = NAME(rm_get)(c, op);

    if (condition_holds(c, op->insn.opcode))
        NAME(reg_set)(c, &op->insn, op->insn.reg, s);
    else if (BITS == 32)
        c->gpr[op->insn.reg] = (uint32_t)c->gpr[op->insn.reg];
}

#define EXTEND(name, from_bits, cast)                                                              \
    static void NAME(name)(struct soft_vcpu * c, const struct soft_op *op)                         \
    {                                                                                              \
        const struct x86_insn *insn = &op->insn;                                                   \
        uint##from_bits##_t s =                                                                    \
            insn->memory                                                                           \
                ? soft_load##from_bits(c, soft_operand(c, op, from_bits / 8, SOFT_READ))           \
                : (from_bits == 8 ? *byte_register(c, insn, insn->rm)                              \
                                  : (uint##from_bits##_t)c->gpr[insn->rm]);                        \
        NAME(reg_set)(c, insn, insn->reg, (TYPE)(cast)s);                                          \
    }
EXTEND(movzx8_, 8, uint8_t)
EXTEND(movzx16_, 16, uint16_t)
EXTEND(movsx8_, 8, int8_t)
EXTEND(movsx16_, 16, int16_t)
EXTEND(movsxd_, 32, int32_t)
#undef EXTEND

static void NAME(lea)(struct soft_vcpu *c, const struct soft_op *op)
{
    NAME(reg_set)(c, &op->insn, op->insn.reg, (TYPE)soft_effective(c, op));
}

static void NAME(movbe)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;

    require_feature(c, X86_FEATURE_MOVBE);
    if (insn->form == X86_FORM_REG_RM)
        NAME(reg_set)(c, insn, insn->reg, CONCAT(__builtin_bswap, BITS)(NAME(rm_get)(c, op)));
    else
        NAME(rm_set)(c, op, CONCAT(__builtin_bswap, BITS)(NAME(reg_get)(c, insn, insn->reg)));
}
#endif /* BITS != 8 */

/* -- moves and exchanges -- */

static void NAME(mov_reg_reg)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    bool to_reg = insn->form == X86_FORM_REG_RM;

    NAME(reg_set)
    (c, insn, to_reg ? insn->reg : insn->rm,
     NAME(reg_get)(c, insn, to_reg ? insn->rm : insn->reg));
}

static void NAME(mov_reg_imm)(struct soft_vcpu *c, const struct soft_op *op)
{
    NAME(reg_set)(c, &op->insn, op->insn.rm, (TYPE)op->insn.immediate);
}

static void NAME(mov_reg_mem)(struct soft_vcpu *c, const struct soft_op *op)
{
    NAME(reg_set)
    (c, &op->insn, op->insn.reg, LOAD(c, soft_operand(c, op, BYTES, SOFT_READ)));
}

static void NAME(mov_mem_reg)(struct soft_vcpu *c, const struct soft_op *op)
{
    STORE(c, soft_operand(c, op, BYTES, SOFT_WRITE), NAME(reg_get)(c, &op->insn, op->insn.reg));
}

static void NAME(mov_mem_imm)(struct soft_vcpu *c, const struct soft_op *op)
{
    STORE(c, soft_operand(c, op, BYTES, SOFT_WRITE), (TYPE)op->insn.immediate);
}

static void NAME(xchg)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    unsigned reg = insn->form == X86_FORM_RM_REG ? insn->reg : X86_RAX;
    TYPE s = NAME(reg_get)(c, insn, reg);

    if (insn->memory) {
        TYPE *d = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);

        s = __atomic_exchange_n(d, s, __ATOMIC_SEQ_CST);
        soft_rmw_end(c);
    } else {
        TYPE d = NAME(reg_get)(c, insn, insn->rm);

        NAME(reg_set)(c, insn, insn->rm, s);
        s = d;
    }
    NAME(reg_set)(c, insn, reg, s);
}

static void NAME(xadd)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    TYPE s = NAME(reg_get)(c, insn, insn->reg);
    uint16_t flags = 0;
    TYPE sum;

    if (!insn->memory) {
        TYPE d = NAME(reg_get)(c, insn, insn->rm);

        sum = NAME(add_value)(c, d, s);
        NAME(reg_set)(c, insn, insn->reg, d);
        NAME(reg_set)(c, insn, insn->rm, sum);
        return;
    }
    TYPE *d = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);
    __asm__ volatile("lock xadd %[s], %[d]\n\tlahf\n\tseto %%al"
                     : [d] "+m"(*d), [s] "+&" REG_CONSTRAINT(s), "+&a"(flags)
                     :
                     : "cc", "memory");
    soft_rmw_end(c);
    NAME(reg_set)(c, insn, insn->reg, s);
    c->arith = flags;
}

/* Where the values differ, a register destination keeps all its bits, the upper 32 too: the host's
 * CPU does so, whatever the manual's pseudocode suggests. */
static void NAME(cmpxchg)(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    TYPE expected = (TYPE)c->gpr[X86_RAX], seen = expected;
    TYPE s = NAME(reg_get)(c, insn, insn->reg);

    if (insn->memory) {
        TYPE *d = soft_rmw_begin(c, soft_operand(c, op, BYTES, SOFT_WRITE), BYTES);

        (void)__atomic_compare_exchange_n(d, &seen, s, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        soft_rmw_end(c);
    } else {
        seen = NAME(reg_get)(c, insn, insn->rm);
        if (seen == expected)
            NAME(reg_set)(c, insn, insn->rm, s);
    }
    NAME(cmp_flags)(c, expected, seen);
    if (seen != expected)
        NAME(reg_set)(c, insn, X86_RAX, seen);
}

/* -- multiplication and division on AX, DX:AX, EDX:EAX, RDX:RAX -- */

#if BITS == 8
static void mul8(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t s = rm_get8(c, op);
    bool is_signed = op->insn.op == X86_OP_IMUL1;
    uint16_t product = (uint8_t)c->gpr[X86_RAX], flags;

    if (is_signed)
        __asm__("imulb %[s]\n\tmovw %%ax, %[p]\n\tlahf\n\tseto %%al"
                : "=&a"(flags), [p] "=&r"(product)
                : [s] "q"(s), "0"(product)
                : "cc");
    else
        __asm__("mulb %[s]\n\tmovw %%ax, %[p]\n\tlahf\n\tseto %%al"
                : "=&a"(flags), [p] "=&r"(product)
                : [s] "q"(s), "0"(product)
                : "cc");
    memcpy(&c->gpr[X86_RAX], &product, 2);
    c->arith = flags;
}

static void div8(struct soft_vcpu *c, const struct soft_op *op)
{
    uint8_t s = rm_get8(c, op);
    uint16_t n = (uint16_t)c->gpr[X86_RAX];
    uint16_t result;

    if (op->insn.op == X86_OP_DIV) {
        if (s == 0 || n / s > UINT8_MAX)
            soft_raise(c, X86_DE);
        result = (uint16_t)((n / s) | (n % s) << 8);
    } else {
        int d = (int8_t)s, value = (int16_t)n;

        if (d == 0 || value / d > INT8_MAX || value / d < INT8_MIN)
            soft_raise(c, X86_DE);
        result = (uint16_t)((uint8_t)(value / d) | (uint8_t)(value % d) << 8);
    }
    memcpy(&c->gpr[X86_RAX], &result, 2);
}
#else
static void NAME(mul)(struct soft_vcpu *c, const struct soft_op *op)
{
    TYPE s = NAME(rm_get)(c, op);
    uint64_t rax = c->gpr[X86_RAX], rdx = c->gpr[X86_RDX], low;

    /* RAX is both a factor and where LAHF puts the flags: the product's low half moves away. */
    if (op->insn.op == X86_OP_IMUL1)
        __asm__("imul" SUFFIX " %[s]\n\tmovq %%rax, %[low]\n\tlahf\n\tseto %%al"
                : [low] "=&r"(low), "+&a"(rax), "+&d"(rdx)
                : [s] "r"(s)
                : "cc");
    else
        __asm__("mul" SUFFIX " %[s]\n\tmovq %%rax, %[low]\n\tlahf\n\tseto %%al"
                : [low] "=&r"(low), "+&a"(rax), "+&d"(rdx)
                : [s] "r"(s)
                : "cc");
    NAME(reg_set)(c, &op->insn, X86_RAX, (TYPE)low);
    NAME(reg_set)(c, &op->insn, X86_RDX, (TYPE)rdx);
    c->arith = (uint16_t)rax;
}

#if BITS == 64
typedef unsigned __int128 wide_unsigned64;
typedef __int128 wide_signed64;
#elif BITS == 32
typedef uint64_t wide_unsigned32;
typedef int64_t wide_signed32;
#else
typedef uint32_t wide_unsigned16;
typedef int32_t wide_signed16;
#endif

static void NAME(div)(struct soft_vcpu *c, const struct soft_op *op)
{
    TYPE s = NAME(rm_get)(c, op);
    NAME(wide_unsigned) n = (NAME(wide_unsigned))(TYPE)c->gpr[X86_RDX] << BITS | (TYPE)c->gpr[X86_RAX];

    /* The quotient fits exactly when the high half is below the divisor. */
    if (s == 0 || (TYPE)c->gpr[X86_RDX] >= s)
        soft_raise(c, X86_DE);
    NAME(reg_set)(c, &op->insn, X86_RAX, (TYPE)(n / s));
    NAME(reg_set)(c, &op->insn, X86_RDX, (TYPE)(n % s));
}

static void NAME(idiv)(struct soft_vcpu *c, const struct soft_op *op)
{
    STYPE s = (STYPE)NAME(rm_get)(c, op);
    NAME(wide_unsigned) bits =
        (NAME(wide_unsigned))(TYPE)c->gpr[X86_RDX] << BITS | (TYPE)c->gpr[X86_RAX];
    NAME(wide_signed) n = (NAME(wide_signed))bits, quotient;

    /* The most negative dividend by -1 would overflow the host's division, too. */
    if (s == 0 || (s == -1 && bits == (NAME(wide_unsigned))1 << (2 * BITS - 1)))
        soft_raise(c, X86_DE);
    quotient = n / s;
    if (quotient != (STYPE)quotient)
        soft_raise(c, X86_DE);
    NAME(reg_set)(c, &op->insn, X86_RAX, (TYPE)quotient);
    NAME(reg_set)(c, &op->insn, X86_RDX, (TYPE)(n % s));
}
#undef MODIFIER
#endif

#undef CONCAT2
#undef CONCAT
#undef NAME
#undef TYPE
#undef STYPE
#undef LOAD
#undef STORE
#undef BYTES
#undef SUFFIX
#undef REG_CONSTRAINT
#undef RESTORE_FLAGS
#undef BITS
