"""The HTTP surface of the public listener (section 2) and the Origin check."""

import re
import time

import raw
from checks import check, equal, holds, one_of
from client import SUCCESS

CHANGES = {
    "version 12": {"Sec-WebSocket-Version": "12"},
    "no version": {"Sec-WebSocket-Version": None},
    "no key": {"Sec-WebSocket-Key": None},
    "key of 15 bytes": {"Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0O"},
    "key that is not base64": {"Sec-WebSocket-Key": "************************"},
}


def status_of(world, path="/ws/", method="GET", version="HTTP/1.1", changes=None, plan=None):
    headers = {**raw.upgrade(world.server.host), **(changes or {})}
    if plan:
        headers["Cookie"] = plan.cookie
    return world.exchange(raw.request(path, headers, method, version))


@check(cases={path: path for path in ["/ws/", "/ws/?token=x&y", "/ws/?", "/ws", "/ws?token=x", "/ws?"]})
def a_handshake_is_answered_101_with_the_accept_key(world, case):
    plan = world.backend.plan()
    status, headers, _ = status_of(world, case, plan=plan)
    equal(status, 101, "status")
    equal(headers.get("sec-websocket-accept"), raw.ACCEPT, "Sec-WebSocket-Accept")
    equal(headers.get("upgrade", "").lower(), "websocket", "Upgrade")
    equal(headers.get("connection", "").lower(), "upgrade", "Connection")


@check(cases={path: path for path in ["/", "/WS/", "/ws/x", "/ws/ws/", "/wsx", "/trigger/", "/api/ws/"]})
def a_handshake_elsewhere_is_answered_404(world, case):
    equal(status_of(world, case)[0], 404, "status")


@check()
def a_get_without_upgrade_is_answered_400_or_426(world):
    status, _, _ = world.exchange(raw.request("/ws/", {"Host": world.server.host}))
    one_of(status, [400, 426], "status")


@check()
def a_post_to_the_websocket_path_is_answered_405_or_404(world):
    headers = {"Host": world.server.host, "Content-Length": "0"}
    one_of(world.exchange(raw.request("/ws/", headers, "POST"))[0], [404, 405], "status")


@check(cases=CHANGES)
def a_bad_handshake_is_answered_400_or_426(world, case):
    one_of(status_of(world, changes=case)[0], [400, 426], "status")


@check()
def http_1_0_is_answered_400_or_426(world):
    one_of(status_of(world, version="HTTP/1.0")[0], [400, 426], "status")


INTERNAL = ["status", "metrics", "healthz", "readyz", "position", "connections", "rooms", "explain", "openapi.json"]


@check(cases={path: path for path in ["/", "/x", "/trigger/", *(f"/{name}" for name in INTERNAL)]})
def the_public_listener_answers_404_to_anything_else(world, case):
    equal(world.exchange(raw.request(case, {"Host": world.server.host}))[0], 404, "status")


@check(cases={path: path for path in ["/trigger/", "/control/"]})
def the_public_listener_takes_no_post(world, case):
    body = b'{"rooms":[],"data":1}'
    headers = {"Host": world.server.host, "Content-Length": str(len(body))}
    equal(world.exchange(raw.request(case, headers, "POST") + body)[0], 404, "status")


@check()
def header_names_and_tokens_of_the_handshake_are_case_insensitive(world):
    plan = world.backend.plan()
    headers = {
        "hOST": world.server.host,
        "uPGRADE": "WebSocket",
        "CONNECTION": "keep-alive, Upgrade",
        "sec-websocket-key": raw.KEY,
        "SEC-WEBSOCKET-VERSION": "13",
        "cOOKIE": plan.cookie,
    }
    equal(world.exchange(raw.request("/ws/", headers))[0], 101, "status")


@check()
def unknown_subprotocols_are_ignored(world):
    status, headers, _ = status_of(world, changes={"Sec-WebSocket-Protocol": "soap, wamp"}, plan=world.backend.plan())
    equal([status, headers.get("sec-websocket-protocol")], [101, None], "status and Sec-WebSocket-Protocol")


