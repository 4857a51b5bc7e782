"""Hooks (section 10): the server runs with all three of them, in one run with a short limit on silence too."""

import threading

import raw
from backend import PREFIX, Answer
from checks import check, equal, eventually, holds
from client import SUCCESS
from world import HOOKS

ONLINE, OFFLINE = "user/notify_online/", "user/notify_offline/"


def counts(plan):
    return [len(plan.online()), len(plan.offline())]


def settled(world):
    """Another connection's whole life, hooks included: what the server still had in hand is done by then."""
    client = world.connect()
    client.plan.wait(ONLINE)
    client.close()
    client.plan.wait(OFFLINE)


@check(world="hooks")
def a_connection_is_posted_online_and_offline(world):
    client = world.connect()
    online = client.plan.wait(ONLINE)[0]
    client.close()
    offline = client.plan.wait(OFFLINE)[0]
    for request, path in ((online, ONLINE), (offline, OFFLINE)):
        equal([request.method, request.target], ["POST", PREFIX + path], "request")
        equal([request.body, request.header("Content-Length")], [b"", "0"], "body and Content-Length")
    settled(world)
    equal(counts(client.plan), [1, 1], "requests online and offline")


@check(world="hooks")
def hooks_carry_all_headers_of_the_bootstrap(world):
    headers = {"User-Agent": "Browser/1.0", "X-Real-IP": "10.1.2.3", "Authorization": "Basic no", "X-Custom": "no"}
    client = world.connect(path="/ws/?token=t+1", headers=headers, cookie='csrftoken="c"')
    client.plan.wait(ONLINE)
    client.ask("ping")
    client.plan.wait(ONLINE, 2)
    client.close()
    client.plan.wait(OFFLINE)
    wanted = {
        "cookie": f'{client.plan.cookie}; csrftoken="c"',
        "user-agent": "Browser/1.0",
        "x-real-ip": "10.1.2.3",
        "x-csrftoken": "c",
        "authorization": "Token t 1",
        "x-custom": None,
        "host": world.backend.host,
    }
    for request in client.plan.requests():
        equal({name: request.header(name) for name in wanted}, wanted, f"headers of {request.target}")


@check(world="hooks")
def online_comes_after_the_bootstrap(world):
    plan = world.backend.allowing([], seconds=0.3)
    world.dial(plan).receive()
    plan.wait(ONLINE)
    equal([r.target for r in plan.requests()], [PREFIX + "bootstrap/", PREFIX + ONLINE], "requests in order")
    apart = plan.requests()[1].at - plan.requests()[0].at
    holds(apart >= 0.3, "seconds between the two", "at least the 0.3 of the answer", round(apart, 2))


@check(world="hooks")
def a_ping_is_posted_online_and_those_that_follow_within_the_interval_are_not(world):
    client = world.connect()
    client.plan.wait(ONLINE)
    equal(client.ask("ping"), "pong", "reply")
    client.plan.wait(ONLINE, 2)
    for _ in range(4):
        equal(client.ask("ping"), "pong", "reply")
    client.close()
    client.plan.wait(OFFLINE)
    settled(world)
    equal(counts(client.plan), [2, 1], "requests online and offline")


@check(world="hooks")
def nothing_but_a_ping_is_posted(world):
    client = world.raw_member([{"a": "*"}])
    client.plan.wait(ONLINE)
    client.send_frame(raw.PING, "ping")
    equal(client.read_frame().opcode, raw.PONG, "answer to the websocket ping")
    for text in ("PING", "ping ", '"ping"', '{"type":"ping"}', '{"type":"status"}', "{}"):
        client.send_frame(raw.TEXT, text)
        client.read_json()
    client.send_frame(raw.TEXT, '{"type":"subscribe","room":{"a":"1"},"requestId":1}')
    equal(client.read_json(), SUCCESS, "reply")
    client.send_frame(raw.CLOSE, b"\x03\xe8")
    client.plan.wait(OFFLINE)
    settled(world)
    equal(counts(client.plan), [1, 1], "requests online and offline")


@check(world="hooks")
def a_slow_hook_delays_neither_pong_nor_anybody(world):
    hold = threading.Event()
    plan = world.backend.plan(hook=Answer(body=b"", until=hold))
    client = world.dial(plan)
    try:
        equal(client.receive()["is_authorized"], True, "is_authorized")
        plan.wait(ONLINE)
        for _ in range(20):
            equal(client.ask("ping", seconds=1), "pong", "reply within a second")
        equal(world.connect().ask("ping", seconds=1), "pong", "reply to another client")
        client.close()
        equal(plan.offline(), [], "offline while online is in flight")
    finally:
        hold.set()
    plan.wait(OFFLINE)
    settled(world)
    online, offline = counts(plan)
    holds(1 <= online <= 21, "requests online for a connect and 20 pings", "1 to 21", online)
    equal(offline, 1, "requests offline")
    equal(plan.requests()[-1].target, PREFIX + OFFLINE, "last request")


