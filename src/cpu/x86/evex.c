/*
 * AVX-512: EVEX encodings and opmask instructions. Needs no libc.
 */
#include "cpu/x86/vector.h"

bool x86_evex_describe(const struct x86_insn *insn, const bool feature[X86_FEATURE_COUNT],
                       struct x86_vector_insn *out)
{
    (void)insn;
    (void)out;
    return feature[X86_FEATURE_AVX512F] && false;
}
