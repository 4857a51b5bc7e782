"""high-templar behind real nginx, with the shipped configuration, and behind real HAProxy.

    python3 -m venv venv && venv/bin/pip install -r tests/proxies/requirements.txt
    venv/bin/python tests/proxies/run.py --binary target/release/high-templar [WORD...]

One line per check: `ok`, or `FAIL` with what was expected and what came. The exit code is 1 if any failed.
"""

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../walk"))

import raw  # noqa: E402
from backend import Backend  # noqa: E402
from checks import Check, Report, equal, eventually, holds, run  # noqa: E402
from http2 import Http2  # noqa: E402
from proxies import HaProxy, Nginx, find  # noqa: E402
from server import Server  # noqa: E402

HOST = "app.example.org"
ROOM = {"target": "message"}
SSE = "/sse/?room=" + urllib.parse.quote(json.dumps(ROOM))
ENVIRONMENT = {
    "API_HEADERS": json.dumps({"X-Forwarded-For": "{header:X-Forwarded-For}", "X-Session": "{cookie:sessionid}"}),
    "TRUSTED_PROXIES": "127.0.0.1",
    "MAX_CONNECTIONS_PER_ADDRESS": "2",
}
CRUMBS = ["theme=dark", "sessionid=s3", "csrftoken=t"]
FORGED, REAL, OTHER = "203.0.113.9", "127.0.0.2", "127.0.0.3"


class World:
    """A server, its API, nginx and HAProxy in front of it."""

    def __init__(self, binary, folder):
        self.backend, self.folder, self.binary = Backend(), folder, binary
        log = os.path.join(folder, "server.log")
        self.server = Server([binary, "serve"], self.backend.api_url, None, log, ENVIRONMENT)
        self.server.wait_ready()
        api_port = int(self.backend.host.rsplit(":", 1)[1])
        self.nginx = Nginx(os.path.join(folder, "nginx"), self.server.port, api_port)
        self.haproxy = HaProxy(os.path.join(folder, "haproxy"), self.server.port, self.server.internal_port)

    def plan(self):
        return self.backend.allowing([ROOM])

    def trigger(self, data):
        body = json.dumps({"rooms": [ROOM], "data": data})
        equal(self.server.internal("POST", "/trigger/", body, {"Host": "localhost"})[0], 200, "answer to the trigger")

    def until_idle(self):
        """Waits until no client is left that could count for another check."""

        def subscriptions():
            return json.loads(self.server.internal("GET", "/status", headers={"Host": "localhost"})[2])["subscriptions"]

        eventually(subscriptions, 0, "subscriptions")

    def restart(self, number=signal.SIGTERM):
        """Stops the server, and returns what starts it again on the same ports."""
        self.server.stop(number)
        again = {**ENVIRONMENT, "LISTEN": self.server.host, "INTERNAL_LISTEN": f"127.0.0.1:{self.server.internal_port}"}
        ports = self.server.port, self.server.internal_port

        def start():
            log = os.path.join(self.folder, f"server-{time.monotonic_ns()}.log")
            self.server = Server([self.binary, "serve"], self.backend.api_url, None, log, again)
            self.server.port, self.server.internal_port = ports
            self.server.host = again["LISTEN"]
            self.server.wait_ready()

        return start


def dial(port, path, headers, source=REAL):
    """A WebSocket's handshake, or a request for events, from an address of its own."""
    client = raw.RawClient.__new__(raw.RawClient)
    client.socket = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
    client._buffer = b""
    pairs = list((raw.upgrade(HOST) if path.startswith("/ws") else {"Host": HOST}).items())
    client.send(raw.request(path, pairs + headers))
    return client


def cookies(plan):
    return [("Cookie", crumb) for crumb in [*CRUMBS[:1], plan.cookie, *CRUMBS[1:]]]


def joined(plan):
    return "; ".join([*CRUMBS[:1], plan.cookie, *CRUMBS[1:]])


def is_as_sent(plan, forwarded=None):
    """What the API was told of a client at REAL that has sent crumbs, and lied about where it is."""
    asked = plan.wait("bootstrap/")[0]
    equal(asked.header("cookie"), joined(plan), "Cookie at the API")
    equal(asked.header("x-csrftoken"), "t", "X-CSRFToken at the API")
    equal(asked.header("x-session"), "s3", "{cookie:sessionid}")
    equal(asked.header("x-real-ip"), REAL, "X-Real-IP at the API")
    if forwarded:
        equal(asked.header("x-forwarded-for"), forwarded, "X-Forwarded-For at the API")


