"""The HTTP API behind the server, as a stub that records what it is asked.

A check makes a plan: the answers wanted and a key. Whatever request carries the key, in a cookie or a token,
gets those answers and is recorded with the plan.
"""

import gzip
import json
import re
import socket
import socketserver
import struct
import threading
import time
import uuid
from dataclasses import dataclass, field

PREFIX = "/some/prefix/api/"


@dataclass
class Answer:
    """`raw` replaces the whole response, bytes on the wire; the connection ends after it."""

    body: object = b'{"allowed_rooms": []}'
    status: int = 200
    headers: dict = field(default_factory=lambda: {"Content-Type": "application/json"})
    seconds: float = 0
    until: threading.Event = None
    raw: bytes = None
    reset: bool = False
    compressed: bool = False
    chunked: bool = False

    def body_bytes(self):
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass
class Request:
    head: bytes
    body: bytes
    at: float

    @property
    def method(self):
        return self.head.split(b" ")[0].decode("latin-1")

    @property
    def target(self):
        return self.head.split(b" ")[1].decode("latin-1")

    @property
    def headers(self):
        """Pairs of lower-case name and value, the value byte for byte."""
        lines = self.head.split(b"\r\n")[1:]
        pairs = [line.split(b":", 1) for line in lines if line]
        return [(name.decode("latin-1").lower(), value.strip(b" \t")) for name, value in pairs]

    def header(self, name):
        """The value as text, None if absent; the bytes are kept (latin-1)."""
        values = [value for header, value in self.headers if header == name.lower()]
        if len(values) > 1:
            raise AssertionError(f"{name} was sent {len(values)} times: {values}")
        return values[0].decode("latin-1") if values else None


class Plan:
    def __init__(self, bootstrap, hook):
        self.key = f"plan-{uuid.uuid4().hex[:16]}"
        self.bootstrap = bootstrap
        self.hook = hook
        self.changed = threading.Condition()
        self._requests = []

    @property
    def cookie(self):
        return f"plan={self.key}"

    def record(self, request):
        with self.changed:
            self._requests.append(request)
            self.changed.notify_all()

    def requests(self, path=None):
        with self.changed:
            return [r for r in self._requests if path is None or r.target.split("?")[0] == PREFIX + path]

    def bootstraps(self):
        return self.requests("bootstrap/")

    def online(self):
        return self.requests("user/notify_online/")

    def offline(self):
        return self.requests("user/notify_offline/")

    def wait(self, path, count=1, seconds=5):
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                found = self.requests(path)
                if len(found) >= count:
                    return found
                if not self.changed.wait(deadline - time.monotonic()):
                    seen = [f"{r.method} {r.target}" for r in self._requests]
                    raise AssertionError(f"{count} request(s) of {path} wanted within {seconds} s, seen: {seen}")


class Backend:
    def __init__(self, socket_path=None):
        """On a free port of this machine, or on a unix socket."""
        self._plans = {}
        self.unplanned = []
        backend = self

        class Handler(_Handler):
            owner = backend

        if socket_path:
            self._server = _UnixServer(socket_path, Handler)
            self.host = "localhost"
        else:
            self._server = _Server(("127.0.0.1", 0), Handler)
            self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.api_url = f"http://{self.host}{PREFIX}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def plan(self, answer=None, hook=None):
        plan = Plan(answer or Answer(), hook or Answer(body=b""))
        self._plans[plan.key] = plan
        return plan

    def allowing(self, rooms, **more):
        """`rooms` as a list, or as the JSON text of one."""
        text = rooms if isinstance(rooms, str) else json.dumps(rooms)
        return self.plan(Answer(body=f'{{"allowed_rooms": {text}}}', **more))

    def find(self, head):
        found = re.search(rb"plan-[0-9a-f]{16}", head)
        return self._plans.get(found[0].decode()) if found else None


class _Quiet:
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # the server went away in the middle of an answer


class _Server(_Quiet, socketserver.ThreadingTCPServer):
    pass


class _UnixServer(_Quiet, socketserver.ThreadingUnixStreamServer):
    pass


class _Handler(socketserver.StreamRequestHandler):
    owner = None

    def handle(self):
        while True:
            head = self._head()
            if not head:
                return
            request = Request(head, self._body(head), time.monotonic())
            plan = self.owner.find(head)
            if plan is None:
                self.owner.unplanned.append(request)
                answer = Answer(status=403, body=b"{}")
            else:
                plan.record(request)
                answer = plan.bootstrap if "/bootstrap/" in request.target else plan.hook
            if not self._answer(request, answer):
                return

    def _head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(1 << 18)
            if not line:
                return b""
            head += line
        return head[:-4]

    def _body(self, head):
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
        if length:
            return self.rfile.read(int(length[1]))
        body = b""
        if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.I):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _answer(self, request, answer):
        """True if the connection can be used again."""
        if answer.until:
            answer.until.wait(60)
        time.sleep(answer.seconds)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return False
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            return False
        body, headers = answer.body_bytes(), dict(answer.headers)
        if answer.compressed and "gzip" in (request.header("accept-encoding") or ""):
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
            pieces = [body[i : i + 7] for i in range(0, len(body), 7)] + [b""]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        elif answer.status != 204:
            headers["Content-Length"] = len(body)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.wfile.write(f"HTTP/1.1 {answer.status} Answer\r\n{lines}\r\n".encode() + body)
        return True
