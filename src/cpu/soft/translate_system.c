/*
 * The translator's system instructions: inline where they are a few moves of the vCPU's state, as
 * leaves (leaf.h) where they are more. See translate.c.
 *
 * What can fault or be refused is looked at when it runs, and leaves for the interpreted twin. In a
 * block of CPL 3 privileged instructions are twins always.
 *
 * Threads: a vCPU's own. Input: guest code, decoded.
 */
#include "cpu/soft/translate_internal.h"

#define SELECTOR(segment)                                                                          \
    (STATE(seg[0]) +                                                                               \
     (int32_t)((segment) * sizeof(struct x86_segment) + offsetof(struct x86_segment, selector)))

/* To the twin where `condition` holds; flags are in memory. */
static bool is_user(const struct translation *tr)
{
    return tr->block->mode & SOFT_MODE_USER;
}

/* Destroys flags, which must be in memory. CPL 1 and 2 share their blocks with CPL 0. */
static void cpl0_require(struct translation *tr, unsigned i)
{
    emit_mov_reg_state32(&tr->e, HOST_R10, STATE(cpl));
    emit_alu_reg_imm32(&tr->e, EMIT_AND, HOST_R10, 0xff);
    tr_twin_if(tr, i, EMIT_IF_NE);
}

static void register_set(struct translation *tr, unsigned guest, enum host_register from)
{
    if (tr_is_displaced(guest))
        emit_mov_state_reg(&tr->e, GPR(guest), from);
    else
        emit_mov_reg_reg(&tr->e, tr_host_of(guest), from);
}

/* -- RFLAGS -- */

static bool cli_emit(struct translation *tr, unsigned i)
{
    struct emit *e = &tr->e;

    if (is_user(tr))
        return false;
    tr_flags_clobber(tr);
    cpl0_require(tr, i);
    emit_mov_reg_state32(e, HOST_R10, STATE(rflags));
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R10, ~(int32_t)X86_RFLAGS_IF);
    emit_mov_state_reg32(e, STATE(rflags), HOST_R10);
    return true;
}

/* CLD, STD: no translated code runs with the host's DF set. */
static bool direction_emit(struct translation *tr, unsigned i)
{
    struct emit *e = &tr->e;

    tr_flags_clobber(tr);
    emit_mov_reg_state32(e, HOST_R10, STATE(rflags));
    if (tr->block->ops[i].insn.op == X86_OP_CLD)
        emit_alu_reg_imm32(e, EMIT_AND, HOST_R10, ~(int32_t)X86_RFLAGS_DF);
    else
        emit_alu_reg_imm32(e, EMIT_OR, HOST_R10, X86_RFLAGS_DF);
    emit_mov_state_reg32(e, STATE(rflags), HOST_R10);
    return true;
}

/* The shadow is the next instruction's place in the block: nobody looks for events before it. What
 * waits already is for the twin, so that STI, NOP, CLI lets it in. */
static bool sti_emit(struct translation *tr, unsigned i)
{
    struct emit *e = &tr->e;

    if (is_user(tr) || i + 1 == tr->block->count)
        return false;
    tr_flags_clobber(tr);
    cpl0_require(tr, i);
    emit_mov_reg_state32(e, HOST_R10, STATE(request));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R10, 0);
    tr_twin_if(tr, i, EMIT_IF_NE);
    emit_mov_reg_state32(e, HOST_R10, STATE(rflags));
    emit_alu_reg_imm32(e, EMIT_OR, HOST_R10, X86_RFLAGS_IF);
    emit_mov_state_reg32(e, STATE(rflags), HOST_R10);
    return true;
}

/* Neither RF nor VM is ever set in translated code. */
static bool pushf_emit(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 8, .access = SOFT_WRITE};
    struct emit *e = &tr->e;

    if (tr->block->ops[i].insn.operand_size != 8)
        return false;
    tr_flags_store(tr);
    tr->flags_host = false;
    emit_lea(e, HOST_R10, HOST_R9, HOST_NONE, 0, -8);
    tr_check(tr, &check);
    emit_mov_state_reg(e, STATE(saved_rax), HOST_RAX);
    emit_mov_reg_state16(e, HOST_RAX, STATE(arith));
    emit_mov_reg_reg32(e, HOST_R11, HOST_RAX);
    emit_shift_imm32(e, EMIT_SHR, HOST_R11, 8);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R11, FLAGS_ALL & 0xff);
    emit_alu_reg_imm32(e, EMIT_AND, HOST_RAX, 1);
    emit_shift_imm32(e, EMIT_SHL, HOST_RAX, 11); /* OF */
    emit_alu_reg_reg32(e, EMIT_OR, HOST_R11, HOST_RAX);
    emit_alu_reg_state32(e, EMIT_OR, HOST_R11, STATE(rflags));
    emit_mov_reg_state(e, HOST_RAX, STATE(saved_rax));
    emit_store(e, HOST_R11, HOST_R10, 0, 8);
    emit_lea(e, HOST_R9, HOST_R9, HOST_NONE, 0, -8);
    return true;
}

