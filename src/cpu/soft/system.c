/*
 * System instructions of the soft engine: control and debug registers, MSRs, CPUID, TSC, TLB
 * maintenance, HLT and the hints.
 *
 * Source: Intel SDM vol. 2 (instruction pages) and vol. 3, 2.5, 17.2; AMD APM vol. 2, ch. 3.
 * Threads: a vCPU's own. Every operand is the guest's; reserved bits raise #GP(0) before anything
 * changes.
 */
#include <x86intrin.h>

#include "cpu/soft/leaf.h"
#include "cpu/soft/paging.h"
#include "cpu/soft/record.h"
#include "cpu/soft/soft.h"

#define PAUSES_BEFORE_EXIT 64

static bool has(const struct soft_vcpu *c, enum x86_feature feature)
{
    return c->vm->cpuid->feature[feature];
}

static uint64_t physical_reserved(const struct soft_vcpu *c)
{
    return ~((UINT64_C(1) << c->vm->cpuid->physical_bits) - 1);
}

/* -- control registers -- */

#define CR0_WRITABLE                                                                               \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static bool is_pae_mode(const struct soft_vcpu *c)
{
    return (c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !c->long_mode;
}

static void cr0_check(struct soft_vcpu *c, uint64_t value)
{
    bool pg = (value & X86_CR0_PG) != 0;
    bool enters_long = pg && !(c->cr0 & X86_CR0_PG) && (c->efer & X86_EFER_LME);

    if ((value >> 32) || (pg && !(value & X86_CR0_PE)) ||
        ((value & X86_CR0_NW) && !(value & X86_CR0_CD)) ||
        (enters_long && (!(c->cr4 & X86_CR4_PAE) || (c->seg[X86_CS].attributes & X86_SEG_L))) ||
        (!pg && (c->cr4 & X86_CR4_PCIDE)) || (!pg && c->code_size == X86_CODE_64))
        soft_raise_code(c, X86_GP, 0);
}

static void cr0_write(struct soft_vcpu *c, uint64_t value)
{
    uint64_t changed;
    bool long_mode;

    cr0_check(c, value);
    value = (value & CR0_WRITABLE) | X86_CR0_ET;
    changed = value ^ c->cr0;
    long_mode = (value & X86_CR0_PG) && (c->efer & X86_EFER_LME);
    if ((changed & X86_CR0_PG) && (value & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !long_mode &&
        !soft_pdpte_load(c, c->cr3))
        soft_raise_code(c, X86_GP, 0);
    c->cr0 = value;
    c->efer = (c->efer & ~(uint64_t)X86_EFER_LMA) | (long_mode ? X86_EFER_LMA : 0);
    if (changed & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE))
        soft_tlb_flush(c);
    soft_mode_update(c);
}

/* Bit 63 says that the PCID's TLB entries stay, and is not kept. */
#define CR3_KEEP (UINT64_C(1) << 63)

static bool pcid_enabled(const struct soft_vcpu *c)
{
    return c->long_mode && (c->cr4 & X86_CR4_PCIDE);
}

static bool cr3_valid(const struct soft_vcpu *c, uint64_t value)
{
    if (pcid_enabled(c))
        value &= ~CR3_KEEP;
    return !c->long_mode || (value & physical_reserved(c)) == 0;
}

static void cr3_set(struct soft_vcpu *c, uint64_t value)
{
    bool keep = pcid_enabled(c) && (value & CR3_KEEP);

    c->cr3 = keep ? value & ~CR3_KEEP : value;
    soft_trace(c, TRACE_CR3, 0, c->cr3);
    soft_tlb_switch(c, c->cr3, keep);
    soft_serialize();
}

static void cr3_write(struct soft_vcpu *c, uint64_t value)
{
    if (!cr3_valid(c, value) || (is_pae_mode(c) && !soft_pdpte_load(c, value)))
        soft_raise_code(c, X86_GP, 0);
    cr3_set(c, value);
}

static bool leaf_next(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t next = c->block_rip + op->next;

    if (c->cpl != 0 || !soft_is_canonical(next))
        return false;
    c->rip = next;
    return true;
}

bool soft_leaf_mov_to_cr(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value = c->gpr[op->insn.rm];

    if (op->insn.reg != 3 || !c->long_mode || !cr3_valid(c, value) || !leaf_next(c, op))
        return false;
    cr3_set(c, value);
    return true;
}

static uint64_t cr4_allowed(const struct soft_vcpu *c)
{
    uint64_t bits = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE |
                    X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR |
                    X86_CR4_OSXMMEXCPT;
    static const struct {
        enum x86_feature feature;
        uint32_t bit;
    } optional[] = {
        {X86_FEATURE_UMIP, X86_CR4_UMIP},  {X86_FEATURE_FSGSBASE, X86_CR4_FSGSBASE},
        {X86_FEATURE_PCID, X86_CR4_PCIDE}, {X86_FEATURE_XSAVE, X86_CR4_OSXSAVE},
        {X86_FEATURE_SMEP, X86_CR4_SMEP},  {X86_FEATURE_SMAP, X86_CR4_SMAP},
        {X86_FEATURE_PKU, X86_CR4_PKE},    {X86_FEATURE_PKS, X86_CR4_PKS},
    };

    bits &= ~(uint64_t)(X86_CR4_VME | X86_CR4_PVI); /* CPUID does not offer them */
    for (unsigned i = 0; i < sizeof optional / sizeof *optional; i++) {
        if (has(c, optional[i].feature))
            bits |= optional[i].bit;
    }
    return bits;
}

static void cr4_write(struct soft_vcpu *c, uint64_t value)
{
    uint64_t changed = value ^ c->cr4;
    const uint64_t flushing = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE |
                              X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_PKS;
    uint64_t before = c->cr4;

    if ((value & ~cr4_allowed(c)) || (c->long_mode && !(value & X86_CR4_PAE)) ||
        ((changed & value & X86_CR4_PCIDE) && (!c->long_mode || (c->cr3 & 0xfff))))
        soft_raise_code(c, X86_GP, 0);
    c->cr4 = value;
    if (is_pae_mode(c) && (changed & (X86_CR4_PAE | X86_CR4_PSE | X86_CR4_PGE | X86_CR4_SMEP)) &&
        !soft_pdpte_load(c, c->cr3)) {
        c->cr4 = before;
        soft_raise_code(c, X86_GP, 0);
    }
    if (changed & flushing)
        soft_tlb_flush(c);
    soft_mode_update(c);
}

static uint64_t register_mask(const struct soft_vcpu *c)
{
    return c->code_size == X86_CODE_64 ? UINT64_MAX : UINT32_MAX;
}

static void mov_to_cr(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value = c->gpr[op->insn.rm] & register_mask(c);
    struct cpu_exit exit = {.kind = CPU_EXIT_CR8};

    soft_require_cpl0(c);
    soft_serialize();
    switch (op->insn.reg) {
    case 0:
        cr0_write(c, value);
        break;
    case 2:
        c->cr2 = value;
        break;
    case 3:
        cr3_write(c, value);
        break;
    case 4:
        cr4_write(c, value);
        break;
    default: /* CR8; the decoder lets no other pass */
        if (value & ~UINT64_C(15))
            soft_raise_code(c, X86_GP, 0);
        exit.msr.write = true;
        exit.msr.value = value;
        (void)soft_io(c, &exit);
    }
}

static void mov_from_cr(struct soft_vcpu *c, const struct soft_op *op)
{
    struct cpu_exit exit = {.kind = CPU_EXIT_CR8};
    uint64_t value = 0;

    soft_require_cpl0(c);
    switch (op->insn.reg) {
    case 0:
        value = c->cr0;
        break;
    case 2:
        value = c->cr2;
        break;
    case 3:
        value = c->cr3;
        break;
    case 4:
        value = c->cr4;
        break;
    default:
        value = soft_io(c, &exit);
    }
    c->gpr[op->insn.rm] = value & register_mask(c);
}

static void smsw(struct soft_vcpu *c, const struct soft_op *op)
{
    if ((c->cr4 & X86_CR4_UMIP) && c->cpl != 0)
        soft_raise_code(c, X86_GP, 0);
    if (op->insn.memory) {
        soft_store16(c, soft_operand(c, op, 2, SOFT_WRITE), (uint16_t)c->cr0);
        return;
    }
    if (op->insn.operand_size == 2)
        memcpy(&c->gpr[op->insn.rm], &c->cr0, 2);
    else if (op->insn.operand_size == 4)
        c->gpr[op->insn.rm] = (uint32_t)c->cr0;
    else
        c->gpr[op->insn.rm] = c->cr0;
}

static void lmsw(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value;

    soft_require_cpl0(c);
    if (op->insn.memory)
        value = soft_load16(c, soft_operand(c, op, 2, SOFT_READ));
    else
        value = (uint16_t)c->gpr[op->insn.rm];
    value &= 15;
    value |= c->cr0 & X86_CR0_PE; /* can set PE, not clear it */
    cr0_write(c, (c->cr0 & ~UINT64_C(15)) | value);
}

static void clts(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_require_cpl0(c);
    c->cr0 &= ~(uint64_t)X86_CR0_TS;
    soft_mode_update(c);
}

/* -- debug registers (Intel SDM vol. 3, 17.2) -- */

#define DR6_FIXED    UINT64_C(0xffff0ff0)
#define DR6_WRITABLE UINT64_C(0xe00f)
#define DR6_BD       (UINT64_C(1) << 13)
#define DR7_FIXED    UINT64_C(0x400)
#define DR7_WRITABLE UINT64_C(0xffff2bff)
#define DR7_GD       (UINT64_C(1) << 13)

static unsigned debug_register(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned number = op->insn.reg;

    if ((number == 4 || number == 5) && (c->cr4 & X86_CR4_DE))
        soft_raise(c, X86_UD);
    soft_require_cpl0(c);
    if (c->dr7 & DR7_GD) {
        c->dr6 |= DR6_BD;
        c->dr7 &= ~DR7_GD;
        c->rflags |= X86_RFLAGS_RF; /* as pushed; only a breakpoint's #DB leaves it (17.3.1.1) */
        soft_mode_update(c);
        soft_raise(c, X86_DB);
    }
    return number == 4 || number == 5 ? number + 2 : number;
}

static void mov_to_dr(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned number = debug_register(c, op);
    uint64_t value = c->gpr[op->insn.rm] & register_mask(c);

    soft_serialize();
    if (number < 4) {
        c->dr[number] = value;
        return;
    }
    if (value >> 32)
        soft_raise_code(c, X86_GP, 0);
    if (number == 6)
        c->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    else
        c->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    soft_mode_update(c);
}

static void mov_from_dr(struct soft_vcpu *c, const struct soft_op *op)
{
    unsigned number = debug_register(c, op);
    uint64_t value = number < 4 ? c->dr[number] : number == 6 ? c->dr6 : c->dr7;

    c->gpr[op->insn.rm] = value & register_mask(c);
}

/* -- MSRs -- */

static uint64_t *msr_plain(struct soft_vcpu *c, uint32_t index)
{
    if (index >= 0x200 && index < 0x200 + 2 * X86_MTRR_VARIABLE_COUNT) {
        unsigned i = (index - 0x200) / 2;

        return index & 1 ? &c->mtrr_mask[i] : &c->mtrr_base[i];
    }
    switch (index) {
    case 0x250:
        return &c->mtrr_fixed[0];
    case 0x258:
    case 0x259:
        return &c->mtrr_fixed[1 + index - 0x258];
    case 0x268 ... 0x26f:
        return &c->mtrr_fixed[3 + index - 0x268];
    case X86_MSR_MTRR_DEF_TYPE:
        return &c->mtrr_def_type;
    case X86_MSR_SYSENTER_CS:
        return &c->sysenter_cs;
    case X86_MSR_SYSENTER_ESP:
        return &c->sysenter_esp;
    case X86_MSR_SYSENTER_EIP:
        return &c->sysenter_eip;
    case X86_MSR_MISC_ENABLE:
        return &c->misc_enable;
    case X86_MSR_PAT:
        return &c->pat;
    case X86_MSR_EFER:
        return &c->efer;
    case X86_MSR_STAR:
        return &c->star;
    case X86_MSR_LSTAR:
        return &c->lstar;
    case X86_MSR_CSTAR:
        return &c->cstar;
    case X86_MSR_SFMASK:
        return &c->sfmask;
    case X86_MSR_FS_BASE:
        return &c->seg[X86_FS].base;
    case X86_MSR_GS_BASE:
        return &c->seg[X86_GS].base;
    case X86_MSR_KERNEL_GS_BASE:
        return &c->kernel_gs_base;
    case X86_MSR_TSC_AUX:
        return &c->tsc_aux;
    case X86_MSR_PKRS:
        return has(c, X86_FEATURE_PKS) ? &c->pkrs : NULL;
    case X86_MSR_TSC_ADJUST:
        return &c->tsc_adjust;
    default:
        return NULL;
    }
}

static uint64_t guest_tsc(struct soft_vcpu *c)
{
    return soft_input(c, SOFT_INPUT_TSC, soft_host_tsc(c) + c->tsc_offset);
}

static uint64_t msr_external(struct soft_vcpu *c, uint32_t index, bool write, uint64_t value)
{
    struct cpu_exit exit = {.kind = CPU_EXIT_MSR};

    exit.msr.index = index;
    exit.msr.write = write;
    exit.msr.value = value;
    value = soft_io(c, &exit);
    if (c->msr_fault) {
        c->msr_fault = false;
        soft_raise_code(c, X86_GP, 0);
    }
    if (write && index == X86_MSR_APIC_BASE)
        c->apic_enabled = (exit.msr.value >> 11) & 1;
    return value;
}

static void rdmsr(struct soft_vcpu *c, const struct soft_op *op)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];
    uint64_t value;

    (void)op;
    soft_require_cpl0(c);
    if (index == X86_MSR_TSC) {
        value = guest_tsc(c);
    } else if (index == X86_MSR_ARCH_CAPABILITIES) {
        value = c->vm->arch_capabilities;
    } else if (index == X86_MSR_MTRRCAP) {
        value = X86_MTRR_VARIABLE_COUNT | 0x500; /* fixed ranges, write-combining */
    } else {
        const uint64_t *plain = msr_plain(c, index);

        value = plain ? *plain : msr_external(c, index, false, 0);
    }
    c->gpr[X86_RAX] = (uint32_t)value;
    c->gpr[X86_RDX] = value >> 32;
}

