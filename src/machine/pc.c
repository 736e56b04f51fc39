/*
 * The board `pc`: makes all parts and wires them. Purpose, threads and trust: pc.h.
 *
 * Wiring: ISA interrupt n goes to 8259 input n and to I/O APIC pin n, but IRQ 0 to pin 2, as the
 * MADT says; PIT and RTC pass through the HPET's legacy switch. PCI INTA-INTD go to pins 16-19. The
 * 8259s drive LINT0 of the LAPICs. Lock order: device -> isa_lock -> 8259 or I/O APIC -> LAPIC.
 */
#include "machine/pc.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "char/char.h"
#include "dev/legacy/debug_exit.h"
#include "dev/legacy/fw_cfg.h"
#include "dev/legacy/i8042.h"
#include "dev/legacy/testdev.h"
#include "dev/legacy/uart.h"
#include "dev/pci/pci.h"
#include "dev/virtio/devices.h"
#include "machine/acpi.h"
#include "machine/acpi_pm.h"
#include "machine/hpet.h"
#include "machine/ioapic.h"
#include "machine/memmap.h"
#include "machine/pic.h"
#include "machine/pit.h"
#include "machine/pvclock.h"
#include "machine/rtc.h"
#include "machine/smbios.h"

#define IRQ_PIT      0
#define IRQ_KEYBOARD 1
#define IRQ_RTC      8
#define IRQ_SCI      9
#define IRQ_AUX      12
#define PIT_GSI      2
#define PCI_GSI      16
#define PCI_IO_BASE  UINT64_C(0xc000)
#define PCI_IO_SIZE  UINT64_C(0x1000)

/* On a direct boot the tables lie where an OS looks for them by itself, too. */
#define ACPI_GPA             PC_BIOS_GPA
#define ACPI_ROOM            (64 * KIB)
#define SMBIOS_GPA           UINT64_C(0xf0000)
#define SMBIOS_ROOM          (64 * KIB)

#define FW_CFG_IRQ0_OVERRIDE 0x8002
#define E820_ENTRY_BYTES     20u

static const uint16_t serial_port[PC_SERIAL_MAX] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
static const unsigned serial_irq[PC_SERIAL_MAX] = {4, 3, 4, 3};

struct pc {
    struct pc_events events;
    struct loop *loop;
    unsigned vcpu_count;
    uint32_t cpu_signature;
    struct memmap map;
    struct mem *mem;
    struct bus *ports, *mmio;
    struct boot *boot;
    struct acpi_tables acpi;
    struct smbios_tables smbios;

    struct tsc_clock tsc;
    struct lapic_set *lapics;
    struct ioapic *ioapic;
    struct pic *pic;
    struct hpet *hpet;
    struct pit *pit;
    struct rtc *rtc;
    struct acpi_pm *pm;
    struct pvclock *pvclock;
    struct i8042 *i8042;
    struct debug_exit *debug;
    struct testdev *testdev; /* NULL: not asked for */
    struct fw_cfg *fw_cfg;
    struct pci_root *pci;
    struct uart *uart[PC_SERIAL_MAX];
    struct char_backend *console; /* the virtio console's, once it is there */

    pthread_mutex_t isa_lock;
    unsigned serial_levels; /* [isa_lock] bit n: port n asserts; two ports share a line */
};

/* ---- wires ---- */

/* Any ISA interrupt, as an irq_line's set(). */
static void isa_irq_set(void *opaque, unsigned irq, bool level)
{
    struct pc *pc = opaque;

    pic_set_irq(pc->pic, irq, level);
    ioapic_set_irq(pc->ioapic, irq == IRQ_PIT ? PIT_GSI : irq, level);
}

static struct irq_line isa_line(struct pc *pc, unsigned irq)
{
    return (struct irq_line){isa_irq_set, pc, irq};
}

/* A line of the test device: the first 16 are ISA's. */
static void test_irq_set(void *opaque, unsigned line, bool level)
{
    struct pc *pc = opaque;

    if (line < PCI_GSI)
        isa_irq_set(pc, line, level);
    else
        ioapic_set_irq(pc->ioapic, line, level);
}

