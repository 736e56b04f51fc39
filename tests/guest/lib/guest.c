/* Serial output, checks and their counts. See guest.h. */
#include "guest.h"

#define COM1 0x3f8

struct tally {
    u64 passed, failed, known;
    const char *part;
    const char *wrong_once, *wrong_all;
};
static struct tally tally;

static void print_char(char c)
{
    for (int i = 0; i < 100000 && !(inb(COM1 + 5) & 0x20); i++)
        pause();
    outb(COM1, (u8)c);
}

void print(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            print_char('\r');
        print_char(*text);
    }
}

void print_hex(u64 value)
{
    char text[19] = "0x";
    int digits = 1;
    while (digits < 16 && value >> (digits * 4))
        digits++;
    for (int i = 0; i < digits; i++)
        text[2 + i] = "0123456789abcdef"[value >> ((digits - 1 - i) * 4) & 15];
    text[2 + digits] = 0;
    print(text);
}

void print_dec(u64 value)
{
    char text[24];
    int at = sizeof(text) - 1;
    text[at] = 0;
    do
        text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    print(text + at);
}

void part(const char *name)
{
    tally.part = name;
}

void skip(const char *what, const char *reason)
{
    print("skipped: ");
    print(what);
    print(": ");
    print(reason);
    print("\n");
}

void tcg_wrong(const char *reason)
{
    tally.wrong_once = reason;
}

void tcg_wrong_begin(const char *reason)
{
    tally.wrong_all = reason;
}

void tcg_wrong_end(void)
{
    tally.wrong_all = NULL;
}

bool on_tcg(void)
{
    struct cpuid id = cpuid(0x40000000, 0);
    return id.ebx == 0x54474354 && id.ecx == 0x43544743;
}

static void print_difference(const char *what, u64 seen, u64 expected)
{
    print(what);
    print(": expected ");
    print_hex(expected);
    print(", saw ");
    print_hex(seen);
}

void check_eq(const char *file, int line, const char *what, u64 seen, u64 expected)
{
    const char *wrong = tally.wrong_once ? tally.wrong_once : tally.wrong_all;
    tally.wrong_once = NULL;
    if (seen == expected) {
        tally.passed++;
        return;
    }
    bool known = wrong && on_tcg();
    if (known)
        tally.known++;
    else
        tally.failed++;
    print(known ? "known TCG error: " : "FAIL ");
    print(file);
    print(":");
    print_dec((u64)line);
    print(": ");
    if (tally.part) {
        print(tally.part);
        print(": ");
    }
    print_difference(what, seen, expected);
    if (known) {
        print(" (");
        print(wrong);
        print(")");
    }
    print("\n");
}

