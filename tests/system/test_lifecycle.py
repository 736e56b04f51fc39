"""How a VM ends or starts again: reboot, panic, triple fault, debug exit."""

import json
import signal
import time

import pytest

import multiboot
from vm import Vm


def test_reboot(busybox):
    with busybox() as vm:
        vm.expect("fh: ready", 90)
        vm.send("reboot -f\n")
        vm.expect("fh: ready", 90)
        vm.send("poweroff -f\n")
        assert vm.status() == 0


@pytest.mark.parametrize("way", ["kbd", "acpi", "pci"])
def test_ways_to_reboot(busybox, way):
    with busybox(append=f"reboot={way}") as vm:
        vm.expect("fh: ready", 90)
        vm.send("reboot -f\n")
        vm.expect("fh: ready", 90)


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_suspend(busybox, tmp_path, cpus):
    """To S3 and back by an alarm of the clock: the disk, the network and the other CPU work again."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(range(256)) * 16384)
    with busybox("--cpus", cpus, "--disk", str(disk)) as vm:
        vm.expect("fh: ready", 90)
        vm.send("ifconfig eth0 10.0.2.15 up; md5sum /dev/vda >before; echo +2 >/sys/class/rtc/rtc0/wakealarm\n")
        vm.send("echo mem >/sys/power/state; echo 3 >/proc/sys/vm/drop_caches; md5sum /dev/vda | cmp - before && "
                "ping -c 1 -W 20 10.0.2.2 && grep -c ^processor /proc/cpuinfo && echo a''wake\n")
        vm.expect("awake", 90)
        vm.send("poweroff -f\n")
        assert vm.status() == 0
        assert f"\n{cpus}\n" in vm.console.text.replace("\r", "")


def test_no_reboot(busybox):
    with busybox("--no-reboot") as vm:
        vm.expect("fh: ready", 90)
        vm.send("reboot -f\n")
        assert vm.status() == 0
        assert vm.console.text.count("fh: ready") == 1


def test_panic(busybox):
    """The guest's panic device tells; the guest itself would reboot at once."""
    with busybox("--no-reboot", append="panic=-1") as vm:
        vm.expect("fh: ready", 90)
        vm.send("echo c >/proc/sysrq-trigger\n")
        assert vm.status() == 1
        assert "panic" in vm.errors.text
        assert len(vm.errors.text.splitlines()) == 1, vm.errors.text


def test_triple_fault(busybox):
    with busybox(append="reboot=triple") as vm:
        vm.expect("fh: ready", 90)
        vm.send("reboot -f\n")
        assert vm.status() == 1
        assert "triple fault" in vm.errors.text
        assert len(vm.errors.text.splitlines()) == 1, vm.errors.text


def tiny_guest(tmp_path, code, *args):
    image = tmp_path / "kernel"
    image.write_bytes(multiboot.kernel(code))
    return Vm("--kernel", str(image), "--memory", "16M", *args)


@pytest.mark.parametrize("value", [0, 5, 127])
def test_debug_exit(tmp_path, value):
    with tiny_guest(tmp_path, multiboot.out_byte(0xF4, value), "--debug-exit") as vm:
        assert vm.status(20) == (value << 1) | 1


def test_debug_exit_is_off_by_default(tmp_path):
    with tiny_guest(tmp_path, multiboot.out_byte(0xF4, 5)) as vm:
        with pytest.raises(AssertionError, match="end of freehold"):
            vm.status(3)


def test_triple_fault_at_once(tmp_path):
    with tiny_guest(tmp_path, multiboot.TRIPLE_FAULT) as vm:
        assert vm.status(20) == 1
        assert "triple fault" in vm.errors.text


def test_stopped_by_signal(busybox):
    """SIGTERM ends it without a trace of an error."""
    with busybox() as vm:
        vm.expect("fh: ready", 90)
        begun = time.monotonic()
        vm.process.terminate()
        assert vm.status(10) == 128 + signal.SIGTERM
        assert vm.errors.text == ""
        assert time.monotonic() - begun < 10


def test_json(busybox):
    """Reports for programs: how it began and how it ended."""
    with busybox("--json", "--name", "reporter", append="fh.run=true") as vm:
        assert vm.status(90) == 0
        begin, end = [json.loads(line) for line in vm.errors.text.splitlines()]
    assert (begin["event"], begin["name"]) == ("start", "reporter")
    assert (end["event"], end["end"], end["status"]) == ("end", "poweroff", 0)
    assert 0 < end["seconds"] < 90
