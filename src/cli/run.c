/*
 * `freehold run`: one VM in this process, from the user's words to the exit status.
 *
 * Threads: this one builds the VM and waits for its end. Ending signals are blocked in all threads
 * and read by the I/O thread, so that the VM always comes down in order.
 */
#include "cli/run.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/report.h"
#include "cli/run_options.h"
#include "cli/terminal.h"
#include "cli/tools.h"

struct run {
    struct run_options options;
    struct vm *vm;
    struct tools tools;
    struct loop_watch signals;
    atomic_int ended_by; /* signal number, 0: none */
};

/* ---- the user's hand: on the I/O thread ---- */

static void escape_help(void)
{
    static const char text[] = "\r\n"
                               "Ctrl-A x       stop the VM at once\r\n"
                               "Ctrl-A p       press its power button\r\n"
                               "Ctrl-A h       this help\r\n"
                               "Ctrl-A Ctrl-A  send one Ctrl-A to the guest\r\n";
    ssize_t put = write(STDERR_FILENO, text, sizeof text - 1);

    (void)put; /* a terminal that is gone needs no help */
}

static void run_escape(void *opaque, uint8_t key)
{
    struct run *run = opaque;

    switch (key) {
    case 'x':
    case 'X':
        vm_stop(run->vm);
        break;
    case 'p':
    case 'P':
        vm_power_button(run->vm);
        break;
    case 'h':
    case 'H':
    case '?':
        escape_help();
        break;
    default:
        break;
    }
}

static void run_signal(void *opaque, uint32_t events)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;

    (void)events;
    if (read(run->signals.fd, &info, sizeof info) != sizeof info)
        return;
    atomic_store(&run->ended_by, (int)info.ssi_signo);
    vm_stop(run->vm);
}

static void ending_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGQUIT);
}

static int signals_watch(struct run *run, struct error *err)
{
    sigset_t set;
    int rc;

    ending_signals(&set);
    run->signals = (struct loop_watch){
        .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
        .events = EPOLLIN,
        .ready = run_signal,
        .opaque = run,
    };
    if (run->signals.fd < 0)
        return error_set(err, -errno, "cannot watch for signals: %s", strerror(errno));
    rc = loop_watch_add(vm_loop(run->vm), &run->signals);
    return rc < 0 ? error_set(err, rc, "cannot watch for signals: %s", strerror(-rc)) : 0;
}

/* ---- the run ---- */

/* The exit status; a signal that ended the VM is named in the report. */
static int run_status(const struct run *run, struct vm_result *result)
{
    int signal_number = atomic_load(&run->ended_by);

    if (result->end != VM_END_STOPPED || signal_number == 0)
        return vm_result_status(result);
    snprintf(result->text, sizeof result->text, "stopped by signal %d", signal_number);
    return 128 + signal_number;
}

/* The VM is built: run it, take it down, and only then report, on a terminal that is put back. */
static int run_vm(struct run *run)
{
    struct report_run report = {&run->options, run->options.vm.engine->name, vm_cpu_model(run->vm)};
    struct vm_result result = {0};
    struct error err = {0};
    char model[64];
    int rc, status;

    snprintf(model, sizeof model, "%s", report.cpu_model);
    report.cpu_model = model;
    rc = signals_watch(run, &err);
    if (rc == 0) {
        report_start(&report);
        rc = vm_run(run->vm, &result, &err);
        loop_watch_remove(vm_loop(run->vm), &run->signals);
        terminal_restore();
        tools_stats_write(&run->tools,
                          &(struct stats){run->vm, run->options.vm.cpus,
                                          (double)result.ran_ns / (double)NS_PER_SECOND},
                          run->options.json);
    }
    vm_free(run->vm);
    if (run->signals.fd >= 0)
        close(run->signals.fd);
    terminal_restore();
    if (rc < 0) {
        report_error(run->options.json, STATUS_FAILED, err.text);
        return STATUS_FAILED;
    }
    status = run_status(run, &result);
    report_end(&report, &result, status);
    return status;
}

static int run_build(struct run *run, struct error *err)
{
    struct vm_config *config = &run->options.vm;
    sigset_t set;
    int rc = cpu_engine_find(run->options.engine, &config->engine, err);

    if (rc == 0)
        rc = tools_open(&run->tools, &run->options.tools, config->cpus, err);
    if (rc < 0)
        return rc;
    config->tools = &run->tools.cpu;
    config->escape = run_escape;
    config->opaque = run;
    ending_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    terminal_guard();
    rc = vm_new(config, &run->vm, err);
    if (rc < 0)
        terminal_restore();
    return rc;
}

/* What only prints; true when it was that. */
static bool run_lists(const struct run_options *options)
{
    if (options->help)
        run_options_help(stdout);
    else if (strcmp(options->engine, "help") == 0)
        report_engines(options->json);
    else if (options->vm.cpu_model && strcmp(options->vm.cpu_model, "help") == 0)
        report_cpu_models(options->json);
    else
        return false;
    return true;
}

int run_main(char **words)
{
    struct run run = {0};
    struct error err = {0};
    int rc = run_options_parse(&run.options, words, &err);
    int status = 0;

    log_set_verbose(run.options.verbose);
    if (rc == 0 && run_lists(&run.options))
        goto out;
    if (rc == 0)
        rc = run_build(&run, &err);
    if (rc < 0) {
        status = STATUS_BAD_COMMAND;
        report_error(run.options.json, status, err.text);
        goto out;
    }
    status = run_vm(&run);
out:
    tools_close(&run.tools);
    run_options_fini(&run.options);
    return status;
}
