/*
 * The translator: see doc/soft.md for the method and its reasons.
 *
 * Guest registers live in the host registers of the same number, but for RSP (in R9) and R9, R10,
 * R11 (in soft_vcpu.gpr); R10 and R11 are scratch. GS points to the vCPU. An operation that is not
 * translated, misses the TLB or may fault leaves to C, where its interpreted twin runs; then
 * translated code goes on behind it.
 *
 * Flags: the guest's arithmetic flags are in the host's, or in soft_vcpu.arith, or both, or dead;
 * `struct translation` says which at each place. A TLB check destroys the host's. They are kept
 * right wherever an operation may fault or an event be taken.
 *
 * Threads: a vCPU's own. Input: guest code, decoded. See translate_run.c for what runs the result.
 */
#include "cpu/soft/translate.h"

#include <stddef.h>

#include "cpu/soft/liveness.h"
#include "cpu/soft/translate_internal.h"
#include "cpu/x86/flags.h"
#include "cpu/x86/vector.h"

#define BLOCK_CODE_MAX 16384
#define FLAGS_ALL      ((uint16_t)X86_RFLAGS_ARITH)
#define LOOK_AHEAD     8
#define LOOK_BYTES     32

#define STATE(field)   ((int32_t)offsetof(struct soft_vcpu, field))
#define GPR(n)         ((int32_t)(offsetof(struct soft_vcpu, gpr) + 8 * (n)))

enum cold_kind { COLD_OP, COLD_LINK, COLD_POLL };

/* Something out of line, emitted behind the block. */
struct cold {
    uint8_t *place; /* rel32 that leads here */
    enum cold_kind kind;
    unsigned op;            /* COLD_OP */
    struct soft_link *link; /* COLD_LINK */
    int32_t target;         /* COLD_POLL */
    bool flags_in_memory;
    bool vectors;  /* COLD_OP: load them before going on */
    uint8_t *back; /* COLD_OP: where to go on */
};

struct translation {
    struct soft_vcpu *c;
    struct soft_translator *t;
    struct soft_block *block;
    struct emit e;
    uint16_t live_after[SOFT_BLOCK_OPS_MAX];
    bool flags_host, flags_memory, vectors;
    struct cold cold[4 * SOFT_BLOCK_OPS_MAX];
    unsigned cold_count;
};

/* The two views lie apart by a constant, so a rel32 between two places is the same in both. */
static void jump_to(struct translation *tr, const uint8_t *execute)
{
    emit_patch_rel32(emit_jmp_rel32(&tr->e), to_write(tr->t, execute));
}

/* -- registers -- */

static bool is_displaced(unsigned guest)
{
    return guest >= 9 && guest <= 11;
}

static enum host_register host_of(unsigned guest)
{
    return guest == X86_RSP ? HOST_R9 : (enum host_register)guest;
}

/* -- flags -- */

static void flags_save(struct translation *tr)
{
    if (tr->flags_memory || !tr->flags_host)
        return;
    emit_mov_state_reg(&tr->e, STATE(saved_rax), HOST_RAX);
    emit_lahf_seto(&tr->e);
    emit_mov_state_reg16(&tr->e, STATE(arith), HOST_RAX);
    emit_mov_reg_state(&tr->e, HOST_RAX, STATE(saved_rax));
    tr->flags_memory = true;
}

static void flags_load(struct translation *tr)
{
    if (tr->flags_host)
        return;
    emit_mov_state_reg(&tr->e, STATE(saved_rax), HOST_RAX);
    emit_mov_reg_state32(&tr->e, HOST_RAX, STATE(arith));
    emit_restore_flags(&tr->e);
    emit_mov_reg_state(&tr->e, HOST_RAX, STATE(saved_rax));
    tr->flags_host = true;
}

/* Before code that destroys the host's flags, and may find that the operation faults. */
static void flags_clobber(struct translation *tr)
{
    flags_save(tr);
    tr->flags_host = false;
}

