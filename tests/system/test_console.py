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
        # The shell's child says so itself: before it is in the foreground, Ctrl-C would go to the
        # shell, and to a child that has yet to take signals.
        vm.send("sh -c 'echo started; exec cat'\n")
        vm.expect(r"started\r*\n")
        vm.send(b"\x03")
        vm.expect("/ # ")
        vm.shell("true")


def test_virtio_console(busybox):
    """A shell on hvc0, with more text both ways than the queues hold."""
    with busybox("--console", "stdio", console="hvc0") as vm:
        vm.expect("fh: ready", 90)
        assert vm.shell("echo $((6 * 7))").strip() == "42"
        assert vm.shell("tty").strip() == "/dev/hvc0"
        assert vm.shell("seq 1 20000", 120).split() == [str(i) for i in range(1, 20001)]
        vm.send("stty -echo; wc -c; stty echo\n" + 500 * (39 * "x" + "\n") + "\x04")
        vm.expect(r"\b20000\b")
        assert vm.shell("cat /proc/cmdline").split()[0] == "console=hvc0"
        vm.send("poweroff -f\n")
        assert vm.status() == 0


def test_virtio_console_on_terminal(busybox):
    with busybox("--console=stdio", console="hvc0", on_terminal=True) as vm:
        vm.expect("fh: ready", 90)
        assert vm.shell("echo $((6 * 7))").strip() == "42"
        vm.send(b"\x01x")
        assert vm.status(10) == 0
        assert termios.tcgetattr(vm.inner) == vm.before


def test_virtio_console_beside_serial(busybox, tmp_path):
    """Output waits for a reader who comes late, and the serial port is another place."""
    path = os.path.join(tmp_path, "console")
    with busybox("--console", f"unix:{path}") as vm:
        vm.expect("fh: ready", 90)
        with connect(path, 20) as link:
            link.settimeout(60)
            # Raw, since Linux else writes each line and its end apart.
            vm.send("(stty raw -F /dev/hvc0; seq 1 60000; echo all of it) >/dev/hvc0 &\n")
            time.sleep(5)  # by now the socket is full
            text = read_until(link, b"all of it")
            assert text.split()[:60000] == [b"%d" % i for i in range(1, 60001)]
        assert vm.shell("echo alive") == "alive\n"
        vm.send("poweroff -f\n")
        assert vm.status() == 0


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
    return data


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
