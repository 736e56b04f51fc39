/* The `freehold` program: finds the command and hands it its words. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/report.h"
#include "cli/run.h"
#include "cli/run_options.h"
#include "cpu/trace.h"
#include "net/net_user.h"

struct command {
    const char *name;
    const char *help;                  /* NULL: not for people */
    int (*run)(int argc, char **argv); /* argv[0] is the command */
};

static int command_run(int argc, char **argv)
{
    (void)argc;
    return run_main(argv + 1);
}

static int command_trace(int argc, char **argv)
{
    struct error err = {0};
    int rc;

    if (argc != 2) {
        log_error("give one file: freehold trace FILE");
        return STATUS_BAD_COMMAND;
    }
    rc = trace_print(argv[1], stdout, &err);
    if (rc == 0 && fflush(stdout) != 0)
        rc = error_set(&err, -EIO, "cannot write the trace to standard output");
    if (rc < 0)
        log_error("%s", err.text);
    return rc < 0 ? STATUS_BAD_COMMAND : 0;
}

static int command_help(int argc, char **argv);

static int command_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("freehold " FREEHOLD_VERSION);
    return 0;
}

static const struct command commands[] = {
    {"run", "run a virtual machine in this process", command_run},
    {"trace", "show the events in a file of \"run --trace\"", command_trace},
    {"help", "show this, or the help of a command", command_help},
    {"version", "show the version", command_version},
    {"nat", NULL, nat_main}, /* the user network's own process, started by `run` */
};

static const struct command *command_find(const char *name)
{
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    }
    return NULL;
}

static void usage(FILE *to)
{
    fputs("usage: freehold COMMAND [OPTION...]\n"
          "\n"
          "Virtual machines on any x86-64 Linux, with or without hardware virtualization.\n"
          "\n",
          to);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (commands[i].help)
            fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    }
    fputs("\nA first VM: freehold run --kernel vmlinuz --initrd initrd --append console=ttyS0\n"
          "More: freehold run --help, man freehold\n",
          to);
}

static int command_help(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "run") == 0)
        run_options_help(stdout);
    else
        usage(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    const struct command *command;

    signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error of a write, not our end */
    if (argc < 2) {
        usage(stderr);
        return STATUS_BAD_COMMAND;
    }
    command = command_find(argv[1]);
    if (!command) {
        log_error("there is no command \"%s\"; see freehold help", argv[1]);
        return STATUS_BAD_COMMAND;
    }
    return command->run(argc - 1, argv + 1);
}
