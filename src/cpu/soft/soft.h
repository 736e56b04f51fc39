/*
 * The soft engine's vCPU: state, faults, memory access. Included only inside src/cpu/soft/.
 *
 * An instruction is executed by one handler, `void f(struct soft_vcpu *, const struct soft_op *)`.
 * Rules for handlers:
 *  - A fault or an exit leaves by longjmp (soft_raise, soft_exit and every load, store or segment
 *    load may do so): change no guest state before the last thing that can fail has succeeded.
 *  - c->op is the running instruction. c->rip is not kept up to date inside a block: use
 *    soft_rip_current() and soft_rip_next(). A handler that changes control flow sets c->rip; its
 *    operation must be in soft_op_ends_block().
 *  - Port and memory-mapped I/O restarts the whole instruction (see soft_io), so a handler may be
 *    run again from its beginning with its earlier accesses answered from a log.
 *
 * Threads: a vCPU belongs to its thread; only `request` is touched by others.
 */
#ifndef FREEHOLD_CPU_SOFT_SOFT_H
#define FREEHOLD_CPU_SOFT_SOFT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/fence.h"
#include "cpu/cpu.h"
#include "cpu/soft/counters.h"
#include "cpu/trace.h"
#include "cpu/x86/decode.h"
#include "cpu/x86/state.h"

struct soft_vcpu;
struct soft_op;
typedef void soft_handler(struct soft_vcpu *c, const struct soft_op *op);

/* One decoded instruction in a block. */
struct soft_op {
    soft_handler *run;
    void *stub;      /* vector and x87 operations: host code, see vector.c */
    uint16_t offset; /* of this instruction from the block's first byte */
    uint16_t next;   /* of the one after it */
    uint16_t extra;  /* handler's own (vector.c: index of the table entry) */
    bool sets_rip;   /* the handler sets c->rip */
    struct x86_insn insn;
};

/* Translation look-aside buffers: where tag == linear page, `page` is its host page. */
struct soft_tlb_entry {
    uint64_t tag; /* linear address of the page, or soft_tlb_empty() */
    uint64_t page;
};
#define SOFT_TLB_ENTRIES 16384

/*
 * The tag of an unused entry: of a page that never comes to it, nor to the one before it (an access
 * that crosses pages is looked for there). Translated code compares addresses with the tag's page
 * alone, so that no value is unlike every page.
 */
static inline uint64_t soft_tlb_empty(unsigned index)
{
    return index == 0 || index == SOFT_TLB_ENTRIES - 1 ? UINT64_C(512) << 12 : 0;
}

enum soft_access { SOFT_READ, SOFT_WRITE, SOFT_FETCH };

/* One TLB for each way in which permissions can be judged. */
enum soft_privilege {
    SOFT_KERNEL,      /* CPL 0-2 */
    SOFT_KERNEL_SMAP, /* CPL 0-2 while SMAP forbids user pages (CR4.SMAP and not AC) */
    SOFT_USER,        /* CPL 3 */
    SOFT_CHECKED,     /* always misses: alignment checks, data breakpoints */
    SOFT_PRIVILEGES
};

struct soft_tlb {
    struct soft_tlb_entry entry[3][SOFT_TLB_ENTRIES]; /* by enum soft_access */
    bool global[3][SOFT_TLB_ENTRIES];                 /* which entries a CR3 load keeps */
};
#define SOFT_SPACES 8 /* PCIDs whose entries are kept */

/* See slots.h. Tags are addresses of pages, pages the host's; by read and write. */
#define SOFT_SLOTS 64
struct soft_slots {
    struct soft_tlb_entry entry[2][SOFT_SLOTS];
};

/* The stack pointer's slots, of even and of odd pages: functions have their stack on one page or
 * on two that follow each other. A page apart, so that the bit of the address tells which. */
#define SOFT_STACK_APART 4096
struct soft_stack_slots {
    struct soft_tlb_entry entry[2][2]; /* of the kernel's code, of the user's; by read and write */
    uint8_t unused[SOFT_STACK_APART - 4 * sizeof(struct soft_tlb_entry)];
};

#define SOFT_SHARED 8 /* checks that several accesses of a block share */

