"""What tests/bench/memory and tests/bench/floods share: a server of their own, and clients that stop in the middle.

Usual HTTP clients do not send all but one byte, nor leave an answer unread. So this speaks HTTP/1.1 and HTTP/2 by hand, and
only as much of them as that takes. Python's standard library is enough.
"""

import hashlib
import json
import os
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

MIB = 1024 * 1024
# The password is "badmin"; the cost is 5.
ADMIN = "$2y$05$LO.vzwpWC5LZGqThvEfznu8qhb5SGqvBSWY1J3yZ4AxtMRZ3kN5jC"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "sha256:" + hashlib.sha256(b"{}").hexdigest()


def allow_many_files():
    """Each client of a flood is a descriptor of ours."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server:
    """The program, over an empty directory; removed with all it holds at the end."""

    def __init__(self, port, more="", tls=False, program=None):
        self.port = port
        self.tls = tls
        self.directory = tempfile.mkdtemp(prefix="boathouse-bench.")
        program = program or os.environ.get("BOATHOUSE", "target/debug/boathouse")
        secure = "tls: auto\n" if tls else ""
        config = (
            "version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.directory}/data}}, delete: {{enabled: true}}}}\n"
            f"state_directory: {self.directory}/state\n"
            f'http: {{addr: "127.0.0.1:{port}", http2: {{disabled: false}}}}\n{secure}{more}\n'
        )
        os.mkdir(os.path.join(self.directory, "data"))
        path = os.path.join(self.directory, "registry.yml")
        with open(path, "w") as file:
            file.write(config)
        self.log = open(os.path.join(self.directory, "log"), "w+")
        self.process = subprocess.Popen(
            [program, "serve", "--config", path], stdout=self.log, stderr=self.log
        )
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        self.log.seek(0)
        sys.exit(f"the server does not start:\n{self.log.read()}")

    def connect(self, source=None, small_buffer=False, alpn=None, plain=False):
        """A connection, through TLS where the server speaks it."""
        stream = socket.socket()
        if small_buffer:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.settimeout(30)
        if source:
            stream.bind((source, 0))
        stream.connect(("127.0.0.1", self.port))
        if self.tls and not plain:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if alpn:
                context.set_alpn_protocols([alpn])
            stream = context.wrap_socket(stream, server_hostname="localhost")
        return stream

    def send(self, method, path, body=None, headers=None):
        """One whole request; the status, the headers, the body."""
        scheme = "https" if self.tls else "http"
        url = path if path.startswith("http") else f"{scheme}://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
        context = ssl._create_unverified_context() if self.tls else None
        try:
            with urllib.request.urlopen(request, context=context) as answer:
                return answer.status, lower(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, lower(error.headers), error.read()

    def push_empty_config(self, name):
        status, _, body = self.send(
            "POST", f"/v2/{name}/blobs/uploads/?digest={EMPTY}", b"{}", {"Content-Type": "application/octet-stream"}
        )
        assert status == 201, (status, body)

    def push_manifest(self, name, reference, manifest):
        status, _, body = self.send("PUT", f"/v2/{name}/manifests/{reference}", manifest, {"Content-Type": MANIFEST})
        assert status == 201, (status, body[:200])
        return "sha256:" + hashlib.sha256(manifest).hexdigest()

    def memory_mib(self, field):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
        return 0

    def forget_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def manifest(size_bytes, number=0, subject=None):
    """A manifest of this length, whose annotations make up the length, each number with other bytes."""
    text = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x.bench",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY, "size": 2},
        "layers": [],
        "annotations": {"number": str(number)},
    }
    if subject:
        text["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 2}
    pieces = max(1, size_bytes // 10_000)
    spare = size_bytes - len(json.dumps(text)) - pieces * 24
    for piece in range(pieces):
        text["annotations"][f"a{piece:09}"] = "x" * (spare // pieces)
    bytes_ = json.dumps(text).encode()
    return bytes_ + b" " * (size_bytes - len(bytes_))


class Http2:
    """One HTTP/2 connection, by prior knowledge or ALPN: enough to send bodies that do not end and to see statuses."""

    def __init__(self, stream, window_bytes=65_535):
        self.stream = stream
        self.stream.settimeout(None)
        self.lock = threading.Condition()
        self.window = 65_535
        self.initial = 65_535
        self.windows = {}
        self.frame_bytes = 16_384
        self.next_id = 1
        self.statuses = {}
        self.ended = False
        settings = struct.pack(">HI", 4, window_bytes)
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings))
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        buffer = b""
        try:
            while True:
                while len(buffer) < 9:
                    buffer += self.more()
                length = int.from_bytes(buffer[:3], "big")
                kind, flags, number = buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big")
                while len(buffer) < 9 + length:
                    buffer += self.more()
                self.take(kind, flags, number, buffer[9 : 9 + length])
                buffer = buffer[9 + length :]
        except (OSError, EOFError):
            with self.lock:
                self.ended = True
                self.lock.notify_all()

    def more(self):
        bytes_ = self.stream.recv(65_536)
        if not bytes_:
            raise EOFError
        return bytes_

    def take(self, kind, flags, number, payload):
        with self.lock:
            if kind == 8:
                more = int.from_bytes(payload, "big")
                if number == 0:
                    self.window += more
                else:
                    self.windows[number] = self.windows.get(number, self.initial) + more
            elif kind == 4 and not flags & 1:
                for at in range(0, len(payload), 6):
                    name, value = struct.unpack(">HI", payload[at : at + 6])
                    if name == 4:
                        for known in self.windows:
                            self.windows[known] += value - self.initial
                        self.initial = value
                self.stream.sendall(frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                self.stream.sendall(frame(6, 1, 0, payload))
            elif kind == 1:
                known = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
                self.statuses.setdefault(number, known.get(payload[0], "another"))
            elif kind == 3:
                self.statuses.setdefault(number, "reset")
            self.lock.notify_all()

    def request(self, method, path, headers=(), ends=False):
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), *headers]
        block = b"".join(literal(name, value) for name, value in fields)
        with self.lock:
            number = self.next_id
            self.next_id += 2
            self.windows[number] = self.initial
            self.stream.sendall(frame(1, 4 | (1 if ends else 0), number, block))
        return number

    def data(self, number, bytes_, patience_secs=5):
        """Sends these bytes of a body, as far as the server takes them; tells how many that were."""
        sent = 0
        while sent < len(bytes_):
            with self.lock:
                room = lambda: min(self.window, self.windows[number], self.frame_bytes, len(bytes_) - sent)
                if not self.lock.wait_for(lambda: self.ended or number in self.statuses or room() > 0, patience_secs):
                    return sent
                if self.ended or number in self.statuses:
                    return sent
                count = room()
                self.window -= count
                self.windows[number] -= count
                self.stream.sendall(frame(0, 0, number, bytes_[sent : sent + count]))
            sent += count
        return sent


def frame(kind, flags, number, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload


def literal(name, value):
    """A header that is not indexed, and not Huffman-coded (RFC 7541 section 6.2.2)."""
    return b"\0" + text(name) + text(value)


def text(value):
    bytes_ = value.encode()
    if len(bytes_) < 127:
        return bytes([len(bytes_)]) + bytes_
    rest = len(bytes_) - 127
    length = bytes([127])
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + bytes_
