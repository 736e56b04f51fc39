"""What a guest wrote and synced is on the host's disk image, and there at the next boot."""

import hashlib
import os

MIB = 1 << 20


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(MIB), b""):
            digest.update(block)
    return digest.hexdigest()


def random_file(path, size):
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return str(path)


def test_256_mib_survive(busybox, tmp_path, took):
    source = random_file(tmp_path / "source.raw", 256 * MIB)
    target = tmp_path / "target.raw"
    target.touch()
    os.truncate(target, 256 * MIB)
    want = sha256_of(source)

    disks = ("--disk", f"{source},readonly=on", "--disk", f"{target},serial=target")
    copy = "dd if=/dev/vda of=/dev/vdb bs=1M && sync && cat /sys/block/vdb/serial && echo"
    with busybox(*disks) as vm:
        vm.expect("fh: ready", 90)
        assert "target" in vm.shell(copy, 300)
        took("written")
        vm.send("poweroff -f\n")
        assert vm.status() == 0
    assert sha256_of(target) == want

    with busybox("--disk", str(target)) as vm:
        vm.expect("fh: ready", 90)
        assert vm.shell("sha256sum /dev/vda", 400).split()[0] == want
        took("read back")
        vm.send("poweroff -f\n")
        assert vm.status() == 0


def test_readonly_disk(busybox, tmp_path):
    disk = random_file(tmp_path / "disk.raw", MIB)
    before = sha256_of(disk)
    with busybox("--disk", f"{disk},readonly=on") as vm:
        vm.expect("fh: ready", 90)
        assert vm.shell("cat /sys/block/vda/ro") == "1\n"
        vm.shell("! echo changed >/dev/vda; sync")
        vm.send("poweroff -f\n")
        assert vm.status() == 0
    assert sha256_of(disk) == before