/* Vector and x87 state as the host's own unit takes it. */
struct soft_vector {
    _Alignas(
        64) uint8_t zmm[32][64]; /* XMM n is the first 16 bytes of zmm[n], YMM n the first 32 */
    _Alignas(64) uint8_t fxsave[512]; /* FXSAVE64 image; only its x87/MMX part is valid here */
    uint64_t xsave_header[8];         /* behind it, for XSAVE64 and XRSTOR64 of that part */
    uint64_t opmask[8];
    uint32_t mxcsr;
};

/*
 * No instruction makes more device accesses than this. The longest are XSAVE and XRSTOR, which move
 * X86_XSAVE_BYTES, aligned, in pieces of 8 bytes, and read the header besides. ENTER with 31 levels
 * at odd addresses makes 8 * 31, a task switch between two TSSs at odd addresses about 200, a
 * masked store of 64 bytes 64.
 */
#define SOFT_IO_LOG 512
_Static_assert(SOFT_IO_LOG >= X86_XSAVE_BYTES / 8 + 64, "the longest instruction fits in the log");

/* Why a #DB trap came, in DR6; bits 0 to 3 are the breakpoints. */
#define SOFT_DR6_BS      (UINT64_C(1) << 14) /* single step */
#define SOFT_DR6_BT      (UINT64_C(1) << 15) /* task switch */

#define SOFT_DR7_ENABLED UINT64_C(0xff) /* L0 to G3 */

/* Bits of soft_vcpu.request: somebody wants this vCPU's attention at the next block boundary. */
#define SOFT_REQUEST_KICK       0x01u
#define SOFT_REQUEST_INTERRUPT  0x02u /* level: the interrupt controller holds a vector */
#define SOFT_REQUEST_NMI        0x04u
#define SOFT_REQUEST_INVALIDATE 0x08u /* code has changed: code.c has left notes */
#define SOFT_REQUEST_TLB        0x10u /* write entries of pages that became code must go */
#define SOFT_REQUEST_CLEAR      0x20u /* this vCPU's own: the caches of code are full */
#define SOFT_REQUEST_STOP       0x40u /* another one wants to be alone: see soft_exclusive_begin() */

/* Pages with code that were written lately: see paging.c. slots.h forgets them. */
#define SOFT_CODE_WRITES 8
struct soft_code_writes {
    uint64_t tag[SOFT_CODE_WRITES]; /* linear address of the page; slot_empty: unused */
    uint64_t gpa[SOFT_CODE_WRITES];
    uint8_t *host[SOFT_CODE_WRITES];
    uint8_t privilege[SOFT_CODE_WRITES];
};

/* Where the last of these stores went: bytes of a page with code that belong to no block and that
 * this vCPU alone stores to (code.h). The first, 4096 before the end, and what makes of an address
 * the host's. */
struct soft_apart {
    uint64_t from, base, host;
};

#define SOFT_STRIP_GROUPS 6

/* Where translated code lies, by the low 16 bits of `key`. */
struct soft_lookup {
    uint64_t key; /* rip + salt, or + salt_global */
    uint64_t page;
    void *code, *code_flags;
};
#define SOFT_LOOKUPS 65536

/* An access across two pages (leaf_split.c). */
struct soft_split {
    _Alignas(16) uint8_t bytes[64]; /* a copy */
    uint8_t *host[2];               /* its parts, and their sizes */
    unsigned size[2];
};

struct soft_vcpu {
    uint64_t gpr[X86_GPR_COUNT];
    uint64_t zero; /* gpr[X86_REG_NONE]: always 0 */
    uint64_t rip;
    /* Arithmetic flags as LAHF and SETO give them: AH = SF:ZF:0:AF:0:PF:1:CF, AL = OF. */
    uint16_t arith;
    uint32_t rflags; /* all others (bit 1 included, arithmetic bits 0) */
    /* `arith` is not known, but the code at rip overwrites all of it before anything could show it:
     * nobody may look, and no event be taken, until the block there has run. */
    bool flags_dead;

    uint64_t decoded_round;         /* which blocks have their operations: soft_block_ops() */
    const struct soft_op *op;       /* running */
    const struct soft_op *op_end;   /* of the running block; lowered to stop it early */
    const struct soft_op *op_first; /* those from here to `op` are not taken off `fuel` yet */
    uint64_t block_rip;             /* rip of the running block's first byte */
    _Atomic uint32_t request;