def websocket_delivers(world, port, headers):
    client = dial(port, "/ws/", headers)
    equal(client.response()[0], 101, "status")
    equal(client.read_json()["is_authorized"], True, "is_authorized")
    client.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": ROOM, "requestId": "1"}))
    equal(client.read_json(), {"code": "success"}, "reply")
    world.trigger("hello")
    equal(client.read_json(), {"type": "publish", "data": "hello", "requestId": "1"}, "publication")
    client.socket.close()
    world.until_idle()


def repeated_lines_reach_the_api_through_nginx(world):
    plan = world.plan()
    websocket_delivers(world, world.nginx.port, [("X-Real-IP", FORGED), *cookies(plan), ("X-Real-IP", FORGED)])
    is_as_sent(plan)


def repeated_lines_reach_the_api_through_haproxy_that_adds_its_own(world):
    plan = world.plan()
    headers = [("X-Real-IP", FORGED), ("X-Forwarded-For", FORGED), *cookies(plan)]
    websocket_delivers(world, world.haproxy.port, headers)
    is_as_sent(plan, f"{FORGED}, {REAL}")


def the_limit_by_address_counts_by_the_address_that_haproxy_adds(world):
    def connect(source, forged):
        headers = [("X-Real-IP", forged), ("Cookie", world.plan().cookie)]
        client = dial(world.haproxy.port, "/ws/", headers, source)
        return client, client.response()[0]

    def status_once():
        client, status = connect(REAL, FORGED)
        client.socket.close()
        return status

    sources = (REAL, REAL, REAL, OTHER)
    connected = [connect(source, f"198.51.100.{number}") for number, source in enumerate(sources)]
    for client, _ in connected:
        client.socket.close()
    statuses = [status for _, status in connected]
    equal(statuses, [101, 101, 429, 101], "statuses of three from one address and one from another")
    eventually(status_once, 101, "status when they have gone")


def crumbs_of_http_2_reach_the_api(world, port, forwarded=None):
    plan = world.plan()
    client = Http2(port, REAL)
    crumbs = [(name.lower(), value) for name, value in cookies(plan)]
    stream = client.request(SSE, HOST, [("x-real-ip", FORGED), ("x-forwarded-for", FORGED), *crumbs])
    equal(client.status(stream), 200, "status")
    equal([event["type"] for event in client.events(stream, 2)], ["welcome", "reply"], "events")
    world.trigger({"n": 1})
    equal(client.events(stream, 3)[2]["data"], {"n": 1}, "publication")
    client.close()
    is_as_sent(plan, forwarded)
    world.until_idle()


def crumbs_of_http_2_reach_the_api_through_nginx(world):
    crumbs_of_http_2_reach_the_api(world, world.nginx.h2_port)


def crumbs_of_http_2_reach_the_api_through_haproxy(world):
    crumbs_of_http_2_reach_the_api(world, world.haproxy.h2_port, f"{FORGED}, {REAL}")


def websockets_over_http_2_go_through_haproxy(world):
    """RFC 8441: two WebSockets and a stream of events on one connection."""
    plan, other = world.plan(), world.plan()
    client = Http2(world.haproxy.h2_port, REAL)
    holds(client.takes_websockets, "SETTINGS_ENABLE_CONNECT_PROTOCOL", 1, client.connection.remote_settings)
    base = [("sec-websocket-version", "13"), ("origin", f"http://{HOST}")]
    crumbs = [(name.lower(), value) for name, value in cookies(plan)]
    new = [*base, ("sec-websocket-protocol", "high-templar.v4")]
    old = client.request("/ws/", HOST, [*base, ("x-real-ip", FORGED), *crumbs], protocol="websocket")
    equal(client.status(old), 200, "status of the WebSocket of 3.1")
    equal(client.receive_text(old)["is_authorized"], True, "is_authorized")
    is_as_sent(plan)
    v4 = client.request("/ws/", HOST, [*new, ("cookie", other.cookie)], protocol="websocket")
    equal(client.status(v4), 200, "status of the WebSocket of version 4")
    equal(client.heads[v4].get("sec-websocket-protocol"), "high-templar.v4", "subprotocol")
    equal(client.receive_text(v4)["type"], "welcome", "first frame")
    for stream in (old, v4):
        client.send_text(stream, {"type": "subscribe", "room": ROOM, "requestId": "1"})
        equal(client.receive_text(stream)["code"], "success", "reply")
    world.trigger("both")
    for stream in (old, v4):
        equal(client.receive_text(stream)["data"], "both", "publication")
    evil = [("sec-websocket-version", "13"), ("origin", "http://evil.example")]
    foreign = client.request("/ws/", HOST, evil, protocol="websocket")
    equal(client.status(foreign), 403, "status of a page of another origin")
    client.close()
    world.until_idle()