static void efer_write(struct soft_vcpu *c, uint64_t value)
{
    uint64_t allowed = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;

    if ((value & ~allowed) || (((value ^ c->efer) & X86_EFER_LME) && (c->cr0 & X86_CR0_PG)))
        soft_raise_code(c, X86_GP, 0);
    value = (value & ~(uint64_t)X86_EFER_LMA) | (c->efer & X86_EFER_LMA);
    if ((value ^ c->efer) & X86_EFER_NXE)
        soft_tlb_flush(c);
    c->efer = value;
    soft_mode_update(c);
}

/* Memory types, as sets of bits (SDM vol. 3, tables 11-8 and 11-10); only the PAT has UC-. */
#define TYPES_MTRR 0x73u /* UC, WC, WT, WP, WB */
#define TYPES_PAT  (TYPES_MTRR | 1u << 7)

/* Whether each of the first `count` bytes is one of `types`. */
static bool types_valid(uint64_t value, unsigned count, unsigned types)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned type = (value >> (8 * i)) & 0xff;

        if (type > 7 || !(types >> type & 1))
            return false;
    }
    return true;
}

/* MTRRs (SDM vol. 3, 11.11.2): the even one of a pair is the base with its type, the odd the mask.
 */
static bool mtrr_variable_valid(const struct soft_vcpu *c, uint32_t index, uint64_t value)
{
    uint64_t reserved = physical_reserved(c) | (index & 1 ? 0x7ff : 0xf00);

    return (value & reserved) == 0 && (index & 1 || types_valid(value, 1, TYPES_MTRR));
}