    uint8_t cpl;
    uint8_t code_size; /* enum x86_code_size of CS */
    uint8_t privilege; /* enum soft_privilege, see soft_mode_update() */
    bool long_mode;    /* EFER.LMA */
    bool shadow;       /* the next instruction is under an STI or MOV SS shadow */
    bool shadow_debug; /* ... of MOV SS or POP SS: it also holds back #DB */
    bool nmi_blocked;
    uint8_t nmis_pending; /* see soft_inject() */
    bool halted;
    bool step;                /* one instruction at a time: TF, RF or breakpoints are on */
    uint64_t code_key;        /* soft_code_mode_changed(): which blocks c->rip may mean */
    uint64_t code_key_global; /* the same for global pages */
    uint64_t address_mask;    /* of linear addresses: 2^32 - 1, or all ones in 64-bit mode */

    struct x86_segment seg[X86_SEG_COUNT];
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, pkrs;
    uint32_t pkru;
    uint64_t mtrr_def_type, mtrr_fixed[X86_MTRR_FIXED_COUNT];
    uint64_t mtrr_base[X86_MTRR_VARIABLE_COUNT], mtrr_mask[X86_MTRR_VARIABLE_COUNT];
    uint64_t tsc_offset; /* guest TSC = host TSC + this */
    uint64_t tsc_adjust;
    uint64_t pdpte[4]; /* PAE paging's page-directory-pointer registers */

    struct soft_vector vector;

    /* The fault, exception or exit on its way (set by soft_raise and soft_exit). */
    void *jump[5]; /* __builtin_setjmp buffer */
    uint8_t fault_vector;
    bool fault_has_code;
    uint32_t fault_code;
    uint16_t string_arith; /* flags of the running string instruction's last comparison */
    uint64_t pending_db;   /* SOFT_DR6_* of a #DB trap due after the running instruction */

    struct cpu_exit *exit;
    uint16_t io_done, io_next; /* entries of io_log */
    bool io_waiting;           /* the exit handed out last is to be completed with its value */

    uint8_t rmw_buffer[16]; /* soft_rmw_begin's, where memory can't be changed in place */
    uint64_t rmw_address;
    uint8_t rmw_size;
    bool rmw_buffered;
    bool rmw_locked; /* the VM's code lock is held until soft_rmw_end */
    bool exclusive;  /* no other vCPU runs: soft_exclusive_begin() */

    struct soft_tlb *tlb[SOFT_PRIVILEGES]; /* the user's: of the current PCID */
    struct soft_tlbs *tlbs;                /* all of them: tlb.c */
    struct soft_cache *cache;
    struct soft_vm *vm;
    unsigned index;
    unsigned pauses;
    uint8_t jump_reason; /* SOFT_JUMP_* */
    bool delivering;     /* an event is on its way through the IDT: a fault becomes #DF */
    uint8_t delivering_vector;
    bool delivering_external;
    bool msr_fault;      /* the VM refused the last MSR access: #GP(0) */
    bool rf_kept;        /* the running instruction has loaded RF (IRET): do not clear it */
    bool apic_enabled;   /* IA32_APIC_BASE bit 11, for CPUID */
    bool stepping;       /* the running instruction is run alone (see run.c) */
    bool under_mov_ss;   /* while stepping: ... and under the shadow of MOV SS or POP SS */
    bool trap_dropped;   /* the running instruction (INT n, SYSCALL) takes no single-step trap */
    bool inject_waiting; /* the engine's inject() was called */
    uint8_t inject_vector;
    bool counted; /* run() ends with CPU_EXIT_PAUSE when no fuel is left, and never else so */
    bool partial; /* the last operation, a REP, is not complete: it was not counted */
    /* How many operations may still be completed and events delivered. Kept by all, right at each
     * block boundary; translated code takes its part only where `counted`. */
    int64_t fuel;
    int64_t fuel_given;         /* what a counted run began with */
    int64_t fuel_cut;           /* by_block: taken away so that the run ends behind the block */
    bool by_block;              /* counted, and a run ends behind each block */
    struct soft_trail *trail;   /* NULL: nobody asks which blocks ran and where they stored */
    struct soft_record *record; /* NULL: nobody records what comes from outside, see record.h */
    struct soft_op idle_op;     /* what c->op points to between blocks */

