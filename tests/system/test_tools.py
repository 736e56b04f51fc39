"""What engineers look through: counters, event trace, perf's map and dumped blocks of a real boot."""

import bisect
import json
import os
import re
import subprocess

import pytest

from vm import FREEHOLD, ROOT, Vm, run

READY = r"fh: ready: (\S+)"
EXITS = {"twin", "declined", "tlb", "link", "lookup", "poll"}


def boot(busybox, *args):
    """The busybox guest, up and down again; gives what freehold printed on standard error."""
    with busybox(*args, "--net", "none") as vm:
        vm.expect(READY, 90)
        vm.shell("ls -lR /bin /etc >/dev/null; cat /proc/cpuinfo >/dev/null")
        vm.send("poweroff -f\n")
        assert vm.status() == 0
        return vm.errors.text


@pytest.mark.parametrize("cpus", [1, 2])
def test_counters(busybox, tmp_path, cpus):
    path = tmp_path / "stats"
    boot(busybox, "--cpus", str(cpus), "--stats", str(path), "--json")
    vcpus = [json.loads(line) for line in path.read_text().splitlines()]
    assert [vcpu["vcpu"] for vcpu in vcpus] == list(range(cpus))
    for vcpu in vcpus:
        counters = vcpu["counters"]
        check_counters(counters)
        assert 0.2 < vcpu["seconds"] < 300
        wall_ns = vcpu["seconds"] * 1e9
        assert 0.5 * wall_ns < sum(counters["time_ns"].values()) < 1.1 * wall_ns
    exits = [vcpu["counters"]["vm_exit"] for vcpu in vcpus]
    assert sum(exit.get("io", 0) for exit in exits) > 1000  # the console
    assert sum(exit.get("halt", 0) for exit in exits) > 0


def check_counters(counters):
    exits = counters["exit"]
    assert set(exits) <= EXITS
    assert sum(exits.values()) == counters["translated"]["entries"]
    assert sum(counters["twin"].values()) == exits["twin"]
    assert sum(counters.get("declined", {}).values()) == exits.get("declined", 0)
    assert exits["lookup"] < counters["translated"]["lookups"]
    assert counters["translated"]["entries"] < counters["translated"]["blocks"]
    translation = counters["translation"]
    assert 1000 < translation["blocks"] <= translation["guest_bytes"]
    assert translation["guest_bytes"] < translation["host_bytes"]
    assert counters["link"]["patched"] <= exits["link"] + exits["lookup"]
    # A fill walks the tables, once, but for the two that an access across pages takes.
    assert sum(counters["tlb_miss"].values()) <= counters["paging"]["walks"] * 1.01
    assert counters["fault"]["PF"] > 10
    assert sum(counters["interrupt"].values()) > 10
    for group in counters.values():
        assert all(value > 0 for value in group.values())


def test_counters_text(busybox):
    """On standard error, in a table: groups at the margin, the largest first."""
    text = boot(busybox, "--stats", "-")
    assert re.search(r"^vCPU 0, [0-9.]+ s\r?$", text, re.M)
    lines = text[text.index("\ntwin\n"):].splitlines()[2:8]
    counts = [int(re.fullmatch(r"  (\w+) +(\d+) +\d+/s", line).group(2)) for line in lines]
    assert counts == sorted(counts, reverse=True)
    assert re.search(r"^  translated +[0-9.]+ ms +[0-9.]+ %", text, re.M)


def test_counters_of_the_interpreter(busybox, tmp_path):
    path = tmp_path / "stats"
    boot(busybox, "--engine", "interpreter", "--stats", str(path), "--json")
    counters = json.loads(path.read_text())["counters"]
    assert counters["interpreter"]["blocks"] > 1000
    assert "translated" not in counters and "exit" not in counters


EVENT = re.compile(r" *(\d+\.\d{9})  ( \d|\d\d)  ([0-9a-f]{16})  (\w+) +(.*)")


def events_of(path):
    done = subprocess.run([FREEHOLD, "trace", str(path)], capture_output=True, text=True,
                          check=True)
    head, *lines = done.stdout.splitlines()
    dropped = int(re.search(r"\((\d+) older events were dropped\)", head).group(1))
    return dropped, [EVENT.fullmatch(line).groups() for line in lines]


