/*
 * Handlers of control transfers, segment and flag instructions: who has what, for the table in
 * control.c. Only inside src/cpu/soft/.
 */
#ifndef FREEHOLD_CPU_SOFT_CONTROL_H
#define FREEHOLD_CPU_SOFT_CONTROL_H

#include "cpu/soft/descriptor.h"

/* far.c */
soft_handler soft_op_jmp_far, soft_op_call_far, soft_op_retf, soft_op_iret;
/* Flags that IRET of `size` may change at the CPL that it is run at. */
uint64_t soft_iret_flags(const struct soft_vcpu *c, unsigned size);
/* After a return to an outer ring: data segments that it may not use become null (SDM vol. 3,
 * 5.8.6). */
void soft_segments_drop(struct soft_vcpu *c);

/* interrupt.c */
soft_handler soft_op_int, soft_op_int1, soft_op_int3, soft_op_into;

/* syscall.c */
soft_handler soft_op_syscall, soft_op_sysret, soft_op_sysenter, soft_op_sysexit;
soft_handler soft_op_cli, soft_op_sti, soft_op_pushf, soft_op_popf;

/* segment_ops.c */
soft_handler soft_op_mov_to_seg, soft_op_mov_from_seg, soft_op_push_seg, soft_op_pop_seg;
soft_handler soft_op_load_far, soft_op_lldt, soft_op_ltr, soft_op_sldt, soft_op_str;
soft_handler soft_op_verr, soft_op_verw, soft_op_lar, soft_op_lsl, soft_op_arpl;
soft_handler soft_op_sgdt, soft_op_sidt, soft_op_lgdt, soft_op_lidt;
soft_handler soft_op_rdbase, soft_op_wrbase, soft_op_swapgs;

#endif
