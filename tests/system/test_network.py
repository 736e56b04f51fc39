"""100 MiB through the user network in and, through a port forward, out again."""

import hashlib
import http.server
import os
import socket
import threading
import urllib.request

MIB = 1 << 20
DATA = os.urandom(MIB)
COUNT = 100


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(COUNT * MIB))
        self.end_headers()
        for _ in range(COUNT):
            self.wfile.write(DATA)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch_digest(url, timeout):
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        for block in iter(lambda: answer.read(MIB), b""):
            digest.update(block)
    return digest.hexdigest()


def test_100_mib_in_and_out(busybox, took):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    want = hashlib.sha256(DATA * COUNT).hexdigest()
    port = free_port()
    with busybox("--net", f"user,hostfwd=tcp::{port}-:80", append="fh.net=dhcp",
                 memory="512M") as vm:
        vm.expect(r"fh: net 10\.0\.2\.15", 90)
        vm.expect("fh: ready", 30)
        vm.shell(f"wget -q -O /tmp/data http://10.0.2.2:{server.server_port}/", 300)
        took("fetched")
        assert vm.shell("sha256sum /tmp/data", 300).split()[0] == want
        vm.shell("httpd -p 80 -h /tmp")
        assert fetch_digest(f"http://127.0.0.1:{port}/data", 300) == want
        took("sent back")
        vm.send("poweroff -f\n")
        assert vm.status() == 0
    server.shutdown()
    server.server_close()


def test_no_network(busybox):
    with busybox("--net", "none") as vm:
        vm.expect("fh: ready", 90)
        assert vm.shell("ls /sys/class/net") == "lo\n"