/* -- leaving -- */

static struct cold *cold_add(struct translation *tr, uint8_t *place, enum cold_kind kind)
{
    struct cold *cold = &tr->cold[tr->cold_count++];

    *cold = (struct cold){.place = place, .kind = kind};
    return cold;
}

static uint32_t site_new(struct translation *tr, unsigned op)
{
    tr->t->sites[tr->t->site_count] = (struct site){.block = tr->block, .op = op};
    return tr->t->site_count++;
}

static void exit_op(struct translation *tr, unsigned op, bool flags_in_memory)
{
    emit_mov_reg_imm64(&tr->e, HOST_R10, site_new(tr, op));
    jump_to(tr, tr->t->fixed.exit[EXIT_OP][flags_in_memory]);
}

/* An operation that always runs interpreted. */
static void interpret(struct translation *tr, unsigned op)
{
    exit_op(tr, op, !tr->flags_host);
    tr->block->resume[op] = to_execute(tr->t, tr->e.at);
    tr->flags_host = true;
    tr->flags_memory = true;
    tr->vectors = false;
}

/* -- memory -- */

static bool fits32(int64_t value)
{
    return value == (int32_t)value;
}

/* The effective address to R10; false: it can't be formed. Destroys R11. */
static bool address_emit(struct translation *tr, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    int64_t displacement = insn->displacement;
    enum host_register base = HOST_NONE, index = HOST_NONE;

    if (insn->base == X86_REG_RIP) {
        displacement += (int64_t)((uintptr_t)tr->block->host & 0xfff) + op->next;
        emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
        base = HOST_R10;
    } else if (insn->base != X86_REG_NONE) {
        base = host_of(insn->base);
        if (is_displaced(insn->base)) {
            emit_mov_reg_state(&tr->e, HOST_R10, GPR(insn->base));
            base = HOST_R10;
        }
    }
    if (insn->index != X86_REG_NONE) {
        index = host_of(insn->index);
        if (is_displaced(insn->index)) {
            emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->index));
            index = HOST_R11;
        }
    }
    if (!fits32(displacement)) {
        if (base != HOST_NONE || index != HOST_NONE)
            return false;
        emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)displacement);
    } else if (insn->address_size == 4) {
        emit_lea32(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    } else {
        emit_lea(&tr->e, HOST_R10, base, index, insn->scale, (int32_t)displacement);
    }
    if (insn->segment >= X86_FS)
        emit_alu_reg_state(&tr->e, EMIT_ADD, HOST_R10,
                           STATE(seg[0]) + (int32_t)(insn->segment * sizeof(struct x86_segment) +
                                                     offsetof(struct x86_segment, base)));
    return true;
}

struct check {
    unsigned op;
    unsigned size;
    unsigned align; /* 0 or a power of two */
    enum soft_access access;
};

/* R10 from linear to host address, or out of line to the interpreted twin. Destroys R11, flags. */
static void check_emit(struct translation *tr, const struct check *check)
{
    struct emit *e = &tr->e;
    int32_t array = (int32_t)(check->access * sizeof(struct soft_tlb_entry) * SOFT_TLB_ENTRIES);
    struct cold *cold;

    if (check->align > 1) {
        emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
        emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (int32_t)check->align - 1);
        cold = cold_add(tr, emit_jcc_rel32(e, EMIT_IF_NE), COLD_OP);
        cold->op = check->op;
        cold->vectors = tr->vectors;
    }
    emit_mov_reg_reg32(e, HOST_R11, HOST_R10);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, (SOFT_TLB_ENTRIES - 1) * 16);
    emit_alu_reg_state(e, EMIT_ADD, HOST_R11, STATE(tlb_now));
    emit_xor_reg_mem(e, HOST_R10, HOST_R11, array);
    emit_alu_reg_imm(e, EMIT_CMP, HOST_R10, (int32_t)(GUEST_PAGE_SIZE - check->size));
    cold = cold_add(tr, emit_jcc_rel32(e, EMIT_IF_A), COLD_OP);
    cold->op = check->op;
    cold->vectors = tr->vectors;
    emit_add_reg_mem(e, HOST_R10, HOST_R11, array + 8);
}

