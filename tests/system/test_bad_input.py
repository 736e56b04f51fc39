"""Bad commands and files: one sentence on standard error, status 2, and nothing is touched."""

import os
import shutil
import socket
import subprocess
import tempfile

import pytest

from vm import ROOT, run

# {dir} is a folder with the files that `things` makes; the last column must be in the sentence.
KERNEL = ("--kernel", "{dir}/kernel")
CASES = {
    "no command line at all": ((), ""),
    "unknown option": ((*KERNEL, "--bogus"), "bogus"),
    "option without its value": ((*KERNEL, "--memory"), "memory"),
    "a stray word": ((*KERNEL, "stray"), "stray"),
    "kernel missing": (("--kernel", "{dir}/none"), "none"),
    "kernel unreadable": (("--kernel", "{dir}/unreadable"), "unreadable"),
    "kernel is a folder": (("--kernel", "{dir}"), ""),
    "kernel is not one": (("--kernel", "{dir}/text"), "text"),
    "kernel is empty": (("--kernel", "{dir}/empty"), "empty"),
    "kernel cut in its header": (("--kernel", "{dir}/cut-512"), "cut-512"),
    "kernel cut in its body": (("--kernel", "{dir}/cut-64k"), "cut-64k"),
    "initrd missing": ((*KERNEL, "--initrd", "{dir}/none"), "none"),
    "initrd larger than memory": ((*KERNEL, "--initrd", "{dir}/large", "--memory", "64M"), "large"),
    "initrd without a kernel": (("--initrd", "{dir}/text"), ""),
    "firmware missing": (("--firmware", "{dir}/none"), "none"),
    "firmware empty": (("--firmware", "{dir}/empty"), "empty"),
    "kernel and firmware": ((*KERNEL, "--firmware", "{dir}/firmware"), ""),
    "one byte of memory": ((*KERNEL, "--memory", "1"), "memory"),
    "no memory": ((*KERNEL, "--memory", "0"), "memory"),
    "memory beyond the host": ((*KERNEL, "--memory", "100T"), "memory"),
    "memory that overflows": ((*KERNEL, "--memory", "99999999999999999999G"), "memory"),
    "memory below zero": ((*KERNEL, "--memory", "-1G"), "memory"),
    "memory of words": ((*KERNEL, "--memory", "much"), "memory"),
    "no CPU": ((*KERNEL, "--cpus", "0"), "cpus"),
    "too many CPUs": ((*KERNEL, "--cpus", "100000"), "cpus"),
    "CPUs of words": ((*KERNEL, "--cpus", "two"), "cpus"),
    "unknown engine": ((*KERNEL, "--engine", "steam"), "steam"),
    "unknown CPU model": ((*KERNEL, "--cpu", "z80"), "z80"),
    "disk missing": ((*KERNEL, "--disk", "{dir}/none"), "none"),
    "disk is a folder": ((*KERNEL, "--disk", "{dir}"), ""),
    "unknown disk option": ((*KERNEL, "--disk", "{dir}/disk,colour=red"), "colour"),
    "unknown disk format": ((*KERNEL, "--disk", "{dir}/disk,format=tape"), "tape"),
    "read-only disk for writing": ((*KERNEL, "--disk", "{dir}/disk-ro"), "disk-ro"),
    "the same disk twice": ((*KERNEL, "--disk", "{dir}/disk", "--disk", "{dir}/disk"), "disk"),
    "unknown network": ((*KERNEL, "--net", "carrier-pigeon"), "carrier-pigeon"),
    "bad port forward": ((*KERNEL, "--net", "user,hostfwd=tcp::99999-:22"), "99999"),
    "port forward without a guest port": ((*KERNEL, "--net", "user,hostfwd=tcp::2222"), "2222"),
    "port in use": ((*KERNEL, "--net", "user,hostfwd=tcp::{port}-:22"), "{port}"),
    "unknown serial": ((*KERNEL, "--serial", "parallel"), "parallel"),
    "serial file in no folder": ((*KERNEL, "--serial", "file:{dir}/none/log"), "none/log"),
    "unknown console": ((*KERNEL, "--console", "parallel"), "parallel"),
    "console file in no folder": ((*KERNEL, "--console", "file:{dir}/none/log"), "none/log"),
    "counters in no folder": ((*KERNEL, "--stats", "{dir}/none/stats"), "none/stats"),
    "counters nowhere": ((*KERNEL, "--stats", ""), "--stats"),
    "trace in no folder": ((*KERNEL, "--trace", "{dir}/none/trace"), "none/trace"),
    "trace of unknown events": ((*KERNEL, "--trace", "{dir}/trace,events=fault:tea"), "tea"),
    "trace of no size": ((*KERNEL, "--trace", "{dir}/trace,size=0"), "size"),
    "trace with an unknown key": ((*KERNEL, "--trace", "{dir}/trace,colour=red"), "colour"),
    "blocks in no folder": ((*KERNEL, "--dump-blocks", "{dir}/none/blocks"), "none/blocks"),
    "blocks at no address": ((*KERNEL, "--dump-blocks", "{dir}/blocks,at=main"), "main"),
    "blocks with an unknown key": ((*KERNEL, "--dump-blocks", "{dir}/blocks,colour=red"), "colour"),
    "guest symbols missing": ((*KERNEL, "--guest-symbols", "{dir}/none"), "none"),
    "guest symbols that are none": ((*KERNEL, "--guest-symbols", "{dir}/text"), "text"),
    "code cache too small": ((*KERNEL, "--code-cache", "4K"), "code-cache"),
    "code cache too large": ((*KERNEL, "--code-cache", "8G"), "code-cache"),
    "two consoles": ((*KERNEL, "--console", "none", "--console", "none"), "console"),
    "console and serial on stdio":
        ((*KERNEL, "--serial", "stdio", "--console", "stdio"), "--console stdio"),
    "serial and console on stdio":
        ((*KERNEL, "--console", "stdio", "--serial", "stdio"), "--serial stdio"),
    "two serial ports on stdio":
        ((*KERNEL, "--serial", "stdio", "--serial", "stdio"), "--serial stdio"),
    "serial socket in no folder": ((*KERNEL, "--serial", "unix:{dir}/none/s"), "none/s"),
}