    /* The translator's part (translate.c): addressed through GS by translated code. */
    struct soft_translator *translator;
    struct soft_tlb *tlb_now;                /* tlb[privilege] */
    _Alignas(16) struct soft_slots slots[2]; /* of the kernel's code, of the user's */
    struct soft_stack_slots stack[2];
    uint64_t slot_empty;             /* the tag of an empty one */
    uint64_t saved_slot, slot_limit; /* of the access that looks for its page: the slot, the last */
    uint64_t slot_filled, slot_fills; /* the slot filled last; how many since SOFT_KERNEL began */
    uint32_t slot_what;               /* offset in it, and what soft_leaf_fill() is told */
    struct soft_code_writes code_writes;
    struct soft_apart apart;
    uint64_t code_page; /* linear address of the page that translated code runs on */
    uint64_t saved_rax, saved_rcx;
    uint64_t recorded[2];      /* operands of the operation that made the flags, and where it is, */
    uint64_t recorded_part[2]; /* the same of one that made a part of them since, */
    uint64_t flags_site;    /* ... which is in the upper half. If not 0: arith is not up to date */
    uint64_t branch_target; /* of a call whose push is under way */
    uint32_t link_patience; /* links that may fail until one is linked anew */
    uint64_t push_value;    /* of a PUSH of memory */
    const void *found;      /* by soft_leaf_target() */
    uint64_t shared[SOFT_SHARED]; /* host addresses that a block has checked */
    struct soft_split split;
    uint64_t exit_value; /* of the last exit to C: rip, link or site */
    uint32_t exit_site;  /* the last branch that was looked up: should its target be no address, or
                            its link be due */
    /* Host stack pointers: C's while translated code runs, the return stack's while C runs; and
     * where the latter begins, and under which there is no room for frames. */
    uint64_t c_stack, return_stack, return_base, return_floor;
    _Atomic uint64_t return_limit; /* return_floor, or all ones: there may be a request */
    void *vector_ready;     /* called by translated code: loads the vector registers, or returns */
    uint32_t vector_loaded; /* the guest's vector registers are in the host's */
    bool vector_changed;    /* C may have changed their upper parts */
    void *x87_ready;        /* the same for the x87 unit */
    uint64_t x87_fip, x87_fdp; /* while it is loaded: the guest's pointers */
    uint32_t x87_loaded;
    uint32_t host_mxcsr;
    /* A strip's iterations after the first, its end, and what lies between guest and host: see
     * translate_strip.c. */
    uint32_t strip_left;
    uint32_t strip_patience;         /* strips that may fail to begin until one is given up */
    uint64_t strip_limit, strip_end; /* the counter at the last comparison, on a page and of all */
    uint64_t strip_distance[SOFT_STRIP_GROUPS];
    struct soft_strip_table {
        uint64_t first, last; /* elements on its first page; where it would begin by its last */
    } strip_table[SOFT_STRIP_GROUPS];
    uint64_t salt, salt_global; /* added to rip in lookup keys: code_key, scrambled */

    /* What the running instruction's completed accesses gave. Last, since it is large and rare. */
    uint64_t io_log[SOFT_IO_LOG];
    struct soft_lookup lookup[SOFT_LOOKUPS];

    struct soft_counters counters;
    struct trace_ring *trace;       /* NULL: nobody asks what happens */
    struct soft_observer *observer; /* NULL: nobody asks what code was made */
    uint32_t traced_mode;           /* TRACE_MODE_* */
    struct soft_sampler *sampler;   /* NULL: nobody asks where time goes */
};

/* What a counted vCPU that is only interpreted did since its owner looked last. */
#define SOFT_TRAIL_BLOCKS 64
struct soft_store {
    const uint8_t *host; /* in the vCPU's guest memory */
    uint32_t length;
    uint32_t old; /* where in `bytes` what was there before begins */
};
struct soft_trail {
    uint64_t block[SOFT_TRAIL_BLOCKS]; /* addresses, the latest at (blocks - 1) % their number */
    uint64_t blocks;
    struct soft_store *stores;
    uint8_t *bytes;
    size_t store_count, store_capacity, byte_count, byte_capacity;
    bool overflow; /* no memory: some stores are missing */
};

