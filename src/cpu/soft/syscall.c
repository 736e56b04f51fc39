/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, and the instructions on the flags that privilege limits: CLI,
 * STI, PUSHF, POPF.
 *
 * Source: Intel SDM vol. 2, vol. 3, 5.8.7 and 5.8.8; Intel's behaviour where AMD's differs (SYSCALL
 * and SYSRET are #UD outside 64-bit mode; a non-canonical RCX faults in SYSRET, at CPL 0).
 * Threads: the vCPU's own. Registers are the guest's; the MSRs were checked when written.
 */
#include "cpu/soft/control.h"
#include "cpu/soft/leaf.h"

/* Flat segments that these load without descriptors. */
static struct x86_segment flat_segment(uint16_t selector, uint16_t attributes)
{
    return (struct x86_segment){
        .limit = UINT32_MAX,
        .selector = selector,
        .attributes = (uint16_t)(attributes | X86_SEG_P | X86_SEG_S | X86_SEG_G),
    };
}

static struct x86_segment flat_code(uint16_t selector, uint8_t cpl, bool wide)
{
    unsigned attributes = SOFT_SEG_CODE | SOFT_SEG_READABLE | SOFT_SEG_ACCESSED |
                          (unsigned)cpl << 5 | (wide ? X86_SEG_L : X86_SEG_DB);

    return flat_segment((uint16_t)((selector & 0xfffcu) | cpl), (uint16_t)attributes);
}

static struct x86_segment flat_stack(uint16_t selector, uint8_t cpl)
{
    unsigned attributes = SOFT_SEG_WRITABLE | SOFT_SEG_ACCESSED | (unsigned)cpl << 5 | X86_SEG_DB;

    return flat_segment((uint16_t)((selector & 0xfffcu) | cpl), (uint16_t)attributes);
}

static void fast_commit(struct soft_vcpu *c, const struct x86_segment *cs,
                        const struct x86_segment *ss, uint64_t rip)
{
    c->seg[X86_CS] = *cs;
    c->seg[X86_SS] = *ss;
    c->rip = rip;
    soft_mode_update(c);
}

/* SYSCALL and SYSRET can run at all. */
static bool syscall_enabled(const struct soft_vcpu *c)
{
    return c->code_size == X86_CODE_64 && (c->efer & X86_EFER_SCE);
}

static void syscall_do(struct soft_vcpu *c, uint64_t return_rip)
{
    uint16_t selector = (uint16_t)(c->star >> 32);
    struct x86_segment cs = flat_code(selector & 0xfffc, 0, true);
    struct x86_segment ss = flat_stack((uint16_t)((selector & 0xfffcu) + 8), 0);
    uint64_t flags = soft_rflags_get(c) & ~(uint64_t)X86_RFLAGS_RF;

    c->gpr[X86_RCX] = return_rip;
    c->gpr[11] = flags;
    soft_rflags_set(c, flags & ~c->sfmask);
    fast_commit(c, &cs, &ss, c->lstar);
}

void soft_op_syscall(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    if (!syscall_enabled(c))
        soft_raise(c, X86_UD);
    syscall_do(c, soft_rip_next(c));
    c->trap_dropped = (c->rflags & X86_RFLAGS_TF) == 0;
}

bool soft_leaf_syscall(struct soft_vcpu *c, const struct soft_op *op)
{
    if (!syscall_enabled(c))
        return false;
    syscall_do(c, c->block_rip + op->next);
    return true;
}

static void sysret_do(struct soft_vcpu *c, bool wide)
{
    const uint64_t kept = 0x3c7fd7; /* of R11: not RF, VM and reserved bits */
    uint16_t selector = (uint16_t)(c->star >> 48);
    struct x86_segment cs = flat_code((uint16_t)(selector + (wide ? 16 : 0)), 3, wide);
    struct x86_segment ss = flat_stack((uint16_t)(selector + 8), 3);

    soft_rflags_set(c, c->gpr[11] & kept);
    fast_commit(c, &cs, &ss, wide ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX]);
}

void soft_op_sysret(struct soft_vcpu *c, const struct soft_op *op)
{
    bool wide = op->insn.operand_size == 8;

    if (!syscall_enabled(c))
        soft_raise(c, X86_UD);
    soft_require_cpl0(c);
    if (wide && !soft_is_canonical(c->gpr[X86_RCX]))
        soft_raise_code(c, X86_GP, 0);
    /* TF counts as it is after SYSRET: the step ends the caller's SYSCALL. */
    c->trap_dropped = true;
    if (c->gpr[11] & X86_RFLAGS_TF)
        c->pending_db |= SOFT_DR6_BS;
    sysret_do(c, wide);
}