def head_and_options_pass_nginx(world):
    for method in ("HEAD", "OPTIONS"):
        for path in ("/ws/", "/sse/"):
            client = raw.RawClient(world.nginx.port)
            client.send(raw.request(path, {"Host": HOST}, method))
            status, headers, _ = client.response()
            expected = {"HEAD": [200, None], "OPTIONS": [204, "GET, HEAD, OPTIONS"]}[method]
            equal([status, headers.get("allow")], expected, f"{method} {path}")


def every_usual_check_of_haproxy_finds_the_server_and_readiness_ends_with_it(world):
    up = {
        "plain": "UP 204",
        "head": "UP 200",
        "options": "UP 204",
        "ready": "UP 200",
        "ready-head": "UP 200",
        "metrics": "UP 200",
    }
    eventually(world.haproxy.checks, up, "what HAProxy's checks say", 10)
    asked = len(world.backend.unplanned)
    # A client keeps the server draining: it is not ready, and takes no new ones.
    client = dial(world.haproxy.port, "/ws/", [("Cookie", world.plan().cookie)])
    equal(client.response()[0], 101, "status")
    world.server.process.send_signal(signal.SIGTERM)
    eventually(lambda: world.haproxy.checks()["ready"].split(" ")[0], "DOWN", "readiness while it stops", 10)
    client.socket.close()
    world.restart()()
    eventually(world.haproxy.checks, up, "what HAProxy's checks say after a start", 10)
    equal(len(world.backend.unplanned), asked, "requests of the checks to the API")


def a_token_stays_out_of_nginx_logs_when_the_server_is_restarted(world):
    token = f"secret-{time.monotonic_ns()}"
    plan = world.plan()
    paths = [f"/ws/?token={token}", f"/ws?token={token}", f"{SSE}&token={token}"]
    cookie = [("Cookie", plan.cookie)]
    clients = [dial(world.nginx.port, path, cookie, f"127.0.0.{n}") for n, path in enumerate(paths, 10)]
    equal([client.response()[0] for client in clients], [101, 101, 200], "statuses")
    for number in (signal.SIGKILL, signal.SIGTERM):
        start = world.restart(number)
        for path in paths:
            client = dial(world.nginx.port, path, cookie)
            equal(client.response()[0], 502, "status while the server is away")
            client.socket.close()
        start()
    # What else is asked for is logged, and so these are the logs.
    dial(world.nginx.port, "/api/hello", cookie).response()
    eventually(lambda: "/api/hello" in world.nginx.read("access.log"), True, "the access log of the API")
    logs = world.nginx.files()
    found = [path for path, text in logs.items() if token in text]
    equal(found, [], "files of nginx with the token")


CHECKS = [
    repeated_lines_reach_the_api_through_nginx,
    repeated_lines_reach_the_api_through_haproxy_that_adds_its_own,
    the_limit_by_address_counts_by_the_address_that_haproxy_adds,
    crumbs_of_http_2_reach_the_api_through_nginx,
    crumbs_of_http_2_reach_the_api_through_haproxy,
    websockets_over_http_2_go_through_haproxy,
    head_and_options_pass_nginx,
    every_usual_check_of_haproxy_finds_the_server_and_readiness_ends_with_it,
    a_token_stays_out_of_nginx_logs_when_the_server_is_restarted,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("words", nargs="*", help="words that must all be in the name of the check")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for program in ("nginx", "haproxy"):
        if not find(program):
            sys.exit(f"{program} is not installed")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="proxies-") as folder:
        world = World(arguments.binary, folder)
        try:
            for function in CHECKS:
                check = Check(function, "proxies")
                if all(word in check.name for word in arguments.words):
                    run(check, world, report, "proxies")
        finally:
            world.server.stop()
            world.nginx.stop()
            world.haproxy.stop()
    print(f"{report.passed} ok, {len(report.failures)} failed")
    return 1 if report.failures or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