@check(world="hooks")
def pings_during_a_hook_are_followed_by_at_least_one_request(world):
    hold = threading.Event()
    plan = world.backend.plan(hook=Answer(body=b"", until=hold))
    client = world.dial(plan)
    client.receive()
    plan.wait(ONLINE)
    for _ in range(5):
        client.ask("ping")
    hold.set()
    plan.wait(ONLINE, 2)


FAILING = {
    "403": Answer(status=403, body=b"{}"),
    "500": Answer(status=500, body=b"x"),
    "204": Answer(status=204, body=b""),
    "reset": Answer(reset=True),
    "closed": Answer(raw=b""),
    "not HTTP": Answer(raw=b"nonsense\r\n\r\n"),
}


@check(world="hooks", cases=FAILING)
def a_failing_hook_changes_nothing(world, case):
    plan = world.backend.plan(hook=case)
    client = world.dial(plan)
    equal(client.receive(), {"is_authorized": True, "allowed_rooms": []}, "first frame")
    plan.wait(ONLINE)
    for _ in range(3):
        equal(client.ask("ping"), "pong", "reply")
    settled(world)
    equal(client.ask("ping"), "pong", "reply later")
    client.close()
    plan.wait(OFFLINE)


@check(world="hooks")
def a_redirect_of_a_hook_is_not_followed(world):
    plan = world.backend.plan()
    location = f"http://{world.backend.host}/elsewhere/{plan.key}"
    plan.hook = Answer(status=307, body=b"", headers={"Location": location})
    client = world.dial(plan)
    client.receive()
    plan.wait(ONLINE)
    client.close()
    plan.wait(OFFLINE)
    settled(world)
    equal([r.target for r in plan.requests() if "elsewhere" in r.target], [], "requests elsewhere")


ENDS = {
    "close frame": lambda client: client.send_frame(raw.CLOSE, b"\x03\xe8"),
    "close frame and end": lambda client: (client.send_frame(raw.CLOSE, b"\x03\xe8"), client.close()),
    "end of the stream": lambda client: client.close(),
    "reset": lambda client: client.reset(),
    "violation of the protocol": lambda client: client.send_frame(3, "x"),
    "message too large": lambda client: client.send_frame(raw.TEXT, b"", announced=1 << 40),
}


@check(world="hooks", cases=ENDS)
def offline_is_posted_exactly_once_however_it_ends(world, case):
    client = world.raw_member()
    client.plan.wait(ONLINE)
    case(client)
    client.plan.wait(OFFLINE)
    settled(world)
    equal(counts(client.plan), [1, 1], "requests online and offline")


@check(world="hooks")
def a_short_life_is_posted_online_then_offline(world):
    for _ in range(30):
        client = world.raw_member()
        client.reset()
        client.plan.wait(OFFLINE)
        targets = [r.target for r in client.plan.requests()]
        equal(targets, [PREFIX + p for p in ("bootstrap/", ONLINE, OFFLINE)], "requests in order")


@check(world="hooks")
def a_refused_connection_is_posted_neither_online_nor_offline(world):
    plan = world.backend.plan(Answer(status=403))
    client = world.dial(plan)
    equal(client.receive(), {"is_authorized": False}, "first frame")
    client.ended()
    settled(world)
    equal(counts(plan), [0, 0], "requests online and offline")


@check(world="idle")
def offline_is_posted_once_after_a_close_for_silence(world):
    client = world.connect()
    equal(client.ended()[0], 1000, "close code")
    client.plan.wait(OFFLINE)
    settled(world)
    equal(counts(client.plan), [1, 1], "requests online and offline")


@check(world="stop")
def offline_is_posted_once_for_everybody_when_the_server_stops(world):
    server = world.extra_server(HOOKS)
    clients = [world.connect(server=server) for _ in range(20)]
    for client in clients:
        client.plan.wait(ONLINE)
    equal(server.stop(), 0, "exit code")
    eventually(lambda: [counts(client.plan) for client in clients], [[1, 1]] * 20, "online and offline", seconds=2)


@check()
def without_hooks_configured_nothing_is_posted(world):
    client = world.connect()
    client.ask("ping")
    client.close()
    equal([r.method for r in client.plan.requests()], ["GET"], "requests to the backend")