def test_trace(busybox, tmp_path):
    path = tmp_path / "trace"
    boot(busybox, "--trace", f"{path},size=1000000")
    dropped, events = events_of(path)
    assert dropped == 0
    times = [float(event[0]) for event in events]
    assert times == sorted(times)
    kinds = [event[3] for event in events]
    first = {kind: kinds.index(kind) for kind in set(kinds)}
    assert kinds[0] == "start" and "long mode, paging, 64-bit code" in events[first["mode"]][4]
    # The kernel makes page tables of its own, faults in what it decompresses, starts its timers.
    assert first["start"] < first["cr3"] < first["fault"] < first["interrupt"]
    faults = [event for event in events if event[3] == "fault" and event[4].startswith("#PF")]
    assert len(faults) > 100
    assert all(re.fullmatch(r"#PF( code 0x[0-9a-f]+)? at 0x[0-9a-f]+", event[4])
               for event in faults)
    assert any(int(event[2], 16) < 1 << 47 for event in faults)  # user code
    for index in (i for i, kind in enumerate(kinds) if kind == "cr3"):
        assert kinds[index + 1] == "flush"
    assert events[-1][3:] == ("exit", "io write 0x604")  # ACPI's power off


def test_trace_keeps_the_last(busybox, tmp_path):
    path = tmp_path / "trace"
    boot(busybox, "--cpus", "2", "--trace", f"{path},size=64,events=interrupt:exit")
    dropped, events = events_of(path)
    assert dropped > 0
    assert 0 < len(events) <= 2 * 64
    assert {event[3] for event in events} <= {"interrupt", "exit"}
    assert events[-1][4] == "io write 0x604"


def test_trace_after_a_crash(busybox, tmp_path):
    """The events are in the file even when freehold is killed."""
    path = tmp_path / "trace"
    with busybox("--net", "none", "--trace", str(path)) as vm:
        vm.expect(READY, 90)
        vm.process.kill()
        vm.process.wait()
    assert len(events_of(path)[1]) > 1000


def test_trace_refuses(tmp_path):
    path = tmp_path / "text"
    path.write_text("no trace" * 1000)
    for name in (path, tmp_path / "none", tmp_path):
        done = run("trace", str(name))
        assert done.returncode == 2
        assert str(name) in done.stderr and len(done.stderr.splitlines()) == 1
    assert run("trace").returncode == 2


@pytest.fixture(scope="module")
def kallsyms(kernel, initrd, tmp_path_factory):
    """Some symbols of the guest's kernel, which lies at the same place in each boot (nokaslr)."""
    path = tmp_path_factory.mktemp("symbols") / "kallsyms"
    with Vm("--kernel", kernel, "--initrd", initrd, "--memory", "256M", "--net", "none",
            "--append", "console=ttyS0 quiet nokaslr") as vm:
        vm.expect(READY, 90)
        path.write_text(vm.shell("grep -E ' [Tt] .*(syscall|fault|clear_page|entry)' "
                                 "/proc/kallsyms", 60))
    assert len(path.read_text().splitlines()) > 100
    return str(path)


