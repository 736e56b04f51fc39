"""What is measured of whole machines: boots, apt-get update, two busy vCPUs.

apt-get's archive is a proxy in this process, which keeps what it fetched once, so that all places
get the same bytes equally fast.
"""

import http.server
import os
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import catalog
import places

PROMPT = r"root@freehold:~# "
BUSYBOX_APPEND = "console=ttyS0 quiet"
DEBIAN_APPEND = "console=ttyS0 quiet root=/dev/vda"
LIMIT_S = 300


class Proxy(http.server.BaseHTTPRequestHandler):
    """Fetches each address once."""

    def do_GET(self):
        kept = self.server.kept
        with self.server.lock:
            if self.path not in kept:
                kept[self.path] = self.fetch(self.path)
        status, data = kept[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @staticmethod
    def fetch(address):
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return 200, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except OSError:
            return 502, b""

    def log_message(self, *_):
        pass


def proxy_start():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.kept, server.lock = {}, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def seconds(process, begun, clock):
    return places.process_cpu_s(process.pid) if clock == "cpu" else time.monotonic() - begun


def boot_s(monitor, clock):
    """The cloud kernel with the small initrd, to init's message."""
    begun = time.monotonic()
    with places.Vm(command=monitor({"initrd": places.INITRD, "append": BUSYBOX_APPEND,
                                    "memory": "256M"})) as vm:
        vm.expect("fh: ready", LIMIT_S)
        return seconds(vm.process, begun, clock)


def debian_s(monitor, clock, proxy):
    """Debian with systemd: (to the prompt, apt-get update)."""
    update = "rm -rf /var/lib/apt/lists/*; apt-get -q update " \
             f"-o Acquire::http::Proxy=http://10.0.2.2:{proxy.server_port} >/tmp/update 2>&1 " \
             "&& ! grep -E '^(E|Err|W):' /tmp/update"
    with tempfile.TemporaryDirectory(dir=catalog.OUT) as folder:
        disk = os.path.join(folder, "debian.raw")
        subprocess.run(["cp", "--sparse=always", "--no-preserve=mode",
                        os.path.join(catalog.CACHE, "debian", "debian.raw"), disk], check=True)
        begun = time.monotonic()
        with places.Vm(command=monitor({"initrd": places.INITRD, "append": DEBIAN_APPEND,
                                        "net": "user", "disk": disk})) as vm:
            vm.expect(PROMPT, LIMIT_S)
            booted = seconds(vm.process, begun, clock)
            vm.shell(update, LIMIT_S)  # fills the proxy, brings up the network
            begun, before = time.monotonic(), seconds(vm.process, 0, "cpu")
            vm.shell(update, LIMIT_S)
            used = seconds(vm.process, begun, clock)
            return booted, used - (before if clock == "cpu" else 0)


def guests_measure(monitors, clock, rounds):
    """Seconds by what and monitor, the best of each."""
    proxy = proxy_start()
    best = {}
    for number in range(rounds):
        for name, monitor in monitors.items():
            if number > 0 and name == "tcg":
                continue
            debian, update = debian_s(monitor, clock, proxy)
            took = {"boot of the cloud kernel to init": boot_s(monitor, clock),
                    "Debian with systemd to login": debian, "apt-get update in it": update}
            for what, value in took.items():
                kept = best.setdefault(what, {})
                kept[name] = min(value, kept.get(name, value))
    proxy.shutdown()
    return best


SCALING_ROUNDS = 5  # short ones: a ratio of four times needs all of them undisturbed


def scaling_measure(monitor, rounds):
    """How much a second busy vCPU is worth, against a second thread natively, by program.

    At most 1: where once took longer than twice, something else ran."""
    pairs = [program for program in catalog.scaling() if program.name.endswith("-1")]
    where = (places.Native(False, 2), places.Guest("freehold", monitor, {"cpus": "2"}))
    found = {}
    for program in pairs:
        turns = [(place, name) for place in where
                 for name in (program.name, program.name[:-1] + "2")]
        best = [float("inf")] * len(turns)
        for _ in range(max(rounds, SCALING_ROUNDS)):
            took = [place.run(f"{name} {program.count}").own_s for place, name in turns]
            best = list(map(min, best, took))
        found[program.name[:-2]] = (min(1, best[0] / best[1]), min(1, best[2] / best[3]))
    for place in where:
        place.close()
    return found
