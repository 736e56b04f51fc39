"""Both guests boot, see what they were given, and go down as they are told."""

import pytest

from vm import Vm

READY = r"fh: ready: (\S+), (\d+) CPUs, (\d+) kB"
SEABIOS = "/usr/share/seabios/bios-256k.bin"
PROMPT = r"root@freehold:~# "


@pytest.mark.parametrize("cpus", [1, 2])
def test_busybox(busybox, took, cpus):
    with busybox("--cpus", str(cpus)) as vm:
        match = vm.expect(READY, 90)
        took("ready")
        assert int(match.group(2)) == cpus
        assert 190_000 < int(match.group(3)) <= 256 * 1024
        assert vm.shell("echo $((6 * 7))") == "42\n"
        vm.send("poweroff -f\n")
        assert vm.status() == 0


@pytest.mark.parametrize("cpus", [1, 2])
def test_debian(debian, took, cpus):
    with debian("--cpus", str(cpus)) as vm:
        vm.expect(PROMPT, 400)
        took("logged in")
        assert vm.shell("nproc") == f"{cpus}\n"
        assert "Debian GNU/Linux" in vm.shell("cat /etc/os-release")
        assert "0 loaded units" in vm.shell("systemctl --failed --no-pager", 120)
        vm.send("poweroff\n")
        assert vm.status(180) == 0
        took("powered off")


def test_debian_reboot(debian, took):
    """A file written before a reboot is there after it, and its package manager has a network."""
    with debian() as vm:
        vm.expect(PROMPT, 400)
        vm.shell("echo kept >/root/kept")
        update = "apt-get -q update >/tmp/update 2>&1 && ! grep -E '^(E|Err|W):' /tmp/update"
        vm.shell(update, 400)
        took("apt-get update")
        vm.send("reboot\n")
        vm.expect(r"freehold login:", 500)
        vm.expect(PROMPT)
        took("rebooted")
        assert vm.shell("cat /root/kept") == "kept\n"
        vm.send("poweroff\n")
        assert vm.status(180) == 0


def test_seabios():
    """A firmware image is entered at the reset vector and gets to its boot menu."""
    with Vm("--firmware", SEABIOS, "--memory", "64M", "--verbose") as vm:
        vm.errors.expect(r"SeaBIOS \(version", 60)
        vm.errors.expect(r"Press ESC for boot menu|No bootable device", 60)


def test_tables(busybox):
    """The guest finds ACPI tables, and an SMBIOS that names the machine."""
    with busybox() as vm:
        vm.expect(READY, 90)
        assert "APIC" in vm.shell("ls /sys/firmware/acpi/tables")
        assert vm.shell("cat /sys/class/dmi/id/sys_vendor").strip()
