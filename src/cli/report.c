/* What the user or a calling program is told. Threads: one. Input: texts that may hold names which
 * the user or a guest chose; they are printed as one line or as a JSON string. */
#include "cli/report.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cpu/cpu.h"

void json_string(FILE *to, const char *text)
{
    fputc('"', to);
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;

        if (byte == '"' || byte == '\\')
            fprintf(to, "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            fprintf(to, "\\u%04x", byte);
        else
            fputc(byte < 0x80 ? byte : '?', to);
    }
    fputc('"', to);
}

static void json_member(FILE *to, const char *name, const char *text)
{
    fprintf(to, ",\"%s\":", name);
    if (text)
        json_string(to, text);
    else
        fputs("null", to);
}

void report_error(bool json, int status, const char *text)
{
    if (!json) {
        log_error("%s", text);
        return;
    }
    fprintf(stderr, "{\"event\":\"error\",\"status\":%d", status);
    json_member(stderr, "text", text);
    fputs("}\n", stderr);
}

static void json_run(const struct report_run *run)
{
    json_member(stderr, "name", run->options->vm.name);
    json_member(stderr, "engine", run->engine);
    json_member(stderr, "cpu", run->cpu_model);
    fprintf(stderr, ",\"cpus\":%u,\"memory_bytes\":%llu", run->options->vm.cpus,
            (unsigned long long)run->options->vm.memory_bytes);
}

void report_start(const struct report_run *run)
{
    if (!run->options->json)
        return;
    fprintf(stderr, "{\"event\":\"start\",\"pid\":%d", (int)getpid());
    json_run(run);
    fputs("}\n", stderr);
}

static void report_end_json(const struct report_run *run, const struct vm_result *result,
                            int status)
{
    fprintf(stderr, "{\"event\":\"end\",\"status\":%d", status);
    json_member(stderr, "end", vm_end_name(result->end));
    json_member(stderr, "text", result->text);
    json_run(run);
    if (result->end == VM_END_DEBUG_EXIT)
        fprintf(stderr, ",\"debug_value\":%u", result->debug_value);
    fprintf(stderr, ",\"resets\":%u,\"seconds\":%.3f}\n", result->resets,
            (double)result->ran_ns / (double)NS_PER_SECOND);
}

/* Silent on a good end: the terminal belongs to the guest. */
void report_end(const struct report_run *run, const struct vm_result *result, int status)
{
    const struct vm_config *vm = &run->options->vm;

    if (run->options->json) {
        report_end_json(run, result, status);
        return;
    }
    if (vm_result_status(result) != 0 && result->end != VM_END_DEBUG_EXIT)
        log_error("%s", result->text);
    log_info("%s after %.2f s (%u reset%s; %s engine, %s, %u vCPU%s, %llu MiB)",
             vm_end_name(result->end), (double)result->ran_ns / (double)NS_PER_SECOND,
             result->resets, result->resets == 1 ? "" : "s", run->engine, run->cpu_model, vm->cpus,
             vm->cpus == 1 ? "" : "s", (unsigned long long)(vm->memory_bytes >> 20));
}

/* ---- lists ---- */

struct list_entry {
    const char *name, *description;
    const char *why_not; /* NULL: usable here */
};

static void list_entry_print(bool json, const struct list_entry *entry)
{
    if (json) {
        printf("{\"usable\":%s", entry->why_not ? "false" : "true");
        json_member(stdout, "name", entry->name);
        json_member(stdout, "description", entry->description);
        json_member(stdout, "why_not", entry->why_not);
        fputs("}\n", stdout);
        return;
    }
    printf("%-12s %s\n", entry->name, entry->description);
    if (entry->why_not)
        printf("%-12s not here: %s\n", "", entry->why_not);
}

void report_engines(bool json)
{
    for (unsigned i = 0; i < cpu_engine_count; i++) {
        const struct cpu_engine *engine = cpu_engines[i];
        struct error why = {0};
        int rc = engine->probe(&why);

        list_entry_print(json, &(struct list_entry){engine->name, engine->description,
                                                    rc < 0 ? why.text : NULL});
    }
}

void report_cpu_models(bool json)
{
    for (unsigned i = 0; i < x86_cpu_model_count; i++) {
        const struct x86_cpu_model *model = &x86_cpu_models[i];
        struct x86_cpuid_config config = {
            .model = model->name, .vcpu_count = 1, .tsc_hz = NS_PER_SECOND};
        struct x86_cpuid cpuid;
        struct error why = {0};
        int rc = x86_cpuid_build(&config, &cpuid, &why);

        list_entry_print(
            json, &(struct list_entry){model->name, model->description, rc < 0 ? why.text : NULL});
    }
}