/* After the hot part of an operation: its twin, when it ran instead, goes on here. */
static void cold_back(struct translation *tr, unsigned op)
{
    for (unsigned i = 0; i < tr->cold_count; i++) {
        if (tr->cold[i].kind == COLD_OP && tr->cold[i].op == op)
            tr->cold[i].back = tr->e.at;
    }
}

/* What an operation does with its memory operand. */
static unsigned memory_size(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOVZX8:
    case X86_OP_MOVSX8:
    case X86_OP_SETCC:
        return 1;
    case X86_OP_MOVZX16:
    case X86_OP_MOVSX16:
        return 2;
    case X86_OP_MOVSXD:
        return 4;
    case X86_OP_CMPXCHG8B:
        return insn->operand_size == 8 ? 16 : 8;
    default:
        return insn->operand_size;
    }
}

static bool memory_written(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_CMP:
    case X86_OP_TEST:
    case X86_OP_BT:
    case X86_OP_MUL:
    case X86_OP_IMUL1:
    case X86_OP_IMUL3:
    case X86_OP_BLSR:
    case X86_OP_BLSMSK:
    case X86_OP_BLSI:
    case X86_OP_RORX:
        return false;
    default:
        return insn->form != X86_FORM_REG_RM;
    }
}

/* -- native operations -- */

static enum x86_feature feature_of(const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_POPCNT:
        return X86_FEATURE_POPCNT;
    case X86_OP_TZCNT:
    case X86_OP_ANDN:
    case X86_OP_BEXTR:
    case X86_OP_BLSR:
    case X86_OP_BLSMSK:
    case X86_OP_BLSI:
        return X86_FEATURE_BMI1;
    case X86_OP_BZHI:
    case X86_OP_MULX:
    case X86_OP_PDEP:
    case X86_OP_PEXT:
    case X86_OP_RORX:
    case X86_OP_SARX:
    case X86_OP_SHLX:
    case X86_OP_SHRX:
        return X86_FEATURE_BMI2;
    case X86_OP_LZCNT:
        return X86_FEATURE_LZCNT;
    case X86_OP_ADCX:
    case X86_OP_ADOX:
        return X86_FEATURE_ADX;
    case X86_OP_MOVBE:
        return X86_FEATURE_MOVBE;
    case X86_OP_CRC32:
        return X86_FEATURE_SSE42;
    case X86_OP_LAHF:
    case X86_OP_SAHF:
        return X86_FEATURE_LAHF;
    default:
        return X86_FEATURE_NONE;
    }
}

/* Whether the host executes `insn` as it stands, operands aside. Ranges are in X86_OPS' order. */
static bool is_native(const struct soft_vcpu *c, const struct x86_insn *insn)
{
    switch (insn->op) {
    case X86_OP_ADD ... X86_OP_IMUL3:
    case X86_OP_ROL ... X86_OP_SHRD:
    case X86_OP_BSF ... X86_OP_CRC32:
    case X86_OP_XADD:
    case X86_OP_CMPXCHG:
    case X86_OP_XCHG ... X86_OP_MOVSXD:
    case X86_OP_CMOV:
    case X86_OP_SETCC:
    case X86_OP_CBW:
    case X86_OP_CWD:
    case X86_OP_CLC:
    case X86_OP_STC:
    case X86_OP_CMC:
    case X86_OP_LAHF:
    case X86_OP_SAHF:
    case X86_OP_MOVNTI:
    case X86_OP_ADCX ... X86_OP_SHRX:
        break;
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        if (insn->memory && insn->form == X86_FORM_RM_REG)
            return false; /* a bit string */
        break;
    default:
        return false;
    }
    return c->vm->cpuid->feature[feature_of(insn)];
}

