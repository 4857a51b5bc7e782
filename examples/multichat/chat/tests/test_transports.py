import json
import os
import socket
import subprocess
import threading
import time
import unittest
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pika
from django.test import SimpleTestCase, override_settings

from chat import sidecar
from chat.amqp import AmqpTransport
from chat.errors import Refused, Unavailable
from chat.sidecar import HttpTransport

TRIGGER = {"rooms": [{"room": "a"}], "data": "hello", "id": "1"}
NOBODY = "http://127.0.0.1:9"


class Stub:
    """A server that answers everything with `status` and `body`, and remembers what came."""

    def __init__(self, status: int = 200, body: bytes = b"{}") -> None:
        got = self.got = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                got.append((self.path, self.headers.get("Authorization"), content and json.loads(content)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Http(SimpleTestCase):
    def stub(self, *answer) -> Stub:
        stub = Stub(*answer)
        self.addCleanup(stub.stop)
        return stub

    def publish(self, *urls: str) -> None:
        with override_settings(SIDECAR_INTERNAL=list(urls)):
            HttpTransport().publish("trigger", TRIGGER)

    def test_triggers_and_control_messages_are_posted_with_the_token(self):
        stub = self.stub()
        with override_settings(SIDECAR_INTERNAL=[stub.url + "/"], INTERNAL_TOKEN="secret"):
            HttpTransport().publish("trigger", TRIGGER)
            HttpTransport().publish("control", {"action": "forget"})
        token = "Bearer secret"
        self.assertEqual(stub.got, [("/trigger/", token, TRIGGER), ("/control/", token, {"action": "forget"})])

    def test_what_may_pass_is_tried_again_and_what_never_will_is_not(self):
        for status, error in [(400, Refused), (413, Refused), (401, Unavailable), (403, Unavailable), (503, Unavailable)]:
            with self.assertRaisesRegex(error, str(status)):
                self.publish(self.stub(status).url)
        with self.assertRaises(Unavailable):
            self.publish(NOBODY)
        with self.assertRaises(Unavailable):
            self.publish(self.stub(200, b"<html>").url)

    def test_the_next_address_is_tried(self):
        away, there = self.stub(503), self.stub()
        self.publish(NOBODY, away.url, there.url)
        self.assertEqual((len(away.got), len(there.got)), (1, 1))

    def test_a_position_is_told_or_is_none(self):
        for url, position in [(self.stub(200, b'{"position":"e:1"}').url, "e:1"), (self.stub(503).url, None), (NOBODY, None)]:
            with override_settings(SIDECAR_INTERNAL=[url]):
                self.assertEqual(sidecar.position(), position)


@unittest.skipUnless(os.environ.get("HIGH_TEMPLAR"), "HIGH_TEMPLAR does not name the program")
class HighTemplar(SimpleTestCase):
    def setUp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        environment = {"API_URL": NOBODY, "LISTEN": "127.0.0.1:0", "INTERNAL_LISTEN": address, "LOG": "error"}
        process = subprocess.Popen([os.environ["HIGH_TEMPLAR"]], env=environment)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        settings = override_settings(SIDECAR_INTERNAL=[f"http://{address}"])
        settings.enable()
        self.addCleanup(settings.disable)
        deadline = time.monotonic() + 20
        while sidecar.position() is None:
            self.assertLess(time.monotonic(), deadline, "high-templar does not answer")
            time.sleep(0.02)

    def test_it_takes_what_we_publish_once_for_each_id(self):
        before = sidecar.position()
        for _ in range(2):
            HttpTransport().publish("trigger", TRIGGER)
        HttpTransport().publish("control", {"action": "reauthorize", "user": "17"})
        self.assertNotEqual(sidecar.position(), before)
        for kind, body in [("trigger", {"rooms": []}), ("control", {"action": "dance"})]:
            with self.assertRaises(Refused):
                HttpTransport().publish(kind, body)


@unittest.skipUnless(os.environ.get("TEST_AMQP_URL"), "TEST_AMQP_URL does not name a RabbitMQ")
class Amqp(SimpleTestCase):
    def setUp(self) -> None:
        self.url, self.exchange = os.environ.get("TEST_AMQP_URL"), f"multichat-{uuid.uuid4().hex}"
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.addCleanup(connection.close)
        self.channel = connection.channel()
        self.transport = self.transport_to(self.url)

    def transport_to(self, *urls: str) -> AmqpTransport:
        transport = AmqpTransport(list(urls), self.exchange)
        self.addCleanup(transport.close)
        return transport

    def declare(self, *routing_keys: str) -> None:
        self.channel.exchange_declare(self.exchange, "direct", auto_delete=True)
        self.queue = self.channel.queue_declare("", exclusive=True).method.queue
        for routing_key in routing_keys:
            self.channel.queue_bind(self.queue, self.exchange, routing_key)

    def received(self) -> list:
        rows = []
        while (row := self.channel.basic_get(self.queue, auto_ack=True))[0]:
            rows.append((row[0].routing_key, json.loads(row[2])))
        return rows

    def test_triggers_and_control_messages_have_the_routing_keys_of_high_templar(self):
        self.declare("*", "control")
        self.transport.publish("trigger", TRIGGER)
        self.transport.publish("control", {"action": "forget"})
        self.assertEqual(self.received(), [("*", TRIGGER), ("control", {"action": "forget"})])

    def test_what_nobody_would_get_is_not_published(self):
        with self.assertRaisesRegex(Unavailable, "NOT_FOUND"):
            self.transport.publish("trigger", TRIGGER)
        self.declare("control")
        with self.assertRaisesRegex(Unavailable, "Unroutable"):
            self.transport.publish("trigger", TRIGGER)
        self.channel.queue_bind(self.queue, self.exchange, "*")
        self.transport.publish("trigger", TRIGGER)
        self.assertEqual(self.received(), [("*", TRIGGER)])

    def test_the_next_broker_is_tried(self):
        self.declare("*")
        self.transport_to("amqp://guest:guest@127.0.0.1:9/%2f", self.url).publish("trigger", TRIGGER)
        self.assertEqual(len(self.received()), 1)
        with self.assertRaises(Unavailable):
            self.transport_to("amqp://guest:guest@127.0.0.1:9/%2f").publish("trigger", TRIGGER)

    def test_a_connection_that_broke_is_made_again(self):
        self.declare("*")
        self.transport.publish("trigger", TRIGGER)
        self.transport._connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
        self.transport.keep_alive()
        self.transport.publish("trigger", TRIGGER)
        self.assertEqual(len(self.received()), 2)