/* -- segments -- */

static bool swapgs_emit(struct translation *tr, unsigned i)
{
    const int32_t base = STATE(seg[0]) + (int32_t)(X86_GS * sizeof(struct x86_segment) +
                                                   offsetof(struct x86_segment, base));
    struct emit *e = &tr->e;

    if (is_user(tr))
        return false;
    tr_flags_clobber(tr);
    cpl0_require(tr, i);
    emit_mov_reg_state(e, HOST_R10, base);
    emit_mov_reg_state(e, HOST_R11, STATE(kernel_gs_base));
    emit_mov_state_reg(e, base, HOST_R11);
    emit_mov_state_reg(e, STATE(kernel_gs_base), HOST_R10);
    return true;
}

static bool selector_store_emit(struct translation *tr, unsigned i)
{
    const struct check check = {.op = i, .size = 2, .access = SOFT_WRITE};
    const struct soft_op *op = &tr->block->ops[i];

    tr_flags_clobber(tr);
    if (!tr_address(tr, op))
        return false;
    tr_check(tr, &check);
    emit_mov_reg_state16(&tr->e, HOST_R11, SELECTOR(op->insn.reg & 7));
    emit_store(&tr->e, HOST_R11, HOST_R10, 0, 2);
    return true;
}

static bool mov_from_seg_emit(struct translation *tr, unsigned i)
{
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    if (insn->memory)
        return selector_store_emit(tr, i);
    if (insn->operand_size < 4)
        return false;
    emit_mov_reg_state16(&tr->e, HOST_R10, SELECTOR(insn->reg & 7));
    register_set(tr, insn->rm, HOST_R10);
    return true;
}

/* -- control registers, time, fences -- */

static bool mov_from_cr_emit(struct translation *tr, unsigned i)
{
    static const int32_t fields[] = {
        [0] = STATE(cr0), [2] = STATE(cr2), [3] = STATE(cr3), [4] = STATE(cr4)};
    const struct x86_insn *insn = &tr->block->ops[i].insn;

    if (is_user(tr) || insn->reg > 4)
        return false;
    tr_flags_clobber(tr);
    cpl0_require(tr, i);
    emit_mov_reg_state(&tr->e, HOST_R10, fields[insn->reg]);
    register_set(tr, insn->rm, HOST_R10);
    return true;
}

static void host_insn(struct emit *e, const uint8_t *bytes, unsigned length)
{
    for (unsigned i = 0; i < length; i++) {
        if (e->full || e->at == e->end) {
            e->full = true;
            return;
        }
        *e->at++ = bytes[i];
    }
}