/* Scratch registers stand in for displaced ones. */
struct renaming {
    struct emit_rename rename;
    uint8_t guest[2]; /* displaced registers in use, and where they are */
    uint8_t host[2];
    unsigned count;
    uint16_t written;
};

static bool rename_all(const struct x86_insn *insn, const struct emit_registers *regs,
                       struct renaming *r)
{
    uint16_t used = regs->read | regs->written;
    uint16_t implicit = regs->implicit_read | regs->implicit_written;
    const uint8_t pool[2] = {HOST_R11, HOST_R10};
    unsigned limit = insn->memory ? 1 : 2;

    if (implicit & (1u << X86_RSP | 7u << 9))
        return false;
    for (unsigned n = 0; n < 16; n++)
        r->rename.gpr[n] = (uint8_t)host_of(n);
    r->rename.memory_base = HOST_R10;
    r->count = 0;
    r->written = regs->written;
    for (uint8_t n = 9; n <= 11; n++) {
        if (!(used >> n & 1))
            continue;
        if (r->count == limit)
            return false;
        r->guest[r->count] = n;
        r->host[r->count] = pool[r->count];
        r->rename.gpr[n] = pool[r->count++];
    }
    return true;
}

static bool native_emit(struct translation *tr, unsigned i, const struct x86_vector_insn *vector,
                        const struct check *check)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct emit_registers regs;
    struct renaming r;
    struct x86_flags f;
    uint16_t changes, keeps;

    emit_registers_of(&op->insn, vector, &regs);
    x86_flags_of(&op->insn, vector, &f);
    changes = f.written | f.maybe;
    keeps = tr->live_after[i] & (uint16_t)~f.written;
    if (!rename_all(&op->insn, &regs, &r))
        return false;
    if (op->insn.memory) {
        flags_clobber(tr);
        if (!address_emit(tr, op))
            return false;
        check_emit(tr, check);
    }
    for (unsigned n = 0; n < r.count; n++)
        emit_mov_reg_state(&tr->e, r.host[n], GPR(r.guest[n]));
    if (f.read || (changes && keeps))
        flags_load(tr);
    if (!emit_insn(&tr->e, &op->insn, vector, &r.rename))
        return false;
    for (unsigned n = 0; n < r.count; n++) {
        if (r.written >> r.guest[n] & 1)
            emit_mov_state_reg(&tr->e, GPR(r.guest[n]), r.host[n]);
    }
    if (changes) {
        tr->flags_host = true;
        tr->flags_memory = false;
    }
    return true;
}

static bool integer_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    struct check check = {.op = i, .size = memory_size(insn)};

    check.access = memory_written(insn) ? SOFT_WRITE : SOFT_READ;
    return native_emit(tr, i, NULL, &check);
}

/* -- vectors -- */

static bool vector_is_native(const struct x86_vector_insn *v)
{
    if (v->unit != X86_UNIT_SSE && v->unit != X86_UNIT_VEX && v->unit != X86_UNIT_EVEX)
        return false;
    if (v->memory != X86_MEMORY_PLAIN && v->memory_access != 0)
        return false;
    if (v->reg.class == X86_CLASS_MMX || v->rm.class == X86_CLASS_MMX)
        return false;
    return !(v->flags & (X86_VECTOR_RAX_RDX | X86_VECTOR_WRITES_RCX));
}

static bool vector_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    struct x86_vector_insn v;
    struct check check = {.op = i};

    if (!(tr->block->mode & SOFT_MODE_VECTORS) ||
        !x86_vector_describe(&op->insn, tr->c->vm->cpuid->feature, &v) || !vector_is_native(&v))
        return false;
    check.size = v.memory_bytes;
    check.align = v.aligned ? v.memory_bytes : 0;
    check.access = v.memory_access & X86_OPERAND_WRITE ? SOFT_WRITE : SOFT_READ;
    if (!tr->vectors)
        emit_call_state(&tr->e, STATE(vector_ready));
    tr->vectors = true;
    return native_emit(tr, i, &v, &check);
}

