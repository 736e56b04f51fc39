/*
 * Page-table entries of both lower levels changed at random, with and without an invalidation:
 * what an access may then do is what one of the translations does that existed since the last
 * invalidation that held for it, and nothing else.
 *
 * Intel SDM vol. 3, 4.10: which translations may be cached (4.10.2, 4.10.3), what drops them
 * (4.10.4.1), and that entries that are not present are not cached. Option rounds=N (20,000).
 *
 * Two tables' entries (PDEs) with four pages each, and three page tables that they may name.
 */
#include "pages.h"
#include "world.h"

#define PDES   2u
#define TABLES 3u
#define PAGES  4u /* of a page table */
#define ALL    (PDES * PAGES)
#define FRAMES 4u
#define SPACES 3u /* PCIDs */
#define ANY    SPACES
#define LARGE  0x2000000ul /* two large pages of memory that nothing else uses */
#define VA(v)  (TEST_REGION + (v) / PAGES * 0x200000 + (v) % PAGES * 4096)

static u64 test_pd[512] __attribute__((aligned(4096)));
static u64 tables[TABLES][512] __attribute__((aligned(4096)));
static u8 frames[FRAMES][4096] __attribute__((aligned(4096)));

/* The values that an entry had, the present one last; without accessed and dirty bits. */
#define HISTORY 24u
struct history {
    u32 count;
    u64 value[HISTORY];
};
/* What may be cached of page v in a space: combinations of these. ANY is for global pages, whose
 * entries serve all spaces, and are dropped by less. */
static struct past {
    struct history pde, pte[TABLES];
} pasts[SPACES + 1][ALL];
static u32 space;
static u64 root;

enum access { READ, WRITE, EXEC };
CODE64(e_read, "mov 64(%rax), %rcx" STOP);
CODE64(e_write, "mov %rdx, 128(%rax)" STOP);
CODE64(e_rmw, "lock xaddq %rdx, 128(%rax)" STOP);
CODE64(e_exec, "jmp *%rax");

static u64 state = 88172645463325252;
static u64 dice(u64 sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % sides;
}

/* -- frames: each knows its number, as data, as code, and what was written to it -- */

#define FRAME_COUNT (FRAMES + 2 * PAGES)
static u8 *frame_at(u32 number)
{
    if (number < FRAMES)
        return frames[number];
    number -= FRAMES;
    return (u8 *)low_pointer(LARGE + number / PAGES * 0x200000 + number % PAGES * 4096);
}

static void frames_fill(void)
{
    for (u32 i = 0; i < FRAME_COUNT; i++) {
        u8 code[] = {0xb9, (u8)i, 0, 0, 0, 0xcd, 0x81}; /* MOV ECX, i; INT 0x81 */
        memory_copy(frame_at(i), code, sizeof(code));
        *(volatile u64 *)(frame_at(i) + 64) = i;
        *(volatile u64 *)(frame_at(i) + 128) = 0;
    }
}

/* Which frame has `value` at 128, and forgets it. */
static u32 frame_written(u64 value)
{
    u32 found = FRAME_COUNT;
    for (u32 i = 0; i < FRAME_COUNT; i++)
        if (*(volatile u64 *)(frame_at(i) + 128) == value) {
            found = found == FRAME_COUNT ? i : FRAME_COUNT + 1;
            *(volatile u64 *)(frame_at(i) + 128) = 0;
        }
    return found;
}

static u32 frame_of(u64 pde, u64 pte, u32 v)
{
    if (pde & PS)
        return FRAMES + (u32)((pde & 0xffffe00000) - LARGE) / 0x200000 * PAGES + v % PAGES;
    return (u32)((pte & 0xfffff000) - ADDRESS(frames)) / 4096;
}

static u32 table_of(u64 pde)
{
    return (u32)((pde & 0xfffff000) - ADDRESS(tables)) / 4096;
}

/* -- what was, and what it allows -- */

static void history_begin(struct history *h, u64 value)
{
    h->count = 1;
    h->value[0] = value & ~(A | D);
}

static void past_begin(u32 s, u32 v)
{
    struct past *past = &pasts[s][v];
    history_begin(&past->pde, test_pd[v / PAGES]);
    for (u32 t = 0; t < TABLES; t++)
        history_begin(&past->pte[t], tables[t][v % PAGES]);
}

static void space_begin(u32 s)
{
    for (u32 v = 0; v < ALL; v++)
        past_begin(s, v);
}

/* INVLPG: the page in this space, and global ones. */
static void page_drop(u32 v)
{
    invlpg(VA(v));
    past_begin(space, v);
    past_begin(ANY, v);
}

