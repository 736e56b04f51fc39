/*
 * The options of `freehold run`. Threads: one. Input: the user's words; every mistake that can be
 * seen without opening anything is found here.
 */
#include "cli/run_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

#define MEMORY_DEFAULT (UINT64_C(1) << 30)
#define NAME_MAX_BYTES 63

/* A private copy that lives as long as the options, for values that are taken apart. */
static char *text_keep(struct run_options *options, const char *text)
{
    char *copy = options->text_count < RUN_TEXTS_MAX ? strdup(text) : NULL;

    if (copy)
        options->text[options->text_count++] = copy;
    return copy;
}

static int set_engine(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->engine = value;
    return 0;
}

static int set_cpu(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->vm.cpu_model = value;
    return 0;
}

static int set_cpus(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    uint64_t cpus;
    int rc = option_number("cpus", value, (struct number_range){1, PC_VCPUS_MAX}, &cpus, err);

    if (rc == 0)
        options->vm.cpus = (unsigned)cpus;
    return rc;
}

static int set_memory(void *into, const char *value, struct error *err)
{
    return option_size("memory", value, &((struct run_options *)into)->vm.memory_bytes, err);
}

static int set_kernel(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->vm.boot.kernel = value;
    return 0;
}

static int set_initrd(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->vm.boot.initrd = value;
    return 0;
}

static int set_append(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->vm.boot.append = value;
    return 0;
}

static int set_firmware(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->vm.boot.firmware = value;
    return 0;
}

static int disk_part(struct vm_disk *disk, char *part, struct error *err)
{
    char *value;

    if (option_key(part, "format", &value)) {
        disk->format = value;
    } else if (option_key(part, "readonly", &value)) {
        return option_switch("--disk: readonly", value, &disk->readonly, err);
    } else if (option_key(part, "serial", &value)) {
        disk->serial = value;
        if (strlen(value) > 20) /* virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID gives 20 bytes */
            return error_set(err, -EINVAL, "--disk: serial=%s is longer than 20 characters", value);
    } else {
        return error_set(err, -EINVAL,
                         "--disk: there is no \"%s\"; after the file come format=raw, "
                         "readonly=on|off and serial=TEXT",
                         part);
    }
    return 0;
}

static int set_disk(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    struct vm_disk *disk = &options->vm.disk[options->vm.disk_count];
    char *rest, *part;

    if (options->vm.disk_count == PC_DISKS_MAX)
        return error_set(err, -EINVAL, "there can be no more than %d disks", PC_DISKS_MAX);
    rest = text_keep(options, value);
    if (!rest)
        return error_set(err, -ENOMEM, "no memory for the options");
    disk->path = option_part(&rest);
    if (disk->path[0] == '\0')
        return error_set(err, -EINVAL, "--disk needs a file: --disk FILE");
    while ((part = option_part(&rest)) != NULL) {
        int rc = disk_part(disk, part, err);

        if (rc < 0)
            return rc;
    }
    options->vm.disk_count++;
    return 0;
}

static int net_part(struct vm_net *net, char *part, struct error *err)
{
    char *value;

    if (!option_key(part, "hostfwd", &value))
        return error_set(err, -EINVAL,
                         "--net: there is no \"%s\"; after user comes "
                         "hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT",
                         part);
    if (net->hostfwd_count == NET_HOSTFWD_MAX)
        return error_set(err, -EINVAL, "--net: there can be no more than %d port forwards",
                         NET_HOSTFWD_MAX);
    return net_hostfwd_parse(value, &net->hostfwd[net->hostfwd_count++], err);
}

static int set_net(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    struct vm_net *net = &options->vm.net[options->vm.net_count];
    char *rest, *part;

    options->net_given = true;
    if (strcmp(value, "none") == 0) {
        options->vm.net_count = 0;
        return 0;
    }
    if (options->vm.net_count == PC_NETS_MAX)
        return error_set(err, -EINVAL, "there can be no more than %d network cards", PC_NETS_MAX);
    rest = text_keep(options, value);
    if (!rest)
        return error_set(err, -ENOMEM, "no memory for the options");
    *net = (struct vm_net){0};
    part = option_part(&rest);
    if (strcmp(part, "user") != 0)
        return error_set(err, -EINVAL, "--net %s will not do: it is user or none", part);
    while ((part = option_part(&rest)) != NULL) {
        int rc = net_part(net, part, err);

        if (rc < 0)
            return rc;
    }
    options->vm.net_count++;
    return 0;
}

/* The back end itself is opened later, and says then what is wrong with a file; here only what it
 * is called can be wrong. */
static int character_end_check(struct run_options *options, const char *option, const char *value,
                               struct error *err)
{
    bool stdio = strcmp(value, "stdio") == 0;

    if (!stdio && strcmp(value, "none") != 0 && strncmp(value, "file:", 5) != 0 &&
        strncmp(value, "unix:", 5) != 0)
        return error_set(err, -EINVAL,
                         "--%s %s will not do: it is stdio, file:FILE, unix:FILE or none", option,
                         value);
    if (stdio && options->stdio_taken)
        return error_set(err, -EINVAL,
                         "--%s stdio will not do: another --serial or --console has stdio already",
                         option);
    options->stdio_taken |= stdio;
    return 0;
}

