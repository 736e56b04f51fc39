"""What make bench runs: groups with their floors, the C programs, and the commands."""

import os
import subprocess
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "freehold")
OUT = os.path.join(CACHE, "bench")
PROGRAMS = os.path.join(OUT, "programs")

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
        return f"!{self.command}" if self.command else f"{self.name} {count}"


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


def programs():
    """Those that PROGRAMS has, the group "scaling" left out."""
    listed = subprocess.run([PROGRAMS, "list"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        group, name, count, divisor = line.split("|")
        if group != "scaling":
            yield Program(group, name, int(count), int(divisor))