struct soft_vm {
    struct mem *mem;
    const struct x86_cpuid *cpuid;
    uint64_t arch_capabilities; /* the MSR */
    unsigned vcpu_count;
    bool has_wrgsbase; /* else GS's base is set by arch_prctl(2) */
    bool translate;
    bool counted;            /* its vCPUs are */
    uint8_t translate_after; /* interpretations of a block before it is translated */
    size_t code_bytes;       /* most of what each vCPU keeps of code: see soft_cache_map() */
    struct soft_vcpu **vcpu;
    struct soft_code *code; /* which pages hold decoded code, see code.c */
    struct cpu_tools tools;
    void *stubs; /* vector.c: the stub buffer, shared by all vCPUs */
};

/* From any thread: wants the vCPU's attention (SOFT_REQUEST_*). Calls look at return_limit alone.
 */
static inline void soft_request(struct soft_vcpu *c, uint32_t request)
{
    atomic_fetch_or(&c->request, request);
    atomic_store(&c->return_limit, UINT64_MAX);
}

/* -- the event trace (counters.c); on slow paths only -- */
void soft_trace_add(struct soft_vcpu *c, enum trace_kind kind, uint32_t info, uint64_t detail);
static inline void soft_trace(struct soft_vcpu *c, enum trace_kind kind, uint32_t info,
                              uint64_t detail)
{
    if (__builtin_expect(c->trace != NULL, 0))
        soft_trace_add(c, kind, info, detail);
}

/* -- faults and exits (run.c) -- */
#define SOFT_JUMP_FAULT 1
#define SOFT_JUMP_EXIT  2
_Noreturn void soft_raise(struct soft_vcpu *c, uint8_t vector);                     /* no code */
_Noreturn void soft_raise_code(struct soft_vcpu *c, uint8_t vector, uint32_t code); /* with one */
_Noreturn void soft_page_fault(struct soft_vcpu *c, uint64_t linear, uint32_t code);
_Noreturn void soft_exit(struct soft_vcpu *c); /* c->exit is filled */

/* Port I/O, MMIO, MSR: gives the value read. Leaves by soft_exit the first time; when the
 * instruction is run again, answers from the log. soft_io_commit() is called where a part of an
 * instruction has been completed for good (each iteration of a REP). */
uint64_t soft_io(struct soft_vcpu *c, const struct cpu_exit *request);
static inline void soft_io_commit(struct soft_vcpu *c)
{
    c->io_done = 0;
    c->io_next = 0;
}

/* -- addresses -- */
static inline uint64_t soft_rip_current(const struct soft_vcpu *c)
{
    uint64_t rip = c->block_rip + c->op->offset;
    return c->code_size == X86_CODE_64 ? rip : (uint32_t)rip;
}

static inline uint64_t soft_rip_next(const struct soft_vcpu *c)
{
    uint64_t rip = c->block_rip + c->op->next;
    return c->code_size == X86_CODE_64 ? rip : (uint32_t)rip;
}

