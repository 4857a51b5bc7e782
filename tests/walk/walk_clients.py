"""Clients that people use, with their defaults: nothing is lost, and each end is seen as what it is."""

import asyncio
import json
import logging
import subprocess
import threading
import time

import aiohttp
import httpx
import requests
import websocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as dial

from checks import check, eventually, equal, unique
from line import Line

logging.getLogger("httpx").setLevel(logging.WARNING)

PROTOCOL = "high-templar.v4"
SUCCESS = {"code": "success"}
# About the time after which the pool of httpx lets a connection go, and in which a head has to arrive.
PAUSES = [4.7, 4.8, 4.85, 4.9, 4.95, 5.0, 5.05, 5.1, 5.2]


def received(client, count):
    """The data of the next publications."""
    return [client.receive(30)["data"] for _ in range(count)]


def wait_for_control(world, message):
    status, _, body = world.server.internal("POST", "/control/", json.dumps(message))
    equal([status, json.loads(body)], [200, SUCCESS], "answer to POST /control/")


# --- publishers


def post_by_requests(session, url, body):
    response = session.post(url, json=body)
    return response.status_code, response.json()


POOLS = {
    "requests": requests.Session,
    "httpx": httpx.Client,
}


@check(cases=POOLS, background=True)
def a_pool_that_posts_every_five_seconds_over_a_long_line_loses_nothing(world, case):
    posts, room = 4, {unique(): "1"}
    server = world.extra_server({})  # the other checks look whether their own one is quiet
    client = world.connect([room], server=server)
    client.subscribe(room, "r")
    problems = []

    def publish(number, pause):
        try:
            with case() as session:
                for post in range(posts):
                    time.sleep(pause if post else 0)
                    body = {"rooms": [room], "data": [number, post]}
                    answer = post_by_requests(session, f"http://127.0.0.1:{line.port}/trigger/", body)
                    equal(list(answer), [200, SUCCESS], f"answer to post {post} after {pause} s")
        except Exception as problem:
            problems.append(f"{pause} s: {problem!r}")

    with Line(server.internal_port, 0.1) as line:
        threads = [threading.Thread(target=publish, args=pair) for pair in enumerate(PAUSES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    equal(problems, [], "posts that failed")
    came = received(client, posts * len(PAUSES))
    for number in range(len(PAUSES)):
        equal([post for sender, post in came if sender == number], list(range(posts)), f"what came of session {number}")


@check()
def triggers_of_a_publisher_that_half_closes_are_answered_and_delivered_once(world):
    count, room = 50, {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    for number in range(count):
        body = json.dumps({"rooms": [room], "data": number})
        answer = socat(world, f"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        equal([answer[:15], answer[-18:]], ["HTTP/1.1 200 OK", '{"code":"success"}'], f"answer to trigger {number}")
    equal(received(client, count), list(range(count)), "publications")
    client.expect("ping", "pong")


PATHS = {path: path for path in ("/metrics", "/status", "/healthz", "/readyz", "/connections", "/position")}


@check(cases=PATHS)
def a_caller_that_half_closes_is_answered(world, case):
    for _ in range(5):
        answer = socat(world, f"GET {case} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        equal(answer[:15], "HTTP/1.1 200 OK", "the beginning of the answer")


def socat(world, text):
    """What is answered to a peer that ends its half behind the request."""
    command = ["socat", "-t", "10", "-", f"TCP:127.0.0.1:{world.server.internal_port}"]
    return subprocess.run(command, input=text.encode(), capture_output=True, timeout=20, check=True).stdout.decode()


# --- clients


class Websockets:
    def __init__(self, url, cookie):
        self._socket = dial(url, additional_headers={"Cookie": cookie}, subprotocols=[PROTOCOL], legacy=True)

    def send(self, text):
        self._socket.send(text)

    def receive(self, seconds=10):
        return json.loads(self._socket.recv(seconds))

    def end(self):
        try:
            self._socket.recv(10)
        except ConnectionClosed as closed:
            return [closed.rcvd.code, closed.rcvd.reason] if closed.rcvd else [1006, ""]
        return "a frame"

    def close(self):
        self._socket.close()


class WebSocketClient:
    def __init__(self, url, cookie):
        self._socket = websocket.create_connection(url, cookie=cookie, subprotocols=[PROTOCOL])

    def send(self, text):
        self._socket.send(text)

    def receive(self, seconds=10):
        self._socket.settimeout(seconds)
        return json.loads(self._socket.recv())

    def end(self):
        opcode, payload = self._socket.recv_data()
        if opcode != websocket.ABNF.OPCODE_CLOSE:
            return "a frame"
        return [int.from_bytes(payload[:2], "big"), payload[2:].decode()]

    def close(self):
        self._socket.close()


class Aiohttp:
    """Reads as many do: with a time-out that is over again and again, each time in the middle of `receive`."""

    def __init__(self, url, cookie):
        self._loop = asyncio.new_event_loop()
        self._session = self._run(self._open())
        self._socket = self._run(self._session.ws_connect(url, headers={"Cookie": cookie}, protocols=[PROTOCOL]))

    @staticmethod
    async def _open():
        return aiohttp.ClientSession()

    def _run(self, coroutine):
        return self._loop.run_until_complete(coroutine)

    async def _receive(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                return await asyncio.wait_for(self._socket.receive(), 0.02)
            except asyncio.TimeoutError:
                pass
        raise TimeoutError

    def send(self, text):
        self._run(self._socket.send_str(text))

    def receive(self, seconds=10):
        return json.loads(self._run(self._receive(seconds)).data)

    def end(self):
        message = self._run(self._receive(10))
        if message.type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
            return f"{message}"
        return [self._socket.close_code, message.extra or ""]

    def close(self):
        self._run(self._socket.close())
        self._run(self._session.close())
        self._loop.close()


LIBRARIES = {"websockets": Websockets, "websocket-client": WebSocketClient, "aiohttp": Aiohttp}


def connected(world, library, port, room):
    """A client with a subscription, and the id of its connection."""
    plan = world.backend.allowing(json.dumps([room]))
    client = library(f"ws://127.0.0.1:{port}/ws/", plan.cookie)
    welcome = client.receive()
    equal(welcome.get("is_authorized"), True, "is_authorized")
    client.send(json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
    equal(client.receive().get("code"), "success", "code of the reply to subscribe")
    return client, welcome["connection"]


@check(cases=LIBRARIES)
def a_client_with_its_defaults_loses_nothing_over_a_long_line(world, publish, case):
    room, count = {unique(): "1"}, 60
    with Line(world.server.port, 0.05) as line:
        client, _ = connected(world, case, line.port, room)
        try:
            for number in range(count):
                publish({"rooms": [room], "data": number})
                time.sleep(0.03 if number % 3 else 0)
            equal([client.receive()["data"] for _ in range(count)], list(range(count)), "publications")
        finally:
            client.close()


@check(cases=LIBRARIES)
def a_client_sees_why_the_server_ends_its_connection(world, case):
    room = {unique(): "1"}
    for _ in range(5):
        client, connection = connected(world, case, world.server.port, room)
        try:
            wait_for_control(world, {"action": "disconnect", "connection": connection})
            equal(client.end(), [3501, "disconnected by the application"], "close code and reason")
        finally:
            client.close()


@check(cases=LIBRARIES)
def a_client_sees_that_its_message_was_too_large(world, case):
    client, _ = connected(world, case, world.server.port, {unique(): "1"})
    try:
        client.send(json.dumps({"type": "x" * (1 << 20)}))
        equal(client.end(), [1009, "a message of more than 1048576 bytes"], "close code and reason")
    finally:
        client.close()
    eventually(lambda: world.server.process.poll(), None, "exit code of the server")