/* COM1 and COM3 share IRQ 4, COM2 and COM4 IRQ 3: the line is high while either port asserts. */
static void serial_irq_set(void *opaque, unsigned port, bool level)
{
    struct pc *pc = opaque;
    bool other;

    pthread_mutex_lock(&pc->isa_lock);
    if (level)
        pc->serial_levels |= 1u << port;
    else
        pc->serial_levels &= ~(1u << port);
    other = pc->serial_levels & (1u << (port ^ 2));
    if (!other)
        isa_irq_set(pc, serial_irq[port], level);
    pthread_mutex_unlock(&pc->isa_lock);
}

static void pm_slept(void *opaque, unsigned type)
{
    struct pc *pc = opaque;

    if (type == ACPI_PM_SLEEP_S5)
        pc->events.poweroff(pc->events.opaque);
    else if (type == ACPI_PM_SLEEP_S3)
        pc->events.sleep(pc->events.opaque);
}

static void pm_woken(void *opaque)
{
    struct pc *pc = opaque;

    pc->events.wake(pc->events.opaque);
}

/* The clock's interrupt also is an event of the power management, which may wake the machine. */
static void rtc_irq_set(void *opaque, unsigned pin, bool level)
{
    struct pc *pc = opaque;

    (void)pin;
    hpet_legacy_input(pc->hpet, HPET_INPUT_RTC, level);
    if (level && pc->pm)
        acpi_pm_rtc_alarm(pc->pm);
}

static void pc_reset_wanted(void *opaque)
{
    struct pc *pc = opaque;

    pc->events.reset(pc->events.opaque);
}

static void debug_exited(void *opaque, uint32_t value)
{
    struct pc *pc = opaque;

    pc->events.debug_exit(pc->events.opaque, value);
}

static void debug_line(void *opaque, const char *text)
{
    (void)opaque;
    log_info("firmware: %s", text); /* shown only on the user's wish */
}

/* A guest that loads its own crash kernel goes on, and says so in the other bit. */
static void guest_panicked(void *opaque, uint8_t events)
{
    struct pc *pc = opaque;

    if (events & PANIC_PANICKED)
        pc->events.panic(pc->events.opaque);
}

/* ---- making the parts ---- */

static int config_check(const struct pc_config *config, struct error *err)
{
    if (!config->vcpu_count || config->vcpu_count > PC_VCPUS_MAX)
        return error_set(err, -EINVAL, "%u vCPUs are not possible; give 1 to %d",
                         config->vcpu_count, PC_VCPUS_MAX);
    if (config->disk_count > PC_DISKS_MAX || config->net_count > PC_NETS_MAX)
        return error_set(err, -E2BIG, "too many devices; give at most %d disks and %d networks",
                         PC_DISKS_MAX, PC_NETS_MAX);
    return 0;
}

static int memory_new(struct pc *pc, struct error *err)
{
    uint64_t rom_bytes;
    const uint8_t *rom = boot_firmware(pc->boot, &rom_bytes);
    int rc = mem_new(&pc->mem);

    if (!rc)
        rc = memmap_add_ram(&pc->map, pc->mem, err);
    if (!rc && rom_bytes)
        rc = mem_add_rom(pc->mem, PC_FIRMWARE_END - rom_bytes, rom, rom_bytes, err);
    if (!rc)
        rc = bus_new(&pc->ports);
    if (!rc)
        rc = bus_new(&pc->mmio);
    return rc;
}

static int lapics_new(struct pc *pc, const struct x86_cpuid *cpuid)
{
    const struct lapic_set_config config = {
        .count = pc->vcpu_count,
        .physical_bits = cpuid->physical_bits,
        .x2apic = cpuid->feature[X86_FEATURE_X2APIC],
        .tsc_deadline = cpuid->feature[X86_FEATURE_TSC_DEADLINE],
        .loop = pc->loop,
        .tsc = &pc->tsc,
        .ops = &pc->events.lapic,
        .opaque = pc->events.opaque,
    };

    return lapic_set_new(&config, &pc->lapics);
}

