"""One running `freehold run` and a hand on its serial console."""

import fcntl
import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FREEHOLD = os.environ.get("FREEHOLD_BIN", os.path.join(ROOT, "build", "freehold"))
# Each limit is multiplied by this on a slower host.
PATIENCE = float(os.environ.get("FREEHOLD_PATIENCE", "1"))


class Console(threading.Thread):
    """Collects what a file descriptor gives, so that the VM never waits for the reader."""

    def __init__(self, fd):
        super().__init__(daemon=True)
        self.fd = fd
        self.text = ""
        self.seen = 0  # how much of the text was matched already
        self.ended = False
        self.changed = threading.Condition()
        self.start()

    def run(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # a pty whose other end is closed
                data = b""
            with self.changed:
                self.text += data.decode("utf-8", "replace")
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    def expect(self, pattern, timeout):
        """The match of `pattern` in what came since the last match."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                match = re.compile(pattern).search(self.text, self.seen)
                if match:
                    self.seen = match.end()
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError(self.complaint(pattern, timeout))
                self.changed.wait(min(left, 1))

    def complaint(self, pattern, timeout):
        why = "the console was closed" if self.ended else f"not within {timeout:.0f} s"
        tail = "\n".join(self.text[-4000:].splitlines()[-40:])
        return f"no {pattern!r} on the console: {why}; it ends so:\n{tail}"


def take_terminal():
    """Between fork and exec: standard input becomes the session's controlling terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Vm:
    """`with Vm(...) as vm`: the process is gone afterwards, whatever happened.

    The arguments are those of `freehold run`; `command` is another program to run instead."""

    def __init__(self, *args, on_terminal=False, command=None):
        self.command = command or [FREEHOLD, "run", *args]
        self.on_terminal = on_terminal
        if on_terminal:
            self.terminal, inner = pty.openpty()
            self.inner = inner
            self.before = termios.tcgetattr(inner)
            self.process = subprocess.Popen(self.command, stdin=inner, stdout=inner,
                                            stderr=subprocess.PIPE, start_new_session=True,
                                            preexec_fn=take_terminal)
            self.input, output = self.terminal, self.terminal
        else:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                            start_new_session=True)
            self.input, output = self.process.stdin.fileno(), self.process.stdout.fileno()
        self.console = Console(output)
        self.errors = Console(self.process.stderr.fileno())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.on_terminal:
            os.close(self.inner)
            os.close(self.terminal)

    def expect(self, pattern, timeout=60):
        return self.console.expect(pattern, timeout * PATIENCE)

    def send(self, data):
        os.write(self.input, data if isinstance(data, bytes) else data.encode())

    def shell(self, command, timeout=60):
        """Runs a command in the guest's shell; it must end with status 0. Gives its output."""
        # The quotes keep the echo of the command line from looking like the answer.
        self.send(f'echo "fh:"begin; {command}; echo "fh:"end:$?\n')
        begin = self.expect(r"fh:begin\r*\n", timeout).end()
        match = self.expect(r"fh:end:(\d+)\r*\n", timeout)
        output = self.console.text[begin:match.start()].replace("\r", "")
        assert match.group(1) == "0", f"{command!r} ended with {match.group(1)}: {output}"
        return output

    def status(self, timeout=60):
        """The exit status of `freehold`, which must end by itself."""
        try:
            return self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.console.complaint("end of freehold", timeout)) from None


def run(*args, timeout=60, prefix=()):
    """`freehold ARGS` to its end, without a terminal."""
    return subprocess.run([*prefix, FREEHOLD, *args], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout * PATIENCE, check=False)