/* -- the stack, LEA -- */

static void state_or_reg_to(struct translation *tr, uint8_t host, unsigned guest)
{
    if (is_displaced(guest))
        emit_mov_reg_state(&tr->e, host, GPR(guest));
    else
        emit_mov_reg_reg(&tr->e, host, host_of(guest));
}

static bool push_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE};
    enum host_register source = HOST_R11;

    if (insn->operand_size != 8 || insn->memory)
        return false;
    flags_clobber(tr);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    check_emit(tr, &check);
    if (insn->form == X86_FORM_IMM)
        emit_mov_reg_imm64(&tr->e, HOST_R11, insn->immediate);
    else if (is_displaced(insn->rm))
        emit_mov_reg_state(&tr->e, HOST_R11, GPR(insn->rm));
    else
        source = host_of(insn->rm);
    emit_store(&tr->e, source, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
    return true;
}

static bool pop_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (insn->operand_size != 8 || insn->memory || insn->rm == X86_RSP)
        return false;
    flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_R9);
    check_emit(tr, &check);
    emit_load(&tr->e, is_displaced(insn->rm) ? HOST_R11 : insn->rm, HOST_R10, 0, 8);
    if (is_displaced(insn->rm))
        emit_mov_state_reg(&tr->e, GPR(insn->rm), HOST_R11);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, 8);
    return true;
}

static bool leave_emit(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (tr->block->ops[i].insn.operand_size != 8)
        return false;
    flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_RBP);
    check_emit(tr, &check);
    emit_lea(&tr->e, HOST_R9, HOST_RBP, HOST_NONE, 0, 8);
    emit_load(&tr->e, HOST_RBP, HOST_R10, 0, 8);
    return true;
}

static bool lea_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct x86_insn *insn = &op->insn;
    struct soft_op plain = *op;

    if (insn->operand_size < 4)
        return false;
    plain.insn.segment = X86_DS; /* means nothing here, and would need the flags */
    if (!address_emit(tr, &plain))
        return false;
    if (insn->operand_size == 4)
        emit_mov_reg_reg32(&tr->e, HOST_R10, HOST_R10);
    if (is_displaced(insn->reg))
        emit_mov_state_reg(&tr->e, GPR(insn->reg), HOST_R10);
    else
        emit_mov_reg_reg(&tr->e, host_of(insn->reg), HOST_R10);
    return true;
}

/* -- control flow -- */

static void rip_emit(struct translation *tr, int32_t target)
{
    emit_mov_reg_state(&tr->e, HOST_R10, STATE(code_page));
    emit_lea(&tr->e, HOST_R10, HOST_R10, HOST_NONE, 0, target);
}

/* Looks at requests without touching flags that live. */
static void poll_emit(struct translation *tr, int32_t target, bool flags_matter)
{
    struct emit *e = &tr->e;
    uint8_t *skip, *place;

    if (!flags_matter) {
        emit_mov_reg_state32(e, HOST_R11, STATE(request));
        emit_alu_reg_imm32(e, EMIT_CMP, HOST_R11, 0);
        place = emit_jcc_rel32(e, EMIT_IF_NE);
    } else {
        emit_mov_reg_reg(e, HOST_R11, HOST_RCX);
        emit_mov_reg_state32(e, HOST_RCX, STATE(request));
        skip = emit_jrcxz_rel8(e);
        emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
        place = emit_jmp_rel32(e);
        emit_patch_rel8(skip, e->at);
        emit_mov_reg_reg(e, HOST_RCX, HOST_R11);
    }
    struct cold *cold = cold_add(tr, place, COLD_POLL);
    cold->target = target;
    cold->flags_in_memory = !flags_matter;
}