/* Reserved bits of the MSRs that are plain storage otherwise. */
static bool msr_value_valid(const struct soft_vcpu *c, uint32_t index, uint64_t value)
{
    switch (index) {
    case X86_MSR_LSTAR:
    case X86_MSR_CSTAR:
    case X86_MSR_FS_BASE:
    case X86_MSR_GS_BASE:
    case X86_MSR_KERNEL_GS_BASE:
    case X86_MSR_SYSENTER_ESP:
    case X86_MSR_SYSENTER_EIP:
        return soft_is_canonical(value);
    case X86_MSR_PAT:
        return types_valid(value, 8, TYPES_PAT);
    case X86_MSR_TSC_AUX:
    case X86_MSR_SFMASK:
    case X86_MSR_PKRS:
        return (value >> 32) == 0;
    case X86_MSR_MTRR_DEF_TYPE:
        return (value & ~UINT64_C(0xcff)) == 0 && types_valid(value, 1, TYPES_MTRR);
    case 0x200 ... 0x20f:
        return mtrr_variable_valid(c, index, value);
    case 0x250:
    case 0x258 ... 0x259:
    case 0x268 ... 0x26f:
        return types_valid(value, 8, TYPES_MTRR);
    default:
        return true;
    }
}

static void wrmsr(struct soft_vcpu *c, const struct soft_op *op)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];
    uint64_t value = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    uint64_t *plain = msr_plain(c, index);

    (void)op;
    soft_require_cpl0(c);
    if (index == X86_MSR_EFER) {
        efer_write(c, value);
    } else if (index == X86_MSR_TSC) {
        uint64_t before = c->tsc_offset;

        c->tsc_offset = value - soft_input(c, SOFT_INPUT_TSC, soft_host_tsc(c));
        c->tsc_adjust += c->tsc_offset - before;
    } else if (index == X86_MSR_TSC_ADJUST) {
        c->tsc_offset += value - c->tsc_adjust;
        c->tsc_adjust = value;
    } else if (plain) {
        if (!msr_value_valid(c, index, value))
            soft_raise_code(c, X86_GP, 0);
        *plain = value;
        if (index == X86_MSR_PKRS)
            soft_tlb_flush(c);
    } else {
        (void)msr_external(c, index, true, value);
    }
    soft_serialize();
}

