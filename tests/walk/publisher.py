"""The two ways to send a trigger: as a backend would, by RabbitMQ or by HTTP."""

import http.client
import json
import time

import pika

from checks import Mismatch, equal, holds

EXCHANGE, KEY = "hightemplar", "*"


def body_bytes(trigger):
    """Bytes and text as they are, anything else as JSON."""
    if isinstance(trigger, bytes):
        return trigger
    return (trigger if isinstance(trigger, str) else json.dumps(trigger)).encode()


class ByAmqp:
    way = "amqp"

    def __init__(self, url):
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0  # nothing answers heartbeats between two checks
        self._connection = pika.BlockingConnection(self._parameters)
        self.channel = self._connection.channel()

    def __call__(self, trigger, key=KEY, properties=None):
        self.channel.basic_publish(EXCHANGE, key, body_bytes(trigger), properties)

    def refused(self, trigger):
        """A trigger that has to be dropped; the publisher does not hear of it."""
        self(trigger)

    def new_channel(self):
        return self._connection.channel()

    def close(self):
        if self._connection.is_open:
            self._connection.close()


class ByPost:
    way = "post"

    def __init__(self, server):
        self._server = server
        self._connection = None
        self._used = 0

    def __call__(self, trigger):
        status, answer = self.attempt(trigger)
        equal([status, answer], [200, {"code": "success"}], "answer to POST /trigger/")

    def refused(self, trigger):
        status, answer = self.attempt(trigger)
        equal(status, 400, f"status of POST /trigger/ with {body_bytes(trigger)[:200]!r}, answered {answer}")
        holds(
            isinstance(answer, dict) and answer.get("code") == "error" and isinstance(answer.get("message"), str),
            "answer to POST /trigger/",
            '{"code":"error","message":"..."}',
            answer,
        )
        return answer["message"]

    def attempt(self, trigger, headers=None):
        """Status and answer as JSON. No Content-Type is sent unless given."""
        if time.monotonic() - self._used > 2:
            self.close()  # the server ends connections that were idle for five seconds
        self._used = time.monotonic()
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._server.internal_port, timeout=15)
        try:
            self._connection.request("POST", "/trigger/", body_bytes(trigger), headers or {})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        try:
            return response.status, json.loads(text)
        except ValueError:
            raise Mismatch("answer to POST /trigger/", "JSON", f"{response.status} {text!r}") from None

    def close(self):
        if self._connection:
            self._connection.close()
        self._connection = None