static int set_serial(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    int rc;

    if (options->vm.serial_count == PC_SERIAL_MAX)
        return error_set(err, -EINVAL, "there can be no more than %d serial ports", PC_SERIAL_MAX);
    rc = character_end_check(options, "serial", value, err);
    if (rc == 0)
        options->vm.serial[options->vm.serial_count++] = value;
    return rc;
}

static int set_console(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    int rc;

    if (options->console_given)
        return error_set(err, -EINVAL, "there can be no more than one --console");
    rc = character_end_check(options, "console", value, err);
    if (rc < 0)
        return rc;
    options->console_given = true;
    options->vm.console = strcmp(value, "none") == 0 ? NULL : value;
    return 0;
}

static int set_name(void *into, const char *value, struct error *err)
{
    size_t length = strlen(value);

    for (size_t i = 0; i < length; i++) {
        if (value[i] < 0x21 || value[i] > 0x7e)
            length = 0;
    }
    if (length == 0 || length > NAME_MAX_BYTES)
        return error_set(err, -EINVAL,
                         "--name will not do: give 1 to %d printable characters without spaces",
                         NAME_MAX_BYTES);
    ((struct run_options *)into)->vm.name = value;
    return 0;
}

static int set_no_reboot(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->vm.no_reboot = true;
    return 0;
}

static int set_debug_exit(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->vm.debug_exit = true;
    return 0;
}

static int set_stats(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;

    if (value[0] == '\0')
        return error_set(err, -EINVAL,
                         "--stats needs a file: --stats FILE, or --stats - for "
                         "standard error");
    options->tools.stats = value;
    return 0;
}

static int set_lockstep_blocks(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->vm.lockstep_blocks = true;
    return 0;
}

static int set_testdev(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->vm.testdev = true;
    return 0;
}

static int set_trace(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    char *text = text_keep(options, value);

    if (!text)
        return error_set(err, -EINVAL, "there can be no more than one --trace");
    return tools_trace_parse(&options->tools, text, err);
}

static int set_dump_blocks(void *into, const char *value, struct error *err)
{
    struct run_options *options = into;
    char *text = text_keep(options, value);

    if (!text)
        return error_set(err, -EINVAL, "there can be no more than one --dump-blocks");
    return tools_dump_parse(&options->tools, text, err);
}

static int set_perf_map(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->tools.perf_map = true;
    return 0;
}

static int set_guest_symbols(void *into, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)into)->tools.symbols = value;
    return 0;
}

#define CODE_CACHE_MIN (UINT64_C(1) << 20)
#define CODE_CACHE_MAX (UINT64_C(1) << 30) /* direct jumps reach 2 GiB */

static int set_code_cache(void *into, const char *value, struct error *err)
{
    uint64_t bytes;
    int rc = option_size("code-cache", value, &bytes, err);

    if (rc < 0)
        return rc;
    if (bytes < CODE_CACHE_MIN || bytes > CODE_CACHE_MAX)
        return error_set(err, -EINVAL, "--code-cache %s will not do: give a size from 1M to 1G",
                         value);
    ((struct run_options *)into)->vm.code_bytes = (uint32_t)bytes;
    return 0;
}

static int set_json(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->json = true;
    return 0;
}

static int set_verbose(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->verbose = true;
    return 0;
}

static int set_help(void *into, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)into)->help = true;
    return 0;
}

