"""Where programs run: natively, or in a guest under Freehold or QEMU's TCG.

Each place has an agent (programs/main.c) to which lines are sent, one at a time, so that a line
can be timed from outside, too: by the clock and by the CPU time of the place's process.
"""

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import catalog

ROOT = os.path.dirname(catalog.HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))

from vm import FREEHOLD, Console, Vm  # noqa: E402

KERNEL = os.path.join(catalog.CACHE, "kernel", "vmlinuz")
INITRD = os.path.join(catalog.CACHE, "busybox", "initrd")
LIMIT_S = 300
GUEST_BYTES = 1 << 30
PREPARE = "!/tmp/prepare"  # in the Debian root
ANSWER = re.compile(r"bench: (no|failed|([0-9a-f]{16}) ([0-9.]+) ([0-9.]+))\r*\n")


@dataclass
class Run:
    """What one line gave: by the program's own clock, by the host's, and CPU time on the host."""

    outcome: str  # a checksum, "no", "failed", or "stuck"
    own_s: float = math.nan
    wall_s: float = math.nan
    cpu_s: float = math.nan


def process_cpu_s(pid):
    """CPU time of all of a process's threads: the clock that clock_getcpuclockid() gives."""
    return time.clock_gettime((~pid << 3) | 2)


class Perf:
    """`with Perf(folder, name, pid)`: perf records that process and its children meanwhile."""

    def __init__(self, folder, name, pid):
        self.command = folder and ["perf", "record", "-q", "-F", "999", "-p", str(pid), "-o",
                                   os.path.join(folder, f"{name}.perf")]

    def __enter__(self):
        if self.command:
            self.process = subprocess.Popen(self.command)
            time.sleep(0.3)

    def __exit__(self, *_):
        if self.command:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()


class Place:
    """An agent and the process that it runs in; opened at the first line and after a failure."""

    def __init__(self, name):
        self.name = name
        self.pid = None

    def run(self, line, perf=(None, "")):
        if self.pid is None:
            self.open()
        with Perf(perf[0], f"{perf[1]}-{self.name}", self.pid):
            return self.measure(line)

    def measure(self, line):
        wall, cpu = time.monotonic(), process_cpu_s(self.pid)
        try:
            self.send(line + "\n")
            match = self.expect(ANSWER, LIMIT_S)
        except (AssertionError, OSError) as error:
            print(f"bench: {self.name}: {line}: {error}", file=sys.stderr)
            self.close()
            return Run("stuck")
        wall, cpu = time.monotonic() - wall, process_cpu_s(self.pid) - cpu
        if not match.group(2):
            return Run(match.group(1))
        return Run(match.group(2), float(match.group(3)), wall, self.cpu_of(match, cpu))


# Mounts are private to the new name space. $1 is the Debian root, the rest are files for its /tmp.
ENTER_DEBIAN = """
root=$1
shift
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
cp "$@" "$root/tmp"
exec chroot "$root" /tmp/programs
"""


class Native(Place):
    """The agent as a process of this host, on the Debian root if that is wanted, and on as many CPUs
    as the guest has."""

    def __init__(self, with_debian, cpus):
        super().__init__("native")
        self.with_debian = with_debian
        self.cpus = sorted(os.sched_getaffinity(0))[-cpus:]

    def open(self):
        command, environment = [catalog.PROGRAMS], {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        if self.with_debian:
            user = [] if os.geteuid() == 0 else ["--map-root-user"]
            files = [os.path.join(catalog.REAL, name) for name in os.listdir(catalog.REAL)]
            command = ["unshare", "--mount", *user, "sh", "-ec", ENTER_DEBIAN, "sh",
                       os.path.join(catalog.DEBIAN, "root"), catalog.PROGRAMS, *files]
            environment["PATH"] += ":/usr/sbin:/sbin"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environment)
        os.sched_setaffinity(self.process.pid, self.cpus)
        self.console = Console(self.process.stdout.fileno())
        self.pid = self.process.pid
        self.expect("bench: ready", LIMIT_S)
        if self.with_debian:
            self.measure(PREPARE)

    def close(self):
        if self.pid is not None:
            self.process.kill()
            self.process.wait()
            self.pid = None

    def send(self, text):
        os.write(self.process.stdin.fileno(), text.encode())

    def expect(self, pattern, limit_s):
        return self.console.expect(pattern, limit_s)

    @staticmethod
    def cpu_of(match, _):
        """The agent knows what its child used."""
        return float(match.group(4))