#define HOST_INSN(e, ...)                                                                          \
    host_insn(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* RDTSCP waits for what comes before it, and so does LFENCE. */
static bool rdtsc_emit(struct translation *tr, unsigned i)
{
    bool pid = tr->block->ops[i].insn.op == X86_OP_RDTSCP;
    struct emit *e = &tr->e;

    if (pid && !tr->c->vm->cpuid->feature[X86_FEATURE_RDTSCP])
        return false;
    if (tr->c->counted) /* the twin records or replays the time */
        return false;
    tr_flags_clobber(tr);
    if (is_user(tr)) {
        emit_mov_reg_state(e, HOST_R10, STATE(cr4));
        emit_alu_reg_imm32(e, EMIT_AND, HOST_R10, X86_CR4_TSD);
        tr_twin_if(tr, i, EMIT_IF_NE);
    }
    if (pid)
        HOST_INSN(e, 0x0f, 0xae, 0xe8); /* LFENCE */
    HOST_INSN(e, 0x0f, 0x31);           /* RDTSC */
    emit_shift_imm(e, EMIT_SHL, HOST_RDX, 32);
    emit_alu_reg_reg(e, EMIT_OR, HOST_RDX, HOST_RAX);
    emit_alu_reg_state(e, EMIT_ADD, HOST_RDX, STATE(tsc_offset));
    emit_mov_reg_reg32(e, HOST_RAX, HOST_RDX);
    emit_shift_imm(e, EMIT_SHR, HOST_RDX, 32);
    if (pid)
        emit_mov_reg_state32(e, HOST_RCX, STATE(tsc_aux));
    return true;
}

static bool fence_emit(struct translation *tr, unsigned i)
{
    switch (tr->block->ops[i].insn.op) {
    case X86_OP_LFENCE:
        HOST_INSN(&tr->e, 0x0f, 0xae, 0xe8);
        break;
    case X86_OP_MFENCE:
        HOST_INSN(&tr->e, 0x0f, 0xae, 0xf0);
        break;
    default:
        HOST_INSN(&tr->e, 0x0f, 0xae, 0xf8); /* SFENCE */
    }
    return true;
}

/* Code that another vCPU has changed must be seen behind it: requests are looked at. */
static bool serialize_emit(struct translation *tr, unsigned i)
{
    if (!tr->c->vm->cpuid->feature[X86_FEATURE_SERIALIZE])
        return false;
    tr_flags_store(tr);
    HOST_INSN(&tr->e, 0x0f, 0xae, 0xf0); /* MFENCE */
    tr_rip(tr, tr_page_offset(tr, tr->block->ops[i].next));
    tr_exit_lookup(tr, i);
    return true;
}

/* -- leaves -- */

/* By operation: a leaf, whether it ends the block, and whether CPL 3 may run it. */
static const struct leaf_row {
    soft_leaf *leaf;
    bool jump, user;
} leaves[X86_OP_COUNT] = {
    [X86_OP_SYSCALL] = {soft_leaf_syscall, true, true},
    [X86_OP_SYSRET] = {soft_leaf_sysret, true, false},
    [X86_OP_IRET] = {soft_leaf_iret, true, true},
    [X86_OP_POPF] = {soft_leaf_popf, false, true},
    [X86_OP_MOV_TO_CR] = {soft_leaf_mov_to_cr, true, false},
    [X86_OP_INVLPG] = {soft_leaf_invlpg, true, false},
    [X86_OP_MOV_TO_SEG] = {soft_leaf_mov_to_seg, true, true},
    [X86_OP_RDFSBASE] = {soft_leaf_base, false, true},
    [X86_OP_RDGSBASE] = {soft_leaf_base, false, true},
    [X86_OP_WRFSBASE] = {soft_leaf_base, false, true},
    [X86_OP_WRGSBASE] = {soft_leaf_base, false, true},
    [X86_OP_RDMSR] = {soft_leaf_rdmsr, false, false},
    [X86_OP_WRMSR] = {soft_leaf_wrmsr, true, false},
};

/* STAC and CLAC of 64-bit code at CPL 0, where they change how permissions are judged; all else is
 * the leaf's. */

/* What cpl, code_size, privilege and long_mode are then, as one word. */
#define WHO(privilege) ((uint32_t)X86_CODE_64 << 8 | (uint32_t)(privilege) << 16 | 1u << 24)
_Static_assert(offsetof(struct soft_vcpu, long_mode) == offsetof(struct soft_vcpu, cpl) + 3,
               "they lie together");

/* From one TLB to another, and AC with it, as soft_privilege_apply() does. */
static void privilege_set(struct emit *e, enum soft_privilege privilege)
{
    emit_mov_state_imm32(e, STATE(cpl), WHO(privilege));
    emit_mov_reg_state(e, HOST_R10, STATE(tlb[0]) + 8 * (int32_t)privilege);
    emit_mov_state_reg(e, STATE(tlb_now), HOST_R10);
    emit_mov_reg_imm64(e, HOST_R10, UINT64_MAX); /* soft_apart_clear() */
    emit_mov_state_reg(e, STATE(apart.from), HOST_R10);
    emit_mov_reg_imm64(e, HOST_R10, 0);
    emit_mov_state_reg(e, STATE(apart.base), HOST_R10);
    emit_mov_reg_state32(e, HOST_R10, STATE(rflags));
    if (privilege == SOFT_KERNEL)
        emit_alu_reg_imm32(e, EMIT_OR, HOST_R10, X86_RFLAGS_AC);
    else
        emit_alu_reg_imm32(e, EMIT_AND, HOST_R10, ~(int32_t)X86_RFLAGS_AC);
    emit_mov_state_reg32(e, STATE(rflags), HOST_R10);
}

static void stac_emit(struct emit *e)
{
    privilege_set(e, SOFT_KERNEL);
    emit_mov_reg_imm64(e, HOST_R10, 0);
    emit_mov_state_reg(e, STATE(slot_fills), HOST_R10);
}

/* As soft_slots_end_ac() does. Gives the jump to the leaf: for CR4.SMAP = 0, or more slots. */
static uint8_t *clac_emit(struct emit *e)
{
    _Static_assert(X86_CR4_SMAP == 2u << 20, "shifted, it bounds the slots");
    uint8_t *other, *none;

    emit_mov_reg_state32(e, HOST_R10, STATE(cr4));
    emit_alu_reg_imm32(e, EMIT_AND, HOST_R10, X86_CR4_SMAP);
    emit_shift_imm32(e, EMIT_SHR, HOST_R10, 20);
    emit_mov_reg_state(e, HOST_R11, STATE(slot_fills));
    emit_alu_reg_reg(e, EMIT_CMP, HOST_R11, HOST_R10);
    other = emit_jcc_rel32(e, EMIT_IF_AE);
    emit_alu_reg_reg32(e, EMIT_OR, HOST_R11, HOST_R11);
    none = emit_jcc_rel32(e, EMIT_IF_E);
    emit_mov_reg_state(e, HOST_R10, STATE(slot_empty));
    emit_mov_reg_state(e, HOST_R11, STATE(slot_filled));
    HOST_INSN(e, 0x65, 0x4d, 0x89, 0x13); /* MOV [GS:R11], R10 */
    emit_patch_rel32(none, e->at);
    privilege_set(e, SOFT_KERNEL_SMAP);
    return other;
}

static bool smap_emit(struct translation *tr, unsigned i)
{
    bool set = tr->block->ops[i].insn.op == X86_OP_STAC;
    uint8_t *who, *other = NULL;
    struct emit *e = &tr->e;

    if (is_user(tr) || !tr->c->vm->cpuid->feature[X86_FEATURE_SMAP])
        return false;
    tr_flags_clobber(tr);
    emit_mov_reg_state32(e, HOST_R10, STATE(cpl));
    emit_alu_reg_imm32(e, EMIT_CMP, HOST_R10, (int32_t)WHO(set ? SOFT_KERNEL_SMAP : SOFT_KERNEL));
    who = emit_jcc_rel32(e, EMIT_IF_NE);
    if (set)
        stac_emit(e);
    else
        other = clac_emit(e);
    tr_leaf_else(tr, i, who, soft_leaf_smap)->back = e->at;
    if (other)
        tr_leaf_else(tr, i, other, soft_leaf_smap)->back = e->at;
    return true;
}

static bool leaf_emit(struct translation *tr, unsigned i)
{
    const struct leaf_row *row = &leaves[tr->block->ops[i].insn.op];

    if (!row->leaf || (is_user(tr) && !row->user))
        return false;
    if (row->jump)
        tr_leaf_jump(tr, i, row->leaf);
    else
        tr_leaf(tr, i, row->leaf);
    return true;
}

bool tr_system(struct translation *tr, unsigned i)
{
    switch (tr->block->ops[i].insn.op) {
    case X86_OP_CLI:
        return cli_emit(tr, i);
    case X86_OP_STI:
        return sti_emit(tr, i);
    case X86_OP_PUSHF:
        return pushf_emit(tr, i);
    case X86_OP_CLD:
    case X86_OP_STD:
        return direction_emit(tr, i);
    case X86_OP_STAC:
    case X86_OP_CLAC:
        return smap_emit(tr, i);
    case X86_OP_SWAPGS:
        return swapgs_emit(tr, i);
    case X86_OP_MOV_FROM_SEG:
        return mov_from_seg_emit(tr, i);
    case X86_OP_MOV_FROM_CR:
        return mov_from_cr_emit(tr, i);
    case X86_OP_RDTSC:
    case X86_OP_RDTSCP:
        return rdtsc_emit(tr, i);
    case X86_OP_LFENCE:
    case X86_OP_MFENCE:
    case X86_OP_SFENCE:
        return fence_emit(tr, i);
    case X86_OP_SERIALIZE:
        return serialize_emit(tr, i);
    default:
        return leaf_emit(tr, i);
    }
}