/* -- CPUID, time, random numbers -- */

static void cpuid(struct soft_vcpu *c, const struct soft_op *op)
{
    struct x86_cpuid_query query = {.function = (uint32_t)c->gpr[X86_RAX],
                                    .index = (uint32_t)c->gpr[X86_RCX],
                                    .vcpu_index = c->index,
                                    .cr4 = c->cr4,
                                    .xcr0 = c->xcr0,
                                    .apic_enabled = c->apic_enabled};
    uint32_t result[4];

    (void)op;
    x86_cpuid_answer(c->vm->cpuid, &query, result);
    c->gpr[X86_RAX] = result[0];
    c->gpr[X86_RBX] = result[1];
    c->gpr[X86_RCX] = result[2];
    c->gpr[X86_RDX] = result[3];
    soft_serialize();
}

static void rdtsc(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t tsc;

    if (op->insn.op == X86_OP_RDTSCP)
        soft_require_feature(c, X86_FEATURE_RDTSCP);
    if ((c->cr4 & X86_CR4_TSD) && c->cpl != 0)
        soft_raise_code(c, X86_GP, 0);
    tsc = guest_tsc(c);
    c->gpr[X86_RAX] = (uint32_t)tsc;
    c->gpr[X86_RDX] = tsc >> 32;
    if (op->insn.op == X86_OP_RDTSCP)
        c->gpr[X86_RCX] = (uint32_t)c->tsc_aux;
}