class Guest(Place):
    """The agent in the busybox guest of a monitor, which is a function: options to a command."""

    def __init__(self, name, monitor, options):
        super().__init__(name)
        self.monitor = monitor
        self.options = options

    def open(self):
        append = "console=ttyS0 quiet fh.run=/bench/start"
        self.vm = Vm(command=self.monitor({"initrd": agent_initrd(), "append": append,
                                           **self.options}))
        self.pid = self.vm.process.pid
        self.expect("bench: ready", LIMIT_S)
        if "disk" in self.options:
            self.measure(PREPARE)

    def close(self):
        """Ends it so that it can still write what it was asked for (--stats, --perf-map)."""
        if self.pid is not None:
            self.vm.process.terminate()
            try:
                self.vm.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            self.vm.__exit__()
            self.pid = None

    def send(self, text):
        self.vm.send(text)

    def expect(self, pattern, limit_s):
        try:
            return self.vm.expect(pattern, limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.vm.errors.text}") from None

    @staticmethod
    def cpu_of(_, cpu):
        return cpu

    def memory_kib(self):
        """What the process has in memory beside the guest's: (code cache, all the rest).

        The guest's memory is the mapping as large as it. The code cache, which is bounded by
        --code-cache, is in shared mappings; code is mapped twice, as Pss knows."""
        code, rest, kind = 0, 0, "rest"
        with open(f"/proc/{self.pid}/smaps", encoding="utf-8") as file:
            for line in file:
                if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (...s)?", line):
                    size = int(match.group(2), 16) - int(match.group(1), 16)
                    kind = "guest" if size > GUEST_BYTES * 0.9 else \
                        "code" if match.group(3) else "rest"
                elif line.startswith("Pss:"):
                    kib = int(line.split()[1])
                    code += kib if kind == "code" else 0
                    rest += kib if kind == "rest" else 0
        return code, rest


def agent_initrd():
    """The busybox guest's initrd with the agent, what starts it, and the files of real/."""
    made = os.path.join(catalog.OUT, "initrd")
    start = os.path.join(catalog.HERE, "start")
    real = [os.path.join(catalog.REAL, name) for name in os.listdir(catalog.REAL)]
    sources = [INITRD, catalog.PROGRAMS, start, *real]
    if os.path.exists(made) and os.path.getmtime(made) > max(map(os.path.getmtime, sources)):
        return made
    with tempfile.TemporaryDirectory(dir=catalog.OUT) as folder:
        os.makedirs(os.path.join(folder, "bench", "real"))
        subprocess.run(["cp", catalog.PROGRAMS, start, os.path.join(folder, "bench")], check=True)
        subprocess.run(["cp", *real, os.path.join(folder, "bench", "real")], check=True)
        archive = subprocess.run("find bench | cpio --quiet -o -H newc -R 0:0", cwd=folder,
                                 shell=True, capture_output=True, check=True).stdout
        with open(os.path.join(folder, "initrd"), "wb") as file, open(INITRD, "rb") as busybox:
            file.write(busybox.read() + archive)
        os.rename(file.name, made)
    return made


def freehold(binary, engine, extra):
    """Gives what makes a command of a guest's options (memory, cpus, initrd, append, disk, net)."""
    def command(options):
        disk = options.get("disk")
        readonly = ",readonly=on" if options.get("readonly") else ""
        return [binary, "run", "--engine", engine, "--cpu", "host", "--kernel", KERNEL,
                "--initrd", options["initrd"], "--append", options["append"],
                "--memory", options.get("memory", str(GUEST_BYTES >> 20)),
                "--cpus", options.get("cpus", "1"),
                *(["--disk", disk + readonly] if disk else []),
                "--net", options.get("net", "none"), *extra]
    return command


def qemu(options):
    """The same for QEMU, which must not insist on a lock of what Freehold has open, too."""
    disk = options.get("disk")
    readonly = ",readonly=on" if options.get("readonly") else ""
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display",
            "none", "-serial", "stdio", "-kernel", KERNEL, "-initrd", options["initrd"],
            "-append", options["append"], "-m", options.get("memory", str(GUEST_BYTES >> 20)),
            "-smp", options.get("cpus", "1"),
            *(["-drive", f"file={disk},format=raw,if=virtio,file.locking=off{readonly}"]
              if disk else []),
            *(["-nic", "user,model=virtio-net-pci"] if "net" in options else [])]
