"""A client on a bare socket, for everything a proper one would not do."""

import json
import os
import socket
import struct
from dataclasses import dataclass

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for that key, from the RFC

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def upgrade(host):
    return {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }


def request(path, headers, method="GET", version="HTTP/1.1"):
    """The head of a request; headers are a dict or a list of pairs, of text or bytes."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = [f"{method} {path} {version}".encode()]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in pairs if value is not None]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _bytes(value):
    return value if isinstance(value, bytes) else value.encode("latin-1")


@dataclass
class Frame:
    opcode: int
    payload: bytes
    final: bool = True
    reserved: int = 0

    @property
    def close_code(self):
        return struct.unpack("!H", self.payload[:2])[0] if len(self.payload) >= 2 else None


def frame(opcode, payload=b"", final=True, reserved=0, masked=True, announced=None):
    """A frame's bytes; `announced` lies about the length."""
    payload = payload.encode() if isinstance(payload, str) else payload
    length = len(payload) if announced is None else announced
    first = (0x80 if final else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask_bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    count = len(payload)
    repeated = (mask * (count // 4 + 1))[:count]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + mixed.to_bytes(count, "big")


class RawClient:
    def __init__(self, address, receive_buffer=None, seconds=5):
        """`address` is a port of this machine or the path of a unix socket."""
        is_port = isinstance(address, int)
        self.socket = socket.socket(socket.AF_INET if is_port else socket.AF_UNIX)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.connect(("127.0.0.1", address) if is_port else address)
        self._buffer = b""

    def send(self, data):
        self.socket.sendall(data)

    def send_frame(self, opcode, payload=b"", **options):
        self.send(frame(opcode, payload, **options))

    def response(self):
        """Status, headers (lower-case names) and, where announced, the body; None at once if the server closed."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None, {}, self._buffer
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if first.split()[1] != "101":
            body = self._exactly(int(headers.get("content-length", 0))) or b""
        return int(first.split()[1]), headers, body

    def read_frame(self):
        """The next frame, None at the end of the stream (a reset included)."""
        head = self._exactly(2)
        if head is None:
            return None
        length = head[1] & 0x7F
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(self._exactly(size) or b"", "big")
        payload = self._exactly(length)
        if payload is None:
            return None
        return Frame(head[0] & 15, payload, bool(head[0] & 0x80), head[0] >> 4 & 7)

    def read_text(self):
        got = self.read_frame()
        if got is None or got.opcode != TEXT or not got.final:
            raise AssertionError(f"a text frame was expected, came {got}")
        return got.payload.decode()

    def read_json(self):
        text = self.read_text()
        return text if text == "pong" else json.loads(text)

    def rest(self):
        """All frames up to the end of the stream."""
        frames = []
        while (got := self.read_frame()) is not None:
            frames.append(got)
        return frames

    def reset(self):
        """Ends the connection by an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()

    def _more(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        except TimeoutError:
            raise AssertionError(f"nothing arrived for {self.socket.gettimeout()} s") from None
        self._buffer += data
        return bool(data)

    def _exactly(self, count):
        while len(self._buffer) < count:
            if not self._more():
                return None
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data
