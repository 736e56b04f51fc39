/*
 * Between the soft engine's vCPU and the architectural state that all engines share.
 * Threads: only while the vCPU does not run.
 */
#include <errno.h>
#include <x86intrin.h>

#include "cpu/soft/soft_engine.h"

/* clang-format never settles on this list. */
/* clang-format off */
#define COPY_FIELDS(X)                                                                             \
    X(gpr) X(seg) X(ldtr) X(tr) X(gdtr) X(idtr) X(dr) X(mtrr_fixed) X(mtrr_base) X(mtrr_mask)

#define SAME_FIELDS(X)                                                                             \
    X(rip) X(cr0) X(cr2) X(cr3) X(cr4) X(xcr0) X(dr6) X(dr7) X(efer) X(star) X(lstar) X(cstar)     \
    X(sfmask) X(kernel_gs_base) X(sysenter_cs) X(sysenter_esp) X(sysenter_eip) X(pat) X(tsc_aux)   \
    X(misc_enable) X(pkrs) X(mtrr_def_type) X(tsc_adjust) X(halted) X(nmi_blocked)
/* clang-format on */

void soft_state_get(const struct soft_vcpu *c, struct x86_state *state)
{
    *state = (struct x86_state){0};
#define GET_COPY(field) memcpy(&state->field, &c->field, sizeof state->field);
    COPY_FIELDS(GET_COPY)
#undef GET_COPY
#define GET(field) state->field = c->field;
    SAME_FIELDS(GET)
#undef GET
    state->rflags = soft_rflags_get(c);
    state->interrupt_shadow = c->shadow;
    state->tsc = soft_host_tsc(c) + c->tsc_offset;
    soft_xsave_get(c, state->xsave);
}

/* Nothing of what was under way outlives a new state. */
static void unfinished_drop(struct soft_vcpu *c)
{
    soft_io_commit(c);
    c->io_waiting = false;
    c->inject_waiting = false;
    c->delivering = false;
    c->nmis_pending = 0;
    c->shadow_debug = false;
    c->pending_db = 0;
    atomic_fetch_and(&c->request, ~SOFT_REQUEST_NMI);
}

int soft_state_set(struct soft_vcpu *c, const struct x86_state *state, struct error *err)
{
    if ((state->xcr0 & ~c->vm->cpuid->xcr0_allowed) != 0)
        return error_set(err, -EINVAL,
                         "the saved state uses vector registers (XCR0 %#llx) that CPU "
                         "model %s lacks",
                         (unsigned long long)state->xcr0, c->vm->cpuid->model);
    if (!soft_xsave_set(c, state->xsave))
        return error_set(err, -EINVAL, "the saved state's XSAVE image has reserved bits set");
    unfinished_drop(c);
    soft_trace(c, TRACE_START, 0, state->rip);
#define SET_COPY(field) memcpy(&c->field, &state->field, sizeof c->field);
    COPY_FIELDS(SET_COPY)
#undef SET_COPY
#define SET(field) c->field = state->field;
    SAME_FIELDS(SET)
#undef SET
    c->shadow = state->interrupt_shadow;
    c->tsc_offset = state->tsc - soft_host_tsc(c);
    c->apic_enabled = true;
    soft_rflags_set(c, state->rflags);
    soft_mode_update(c);
    soft_tlb_flush(c);
    if ((c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !c->long_mode)
        (void)soft_pdpte_load(c, c->cr3);
    return 0;
}
