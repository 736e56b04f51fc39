/* Smoke. */
#include "world.h"
CODE64(c_ok, "mov $5,%eax" STOP);
CODE64(c_ud, "ud2" STOP);
CODE32(c32, "mov $7,%eax; ud2");
CODE16(c16, "mov $9,%eax; mov %ax,0x10; int $0x33");
CODE16(c16b, "mov $9,%eax; .byte 0x0f,0x0b; int $0x33");
void guest_main(void)
{
    struct context c = run_kernel(c_ok);
    CHECK_STOP("kernel", &c);
    CHECK("rax", c.rax, 5);
    c = run_user(c_ud);
    CHECK_TRAP("user ud2", &c, UD, NO_ERROR, USER(c_ud));
    c = context_legacy(c32);
    world_legacy(&c);
    CHECK_TRAP("legacy", &c, UD, NO_ERROR, ADDRESS(c32)+5);
    CHECK("eax", c.rax, 7);
    c = context_legacy_user(c32);
    world_legacy(&c);
    CHECK_TRAP("legacy user", &c, UD, NO_ERROR, ADDRESS(c32)+5);
    low_code_set(c16b, c16b_end);
    c = context_v86(0);
    world_legacy(&c);
    CHECK_TRAP("v86", &c, UD, NO_ERROR, 6);
    low_code_set(c16, c16_end);
    c = context_real();
    world_real(&c);
    CHECK_TRAP("real", &c, 0x33, NO_ERROR, 11);
    CHECK("eax", c.rax, 9);
}