static bool allowed(u64 pde, u64 pte, enum access access, bool user)
{
    u64 rights = pde & PS ? pde : pde & pte & ~NX;
    bool nx = (pde & NX) || (!(pde & PS) && (pte & NX));
    if (user && !(rights & U))
        return false;
    return access == WRITE ? (rights & W) != 0 : access == EXEC ? !nx : true;
}

struct outcome {
    bool fault, present; /* with its error code's P */
    u32 frame;
};

/* Whether a translation by these two entries has this outcome. */
static bool explains(u64 pde, u64 pte, u32 v, const struct outcome *o, enum access access,
                     bool user)
{
    if (!(pde & P) || (!(pde & PS) && !(pte & P)))
        return false;
    if (o->fault)
        return o->present && !allowed(pde, pte, access, user);
    return frame_of(pde, pte, v) == o->frame && allowed(pde, pte, access, user);
}

static bool past_explains(u32 s, u32 v, const struct outcome *o, enum access access, bool user)
{
    const struct past *past = &pasts[s][v];
    for (u32 i = 0; i < past->pde.count; i++) {
        u64 pde = past->pde.value[i];
        const struct history *h = &past->pte[pde & P && !(pde & PS) ? table_of(pde) : 0];
        for (u32 k = 0; k < h->count; k++) {
            u64 leaf = pde & PS ? pde : h->value[k];
            if ((s != ANY || leaf & G) && explains(pde, h->value[k], v, o, access, user))
                return true;
        }
    }
    return false;
}

/* An absent entry is read now, though one above it may be an old one. */
static bool absent_explains(u32 v)
{
    const struct history *h = &pasts[space][v].pde;
    if (!(test_pd[v / PAGES] & P))
        return true;
    for (u32 i = 0; i < h->count; i++)
        if ((h->value[i] & (P | PS)) == P && !(tables[table_of(h->value[i])][v % PAGES] & P))
            return true;
    return false;
}

/* -- changes -- */

static void entry_store(u64 *entry, u64 value)
{
    switch (dice(4)) {
    case 0:
        __asm__ volatile("xchgq %1, %0" : "+m"(*entry), "+r"(value) : : "memory");
        break;
    case 1:
        __asm__ volatile("stosq" : "+D"(entry) : "a"(value) : "memory");
        break;
    default:
        *(volatile u64 *)entry = value;
    }
}

static void history_add(struct history *h, u64 value)
{
    if (h->count < HISTORY)
        h->value[h->count++] = value & ~(A | D);
}

static u64 random_rights(void)
{
    u64 rights = P | (dice(4) ? W : 0) | (dice(4) ? U : 0) | (dice(4) ? 0 : NX);
    return rights | (dice(3) ? 0 : A) | (dice(3) ? 0 : D);
}

static void pte_change(void)
{
    u32 t = (u32)dice(TABLES), page = (u32)dice(PAGES);
    u64 value = dice(6) ? ADDRESS(frames[dice(FRAMES)]) | random_rights() | (dice(4) ? 0 : G) : 0;

    if (dice(8) == 0) /* the same frame with other rights */
        value = (tables[t][page] & ~(W | U | NX)) ^ (random_rights() & (W | U | NX));
    entry_store(&tables[t][page], value);
    for (u32 s = 0; s <= SPACES; s++)
        for (u32 v = page; v < ALL; v += PAGES)
            history_add(&pasts[s][v].pte[t], value);
}

static void pde_change(void)
{
    u32 k = (u32)dice(PDES);
    u64 value = ADDRESS(tables[dice(TABLES)]) | (random_rights() & ~D);

    if (dice(6) == 0)
        value = (LARGE + dice(2) * 0x200000) | random_rights() | PS | (dice(3) ? 0 : G);
    else if (dice(8) == 0)
        value = 0;
    entry_store(&test_pd[k], value);
    for (u32 s = 0; s <= SPACES; s++)
        for (u32 v = k * PAGES; v < (k + 1) * PAGES; v++)
            history_add(&pasts[s][v].pde, value);
}

static bool pcids;

/* To a space whose translations are kept (CR3's bit 63), or not. */
static void space_enter(u32 to, bool keep)
{
    space = pcids ? to : 0;
    cr3_set(root | (pcids ? (u64)(space + 1) | (keep ? 1ul << 63 : 0) : 0));
    if (!pcids || !keep)
        space_begin(space);
}