@pytest.mark.parametrize("cpus", [1, 2])
def test_perf_map(busybox, kallsyms, tmp_path, cpus):
    """Ranges of each vCPU's code cache, which do not overlap and hold all that was translated."""
    trace = tmp_path / "trace"
    with busybox("--cpus", str(cpus), "--net", "none", "--perf-map", "--guest-symbols", kallsyms,
                 "--trace", f"{trace},size=1000000,events=translate:clear",
                 append="nokaslr") as vm:
        vm.expect(READY, 90)
        vm.send("poweroff -f\n")
        assert vm.status() == 0
        path = f"/tmp/perf-{vm.process.pid}.map"
    with open(path, encoding="ascii") as file:
        lines = [line.split() for line in file]
    os.unlink(path)
    assert all(len(line) == 3 for line in lines)
    ranges = sorted((int(start, 16), int(start, 16) + int(size, 16)) for start, size, _ in lines)
    assert all(start < end for start, end in ranges)
    assert all(a[1] <= b[0] for a, b in zip(ranges, ranges[1:]))
    names = [name for _, _, name in lines]
    assert names.count("freehold_enter") == cpus
    assert any(name.startswith("do_syscall_64+0x") for name in names)
    assert any(re.fullmatch("guest_[0-9a-f]+", name) for name in names)
    caches = sorted(int(start, 16) for start, _, name in lines if name == "freehold_enter")
    span = 2 * (128 << 20)  # of addresses: what lies out of line has the second half
    for start, _ in ranges:
        assert any(cache <= start < cache + span for cache in caches)
    made = {}  # by vCPU: the code made since its cache was cleared last
    for _, vcpu, _, kind, text in events_of(trace)[1]:
        if kind == "clear":
            made[vcpu] = []
        else:
            made.setdefault(vcpu, []).append(int(text.split(" to ")[1], 16))
    made = sum(made.values(), [])
    own = [name for name in names if not name.startswith("freehold_") and not name.endswith("~")]
    assert 1000 < len(made) == len(own)
    for code in made:
        start, end = ranges[bisect.bisect_right(ranges, (code, 1 << 64)) - 1]
        assert start <= code < end


def test_dumped_blocks(busybox, kallsyms, tmp_path):
    with open(kallsyms, encoding="ascii") as file:
        address = next(line.split()[0] for line in file if line.split()[2] == "do_syscall_64")
    path = tmp_path / "blocks"
    with busybox("--net", "none", "--guest-symbols", kallsyms,
                 "--dump-blocks", f"{path},at={address}", append="nokaslr") as vm:
        vm.expect(READY, 90)
        vm.send("poweroff -f\n")
        assert vm.status() == 0
    done = subprocess.run([os.path.join(ROOT, "scripts", "show-blocks"), path],
                          capture_output=True, text=True, check=True)
    blocks = done.stdout.split("\n\n")[:-1]
    assert 1 <= len(blocks) < 20
    for block in blocks:
        head, *lines = block.splitlines()
        match = re.fullmatch(rf"block {address} gpa [0-9a-f]+ vcpu 0 guest (\d+) host (\d+) "
                             r"do_syscall_64\+0x0", head)
        assert int(match.group(1)) < int(match.group(2))
        guest = [line[:58].strip() for line in lines if line[:58].strip()]
        host = [line[60:].strip(" ~") for line in lines if line[60:].strip()]
        assert guest[0].startswith(address + "  ") and "(bad)" not in block
        assert len(guest) < len(host)
        ways_out = ("exit_link", "exit_link_flags", "twin", "twin_flags")
        assert any(line.endswith(ways_out) for line in host)


def test_show_blocks_refuses(tmp_path):
    path = tmp_path / "text"
    path.write_text("no blocks\n")
    for name in (path, tmp_path / "none"):
        done = subprocess.run([os.path.join(ROOT, "scripts", "show-blocks"), str(name)],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert str(name) in done.stderr and len(done.stderr.splitlines()) == 1


def code_memory(pid):
    """What a VM's code takes, in bytes: it lies in mappings of one name, and without a file."""
    kib, counted = 0, False
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
        for line in file:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counted = "freehold-code-cache" in line or "/dev/zero" in line
            elif counted and line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib * 1024


@pytest.mark.parametrize("mib", [1, 4])
def test_small_code_cache(busybox, tmp_path, mib):
    """A megabyte is enough, with many clearings, and no more than that is in memory."""
    path = tmp_path / "stats"
    with busybox("--code-cache", f"{mib}M", "--stats", str(path), "--json", "--net", "none") as vm:
        vm.expect(READY, 90)
        most = code_memory(vm.process.pid)
        for command in ("ls -lR /bin /etc", "cat /proc/cpuinfo", "find /bin /etc | sort | md5sum"):
            vm.shell(command + " >/dev/null")
            most = max(most, code_memory(vm.process.pid))
        vm.send("poweroff -f\n")
        assert vm.status() == 0
    assert mib * 0.5 < most / 2 ** 20 <= mib
    counters = json.loads(path.read_text())["counters"]
    assert counters["cache"]["clears"] > 5
    check_counters(counters)
