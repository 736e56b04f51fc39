"""What make bench runs: groups with their floors, the C programs, and the commands."""

import os
import subprocess
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "freehold")
OUT = os.path.join(CACHE, "bench")
PROGRAMS = os.path.join(OUT, "programs")
REAL = os.path.join(HERE, "real")
DEBIAN = os.path.join(OUT, "debian")

# Groups of programs: name, what is in it, the slowdown that Freehold must stay below.
GROUPS = (
    ("integer", "integer, bignum, sieve, crypto in C", 2.0),
    ("branches", "branches, calls, interpreters, callbacks", 2.0),
    ("float", "floating point: scalar, libm, x87", 1.5),
    ("vectors", "vectors: SSE2, AVX2, AES, SHA, AVX-512", 2.3),
    ("memory", "memory: copy, stream, random, string instructions", 2.2),
    ("code", "code that writes code", 8.0),
    ("kernel", "kernel: system calls, faults, processes", 4.5),
    ("real", "real programs", 4.0),
)
# The same for whole machines: Freehold's part of TCG's time.
BOOT_FLOORS = {"boot of the cloud kernel to init": 0.5, "Debian with systemd to login": 0.4,
               "apt-get update in it": 0.4}
SCALING_FLOOR = 0.93
MEMORY_FLOOR_MIB = 64


@dataclass(frozen=True)
class Program:
    """`count` times something, natively about 0.15 s; TCG gets a count `divisor` times smaller.

    A command has the count 1, and is run by the Debian root's shell."""

    group: str
    name: str
    count: int = 1
    divisor: int = 1
    command: str = ""

    def line(self, count):
        """What the agent (programs/main.c) is told."""
        return f"!cd /tmp; {self.command}" if self.command else f"{self.name} {count}"


# Commands for the shell of the Debian root (images/bench), where /tmp has the files of real/. Each
# prints what tells a wrong result.
COMMANDS = (
    ("code", "node", "node work.js"),
    ("real", "shell", "i=0; while [ $i -lt 150000 ]; do i=$((i + 1)); "
                      "case $i in *77) x=$x.$i;; esac; done; echo $i ${#x}"),
    ("real", "pipes", "for i in $(seq 60); do echo $i | sed s/1/2/ | tr 2 3; done"),
    ("real", "sort", "for key in 1 2 3; do sort -k $key text | cksum; done"),
    ("real", "gzip", "gzip -c text | gzip -dc | cksum"),
    ("real", "zstd", "for level in 3 7; do "
                     "zstd -$level --single-thread -qc text | zstd -qdc | cksum; done"),
    ("real", "xz", "head -c 2500000 text | xz -1 -c | xz -dc | cksum"),
    ("real", "python3", "python3 work.py"),
    ("real", "perl", "perl work.pl"),
    ("real", "sqlite3", "sqlite3 work.db <work.sql; rm work.db"),
    ("real", "gcc", "gcc -O2 -S -o - work.c | cksum"),
    ("real", "openssl", "for i in 1 2 3; do openssl dgst -sha512 text; openssl dgst -sha256 text; "
                        "openssl enc -aes-256-cbc -K $(printf %064d $i) -iv $(printf %032d $i) "
                        "-in text | openssl dgst -md5; done; "
                        "openssl prime 170141183460469231731687303715884105727"),
    ("real", "awk", "awk '{ for (i = 1; i <= NF; i++) n[$i]++ } "
                    "END { for (w in n) s += n[w] * length(w); print s }' text"),
    ("real", "grep", "for i in 1 2 3 4 5 6 7 8; do grep -cE '(int|long) [a-z_]+ *\\(' text; done"),
    ("real", "starts", "for i in 1 2 3 4 5 6; do perl -e 'print 1'; python3 -c 'print(1)'; "
                       "sqlite3 :memory: 'select 1'; openssl version; done"),
)


def compile_programs():
    """Makes PROGRAMS, if a source is newer."""
    folder = os.path.join(HERE, "programs")
    sources = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    if os.path.exists(PROGRAMS) and \
            os.path.getmtime(PROGRAMS) > max(map(os.path.getmtime, sources)):
        return
    os.makedirs(OUT, exist_ok=True)
    part = f"{PROGRAMS}.{os.getpid()}"
    subprocess.run(["gcc", "-std=gnu17", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o",
                    part, *(s for s in sources if s.endswith(".c")), "-lm", "-pthread"],
                   check=True)
    os.rename(part, PROGRAMS)


def listed():
    """What PROGRAMS has."""
    output = subprocess.run([PROGRAMS, "list"], capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        group, name, count, divisor = line.split("|")
        yield Program(group, name, int(count), int(divisor))


def programs():
    """All that are measured alone, group by group."""
    order = [name for name, _, _ in GROUPS]
    known = [program for program in listed() if program.group in order]
    known += [Program(group, name, command=command) for group, name, command in COMMANDS]
    return sorted(known, key=lambda program: order.index(program.group))


def scaling():
    """Programs in pairs: NAME-1 for one busy thread, NAME-2 for two."""
    return [program for program in listed() if program.group == "scaling"]