static void invpcid(u64 type, u64 pcid, u64 address)
{
    u64 descriptor[2] = {pcid, address};
    __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

static void invpcid_random(void)
{
    u64 type = dice(4);
    u32 s = (u32)dice(pcids ? SPACES : 1), v = (u32)dice(ALL);

    invpcid(type, type < 2 && pcids ? s + 1 : 0, VA(v));
    if (type == 0)
        past_begin(s, v);
    else if (type == 1)
        space_begin(s);
    for (u32 i = 0; i < SPACES && type > 1; i++)
        space_begin(i);
    if (type == 2)
        space_begin(ANY);
}

static void all_drop(void)
{
    cr4_set(cr4_get() & ~CR4_PGE);
    cr4_set(cr4_get() | CR4_PGE);
    for (u32 s = 0; s <= SPACES; s++)
        space_begin(s);
}

static void drop_random(void)
{
    switch (dice(8)) {
    case 0:
        all_drop();
        break;
    case 1:
        space_enter((u32)dice(SPACES), false);
        break;
    case 2:
        space_enter((u32)dice(SPACES), true);
        break;
    case 3:
        if (has(FEATURE_INVPCID))
            invpcid_random();
        break;
    default:
        page_drop((u32)dice(ALL));
    }
}

/* No history may be cut off: what is about to is dropped from the TLBs. */
static void histories_bound(void)
{
    for (u32 s = 0; s <= SPACES; s++)
        for (u32 v = 0; v < ALL; v++) {
            bool full = pasts[s][v].pde.count == HISTORY;
            for (u32 t = 0; t < TABLES; t++)
                full |= pasts[s][v].pte[t].count == HISTORY;
            if (full) {
                all_drop();
                return;
            }
        }
}

/* -- accesses -- */

static u64 wrong, faults, successes, stale;

static struct outcome access_try(u32 v, enum access access, bool user)
{
    static const u8 *const codes[] = {e_read, e_write, e_exec};
    const u8 *code = access == WRITE && dice(2) ? e_rmw : codes[access];
    struct context c = user ? context_user(code) : context_kernel(code);
    u64 value = state | 1;

    c.rax = VA(v);
    c.rcx = FRAME_COUNT;
    c.rdx = value;
    world_long(&c);
    if (c.vector == PF)
        return (struct outcome){.fault = true, .present = c.error & 1};
    if (c.vector != STOP_VECTOR)
        return (struct outcome){.frame = FRAME_COUNT + 2};
    return (struct outcome){.frame = access == WRITE ? frame_written(value) : (u32)c.rcx};
}

static void access_check(u32 v)
{
    enum access access = (enum access)dice(3);
    bool user = dice(2);
    struct outcome o = access_try(v, access, user);
    u64 pde = test_pd[v / PAGES], pte = 0;
    bool fine = o.fault && !o.present ? absent_explains(v)
                                      : past_explains(space, v, &o, access, user) ||
                                            past_explains(ANY, v, &o, access, user);

    if (pde & P && !(pde & PS))
        pte = tables[table_of(pde)][v % PAGES];
    o.fault ? faults++ : successes++;
    if (fine && !o.fault && !explains(pde, pte, v, &o, access, user))
        stale++;
    if (!fine && wrong++ < 5) {
        print("access ");
        print_hex(access * 2 + user);
        print(" of ");
        print_hex(VA(v));
        print(", fault and its P ");
        print_hex((u64)o.fault * 2 + o.present);
        print(", frame ");
        print_hex(o.frame);
        print(", PDE ");
        print_hex(pde);
        print(", PTE ");
        print_hex(pte);
        print("\n");
    }
}

static void edits_run(const char *name, bool with_pcids, u64 rounds)
{
    part(name);
    pcids = with_pcids;
    wrong = faults = successes = stale = 0;
    space_enter(0, false);
    all_drop();
    for (u64 i = 0; i < rounds; i++) {
        for (u64 changes = dice(3); changes > 0; changes--)
            dice(3) ? pte_change() : pde_change();
        if (dice(3) == 0)
            drop_random();
        histories_bound();
        u32 v = (u32)dice(ALL);
        if (dice(4) == 0)
            page_drop(v);
        for (u64 accesses = 1 + dice(3); accesses > 0; accesses--)
            access_check(v);
    }
    CHECK("outcomes that no translation explains", wrong, 0);
    CHECK("faults there were", faults > rounds / 10, true);
    CHECK("successes there were", successes > rounds / 10, true);
    print(name);
    print(": successes ");
    print_dec(successes);
    print(", by an older translation ");
    print_dec(stale);
    print(", faults ");
    print_dec(faults);
    print("\n");
}

void guest_main(void)
{
    u64 rounds = option("rounds", 20000), cr4 = cr4_get();

    if (has(FEATURE_NX))
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    root = cr3_get();
    boot_pdpt[2] = ADDRESS(test_pd) | P | W | U;
    frames_fill();
    cr4_set(cr4 | CR4_PGE);
    edits_run("without PCIDs", false, rounds);
    if (has(FEATURE_PCID)) {
        cr4_set(cr4_get() | CR4_PCIDE);
        edits_run("with PCIDs", true, rounds);
        cr3_set(root);
        cr4_set(cr4);
    }
}
