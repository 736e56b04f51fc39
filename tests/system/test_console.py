"""The serial port's other ends, and the keys on a terminal."""

import os
import re
import socket
import termios
import time

import pytest


def test_ctrl_a_x(busybox):
    with busybox(on_terminal=True) as vm:
        vm.expect("fh: ready", 90)
        raw = termios.tcgetattr(vm.inner)
        assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        assert vm.shell("echo $((6 * 7))").strip() == "42"
        vm.send(b"\x01h")
        vm.errors.expect(r"Ctrl-A x", 10)
        vm.send(b"\x01x")
        assert vm.status(10) == 0
        assert termios.tcgetattr(vm.inner) == vm.before


def test_terminal_restored_after_poweroff(busybox):
    with busybox(on_terminal=True) as vm:
        vm.expect("fh: ready", 90)
        vm.send("poweroff -f\n")
        assert vm.status() == 0
        assert termios.tcgetattr(vm.inner) == vm.before


def test_ctrl_c_reaches_the_guest(busybox):
    with busybox(on_terminal=True) as vm:
        vm.expect("fh: ready", 90)
        vm.expect("/ # ")
        vm.send("echo started; cat\n")
        vm.expect(r"started\r*\n")
        time.sleep(1)  # until cat runs
        vm.send(b"\x03")
        vm.expect("/ # ")
        vm.shell("true")


def test_serial_file(busybox, tmp_path):
    log = tmp_path / "serial.log"
    with busybox("--serial", f"file:{log}", append="fh.run=true") as vm:
        assert vm.status(90) == 0
        assert vm.console.text == ""
    assert re.search(r"fh: ready: .*\r?\nfh: exit 0", log.read_text())


def test_serial_none(busybox):
    with busybox("--serial", "none", append="fh.run=true") as vm:
        assert vm.status(90) == 0
        assert vm.console.text == ""


def connect(path, timeout):
    deadline = time.monotonic() + timeout
    while True:
        try:
            link = socket.socket(socket.AF_UNIX)
            link.connect(path)
            return link
        except OSError:
            link.close()
            if time.monotonic() > deadline:
                pytest.fail(f"nobody listens on {path}")
            time.sleep(0.1)


def read_until(link, word):
    data = b""
    while word not in data:
        got = link.recv(4096)
        assert got, f"closed before {word}: {data[-500:]}"
        data += got


def test_serial_unix(busybox, tmp_path):
    path = os.path.join(tmp_path, "serial")
    with busybox("--serial", f"unix:{path}") as vm:
        with connect(path, 20) as link:
            link.settimeout(90)
            read_until(link, b"fh: ready")
            link.sendall(b"echo $((6 * 7))\n")
            read_until(link, b"42")
        with connect(path, 20) as link:
            link.settimeout(60)
            link.sendall(b"poweroff -f\n")
            assert vm.status() == 0
