"""An HTTP/2 client on one connection without TLS, with what ordinary ones lack: crumbs of cookies, and WebSockets."""

import json
import socket
import time

import h2.connection
import h2.events
import h2.settings
import raw


class Http2:
    def __init__(self, port, source="127.0.0.1", seconds=10):
        self.deadline = time.monotonic() + seconds
        self.socket = socket.create_connection(("127.0.0.1", port), seconds, (source, 0))
        self.connection = h2.connection.H2Connection()
        self.connection.initiate_connection()
        self._flush()
        self.heads, self.bodies, self.ended = {}, {}, set()
        self._has_settings = False
        self.until(lambda: self._has_settings, "the settings of the proxy")

    @property
    def takes_websockets(self):
        """Whether the peer knows RFC 8441."""
        return self.connection.remote_settings.enable_connect_protocol == 1

    def request(self, path, host, headers=(), method="GET", protocol=None):
        """Sends a head, and returns the number of its stream. `headers` are pairs, sent in their order."""
        stream = self.connection.get_next_available_stream_id()
        method = "CONNECT" if protocol else method
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", host)]
        if protocol:
            pseudo.append((":protocol", protocol))
        self.connection.send_headers(stream, [*pseudo, *headers], end_stream=not protocol)
        self.bodies[stream] = b""
        self._flush()
        return stream

    def status(self, stream):
        self.until(lambda: stream in self.heads, "a response")
        return int(self.heads[stream][":status"])

    def events(self, stream, count):
        """The data of the first events of a stream of events."""

        def found():
            return [line[6:] for line in self.bodies[stream].split(b"\n") if line.startswith(b"data: ")]

        self.until(lambda: len(found()) >= count and self.bodies[stream].endswith(b"\n\n"), f"{count} events")
        return [json.loads(line) for line in found()[:count]]

    def send_text(self, stream, value):
        self.connection.send_data(stream, raw.frame(raw.TEXT, json.dumps(value)))
        self._flush()

    def receive_text(self, stream):
        """The next text frame of a WebSocket."""
        while True:
            self.until(lambda: _frame(self.bodies[stream]), "a frame")
            opcode, payload, self.bodies[stream] = _frame(self.bodies[stream])
            if opcode == raw.TEXT:
                return json.loads(payload)

    def until(self, condition, what):
        while not condition():
            self.socket.settimeout(max(0.01, self.deadline - time.monotonic()))
            received = self.socket.recv(65_536)
            if not received:
                raise AssertionError(f"the connection ended before {what}")
            for event in self.connection.receive_data(received):
                self._note(event)
            self._flush()

    def _note(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._has_settings = True
        elif isinstance(event, h2.events.ResponseReceived):
            self.heads[event.stream_id] = {_text(name): _text(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.ended.add(event.stream_id)
            if event.stream_id not in self.heads:
                raise AssertionError(f"the stream ended without a response: {event}")

    def _flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def close(self):
        self.socket.close()


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _frame(data):
    """Opcode and payload of the first whole frame, and what is behind it; None if there is none."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        return None
    return data[0] & 15, data[start : start + length], data[start + length :]