bool soft_leaf_sysret(struct soft_vcpu *c, const struct soft_op *op)
{
    if (!syscall_enabled(c) || c->cpl != 0 || op->insn.operand_size != 8 ||
        !soft_is_canonical(c->gpr[X86_RCX]) || (c->gpr[11] & X86_RFLAGS_TF))
        return false;
    sysret_do(c, true);
    return true;
}

void soft_op_sysenter(struct soft_vcpu *c, const struct soft_op *op)
{
    uint16_t selector = (uint16_t)(c->sysenter_cs & 0xfffc);
    struct x86_segment cs = flat_code(selector, 0, c->long_mode);
    struct x86_segment ss = flat_stack((uint16_t)(selector + 8), 0);
    uint64_t mask = c->long_mode ? UINT64_MAX : UINT32_MAX;

    (void)op;
    if (soft_is_real(c) || selector == 0)
        soft_raise_code(c, X86_GP, 0);
    soft_rflags_set(c, soft_rflags_get(c) &
                           ~(uint64_t)(X86_RFLAGS_VM | X86_RFLAGS_IF | X86_RFLAGS_RF));
    c->gpr[X86_RSP] = c->sysenter_esp & mask;
    fast_commit(c, &cs, &ss, c->sysenter_eip & mask);
}

void soft_op_sysexit(struct soft_vcpu *c, const struct soft_op *op)
{
    bool wide = op->insn.operand_size == 8;
    uint16_t selector = (uint16_t)(c->sysenter_cs & 0xfffc);
    uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;
    uint64_t rip = c->gpr[X86_RDX] & mask;
    uint64_t rsp = c->gpr[X86_RCX] & mask;
    struct x86_segment cs = flat_code((uint16_t)(selector + (wide ? 32 : 16)), 3, wide);
    struct x86_segment ss = flat_stack((uint16_t)(selector + (wide ? 40 : 24)), 3);

    if (soft_is_real(c) || selector == 0)
        soft_raise_code(c, X86_GP, 0);
    soft_require_cpl0(c);
    if (wide && (!soft_is_canonical(rip) || !soft_is_canonical(rsp)))
        soft_raise_code(c, X86_GP, 0);
    c->gpr[X86_RSP] = rsp;
    fast_commit(c, &cs, &ss, rip);
}

/* -- flags -- */

static unsigned iopl(const struct soft_vcpu *c)
{
    return (c->rflags & X86_RFLAGS_IOPL) >> 12;
}

/* VME and PVI are not offered: IOPL alone decides (SDM vol. 2, CLI, STI). */
static void interrupt_flag_require(struct soft_vcpu *c)
{
    if (!soft_is_real(c) && c->cpl > iopl(c))
        soft_raise_code(c, X86_GP, 0);
}

void soft_op_cli(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    interrupt_flag_require(c);
    c->rflags &= ~X86_RFLAGS_IF;
}

void soft_op_sti(struct soft_vcpu *c, const struct soft_op *op)
{
    interrupt_flag_require(c);
    if (!(c->rflags & X86_RFLAGS_IF))
        c->shadow = true;
    c->rflags |= X86_RFLAGS_IF;
    c->op_end = op + 1;
}

static void v86_iopl_require(struct soft_vcpu *c)
{
    if (soft_is_v86(c) && iopl(c) != 3)
        soft_raise_code(c, X86_GP, 0);
}

void soft_op_pushf(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t flags = soft_rflags_get(c) & ~(uint64_t)(X86_RFLAGS_VM | X86_RFLAGS_RF);

    v86_iopl_require(c);
    soft_push(c, flags, op->insn.operand_size);
}

void soft_op_popf(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned size = op->insn.operand_size;
    uint64_t mask = X86_RFLAGS_ARITH | X86_RFLAGS_TF | X86_RFLAGS_DF | X86_RFLAGS_NT;
    uint64_t cleared = X86_RFLAGS_RF;
    uint64_t value;

    v86_iopl_require(c);
    if (c->cpl <= iopl(c))
        mask |= X86_RFLAGS_IF;
    if (c->cpl == 0)
        mask |= X86_RFLAGS_IOPL;
    if (size > 2) {
        mask |= X86_RFLAGS_AC | X86_RFLAGS_ID;
        if (!soft_is_v86(c))
            cleared |= X86_RFLAGS_VIF | X86_RFLAGS_VIP;
    }
    value = soft_pop(c, size);
    soft_rflags_set(c, (soft_rflags_get(c) & ~mask & ~cleared) | (value & mask));
    c->op_end = op + 1;
}