@check()
def a_client_that_offers_compression_works(world):
    client = world.connect([{"a": "*"}], compression="deflate")
    client.expect({"type": "subscribe", "room": {"a": "x" * 5000}, "requestId": "1"}, SUCCESS)
    equal(client.ask("ping"), "pong")


@check()
def cookies_of_33_kb_are_taken_and_passed_on(world):
    plan = world.backend.plan()
    cookie = f"{plan.cookie}; big={'x' * 33000}"
    client = world.raw(plan=plan, headers=[("Cookie", cookie)])
    equal(client.read_json(), {"is_authorized": True, "allowed_rooms": []}, "first frame")
    equal(plan.bootstraps()[0].header("Cookie"), cookie, "Cookie at the backend")


@check()
def a_head_of_200_kb_is_refused_or_the_connection_ended(world):
    client = world.socket()
    headers = {**raw.upgrade(world.server.host), "Cookie": "x" * 200_000}
    try:
        client.send(raw.request("/ws/", headers))
    except ConnectionError:
        pass  # ended before all of it was sent
    one_of(client.response()[0], [None, 400, 413, 431], "status")
    equal(world.connect().ask("ping"), "pong", "another client afterwards")


@check(background=True)
def a_request_that_never_completes_is_ended_after_five_seconds(world):
    client = world.socket()
    client.socket.settimeout(15)
    started = time.monotonic()
    client.send(b"GET /ws/ HTTP/1.1\r\nHost: x\r\n")
    while client.response()[0] is not None:
        pass
    seconds = time.monotonic() - started
    holds(3 <= seconds <= 10, "seconds until the end", "about 5", round(seconds, 1))


@check(background=True)
def a_connection_that_sends_nothing_is_ended_after_five_seconds(world):
    client = world.socket()
    client.socket.settimeout(15)
    started = time.monotonic()
    while client.response()[0] is not None:
        pass
    seconds = time.monotonic() - started
    holds(3 <= seconds <= 10, "seconds until the end", "about 5", round(seconds, 1))


# --- Origin

SAME = {
    "none": lambda host: {},
    "the address itself": lambda host: {"Origin": f"http://{host}"},
    "the name asked for, by TLS": lambda host: {"Host": "app.example.org", "Origin": "https://app.example.org"},
    "name and port asked for": lambda host: {"Host": "app.example.org:8443", "Origin": "https://app.example.org:8443"},
}

FOREIGN = {
    "another name": lambda host: {"Origin": "http://evil.example"},
    "a longer name": lambda host: {"Host": "app.example.org", "Origin": "https://app.example.org.evil.example"},
    "a name that ends the same": lambda host: {"Host": "example.org", "Origin": "https://notexample.org"},
    "null": lambda host: {"Origin": "null"},
}


@check(cases=SAME)
def an_origin_of_the_same_host_may_connect(world, case):
    equal(status_of(world, changes=case(world.server.host), plan=world.backend.plan())[0], 101, "status")


@check(cases=FOREIGN)
def a_foreign_origin_is_answered_403_and_the_backend_is_not_asked(world, case):
    plan = world.backend.plan()
    equal(status_of(world, changes=case(world.server.host), plan=plan)[0], 403, "status")
    equal(len(plan.requests()), 0, "requests to the backend")


# --- the internal listener


@check(cases={path: path for path in ["/healthz", "/readyz", "/metrics", "/status"]})
def the_internal_listener_answers_200(world, case):
    equal(world.server.internal("GET", case)[0], 200, "status")


@check(cases={path: path for path in ["/ws/", "/nothing", "/trigger/x"]})
def the_internal_listener_answers_404_to_anything_else(world, case):
    equal(world.server.internal("GET", case)[0], 404, "status")


@check()
def the_metrics_are_prometheus_text(world):
    _, headers, body = world.server.internal("GET", "/metrics")
    kind = headers.get("Content-Type", "").split(";")[0]
    one_of(kind, ["text/plain", "application/openmetrics-text"], "Content-Type")
    sample = re.compile(r'^[a-zA-Z_:][\w:]*(\{[^{}]*\})? -?([0-9.eE+-]+|NaN|\+?Inf)$')
    wrong = [line for line in body.decode().splitlines() if line and not line.startswith("#") and not sample.match(line)]
    equal(wrong, [], "lines that are no sample")
