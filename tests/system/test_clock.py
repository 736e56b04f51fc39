"""The guest's clock against the host's, and what a guest costs that does nothing."""

import os
import re
import signal
import time

import pytest

from vm import PATIENCE

SECONDS = 240 if os.environ.get("FREEHOLD_TEST_LONG") else 8
IDLE_MOST = 0.02     # of one core
RESOLUTION_S = 0.02  # of /proc/uptime, twice


def cpu_s(vm):
    """CPU time that the VM has used on the host."""
    return time.clock_gettime((~vm.process.pid << 3) | 2)


def clock_read(vm):
    """Host's time before, guest's time, host's time after: the guest read its own in between."""
    before = time.monotonic()
    vm.send("cut -d' ' -f1 /proc/uptime\n")
    guest = float(vm.expect(r"\n(\d+\.\d\d)\r*\n").group(1))
    return before, guest, time.monotonic()


def clocks_compare(vm, begin):
    """The guest's clock has run as far as the host's since `begin`, within what can be seen."""
    before, guest, after = clock_read(vm)
    least, most = before - begin[2] - RESOLUTION_S, after - begin[0] + RESOLUTION_S
    assert least < guest - begin[1] < most, "the clocks are apart"


@pytest.mark.parametrize("cpus", ("1", "2"))
def test_clock(busybox, took, cpus):
    """Idle, busy, with timers: the clock neither gains nor loses, and no timer comes early."""
    with busybox("--cpus", cpus) as vm:
        vm.expect(r"fh: ready", 60)
        begin = clock_read(vm)
        time.sleep(SECONDS / 2)
        clocks_compare(vm, begin)
        vm.shell(f"timeout {SECONDS // 4} sh -c 'while :; do :; done' || true", SECONDS + 60)
        clocks_compare(vm, begin)
        slept = clock_read(vm)
        vm.shell(f"for i in $(seq {SECONDS * 10 // 4}); do usleep 100000; done", SECONDS + 60)
        assert clock_read(vm)[1] - slept[1] >= SECONDS * 10 // 4 / 10, "timers come too early"
        clocks_compare(vm, begin)
        took(f"{time.monotonic() - begin[0]:.0f} s compared")
        assert not re.search(r"unstable|soft lockup|rcu:.*stall", vm.shell("dmesg", 60))


@pytest.mark.parametrize("cpus", ("1", "2"))
def test_idle(busybox, took, cpus):
    with busybox("--cpus", cpus) as vm:
        vm.expect(r"fh: ready", 60)
        time.sleep(3 * PATIENCE)
        before, used = time.monotonic(), cpu_s(vm)
        time.sleep(SECONDS)
        share = (cpu_s(vm) - used) / (time.monotonic() - before)
        took(f"{100 * share:.2f}% of a core,")
        assert share < IDLE_MOST


@pytest.mark.parametrize("cpus", ("1", "2"))
def test_stopped_host(busybox, took, cpus):
    """A host that does not run the guest for seconds: its clock has gone on, and the ticks it
    missed do not come all at once."""
    with busybox("--cpus", cpus) as vm:
        vm.expect(r"fh: ready", 60)
        begin = clock_read(vm)
        os.killpg(vm.process.pid, signal.SIGSTOP)
        time.sleep(6)
        used = cpu_s(vm)
        os.killpg(vm.process.pid, signal.SIGCONT)
        clocks_compare(vm, begin)
        time.sleep(1)
        used = cpu_s(vm) - used
        took(f"{used:.2f} s of CPU time for what was missed,")
        assert used < 0.5
        assert not re.search(r"unstable|soft lockup|rcu:.*stall", vm.shell("dmesg", 60))