static void rdpmc(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_raise_code(c, X86_GP, 0); /* there are no counters */
}

static void rdpid(struct soft_vcpu *c, const struct soft_op *op)
{
    soft_require_feature(c, X86_FEATURE_RDPID);
    c->gpr[op->insn.rm] = c->tsc_aux;
}

__attribute__((target("rdrnd,rdseed"))) static bool random_draw(bool seed, uint64_t *value)
{
    unsigned long long drawn;
    int ok = seed ? _rdseed64_step(&drawn) : _rdrand64_step(&drawn);

    *value = drawn;
    return ok != 0;
}

static void rdrand(struct soft_vcpu *c, const struct soft_op *op)
{
    bool seed = op->insn.op == X86_OP_RDSEED;
    uint64_t value = 0;
    bool ok;

    soft_require_feature(c, seed ? X86_FEATURE_RDSEED : X86_FEATURE_RDRAND);
    ok = soft_input(c, SOFT_INPUT_RANDOM_OK, random_draw(seed, &value));
    value = soft_input(c, SOFT_INPUT_RANDOM, value);
    if (!ok)
        value = 0;
    c->arith = ok ? 0x0100 : 0; /* CF says whether it worked, the rest is 0 */
    if (op->insn.operand_size == 2)
        memcpy(&c->gpr[op->insn.rm], &value, 2);
    else
        c->gpr[op->insn.rm] = op->insn.operand_size == 4 ? (uint32_t)value : value;
}