_Noreturn void guest_exit(void)
{
    if (tally.known) {
        print_dec(tally.known);
        print(" known TCG errors\n");
    }
    print_dec(tally.passed);
    print(" passed, ");
    print_dec(tally.failed);
    print(" failed\n");
    outb(EXIT_PORT, tally.failed || !tally.passed ? EXIT_FAILURE : EXIT_SUCCESS);
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* From world.S: an exception while no run was under way, that is in the test's own C code. */
_Noreturn void guest_unexpected(u64 vector, const u64 *frame, u64 cr2);
_Noreturn void guest_unexpected(u64 vector, const u64 *frame, u64 cr2)
{
    print("FAIL unexpected exception, vector ");
    print_hex(vector);
    print(", CR2 ");
    print_hex(cr2);
    print(", in part ");
    print(tally.part ? tally.part : "(start)");
    print(", frame");
    for (int i = 0; i < 5; i++) {
        print(" ");
        print_hex(frame[i]);
    }
    print("\n");
    tally.failed++;
    guest_exit();
}

/* Multiboot 0.6.96, 3.3: the flags' bit 2 says that the command line's address is at 16. */
extern u32 boot_info;
static const char *command_line(void)
{
    volatile u32 *info = (volatile u32 *)low_pointer(boot_info);
    return boot_info && info[0] & 4 ? (const char *)low_pointer(info[4]) : "";
}

/* What stands behind `name` and "=" where the text begins with them, or nothing. */
static const char *behind(const char *text, const char *name)
{
    while (*name && *text == *name)
        text++, name++;
    return *name == 0 && *text == '=' ? text + 1 : NULL;
}

u64 option(const char *name, u64 otherwise)
{
    for (const char *at = command_line(); *at; at++) {
        const char *digits = behind(at, name);
        if (!digits)
            continue;
        u64 value = 0;
        for (; *digits >= '0' && *digits <= '9'; digits++)
            value = value * 10 + (u64)(*digits - '0');
        return value;
    }
    return otherwise;
}

void *memory_set(void *to, int value, size_t len)
{
    u8 *p = to;
    for (size_t i = 0; i < len; i++)
        ((volatile u8 *)p)[i] = (u8)value;
    return to;
}

void *memory_copy(void *to, const void *from, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

bool memory_same(const void *a, const void *b, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (((const volatile u8 *)a)[i] != ((const volatile u8 *)b)[i])
            return false;
    return true;
}

/* The compiler may call these by itself. */
void *memset(void *to, int value, size_t len);
void *memset(void *to, int value, size_t len)
{
    return memory_set(to, value, len);
}
void *memcpy(void *restrict to, const void *restrict from, size_t len);
void *memcpy(void *restrict to, const void *restrict from, size_t len)
{
    return memory_copy(to, from, len);
}

/* Where CPUID shows a feature: leaf (bit 31 for the extended range kept), register 0-3 = eax..edx,
 * bit. */
static const struct feature_bit {
    u32 leaf, subleaf;
    u8 reg, bit;
} feature_bits[] = {
    [FEATURE_MONITOR] = {1, 0, 2, 3},
    [FEATURE_PCID] = {1, 0, 2, 17},
    [FEATURE_X2APIC] = {1, 0, 2, 21},
    [FEATURE_MOVBE] = {1, 0, 2, 22},
    [FEATURE_POPCNT] = {1, 0, 2, 23},
    [FEATURE_TSC_DEADLINE] = {1, 0, 2, 24},
    [FEATURE_XSAVE] = {1, 0, 2, 26},
    [FEATURE_SSE42] = {1, 0, 2, 20},
    [FEATURE_CX16] = {1, 0, 2, 13},
    [FEATURE_AVX] = {1, 0, 2, 28},
    [FEATURE_FSGSBASE] = {7, 0, 1, 0},
    [FEATURE_BMI1] = {7, 0, 1, 3},
    [FEATURE_BMI2] = {7, 0, 1, 8},
    [FEATURE_SMEP] = {7, 0, 1, 7},
    [FEATURE_SMAP] = {7, 0, 1, 20},
    [FEATURE_INVPCID] = {7, 0, 1, 10},
    [FEATURE_UMIP] = {7, 0, 2, 2},
    [FEATURE_LZCNT] = {0x80000001, 0, 2, 5},
    [FEATURE_NX] = {0x80000001, 0, 3, 20},
    [FEATURE_PAGE1G] = {0x80000001, 0, 3, 26},
    [FEATURE_RDTSCP] = {0x80000001, 0, 3, 27},
    [FEATURE_XSAVEOPT] = {13, 1, 0, 0},
    [FEATURE_SYSCALL] = {0x80000001, 0, 3, 11},
    [FEATURE_PKU] = {7, 0, 2, 3},
    [FEATURE_PKS] = {7, 0, 2, 31},
    [FEATURE_LA57] = {7, 0, 2, 16},
    [FEATURE_SEP] = {1, 0, 3, 11},
    [FEATURE_ADX] = {7, 0, 1, 19},
    [FEATURE_XSAVEC] = {13, 1, 0, 1},
    [FEATURE_RDPID] = {7, 0, 2, 22},
    [FEATURE_LAHF] = {0x80000001, 0, 2, 0},
};

bool has(enum feature feature)
{
    const struct feature_bit *f = &feature_bits[feature];
    if (cpuid(f->leaf & 0x80000000, 0).eax < f->leaf)
        return false;
    struct cpuid r = cpuid(f->leaf, f->subleaf);
    const u32 regs[] = {r.eax, r.ebx, r.ecx, r.edx};
    return regs[f->reg] >> f->bit & 1;
}

bool cpu_is_intel(void)
{
    struct cpuid r = cpuid(0, 0);
    return r.ebx == 0x756e6547 && r.edx == 0x49656e69 && r.ecx == 0x6c65746e;
}