static const struct option run_table[] = {
    {"kernel", "FILE", "boot this Linux bzImage, PVH or Multiboot image directly", set_kernel},
    {"initrd", "FILE", "the kernel's initial RAM disk (Multiboot: FILE ARGS,FILE ARGS...)",
     set_initrd},
    {"append", "TEXT", "the kernel's command line", set_append},
    {"firmware", "FILE", "start this firmware image at the reset vector instead of a kernel",
     set_firmware},
    {"cpus", "N", "virtual CPUs, each a host thread (default 1)", set_cpus},
    {"memory", "SIZE", "memory, as 512M or 2G; a bare number is in MiB (default 1G)", set_memory},
    {"cpu", "MODEL[,+FEATURE|-FEATURE...]",
     "the CPU that the guest sees (default: the best that this host offers),\n"
     "with or without the named features; \"--cpu help\" lists the models",
     set_cpu},
    {"engine", "NAME",
     "what runs the guest's code: auto, soft, interpreter (default auto);\n"
     "\"--engine help\" lists them, and says why not the rest",
     set_engine},
    {"code-cache", "SIZE", "most that each virtual CPU keeps of code (default 128M)",
     set_code_cache},
    {"disk", "FILE[,KEY=VALUE...]",
     "a virtio disk; may be repeated. format=raw, readonly=on|off,\n"
     "serial=TEXT (what the guest calls it in /dev/disk/by-id)",
     set_disk},
    {"net", "user[,hostfwd=...]|none",
     "a virtio network card behind a NAT (default user).\n"
     "hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT forwards a host port to the\n"
     "guest, as in hostfwd=tcp::2222-:22; may be repeated",
     set_net},
    {"serial", "TO",
     "a serial port: stdio, file:FILE, unix:FILE or none; may be repeated\n"
     "for COM1 to COM4 (default: COM1 on stdio, if --console is not there)",
     set_serial},
    {"console", "TO",
     "a virtio console, Linux's hvc0: stdio, file:FILE, unix:FILE or none\n"
     "(default none)",
     set_console},
    {"name", "TEXT", "the VM's name", set_name},
    {"no-reboot", NULL, "end when the guest asks for a reset", set_no_reboot},
    {"debug-exit", NULL, "offer port 0xf4: a write of V ends with status (V << 1) | 1",
     set_debug_exit},
    {"stats", "FILE|-",
     "at the end, write what the engine has counted, and where time went,\n"
     "to this file or to standard error (with --json: in JSON)",
     set_stats},
    {"lockstep-blocks", NULL,
     "with --engine lockstep: compare behind each block of code, not after up\n"
     "to 1000 instructions",
     set_lockstep_blocks},
    {"testdev", NULL, "offer the test device pc-testdev: interrupt lines, I/O and MMIO to try",
     set_testdev},
    {"trace", "FILE[,KEY=VALUE...]",
     "keep each vCPU's last events in this file, for freehold trace FILE;\n"
     "size=N events (default 65536), events=fault:cr3... (default all)",
     set_trace},
    {"perf-map", NULL,
     "at the end, write /tmp/perf-PID.map, in which perf(1) finds names\nfor guest code",
     set_perf_map},
    {"guest-symbols", "FILE", "names for guest code: its System.map, or its /proc/kallsyms",
     set_guest_symbols},
    {"dump-blocks", "FILE[,at=ADDRESS:...]",
     "write translated blocks (of these addresses; default all), guest and\n"
     "host code, to this file, for scripts/show-blocks FILE",
     set_dump_blocks},
    {"json", NULL, "report on standard error in JSON, one object a line", set_json},
    {"verbose", NULL, "log more", set_verbose},
    {"help", NULL, "show this and exit", set_help},
    {NULL, NULL, NULL, NULL},
};

static int run_options_check(const struct run_options *options, struct error *err)
{
    const struct boot_config *boot = &options->vm.boot;

    if (!boot->kernel && !boot->firmware)
        return error_set(err, -EINVAL,
                         "there is nothing to boot: give --kernel FILE or --firmware FILE");
    if (boot->kernel && boot->firmware)
        return error_set(err, -EINVAL,
                         "--kernel and --firmware exclude each other: firmware boots from disks");
    if (!boot->kernel && (boot->initrd || boot->append))
        return error_set(err, -EINVAL, "%s is the kernel's, but there is no --kernel",
                         boot->initrd ? "--initrd" : "--append");
    return 0;
}

static bool asks_for_list(const struct run_options *options)
{
    return strcmp(options->engine, "help") == 0 ||
           (options->vm.cpu_model && strcmp(options->vm.cpu_model, "help") == 0);
}

int run_options_parse(struct run_options *options, char **words, struct error *err)
{
    int rc;

    *options =
        (struct run_options){.engine = "auto", .vm = {.cpus = 1, .memory_bytes = MEMORY_DEFAULT}};
    for (char **word = words; *word; word++)
        options->json |= strcmp(*word, "--json") == 0; /* mistakes before it are reported so too */
    rc = options_parse(run_table, options, words, err);
    if (rc < 0 || options->help || asks_for_list(options))
        return rc;
    if (options->vm.serial_count == 0)
        options->vm.serial[options->vm.serial_count++] = options->stdio_taken ? "none" : "stdio";
    if (!options->net_given)
        options->vm.net_count = 1;
    return run_options_check(options, err);
}

void run_options_fini(struct run_options *options)
{
    for (unsigned i = 0; i < options->text_count; i++)
        free(options->text[i]);
    options->text_count = 0;
}

void run_options_help(FILE *to)
{
    fputs("usage: freehold run --kernel FILE [--initrd FILE] [--append TEXT] [OPTION...]\n"
          "       freehold run --firmware FILE --disk FILE [OPTION...]\n"
          "\n"
          "Runs one virtual machine in this process, with its first serial port on this\n"
          "terminal. Needs no privileges, no kernel module and no hardware virtualization.\n"
          "\n",
          to);
    options_help(run_table, to);
    fputs("\n"
          "On a terminal: Ctrl-A x stops the VM, Ctrl-A p presses its power button,\n"
          "Ctrl-A h shows help, Ctrl-A Ctrl-A sends one Ctrl-A.\n"
          "\n"
          "Exit status: 0 when the guest has powered off (or the user stopped it), 1 when it\n"
          "failed (triple fault, panic), 2 for a bad command, (V << 1) | 1 by --debug-exit,\n"
          "128 + N when signal N ended the VM.\n",
          to);
}