/* To `target` (an offset from the page's beginning). `live`: flags the target may read. */
static void exit_direct(struct translation *tr, int32_t target, unsigned op, uint16_t live)
{
    bool in_memory = live && !tr->flags_host;
    bool flags_matter = live && tr->flags_host;

    if (target < 0 || target >= (int32_t)GUEST_PAGE_SIZE) {
        /* At an end of the address space it may be none: see branch_undo(). */
        emit_mov_state_imm32(&tr->e, STATE(exit_site), site_new(tr, op));
        rip_emit(tr, target);
        jump_to(tr, tr->t->fixed.lookup[in_memory]);
        return;
    }
    if (target <= (int32_t)((uintptr_t)tr->block->host & 0xfff) + tr->block->ops[op].offset)
        poll_emit(tr, target, flags_matter);
    struct soft_link *link = &tr->t->links[tr->t->link_count++];
    uint8_t *place = emit_jmp_rel32(&tr->e);

    *link = (struct soft_link){.from = tr->block,
                               .place = place,
                               .target = (uint32_t)target,
                               .flags_in_memory = in_memory};
    cold_add(tr, place, COLD_LINK)->link = link;
}

static int32_t page_offset(const struct translation *tr, unsigned within)
{
    return (int32_t)((uintptr_t)tr->block->host & 0xfff) + (int32_t)within;
}

/* The target of a direct branch from the page's beginning; false: too far. */
static bool branch_offset(const struct translation *tr, const struct soft_op *op, int32_t *target)
{
    int64_t to = page_offset(tr, op->next) + (int64_t)op->insn.immediate;

    *target = (int32_t)to;
    return fits32(to);
}

/* Flags live where a direct jump leads. A jump backwards polls, and an event shows all flags. */
static uint16_t live_at(const struct translation *tr, int32_t target)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)tr->block->host & ~(uintptr_t)0xfff);
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    struct soft_range range = {(uint16_t)target, (uint16_t)(target + LOOK_BYTES)};

    if (target <= page_offset(tr, last->offset) || target >= (int32_t)GUEST_PAGE_SIZE)
        return FLAGS_ALL;
    if (range.to > GUEST_PAGE_SIZE)
        range.to = GUEST_PAGE_SIZE;
    soft_code_rely(tr->c, tr->block, range); /* first: the bytes must not change unseen */
    return soft_live_in_precise(page + target, (size_t)(range.to - range.from), X86_CODE_64,
                                LOOK_AHEAD);
}

static bool jcc_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    int32_t taken;
    uint8_t *place;
    bool flags_memory;

    if (!branch_offset(tr, op, &taken))
        return false;
    flags_load(tr);
    flags_memory = tr->flags_memory;
    place = emit_jcc_rel32(&tr->e, (enum emit_condition)(op->insn.opcode & 15));
    exit_direct(tr, page_offset(tr, op->next), i, live_at(tr, page_offset(tr, op->next)));
    tr->flags_host = true;
    tr->flags_memory = flags_memory;
    emit_patch_rel32(place, tr->e.at);
    exit_direct(tr, taken, i, live_at(tr, taken));
    return true;
}

