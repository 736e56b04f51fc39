"""What system tests share: the guests' images and the closing line that tests/run collects."""

import os
import subprocess
import time

import pytest

from vm import FREEHOLD, ROOT, Vm

CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "freehold")


def make_image(name):
    done = subprocess.run([os.path.join(ROOT, "images", name)], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        pytest.fail(f"images/{name}: {done.stderr.strip()}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def binary():
    if not os.access(FREEHOLD, os.X_OK):
        pytest.exit(f"{FREEHOLD} is not there: run make first", 2)


@pytest.fixture(scope="session")
def kernel():
    make_image("kernel")
    return os.path.join(CACHE, "kernel", "vmlinuz")


@pytest.fixture(scope="session")
def initrd(kernel):
    del kernel
    make_image("busybox")
    return os.path.join(CACHE, "busybox", "initrd")


@pytest.fixture(scope="session")
def debian_image(initrd):
    del initrd
    make_image("debian")
    return os.path.join(CACHE, "debian", "debian.raw")


@pytest.fixture
def debian_disk(debian_image, tmp_path):
    """A copy of the Debian disk for one test."""
    disk = tmp_path / "debian.raw"
    subprocess.run(["cp", "--sparse=always", debian_image, str(disk)], check=True)
    disk.chmod(0o644)
    yield str(disk)
    disk.unlink()


@pytest.fixture
def busybox(kernel, initrd):
    """Starts the busybox guest: busybox("--cpus", "2", append="fh.net=dhcp")."""
    def start(*args, append="", on_terminal=False, memory="256M", console="ttyS0"):
        return Vm("--kernel", kernel, "--initrd", initrd, "--memory", memory, *args,
                  "--append", f"console={console} quiet {append}".strip(),
                  on_terminal=on_terminal)
    return start


@pytest.fixture
def debian(kernel, initrd, debian_disk):
    """Starts Debian on this test's disk."""
    def start(*args, append=""):
        return Vm("--kernel", kernel, "--initrd", initrd, "--memory", "1G",
                  "--disk", debian_disk, "--net", "user", *args,
                  "--append", f"console=ttyS0 quiet root=/dev/vda {append}".strip())
    return start


@pytest.fixture
def took(request):
    """took("what"): prints the seconds since the test began, for the log."""
    begun = time.monotonic()

    def note(what):
        text = f"{request.node.name}: {what} after {time.monotonic() - begun:.1f} s"
        request.config.pluginmanager.get_plugin("terminalreporter").write_line(text)
    return note


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    skipped = len(stats.get("skipped", []))
    for report in stats.get("skipped", []):
        terminalreporter.write_line(f"skipped {report.nodeid}: {report.longrepr[2]}")
    terminalreporter.write_line(
        f"{len(stats.get('passed', []))} passed, {failed} failed, {skipped} skipped")