@pytest.fixture(scope="module")
def things(kernel):
    """A folder of files, good and bad, that an unprivileged user may read."""
    folder = tempfile.mkdtemp(prefix="freehold-test-")
    os.chmod(folder, 0o755)

    def put(name, content, mode=0o666):
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)

    with open(kernel, "rb") as file:
        whole = file.read()
    put("kernel", whole, 0o444)
    put("cut-512", whole[:512])
    put("cut-64k", whole[:65536])
    put("text", b"This is no kernel.\n" * 100)
    put("empty", b"")
    put("unreadable", whole, 0o000)
    put("firmware", bytes(65536))
    put("disk", bytes(1 << 20))
    put("disk-ro", bytes(1 << 20), 0o444)
    put("large", b"")
    os.truncate(os.path.join(folder, "large"), 128 << 20)
    yield folder
    shutil.rmtree(folder)


def unprivileged():
    """Root may read and write all files, so that its cases would not be bad input."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def listing(folder):
    return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                  for entry in os.scandir(folder))


def check_refused(done, word):
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("freehold: "), lines[0]
    assert word in lines[0], lines[0]
    assert done.stdout == "", done.stdout


@pytest.mark.parametrize("name", CASES)
def test_refused(things, name):
    args, word = CASES[name]
    before = listing(things)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        place = {"dir": things, "port": taken.getsockname()[1]}
        done = run("run", *(arg.format(**place) for arg in args), timeout=30,
                   prefix=unprivileged())
    check_refused(done, word.format(**place))
    assert listing(things) == before


def test_unknown_command():
    check_refused(run("fly"), "fly")


def test_disk_held_by_another(busybox, things):
    disk = os.path.join(things, "disk")
    with busybox("--disk", disk) as vm:
        vm.expect("fh: ready", 90)
        done = run("run", "--kernel", os.path.join(things, "kernel"), "--disk", disk)
        check_refused(done, "disk")
        assert vm.shell("echo alive") == "alive\n"
        done = run("run", "--kernel", os.path.join(things, "kernel"), "--disk",
                   f"{disk},readonly=on")
        check_refused(done, "disk")


def test_helps():
    """Asked for help, it gives it on standard output, with status 0."""
    for args, word in ((("--help",), "run"), (("run", "--help"), "--memory"),
                       (("run", "--engine", "help"), "soft"),
                       (("run", "--cpu", "help"), "x86-64-v3")):
        done = run(*args)
        assert done.returncode == 0, (args, done.stderr)
        assert word in done.stdout and done.stderr == ""


def test_full_cache_disk():
    """Image scripts on a full disk: one sentence, status 2, and nothing left of a half image."""
    script = """mount -t tmpfs -o size=4m tmpfs "$1" || exit 77
        XDG_CACHE_HOME=$1 "$2"; status=$?; find "$1" -type f; exit $status"""
    mounts = "-m" if os.geteuid() == 0 else "-Urm"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["unshare", mounts, "sh", "-c", script, "sh", folder,
                               os.path.join(ROOT, "images", "debian")],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode in (1, 77):
        pytest.skip(f"this host lets no user mount a small disk: {done.stderr.strip()}")
    check_refused(done, "free")