static void xgetbv(struct soft_vcpu *c, const struct soft_op *op)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];
    uint64_t value = c->xcr0;

    (void)op;
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    if (index > 1 || (index == 1 && !has(c, X86_FEATURE_XGETBV1)))
        soft_raise_code(c, X86_GP, 0);
    c->gpr[X86_RAX] = (uint32_t)value;
    c->gpr[X86_RDX] = value >> 32;
}

static void xsetbv(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t value = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    uint64_t avx512 = value & X86_XCR0_AVX512;

    (void)op;
    if (!(c->cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    soft_require_cpl0(c);
    if ((uint32_t)c->gpr[X86_RCX] != 0 || !(value & X86_XCR0_X87) ||
        (value & ~c->vm->cpuid->xcr0_allowed) ||
        ((value & X86_XCR0_AVX) && !(value & X86_XCR0_SSE)) ||
        (avx512 && (avx512 != X86_XCR0_AVX512 || !(value & X86_XCR0_AVX))))
        soft_raise_code(c, X86_GP, 0);
    c->xcr0 = value;
    soft_mode_update(c);
}

/* -- protection keys (SDM vol. 3, 4.6.2) -- */

void soft_pkru_set(struct soft_vcpu *c, uint32_t value)
{
    if (value == c->pkru)
        return;
    c->pkru = value;
    if (c->cr4 & X86_CR4_PKE)
        soft_tlb_flush(c); /* its entries are judged by the old one */
}

static void pkru_check(struct soft_vcpu *c)
{
    if (!(c->cr4 & X86_CR4_PKE))
        soft_raise(c, X86_UD);
    if ((uint32_t)c->gpr[X86_RCX] != 0)
        soft_raise_code(c, X86_GP, 0);
}

static void rdpkru(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    pkru_check(c);
    c->gpr[X86_RAX] = c->pkru;
    c->gpr[X86_RDX] = 0;
}

static void wrpkru(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    pkru_check(c);
    if ((uint32_t)c->gpr[X86_RDX] != 0)
        soft_raise_code(c, X86_GP, 0);
    soft_pkru_set(c, (uint32_t)c->gpr[X86_RAX]);
}

/* -- TLB and caches -- */

static void invlpg(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t linear = soft_effective(c, op);

    soft_require_cpl0(c);
    if (c->code_size != X86_CODE_64 || op->insn.segment >= X86_FS)
        linear += c->seg[op->insn.segment].base;
    linear &= c->address_mask;
    if (c->code_size == X86_CODE_64 && !soft_is_canonical(linear))
        return;
    soft_tlb_flush_page(c, linear);
    soft_serialize();
}

bool soft_leaf_invlpg(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t linear = soft_effective(c, op);

    if (op->insn.segment >= X86_FS || !leaf_next(c, op))
        return false;
    if (soft_is_canonical(linear))
        soft_tlb_flush_page(c, linear);
    soft_serialize();
    return true;
}

static void invpcid(struct soft_vcpu *c, const struct soft_op *op)
{
    uint64_t descriptor[2];
    uint64_t type = c->gpr[op->insn.reg] & register_mask(c);

    soft_require_feature(c, X86_FEATURE_INVPCID);
    if (soft_is_v86(c))
        soft_raise_code(c, X86_GP, 0);
    soft_require_cpl0(c);
    soft_load_bytes(c, soft_operand(c, op, 16, SOFT_READ), descriptor, 16);
    if (type > 3 || (type < 2 && (descriptor[0] >> 12)) ||
        (type < 2 && !(c->cr4 & X86_CR4_PCIDE) && descriptor[0] != 0) ||
        (type == 0 && !soft_is_canonical(descriptor[1])))
        soft_raise_code(c, X86_GP, 0);
    switch (type) {
    case 0:
        soft_tlb_flush_pcid_page(c, (uint16_t)descriptor[0], descriptor[1]);
        break;
    case 1:
        soft_tlb_flush_pcid(c, (uint16_t)descriptor[0]);
        break;
    case 2:
        soft_tlb_flush(c);
        break;
    default:
        soft_tlb_flush_spaces(c);
    }
}

static void cpl0_only(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_require_cpl0(c); /* INVD, WBINVD: guest RAM is coherent */
    soft_serialize();
}

static void nothing(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)c;
    (void)op;
}

static void fence(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)c;
    (void)op;
    memory_fence();
}