static bool jmp_emit(struct translation *tr, unsigned i)
{
    int32_t target;

    if (!branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    exit_direct(tr, target, i, tr->live_after[i]);
    return true;
}

/* Pushes the address behind the operation; R9 moves last. */
static void return_push(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE};

    flags_clobber(tr);
    emit_lea(&tr->e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    check_emit(tr, &check);
    emit_mov_reg_state(&tr->e, HOST_R11, STATE(code_page));
    emit_lea(&tr->e, HOST_R11, HOST_R11, HOST_NONE, 0, page_offset(tr, tr->block->ops[i].next));
    emit_store(&tr->e, HOST_R11, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
}

static bool call_emit(struct translation *tr, unsigned i)
{
    int32_t target;

    if (!branch_offset(tr, &tr->block->ops[i], &target))
        return false;
    return_push(tr, i);
    exit_direct(tr, target, i, tr->live_after[i]);
    return true;
}

static void exit_lookup(struct translation *tr, unsigned i)
{
    emit_mov_state_imm32(&tr->e, STATE(exit_site), site_new(tr, i));
    jump_to(tr, tr->t->fixed.lookup[!tr->flags_host]);
}

static bool ret_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    flags_clobber(tr);
    emit_mov_reg_reg(&tr->e, HOST_R10, HOST_R9);
    check_emit(tr, &check);
    emit_load(&tr->e, HOST_R10, HOST_R10, 0, 8);
    emit_lea(&tr->e, HOST_R9, HOST_R9, HOST_NONE, 0, 8 + (int32_t)insn->immediate);
    exit_lookup(tr, i);
    return true;
}

/* JMP by register or memory. CALL so is interpreted where its target is in memory or displaced. */
static bool jmp_ind_emit(struct translation *tr, unsigned i)
{
    const struct soft_op *op = &tr->block->ops[i];
    const struct check check = {.op = i, .size = 8, .access = SOFT_READ};

    if (!op->insn.memory) {
        state_or_reg_to(tr, HOST_R10, op->insn.rm);
    } else {
        flags_clobber(tr);
        if (!address_emit(tr, op))
            return false;
        check_emit(tr, &check);
        emit_load(&tr->e, HOST_R10, HOST_R10, 0, 8);
    }
    exit_lookup(tr, i);
    return true;
}

static bool call_ind_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    if (insn->memory || insn->rm == X86_RSP)
        return false;
    return_push(tr, i);
    state_or_reg_to(tr, HOST_R10, insn->rm);
    exit_lookup(tr, i);
    return true;
}

/* -- a block -- */

static bool op_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    switch (insn->op) {
    case X86_OP_JCC:
        return jcc_emit(tr, i);
    case X86_OP_JMP:
        return jmp_emit(tr, i);
    case X86_OP_CALL:
        return call_emit(tr, i);
    case X86_OP_RET:
        return ret_emit(tr, i);
    case X86_OP_JMP_IND:
        return jmp_ind_emit(tr, i);
    case X86_OP_CALL_IND:
        return call_ind_emit(tr, i);
    case X86_OP_PUSH:
        return push_emit(tr, i);
    case X86_OP_POP:
        return pop_emit(tr, i);
    case X86_OP_LEAVE:
        return leave_emit(tr, i);
    case X86_OP_LEA:
        return lea_emit(tr, i);
    case X86_OP_NOP:
    case X86_OP_PREFETCH:
        return true;
    case X86_OP_VECTOR:
        return vector_emit(tr, i);
    default:
        return is_native(tr->c, insn) && integer_emit(tr, i);
    }
}

/* One operation, natively if possible; whatever a failed attempt emitted is taken back. */
static void op_translate(struct translation *tr, unsigned i)
{
    struct emit e = tr->e;
    bool host = tr->flags_host, memory = tr->flags_memory, vectors = tr->vectors;
    unsigned cold = tr->cold_count;

    if (op_emit(tr, i)) {
        cold_back(tr, i);
        return;
    }
    tr->e = e;
    tr->flags_host = host;
    tr->flags_memory = memory;
    tr->vectors = vectors;
    tr->cold_count = cold;
    interpret(tr, i);
}