static int interrupt_chips_new(struct pc *pc, const struct x86_cpuid *cpuid)
{
    int rc = lapics_new(pc, cpuid);

    if (rc)
        return rc;
    const struct pic_config pic = {pc->ports, {lapic_set_lint0, pc->lapics, 0}};
    const struct ioapic_config ioapic = {
        pc->mmio, IOAPIC_BASE, {lapic_set_deliver_msi, pc->lapics}};
    rc = pic_new(&pic, &pc->pic);
    if (!rc)
        rc = ioapic_new(&ioapic, &pc->ioapic);
    if (!rc)
        lapic_set_wire(pc->lapics,
                       &(struct lapic_chips){ioapic_eoi, pc->ioapic, pic_acknowledge, pc->pic});
    return rc;
}

static int timers_new(struct pc *pc)
{
    const struct hpet_config hpet = {
        .mmio = pc->mmio,
        .loop = pc->loop,
        .pit_irq = isa_line(pc, IRQ_PIT),
        .rtc_irq = isa_line(pc, IRQ_RTC),
        .gsi = {ioapic_set_irq, pc->ioapic, 0},
    };
    int rc = hpet_new(&hpet, &pc->hpet);

    if (rc)
        return rc;
    const struct pit_config pit = {
        pc->ports, pc->loop, {hpet_legacy_input, pc->hpet, HPET_INPUT_PIT}};
    const struct rtc_config rtc = {
        .ports = pc->ports,
        .loop = pc->loop,
        .irq = {rtc_irq_set, pc, 0},
        .ram_below_4g_bytes = pc->map.low_ram,
        .ram_above_4g_bytes = pc->map.high_ram,
        .vcpu_count = pc->vcpu_count,
    };
    const struct pvclock_config clock = {pc->mem, &pc->tsc, pc->vcpu_count};
    rc = pit_new(&pit, &pc->pit);
    if (!rc)
        rc = rtc_new(&rtc, &pc->rtc);
    if (!rc)
        rc = pvclock_new(&clock, &pc->pvclock);
    return rc;
}

static int pci_new(struct pc *pc)
{
    struct pci_root_config config = {
        .mmio = pc->mmio,
        .ports = pc->ports,
        .msi = {lapic_set_deliver_msi, pc->lapics},
        .ecam_base = PC_ECAM_GPA,
    };

    for (unsigned i = 0; i < 4; i++)
        config.intx[i] = (struct irq_line){ioapic_set_irq, pc->ioapic, PCI_GSI + i};
    return pci_root_new(&config, &pc->pci);
}

/* After PCI: port 0xcf9 lies inside its address register. */
static int legacy_new(struct pc *pc, const struct pc_config *config)
{
    const struct acpi_pm_config pm = {
        .ports = pc->ports,
        .loop = pc->loop,
        .sci = isa_line(pc, IRQ_SCI),
        .timer_32bit = true,
        .sleep = pm_slept,
        .wake = pm_woken,
        .reset = pc_reset_wanted,
        .opaque = pc,
    };
    const struct i8042_config keyboard = {
        .ports = pc->ports,
        .keyboard_irq = isa_line(pc, IRQ_KEYBOARD),
        .aux_irq = isa_line(pc, IRQ_AUX),
        .reset = pc_reset_wanted,
        .opaque = pc,
    };
    const struct debug_exit_config debug = {
        .ports = pc->ports,
        .exit = config->debug_exit ? debug_exited : NULL,
        .line = debug_line,
        .panic = guest_panicked,
        .opaque = pc,
    };
    const struct testdev_config testdev = {pc->ports, pc->mmio, {test_irq_set, pc, 0}};
    int rc = acpi_pm_new(&pm, &pc->pm);

    if (!rc)
        rc = i8042_new(&keyboard, &pc->i8042);
    if (!rc)
        rc = debug_exit_new(&debug, &pc->debug);
    if (!rc && config->testdev)
        rc = testdev_new(&testdev, &pc->testdev);
    return rc;
}

