/* Which handler has which control, segment or flag instruction. Threads: any; constant. */
#include "cpu/soft/control.h"

soft_handler *soft_control_handler(const struct x86_insn *insn)
{
    static soft_handler *const table[X86_OP_COUNT] = {
        [X86_OP_JMP_FAR] = soft_op_jmp_far,
        [X86_OP_JMP_FAR_IND] = soft_op_jmp_far,
        [X86_OP_CALL_FAR] = soft_op_call_far,
        [X86_OP_CALL_FAR_IND] = soft_op_call_far,
        [X86_OP_RETF] = soft_op_retf,
        [X86_OP_IRET] = soft_op_iret,
        [X86_OP_INT] = soft_op_int,
        [X86_OP_INT1] = soft_op_int1,
        [X86_OP_INT3] = soft_op_int3,
        [X86_OP_INTO] = soft_op_into,
        [X86_OP_SYSCALL] = soft_op_syscall,
        [X86_OP_SYSRET] = soft_op_sysret,
        [X86_OP_SYSENTER] = soft_op_sysenter,
        [X86_OP_SYSEXIT] = soft_op_sysexit,
        [X86_OP_CLI] = soft_op_cli,
        [X86_OP_STI] = soft_op_sti,
        [X86_OP_PUSHF] = soft_op_pushf,
        [X86_OP_POPF] = soft_op_popf,
        [X86_OP_MOV_TO_SEG] = soft_op_mov_to_seg,
        [X86_OP_MOV_FROM_SEG] = soft_op_mov_from_seg,
        [X86_OP_PUSH_SEG] = soft_op_push_seg,
        [X86_OP_POP_SEG] = soft_op_pop_seg,
        [X86_OP_LOAD_FAR] = soft_op_load_far,
        [X86_OP_LLDT] = soft_op_lldt,
        [X86_OP_LTR] = soft_op_ltr,
        [X86_OP_SLDT] = soft_op_sldt,
        [X86_OP_STR] = soft_op_str,
        [X86_OP_VERR] = soft_op_verr,
        [X86_OP_VERW] = soft_op_verw,
        [X86_OP_LAR] = soft_op_lar,
        [X86_OP_LSL] = soft_op_lsl,
        [X86_OP_ARPL] = soft_op_arpl,
        [X86_OP_SGDT] = soft_op_sgdt,
        [X86_OP_SIDT] = soft_op_sidt,
        [X86_OP_LGDT] = soft_op_lgdt,
        [X86_OP_LIDT] = soft_op_lidt,
        [X86_OP_RDFSBASE] = soft_op_rdbase,
        [X86_OP_RDGSBASE] = soft_op_rdbase,
        [X86_OP_WRFSBASE] = soft_op_wrbase,
        [X86_OP_WRGSBASE] = soft_op_wrbase,
        [X86_OP_SWAPGS] = soft_op_swapgs,
    };

    return table[insn->op];
}