/* The translator's non-temporal stores are the host's. */
static void store_fence(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)c;
    (void)op;
    __asm__ volatile("sfence" : : : "memory");
}

static void clflush(struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    bool opt = insn->pp == 1;

    if (opt)
        soft_require_feature(c, ((insn->modrm >> 3) & 7) == 7 ? X86_FEATURE_CLFLUSHOPT
                                                              : X86_FEATURE_CLWB);
    /* Faults as a load does, and has nothing else to do: memory is coherent. */
    soft_probe(c, soft_operand(c, op, 1, SOFT_READ), 1, SOFT_READ);
}

static void serialize(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_require_feature(c, X86_FEATURE_SERIALIZE);
    soft_serialize();
}

static void smap_flag(struct soft_vcpu *c, const struct soft_op *op)
{
    soft_require_feature(c, X86_FEATURE_SMAP);
    if (c->cpl != 0 || soft_is_v86(c))
        soft_raise(c, X86_UD);
    if (op->insn.op == X86_OP_STAC)
        c->rflags |= X86_RFLAGS_AC;
    else
        c->rflags &= ~X86_RFLAGS_AC;
    soft_mode_update(c);
}

/* -- waiting -- */

static void hlt(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_require_cpl0(c);
    c->rip = soft_rip_next(c);
    c->halted = true;
}

static void pause_hint(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    c->rip = soft_rip_next(c);
    if (++c->pauses < PAUSES_BEFORE_EXIT || c->stepping || c->counted)
        return;
    c->pauses = 0;
    c->exit->kind = CPU_EXIT_PAUSE;
    soft_exit(c);
}

static void undefined(struct soft_vcpu *c, const struct soft_op *op)
{
    (void)op;
    soft_raise(c, X86_UD);
}

soft_handler *soft_system_handler(const struct x86_insn *insn)
{
    static soft_handler *const handlers[X86_OP_COUNT] = {
        [X86_OP_MOV_TO_CR] = mov_to_cr, [X86_OP_MOV_FROM_CR] = mov_from_cr,
        [X86_OP_MOV_TO_DR] = mov_to_dr, [X86_OP_MOV_FROM_DR] = mov_from_dr,
        [X86_OP_SMSW] = smsw,           [X86_OP_LMSW] = lmsw,
        [X86_OP_CLTS] = clts,           [X86_OP_RDMSR] = rdmsr,
        [X86_OP_WRMSR] = wrmsr,         [X86_OP_CPUID] = cpuid,
        [X86_OP_RDTSC] = rdtsc,         [X86_OP_RDTSCP] = rdtsc,
        [X86_OP_RDPMC] = rdpmc,         [X86_OP_RDPID] = rdpid,
        [X86_OP_RDRAND] = rdrand,       [X86_OP_RDSEED] = rdrand,
        [X86_OP_XGETBV] = xgetbv,       [X86_OP_XSETBV] = xsetbv,
        [X86_OP_RDPKRU] = rdpkru,       [X86_OP_WRPKRU] = wrpkru,
        [X86_OP_INVLPG] = invlpg,       [X86_OP_INVPCID] = invpcid,
        [X86_OP_INVD] = cpl0_only,      [X86_OP_WBINVD] = cpl0_only,
        [X86_OP_NOP] = nothing,         [X86_OP_PREFETCH] = nothing,
        [X86_OP_LFENCE] = nothing,      [X86_OP_SFENCE] = store_fence,
        [X86_OP_MFENCE] = fence,        [X86_OP_CLFLUSH] = clflush,
        [X86_OP_SERIALIZE] = serialize, [X86_OP_CLAC] = smap_flag,
        [X86_OP_STAC] = smap_flag,      [X86_OP_HLT] = hlt,
        [X86_OP_PAUSE] = pause_hint,    [X86_OP_UD] = undefined,
        [X86_OP_VMCALL] = undefined,    [X86_OP_MONITOR] = undefined,
        [X86_OP_MWAIT] = undefined,
    };

    return insn->op < X86_OP_COUNT ? handlers[insn->op] : NULL;
}