static int serials_new(struct pc *pc, const struct pc_config *config)
{
    int rc = 0;

    for (unsigned i = 0; i < PC_SERIAL_MAX && !rc; i++) {
        const struct uart_config uart = {
            .ports = pc->ports,
            .base = serial_port[i],
            .irq = {serial_irq_set, pc, i},
            .loop = pc->loop,
            .backend = config->serial[i],
        };
        if (config->serial[i])
            rc = uart_new(&uart, &pc->uart[i]);
    }
    return rc;
}

static int disks_new(struct pc *pc, const struct pc_config *config, struct error *err)
{
    int rc = 0;

    for (unsigned i = 0; i < config->disk_count && !rc; i++) {
        const struct virtio_blk_config blk = {
            .mem = pc->mem,
            .loop = pc->loop,
            .disk = config->disk[i].block,
            .serial = config->disk[i].serial,
        };
        struct virtio_device *device;
        rc = virtio_blk_new(&blk, &device, err);
        if (!rc)
            rc = virtio_pci_new(device, pc->pci, 0, err);
    }
    return rc;
}

/* A VM that has a name keeps its addresses: 52:54:00 and three bytes of a hash (FNV-1a) of the name
 * and the card's number. Without a name the card draws its own. */
static void mac_choose(const char *name, unsigned card, uint8_t mac[6])
{
    uint32_t hash = 2166136261u;

    memset(mac, 0, 6);
    if (!name)
        return;
    for (const char *at = name; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    hash = (hash ^ card) * 16777619u;
    memcpy(mac, "\x52\x54\x00", 3);
    for (unsigned i = 0; i < 3; i++)
        mac[3 + i] = (uint8_t)(hash >> 8 * i);
}

/* Ports that no device has taken yet are freed when something fails. */
static int nets_new(struct pc *pc, const struct pc_config *config, struct error *err)
{
    unsigned taken = 0;
    int rc = 0;

    for (; taken < config->net_count && !rc; taken++) {
        struct virtio_net_config net = {
            .mem = pc->mem, .loop = pc->loop, .port = config->net[taken]};
        struct virtio_device *device;
        mac_choose(config->name, taken, net.mac);
        rc = virtio_net_new(&net, &device, err);
        if (rc)
            break;
        rc = virtio_pci_new(device, pc->pci, 0, err);
    }
    for (; rc && taken < config->net_count; taken++)
        net_port_free(config->net[taken]);
    return rc;
}

static int rng_new(struct pc *pc, struct error *err)
{
    const struct virtio_rng_config rng = {pc->mem, pc->loop};
    struct virtio_device *device;
    int rc = virtio_rng_new(&rng, &device, err);

    return rc ? rc : virtio_pci_new(device, pc->pci, 0, err);
}

/* ---- the virtio console and its back end ---- */

static size_t console_output(void *backend, const void *bytes, size_t length)
{
    return char_backend_write(backend, bytes, length);
}

static void console_input_wanted(void *backend)
{
    char_backend_input_resume(backend);
}

static size_t console_input(void *device, const uint8_t *bytes, size_t length)
{
    return virtio_console_input(device, bytes, length);
}

static void console_writable(void *device)
{
    virtio_console_output_resume(device);
}

static int console_new(struct pc *pc, const struct pc_config *config, struct error *err)
{
    const struct virtio_console_config console = {
        .mem = pc->mem,
        .loop = pc->loop,
        .output = console_output,
        .input_wanted = console_input_wanted,
        .opaque = config->console,
    };
    struct char_client client = {.input = console_input, .writable = console_writable};
    struct virtio_device *device;
    int rc;

    if (!config->console)
        return 0;
    rc = virtio_console_new(&console, &device, err);
    if (!rc)
        rc = virtio_pci_new(device, pc->pci, 0, err);
    if (rc)
        return rc;
    pc->console = config->console;
    client.opaque = device;
    char_backend_attach(pc->console, &client);
    return 0;
}

/* ---- what the guest is told ---- */

static unsigned com_ports(const struct pc *pc)
{
    unsigned ports = 0;

    for (unsigned i = 0; i < PC_SERIAL_MAX; i++)
        ports |= pc->uart[i] ? 1u << i : 0;
    return ports;
}

static int tables_build(struct pc *pc, const struct pc_config *config)
{
    const struct acpi_config acpi = {
        .vcpu_count = pc->vcpu_count,
        .com_ports = com_ports(pc),
        .pci64_base = pc->map.pci64_base,
        .pci64_size = pc->map.pci64_size,
        .ecam_base = PC_ECAM_GPA,
    };
    const struct smbios_config smbios = {
        .name = config->name,
        .cpu_model = config->cpuid->model,
        .vcpu_count = pc->vcpu_count,
        .cpu_signature = pc->cpu_signature,
        .memory_bytes = config->memory_bytes,
        .map = &pc->map,
    };
    int rc = acpi_tables_build(&acpi, &pc->acpi);

    return rc ? rc : smbios_tables_build(&smbios, &pc->smbios);
}

static void e820_store(uint8_t *entry, uint64_t base, uint64_t size, enum memmap_type type)
{
    store_le64(entry, base);
    store_le64(entry + 8, size);
    store_le32(entry + 16, type);
}

/* Firmware wants the RAM as it is built in, and reserves its own areas by itself. */
static int fw_cfg_add_e820(struct pc *pc)
{
    uint8_t table[3 * E820_ENTRY_BYTES];
    unsigned count = 2;

    e820_store(table, 0, pc->map.low_ram, MEMMAP_RAM);
    e820_store(table + E820_ENTRY_BYTES, PC_ECAM_GPA, PC_ECAM_SIZE, MEMMAP_RESERVED);
    if (pc->map.high_ram)
        e820_store(table + count++ * E820_ENTRY_BYTES, PC_HIGH_RAM_GPA, pc->map.high_ram,
                   MEMMAP_RAM);
    return fw_cfg_add_file(pc->fw_cfg, "etc/e820", table, count * (size_t)E820_ENTRY_BYTES);
}

static int fw_cfg_add_tables(struct pc *pc)
{
    uint8_t *script;
    size_t script_bytes;
    int rc = acpi_loader_script(&pc->acpi, &script, &script_bytes);

    if (rc)
        return rc;
    rc = fw_cfg_add_file(pc->fw_cfg, "etc/table-loader", script, script_bytes);
    free(script);
    if (!rc)
        rc = fw_cfg_add_file(pc->fw_cfg, "etc/acpi/tables", pc->acpi.bytes, pc->acpi.length);
    if (!rc)
        rc = fw_cfg_add_file(pc->fw_cfg, "etc/acpi/rsdp", pc->acpi.rsdp, ACPI_RSDP_BYTES);
    if (!rc)
        rc = fw_cfg_add_file(pc->fw_cfg, "etc/smbios/smbios-tables", pc->smbios.bytes,
                             pc->smbios.length);
    if (!rc)
        rc = fw_cfg_add_file(pc->fw_cfg, "etc/smbios/smbios-anchor", pc->smbios.entry,
                             SMBIOS_ENTRY_BYTES);
    return rc;
}

static int firmware_config_new(struct pc *pc)
{
    const uint8_t yes = 1;
    uint16_t cpus = (uint16_t)pc->vcpu_count;
    int rc = fw_cfg_new(pc->mem, pc->ports, &pc->fw_cfg);

    if (!rc)
        rc = fw_cfg_add_u64(pc->fw_cfg, FW_CFG_RAM_SIZE, pc->map.low_ram + pc->map.high_ram);
    if (!rc)
        rc = fw_cfg_add_u16(pc->fw_cfg, FW_CFG_NB_CPUS, cpus);
    if (!rc)
        rc = fw_cfg_add_u16(pc->fw_cfg, FW_CFG_MAX_CPUS, cpus);
    if (!rc) /* no display: firmware then talks on COM1 */
        rc = fw_cfg_add_u16(pc->fw_cfg, FW_CFG_NOGRAPHIC, pc->uart[0] != NULL);
    if (!rc)
        rc = fw_cfg_add_u16(pc->fw_cfg, FW_CFG_BOOT_MENU, 1);
    if (!rc)
        rc = fw_cfg_add_item(pc->fw_cfg, FW_CFG_IRQ0_OVERRIDE, &yes, 1);
    if (!rc)
        rc = fw_cfg_add_e820(pc);
    return rc ? rc : fw_cfg_add_tables(pc);
}

/* ---- life ---- */

static int parts_new(struct pc *pc, const struct pc_config *config, struct error *err)
{
    int rc = memory_new(pc, err);

    if (!rc)
        rc = interrupt_chips_new(pc, config->cpuid);
    if (!rc)
        rc = timers_new(pc);
    if (!rc)
        rc = pci_new(pc);
    if (!rc)
        rc = legacy_new(pc, config);
    if (!rc)
        rc = serials_new(pc, config);
    if (!rc)
        rc = tables_build(pc, config);
    if (!rc)
        rc = firmware_config_new(pc);
    return rc ? rc : disks_new(pc, config, err);
}

static void nets_free(const struct pc_config *config)
{
    for (unsigned i = 0; i < config->net_count && i < PC_NETS_MAX; i++)
        net_port_free(config->net[i]);
}

static struct pc *pc_alloc(const struct pc_config *config)
{
    struct pc *pc = calloc(1, sizeof *pc);

    if (!pc)
        return NULL;
    pc->events = config->events;
    pc->loop = config->loop;
    pc->vcpu_count = config->vcpu_count;
    pc->cpu_signature = config->cpuid->signature;
    pc->tsc = (struct tsc_clock){config->cpuid->tsc_hz, tsc_read_host};
    pthread_mutex_init(&pc->isa_lock, NULL);
    return pc;
}

int pc_new(const struct pc_config *config, struct pc **out, struct error *err)
{
    struct pc *pc = NULL;
    int rc = config_check(config, err);

    if (rc)
        goto out_nets;
    pc = pc_alloc(config);
    rc = pc ? memmap_build(config->memory_bytes, config->cpuid->physical_bits, &pc->map, err)
            : -ENOMEM;
    if (!rc)
        rc = boot_open(&config->boot, &pc->map, &pc->boot, err);
    if (!rc)
        rc = parts_new(pc, config, err);
    if (rc)
        goto out_nets;
    rc = nets_new(pc, config, err); /* takes the ports, whatever happens */
    if (!rc)
        rc = rng_new(pc, err);
    if (!rc)
        rc = console_new(pc, config, err);
    if (rc)
        goto out_free;
    *out = pc;
    return 0;

out_nets:
    nets_free(config);
out_free:
    pc_free(pc);
    if (err && !err->code)
        error_set(err, rc, "cannot make the board: %s", strerror(-rc));
    return rc;
}

/* Devices before the chips that they drive, all before the buses. */
void pc_free(struct pc *pc)
{
    if (!pc)
        return;
    if (pc->console)
        char_backend_attach(pc->console, NULL);
    pci_root_free(pc->pci);
    for (unsigned i = 0; i < PC_SERIAL_MAX; i++)
        uart_free(pc->uart[i]);
    fw_cfg_free(pc->fw_cfg);
    testdev_free(pc->testdev);
    debug_exit_free(pc->debug);
    i8042_free(pc->i8042);
    acpi_pm_free(pc->pm);
    pvclock_free(pc->pvclock);
    rtc_free(pc->rtc);
    pit_free(pc->pit);
    hpet_free(pc->hpet);
    ioapic_free(pc->ioapic);
    pic_free(pc->pic);
    lapic_set_free(pc->lapics);
    acpi_tables_fini(&pc->acpi);
    boot_free(pc->boot);
    bus_free(pc->mmio);
    bus_free(pc->ports);
    mem_free(pc->mem);
    pthread_mutex_destroy(&pc->isa_lock);
    free(pc);
}

static void parts_reset(struct pc *pc)
{
    pci_reset(pc->pci);
    for (unsigned i = 0; i < PC_SERIAL_MAX; i++) {
        if (pc->uart[i])
            uart_reset(pc->uart[i]);
    }
    fw_cfg_reset(pc->fw_cfg);
    debug_exit_reset(pc->debug);
    if (pc->testdev)
        testdev_reset(pc->testdev);
    i8042_reset(pc->i8042);
    pvclock_reset(pc->pvclock);
    rtc_reset(pc->rtc);
    pit_reset(pc->pit);
    hpet_reset(pc->hpet);
    ioapic_reset(pc->ioapic);
    pic_reset(pc->pic);
    lapic_set_reset(pc->lapics);
}

/* What firmware would have done before it starts or wakes an OS. */
static int firmware_pci(struct pc *pc)
{
    const struct pci_windows windows = {
        .mem_base = PC_PCI32_GPA,
        .mem_size = PC_PCI32_SIZE,
        .io_base = PCI_IO_BASE,
        .io_size = PCI_IO_SIZE,
        .gsi_base = PCI_GSI,
    };

    return pci_assign_resources(pc->pci, &windows);
}

static int firmware_work(struct pc *pc)
{
    uint64_t end;
    int rc = firmware_pci(pc);

    if (!rc)
        rc = acpi_tables_install(&pc->acpi, pc->mem, ACPI_GPA, ACPI_ROOM, &end);
    if (!rc)
        rc = smbios_tables_install(&pc->smbios, pc->mem, SMBIOS_GPA, SMBIOS_ROOM);
    return rc;
}

int pc_reset(struct pc *pc, struct x86_state *boot_vcpu, struct error *err)
{
    struct boot_board board = {
        .mem = pc->mem,
        .map = &pc->map,
        .cpu_signature = pc->cpu_signature,
    };
    uint64_t firmware_bytes;
    int rc = 0;

    parts_reset(pc);
    acpi_pm_reset(pc->pm);
    boot_firmware(pc->boot, &firmware_bytes);
    if (!firmware_bytes) {
        board.rsdp = ACPI_GPA;
        rc = firmware_work(pc);
    }
    if (rc)
        return error_set(err, rc, "cannot reset the board: %s", strerror(-rc));
    return boot_load(pc->boot, &board, boot_vcpu, err);
}

/* Firmware sees in this cell of the CMOS RAM that it is not to boot, but to wake the OS. */
#define CMOS_SHUTDOWN        0x0f
#define CMOS_SHUTDOWN_RESUME 0xfe

int pc_resume(struct pc *pc, struct x86_state *boot_vcpu, struct error *err)
{
    uint64_t firmware_bytes;
    int rc;

    parts_reset(pc);
    acpi_pm_resume(pc->pm);
    boot_firmware(pc->boot, &firmware_bytes);
    if (firmware_bytes) {
        rtc_cmos_set(pc->rtc, CMOS_SHUTDOWN, CMOS_SHUTDOWN_RESUME);
        x86_state_reset(boot_vcpu, true, pc->cpu_signature);
        return 0;
    }
    boot_state_wake(boot_vcpu, pc->cpu_signature, acpi_waking_vector(&pc->acpi, pc->mem, ACPI_GPA));
    rc = firmware_pci(pc);
    return rc ? error_set(err, rc, "cannot wake the board: %s", strerror(-rc)) : 0;
}

struct mem *pc_mem(struct pc *pc)
{
    return pc->mem;
}

struct bus *pc_ports(struct pc *pc)
{
    return pc->ports;
}

struct bus *pc_mmio(struct pc *pc)
{
    return pc->mmio;
}

struct lapic *pc_lapic(struct pc *pc, unsigned vcpu)
{
    return lapic_set_get(pc->lapics, vcpu);
}

struct pvclock *pc_pvclock(struct pc *pc)
{
    return pc->pvclock;
}

void pc_power_button(struct pc *pc)
{
    acpi_pm_power_button(pc->pm);
}