static void cold_emit(struct translation *tr, struct cold *cold)
{
    emit_patch_rel32(cold->place, tr->e.at);
    switch (cold->kind) {
    case COLD_OP:
        exit_op(tr, cold->op, true);
        tr->block->resume[cold->op] = to_execute(tr->t, tr->e.at);
        if (cold->vectors)
            emit_call_state(&tr->e, STATE(vector_ready));
        emit_patch_rel32(emit_jmp_rel32(&tr->e), cold->back);
        break;
    case COLD_LINK:
        cold->link->unlinked = tr->e.at;
        emit_mov_reg_imm64(&tr->e, HOST_R10, (uint64_t)(cold->link - tr->t->links));
        jump_to(tr, tr->t->fixed.exit[EXIT_LINK][cold->link->flags_in_memory]);
        break;
    default:
        rip_emit(tr, cold->target);
        jump_to(tr, tr->t->fixed.exit[EXIT_RIP][cold->flags_in_memory]);
    }
}

/* What is live behind the last operation. */
static uint16_t live_out(const struct translation *tr)
{
    const struct soft_op *last = &tr->block->ops[tr->block->count - 1];
    int32_t target;

    switch (last->insn.op) {
    case X86_OP_JMP:
    case X86_OP_CALL:
        return branch_offset(tr, last, &target) ? live_at(tr, target) : FLAGS_ALL;
    case X86_OP_JCC:
        if (!branch_offset(tr, last, &target))
            return FLAGS_ALL;
        return live_at(tr, target) | live_at(tr, page_offset(tr, last->next));
    default:
        return last->sets_rip ? FLAGS_ALL : live_at(tr, page_offset(tr, last->next));
    }
}

static void block_emit(struct translation *tr)
{
    struct soft_block *block = tr->block;
    const struct soft_op *last = &block->ops[block->count - 1];
    struct x86_flags first;
    uint8_t *entry = tr->e.at;

    soft_liveness_precise(block->ops, block->count, live_out(tr), tr->live_after);
    tr->flags_host = true;
    for (unsigned i = 0; i < block->count; i++)
        op_translate(tr, i);
    if (!soft_op_ends_block(&last->insn))
        exit_direct(tr, page_offset(tr, last->next), block->count - 1,
                    tr->live_after[block->count - 1]);
    for (unsigned i = 0; i < tr->cold_count; i++)
        cold_emit(tr, &tr->cold[i]);
    x86_flags_of(&block->ops[0].insn, NULL, &first);
    block->code = to_execute(tr->t, entry);
    block->code_flags = to_execute(tr->t, tr->e.at);
    tr->flags_host = false;
    flags_load(tr);
    emit_patch_rel32(emit_jmp_rel32(&tr->e), entry);
}

static bool room_left(const struct soft_translator *t)
{
    return t->used + BLOCK_CODE_MAX <= t->bytes && t->link_count + 4 <= t->links_max &&
           t->site_count + 4 * SOFT_BLOCK_OPS_MAX <= t->sites_max;
}

static bool block_translate(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;
    struct translation tr = {.c = c, .t = t, .block = block};

    block->resume = soft_code_alloc(c, block->count * sizeof *block->resume);
    if (!block->resume) {
        atomic_fetch_or(&c->request, SOFT_REQUEST_CLEAR);
        return false;
    }
    tr.e = (struct emit){.at = t->write + t->used, .end = t->write + t->used + BLOCK_CODE_MAX};
    block_emit(&tr);
    if (tr.e.full) {
        block->code = NULL;
        block->heat = 0;
        return false;
    }
    t->used = (size_t)(tr.e.at - t->write + 15) & ~(size_t)15;
    return true;
}

bool soft_translate_block(struct soft_vcpu *c, struct soft_block *block)
{
    struct soft_translator *t = c->translator;

    if (block->code)
        return true;
    if (!t || !block->valid || c->code_size != X86_CODE_64)
        return false;
    if (block->heat < c->vm->translate_after) {
        block->heat++;
        return false;
    }
    /* The caller runs this block once more: it must stay until then. */
    if (!room_left(t)) {
        atomic_fetch_or(&c->request, SOFT_REQUEST_CLEAR);
        return false;
    }
    return block_translate(c, block);
}