/* 48 bits, sign-extended: 5-level paging is not offered. */
static inline bool soft_is_canonical(uint64_t linear)
{
    return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

/* -- memory by linear address (memory.c); all obey the current privilege, all may fault -- */
uint8_t soft_load8(struct soft_vcpu *c, uint64_t linear);
uint16_t soft_load16(struct soft_vcpu *c, uint64_t linear);
uint32_t soft_load32(struct soft_vcpu *c, uint64_t linear);
uint64_t soft_load64(struct soft_vcpu *c, uint64_t linear);
void soft_store8(struct soft_vcpu *c, uint64_t linear, uint8_t value);
void soft_store16(struct soft_vcpu *c, uint64_t linear, uint16_t value);
void soft_store32(struct soft_vcpu *c, uint64_t linear, uint32_t value);
void soft_store64(struct soft_vcpu *c, uint64_t linear, uint64_t value);
/* size: 1, 2, 4 or 8 */
uint64_t soft_load(struct soft_vcpu *c, uint64_t linear, unsigned size);
void soft_store(struct soft_vcpu *c, uint64_t linear, uint64_t value, unsigned size);
/* Any length up to 4096; nothing is stored unless all of it can be. */
void soft_load_bytes(struct soft_vcpu *c, uint64_t linear, void *to, unsigned length);
void soft_store_bytes(struct soft_vcpu *c, uint64_t linear, const void *from, unsigned length);
/* Faults as a store (or load) of `length` bytes would, and does nothing else. */
void soft_probe(struct soft_vcpu *c, uint64_t linear, unsigned length, enum soft_access access);
/* The same with another privilege: implicit supervisor accesses to descriptor tables and TSS use
 * soft_system_*, which ignore CPL (and obey SMAP as implicit accesses do). */
uint64_t soft_system_load(struct soft_vcpu *c, uint64_t linear, unsigned size);
void soft_system_store(struct soft_vcpu *c, uint64_t linear, uint64_t value, unsigned size);
void soft_system_probe(struct soft_vcpu *c, uint64_t linear, unsigned length,
                       enum soft_access access);
/* With the privilege of `cpl` (stack pushes on the way to an inner or outer ring). */
void soft_store_as(struct soft_vcpu *c, uint8_t cpl, uint64_t linear, uint64_t value,
                   unsigned size);
void soft_probe_as(struct soft_vcpu *c, uint8_t cpl, uint64_t linear, unsigned length,
                   enum soft_access access);

/* Read-modify-write: a host pointer to `size` (1 to 16) bytes on which host instructions, locked
 * ones too, may work; soft_rmw_end() completes it. No fault may be raised between the two. */
void *soft_rmw_begin(struct soft_vcpu *c, uint64_t linear, unsigned size);
void soft_rmw_end(struct soft_vcpu *c);

/* With a trail: notes that guest memory at `host` is about to change. */
void soft_trail_store(struct soft_vcpu *c, const void *host, unsigned length);

/* -- TLBs (tlb.c) -- */
void soft_tlb_flush(struct soft_vcpu *c); /* all, global ones too */
void soft_pkru_set(struct soft_vcpu *c, uint32_t value);
void soft_tlb_flush_spaces(struct soft_vcpu *c);                /* all but global ones */
void soft_tlb_flush_page(struct soft_vcpu *c, uint64_t linear); /* INVLPG */
void soft_tlb_flush_pcid(struct soft_vcpu *c, uint16_t pcid);
void soft_tlb_flush_pcid_page(struct soft_vcpu *c, uint16_t pcid, uint64_t linear);
/* To the PCID of `cr3`; `keep`: its entries stay. */
void soft_tlb_switch(struct soft_vcpu *c, uint64_t cr3, bool keep);

/* -- paging (paging.c) -- */
/* Loads PAE's PDPTEs from cr3; false: reserved bits set (#GP). */
bool soft_pdpte_load(struct soft_vcpu *c, uint64_t cr3);

/* To be called by soft_mode_update() last, when code_size, cpl, CS and RFLAGS are settled. */
void soft_code_mode_changed(struct soft_vcpu *c);

/* -- segments (segment.c) -- */
/* Effective address to linear: limit, type and canonical checks; raises #GP or #SS. */
uint64_t soft_linear(struct soft_vcpu *c, unsigned segment, uint64_t offset, unsigned size,
                     enum soft_access access);
void soft_segment_load(struct soft_vcpu *c, unsigned segment, uint16_t selector);
void soft_segment_load_real(struct soft_vcpu *c, unsigned segment, uint16_t selector);
/* After any change of CS, SS, CR0, CR4, EFER, RFLAGS.AC, RFLAGS.VM, DR7 (whatever block keys,
 * privilege or address_mask depend on). Also derives cpl from SS.DPL's rules: see segment.c. */
void soft_mode_update(struct soft_vcpu *c);

/* What a serializing instruction owes to other vCPUs (SDM vol. 3, 8.3): its vCPU's stores are seen
 * before anything that follows. Linux' membarrier(2) relies on it for CR3. */
static inline void soft_serialize(void)
{
    memory_fence();
}

static inline bool soft_is_real(const struct soft_vcpu *c)
{
    return !(c->cr0 & X86_CR0_PE);
}

static inline bool soft_is_v86(const struct soft_vcpu *c)
{
    return (c->rflags & X86_RFLAGS_VM) != 0;
}

/* Stack access in the current stack's width (SS.B, 64-bit). Values are `size` bytes (2, 4, 8).
 * RSP changes only after the access succeeded. */
void soft_push(struct soft_vcpu *c, uint64_t value, unsigned size);
uint64_t soft_pop(struct soft_vcpu *c, unsigned size);
/* RSP in the stack's width. */
uint64_t soft_stack_mask(const struct soft_vcpu *c);    /* 0xffff, 0xffffffff or all ones */
void soft_stack_set(struct soft_vcpu *c, uint64_t rsp); /* keeps the bits outside the width */

/* -- control transfers (far.c, interrupt.c, task.c): handlers and what run.c calls -- */
enum soft_event_kind {
    SOFT_EVENT_EXCEPTION,
    SOFT_EVENT_SOFTWARE, /* INT n, INT3, INTO: DPL of the gate is checked */
    SOFT_EVENT_INT1,
    SOFT_EVENT_EXTERNAL, /* interrupt or NMI */
};
struct soft_event {
    enum soft_event_kind kind;
    uint8_t vector;
    bool has_code;
    uint32_t code;
    uint64_t return_rip; /* what is pushed */
    bool is_trap;        /* #DB after an instruction: RF is not set in the pushed flags */
};
/* Delivers through IVT or IDT in every mode; may raise a further fault (run.c escalates). */
void soft_event_deliver(struct soft_vcpu *c, const struct soft_event *event);
/* Whether IOPL or the TSS's map allows port I/O of `size` bytes; if not: #GP(0). (task.c) */
bool soft_io_permitted(struct soft_vcpu *c, uint16_t port, unsigned size);

/* The host's TSC; under counted time, what stands for it at the running operation. (run.c) */
uint64_t soft_host_tsc(const struct soft_vcpu *c);

/* -- rflags -- */
uint64_t soft_rflags_get(const struct soft_vcpu *c);
void soft_rflags_set(struct soft_vcpu *c, uint64_t value); /* stores all; calls soft_mode_update
                                                              when TF, AC or VM changed */

/* Raises #UD unless the CPU model has the feature. */
static inline void soft_require_feature(struct soft_vcpu *c, enum x86_feature feature)
{
    if (!c->vm->cpuid->feature[feature])
        soft_raise(c, X86_UD);
}

/* Raises #GP(0) unless CPL is 0. */
static inline void soft_require_cpl0(struct soft_vcpu *c)
{
    if (c->cpl != 0)
        soft_raise_code(c, X86_GP, 0);
}

/* The handler tables of the other files: NULL where a file does not have the operation. */
soft_handler *soft_handler_for(const struct x86_insn *insn);     /* integer.c asks them all */
soft_handler *soft_control_handler(const struct x86_insn *insn); /* far.c */
soft_handler *soft_system_handler(const struct x86_insn *insn);  /* system.c */
/* vector.c: also fills op->stub and op->extra; NULL: #UD for this CPU model. */
soft_handler *soft_vector_handler(struct soft_vm *vm, struct soft_op *op);
MUST_CHECK int soft_vector_init(struct soft_vm *vm, struct error *err);
void soft_vector_fini(struct soft_vm *vm);
/* The whole x87 and vector state in XSAVE's standard format (xstate.c). Set: false, and nothing
 * changed, where reserved bits of header or MXCSR are set. A zeroed image gives XSTATE_BV = 0, the
 * initial state, but MXCSR is always taken as it stands. */
void soft_xsave_get(const struct soft_vcpu *c, uint8_t image[X86_XSAVE_BYTES]);
MUST_CHECK bool soft_xsave_set(struct soft_vcpu *c, const uint8_t image[X86_XSAVE_BYTES]);

/* The effective address of the memory operand (without the segment's base). */
static inline uint64_t soft_effective(const struct soft_vcpu *c, const struct soft_op *op)
{
    const struct x86_insn *insn = &op->insn;
    const uint64_t *gpr = c->gpr;
    uint64_t address = (uint64_t)insn->displacement;

    if (insn->base == X86_REG_RIP)
        address += c->block_rip + op->next;
    else
        address += gpr[insn->base];
    address += gpr[insn->index] << insn->scale;
    if (insn->address_size == 4)
        address = (uint32_t)address;
    else if (insn->address_size == 2)
        address = (uint16_t)address;
    return address;
}

/* The linear address of the memory operand, checked for an access of `size` bytes. */
static inline uint64_t soft_operand(struct soft_vcpu *c, const struct soft_op *op, unsigned size,
                                    enum soft_access access)
{
    const struct x86_insn *insn = &op->insn;
    uint64_t offset = soft_effective(c, op);

    if (c->code_size == X86_CODE_64) {
        /* Flat but for FS and GS; a non-canonical address misses the TLB and faults there. */
        if (insn->segment >= X86_FS)
            offset += c->seg[insn->segment].base;
        return offset;
    }
    return soft_linear(c, insn->segment, offset, size, access);
}

#endif
