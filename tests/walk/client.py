"""A well-behaved client, by the `websockets` package."""

import json
import logging

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as dial

from checks import Mismatch, equal, unique

logging.getLogger("websockets").setLevel(logging.CRITICAL)


class Client:
    """Each frame it receives is checked: text, and JSON unless it is `pong`."""

    def __init__(self, url, headers=None, **options):
        options = {"compression": None, "user_agent_header": None, **options}
        self.socket = dial(
            url,
            additional_headers=headers,
            ping_interval=None,
            proxy=None,
            max_size=None,
            max_queue=None,
            close_timeout=5,
            legacy=True,
            **options,
        )

    def send(self, message):
        """Text and bytes as they are, anything else as JSON."""
        self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def receive_text(self, seconds=5):
        try:
            message = self.socket.recv(seconds)
        except TimeoutError:
            raise Mismatch("receiving", "a frame", f"nothing for {seconds} s") from None
        except ConnectionClosed as closed:
            raise Mismatch("receiving", "a frame", f"end of the connection: {closed}") from None
        if not isinstance(message, str):
            raise Mismatch("kind of frame", "text", f"binary {message!r}")
        return message

    def receive(self, seconds=5):
        text = self.receive_text(seconds)
        if text == "pong":
            return text
        try:
            return json.loads(text)
        except ValueError:
            raise Mismatch("frame", "JSON or pong", text) from None

    def ask(self, message, seconds=5):
        self.send(message)
        return self.receive(seconds)

    def expect(self, message, reply):
        shown = message if isinstance(message, (str, bytes)) else json.dumps(message)
        equal(self.ask(message), reply, f"reply to {shown[:300]}")

    def subscribe(self, room, request_id):
        self.expect({"type": "subscribe", "room": room, "requestId": request_id}, SUCCESS)

    def unsubscribe(self, request_id):
        self.expect({"type": "unsubscribe", "requestId": request_id}, SUCCESS)

    def status(self):
        return self.ask({"type": "status"})

    def before_marker(self, publish, room, copies=1):
        """Sends a trigger to `room` and returns what arrived before it: what is absent was not delivered."""
        marker = unique("marker")
        publish({"rooms": [room], "data": marker})
        frames = []
        while copies:
            frame = self.receive()
            if isinstance(frame, dict) and frame.get("data") == marker:
                copies -= 1
            else:
                frames.append(frame)
        return frames

    def ended(self, seconds=5):
        """Waits for the end: the close code and reason, None without a close frame; extra frames are an error."""
        try:
            message = self.socket.recv(seconds)
        except TimeoutError:
            raise Mismatch("connection", "its end", f"still open after {seconds} s") from None
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, None)
        raise Mismatch("connection", "its end", message)

    def close(self, code=1000, reason=""):
        self.socket.close(code, reason)


SUCCESS = {"code": "success"}


def error(message, connection=None):
    """An error reply, with the id of the connection where the reply carries one."""
    reply = {"code": "error", "message": message}
    return {"requestId": connection, **reply} if connection else reply


def publication(data, request_id):
    return {"type": "publish", "data": data, "requestId": request_id}
