"""First frames, and how the backend's answer is read (sections 3 and 4.3, the backend's rows of section 16)."""

import json
import threading
import time

import raw
from backend import PREFIX, Answer
from checks import Mismatch, check, equal, holds, one_of
from client import SUCCESS
from websockets.exceptions import InvalidStatus

REFUSED = {"is_authorized": False}
UNUSABLE = [1000, 1011, 1013]
JSON = {"Content-Type": "application/json"}


def first_frame(world, answer):
    client = world.dial(world.backend.plan(answer))
    return client, client.receive()


def refused(world, answer, codes):
    """The server refuses, and is none the worse for it."""
    client, first = first_frame(world, answer)
    equal(first, REFUSED, "first frame")
    code, _ = client.ended()
    one_of(code, codes, "close code")
    equal(world.connect().ask("ping"), "pong", "another client afterwards")
    return client


def failed(world, plan):
    """The API cannot be asked: the handshake fails, so that a page does not take that for a logout."""
    try:
        world.dial(plan)
    except InvalidStatus as error:
        equal(error.response.status_code, 503, "status")
        holds("Retry-After" in error.response.headers, "headers", "Retry-After", dict(error.response.headers))
    else:
        raise Mismatch("handshake: expected 503; came 101")
    equal(world.connect().ask("ping"), "pong", "another client afterwards")


@check()
def an_allowed_client_gets_its_rooms(world):
    _, first = first_frame(world, Answer(body={"allowed_rooms": []}))
    equal(first, {"is_authorized": True, "allowed_rooms": []}, "first frame")
    rooms = [{"target": "message", "customer": "*"}, {"target": "news"}]
    _, first = first_frame(world, Answer(body={"allowed_rooms": rooms}))
    equal(first, {"is_authorized": True, "allowed_rooms": rooms}, "first frame")


ACCEPTED = {
    "no allowed_rooms": (b"{}", JSON),
    "other keys": (b'{"user": {"data": {"id": 1}}, "allowed_rooms": [], "x": [null]}', JSON),
    "charset in the type": (b"{}", {"Content-Type": "application/json; charset=utf-8"}),
    "a type that ends in +json": (b"{}", {"Content-Type": "application/vnd.api+json"}),
    "blanks around": (b' \r\n\t{"allowed_rooms":[ ] }\n', JSON),
    "duplicate key, the last counts": (b'{"allowed_rooms": [{"a": 1}], "allowed_rooms": []}', JSON),
}


@check(cases=ACCEPTED)
def an_answer_is_accepted(world, case):
    body, headers = case
    _, first = first_frame(world, Answer(body=body, headers=headers))
    equal(first, {"is_authorized": True, "allowed_rooms": []}, "first frame")


@check()
def a_chunked_answer_is_accepted(world):
    _, first = first_frame(world, Answer(body={"allowed_rooms": [{"a": "b" * 1000}]}, chunked=True))
    equal(first, {"is_authorized": True, "allowed_rooms": [{"a": "b" * 1000}]}, "first frame")


@check()
def a_compressed_answer_is_decoded_if_it_was_asked_for(world):
    _, first = first_frame(world, Answer(body={"allowed_rooms": [{"a": "b"}]}, compressed=True))
    equal(first, {"is_authorized": True, "allowed_rooms": [{"a": "b"}]}, "first frame")


@check()
def json_without_a_json_type_is_accepted_or_refused(world):
    _, first = first_frame(world, Answer(body=b"{}", headers={"Content-Type": "text/plain"}))
    one_of(first, [REFUSED, {"is_authorized": True, "allowed_rooms": []}], "first frame")


UNCHANGED = {
    "nested values": '{"a": [1, {"b": [null]}], "c": {"d": {}}}',
    "null, booleans": '{"a": null, "b": true, "c": false}',
    "numbers": '{"a": 0, "b": -17, "c": 1.5}',
    "integers beyond 64 bits": '{"a": 18446744073709551617, "b": -9223372036854775809}',
    "integers beyond 53 bits": '{"a": 9007199254740993}',
    "an integer of 60 digits": '{"a": 123456789012345678901234567890123456789012345678901234567891}',
    "text": r'{"käse \u00e9 \n \"": "\ud83d\ude00 ☃", "": ""}',
    "an empty room": "{}",
}


@check(cases=UNCHANGED)
def allowed_rooms_are_echoed_with_their_values_unchanged(world, case):
    client = world.dial(world.backend.allowing(f"[{case}]"))
    first = json.loads(client.receive_text(), parse_float=str)
    equal(first, {"is_authorized": True, "allowed_rooms": [json.loads(case, parse_float=str)]}, "first frame")


@check()
def allowed_rooms_keep_the_backend_s_order(world):
    rooms = [{"n": str(n * 7919 % 101)} for n in range(50)]
    equal(world.dial(world.backend.allowing(rooms)).receive()["allowed_rooms"], rooms, "allowed_rooms")


SAME_ROOMS = {
    "spelled the same": ('[{"a":"1"},{"a":"1"}]', 1),
    "other order of keys": ('[{"a":1,"b":2},{"b":2,"a":1}]', 1),
    "other order of nested keys": ('[{"a":{"x":1,"y":2}},{"a":{"y":2,"x":1}}]', 1),
    "escaped": (r'[{"a":"b"},{"\u0061":"\u0062"}]', 1),
    "spellings of one float": ('[{"a":1.0},{"a":1e0}]', 1),
    "duplicate key in a room": ('[{"a":1,"a":2},{"a":2}]', 1),
    "integer and float": ('[{"a":1},{"a":1.0}]', 2),
    "types": ('[{"a":1},{"a":"1"},{"a":true},{"a":null}]', 4),
    "order of a list": ('[{"a":[1,2]},{"a":[2,1]}]', 2),
    "large integers": ('[{"a":9007199254740993},{"a":9007199254740992}]', 2),
}


@check(cases=SAME_ROOMS)
def duplicates_are_removed_from_the_allowed_rooms(world, case):
    rooms, count = case
    came = world.dial(world.backend.allowing(rooms)).receive()
    holds(len(came.get("allowed_rooms", [])) == count, "allowed_rooms", f"{count} room(s) of {rooms}", came)


@check(cases={str(status): status for status in [400, 401, 403, 404, 410]})
def a_client_the_backend_refuses_is_told_and_closed_with_1000(world, case):
    refused(world, Answer(body=b'{"allowed_rooms": []}', status=case), [1000])


@check(cases={str(status): status for status in [201, 202, 204, 206, 304]})
def any_other_status_than_200_refuses(world, case):
    body = b"" if case in (204, 304) else b'{"allowed_rooms": []}'
    refused(world, Answer(body=body, status=case), UNUSABLE)


@check(cases={str(status): status for status in [429, 500, 502, 503]})
def a_failure_of_the_backend_fails_the_handshake(world, case):
    failed(world, world.backend.plan(Answer(body=b'{"allowed_rooms": []}', status=case)))


@check(cases={str(status): status for status in [301, 302, 303, 307, 308]})
def a_redirect_is_not_followed_but_refuses(world, case):
    plan = world.backend.plan(Answer(body=b"", status=case))
    elsewhere = f"http://{world.backend.host}/elsewhere/{plan.key}"
    plan.bootstrap.headers = {"Location": elsewhere}
    client = world.dial(plan)
    equal(client.receive(), REFUSED, "first frame")
    one_of(client.ended()[0], UNUSABLE, "close code")
    equal([r.target for r in plan.requests()], [PREFIX + "bootstrap/"], "requests to the backend")


REFUSING = {
    "allowed_rooms null": b'{"allowed_rooms": null}',
    "allowed_rooms a number": b'{"allowed_rooms": 1}',
    "allowed_rooms true": b'{"allowed_rooms": true}',
    "allowed_rooms text": b'{"allowed_rooms": "abc"}',
    "allowed_rooms an object": b'{"allowed_rooms": {"a": {"b": 1}}}',
    "an element a number": b'{"allowed_rooms": [{"a": 1}, 1]}',
    "an element null": b'{"allowed_rooms": [{"a": 1}, null]}',
    "an element true": b'{"allowed_rooms": [true]}',
    "an element text": b'{"allowed_rooms": ["abc"]}',
    "an element empty text": b'{"allowed_rooms": [""]}',
    "an element a list": b'{"allowed_rooms": [[]]}',
    "an element a list of pairs": b'{"allowed_rooms": [[["a", 1]]]}',
    "null": b"null",
    "a list": b"[]",
    "a list of rooms": b'[{"a": 1}]',
    "text": b'"allowed"',
    "a number": b"1",
    "no JSON": b"{'allowed_rooms': []}",
    "cut JSON": b'{"allowed_rooms": [',
    "something behind the JSON": b'{"allowed_rooms": []} x',
    "empty": b"",
    "bad UTF-8": b'{"allowed_rooms": [], "x": "\xff"}',
    "NaN": b'{"allowed_rooms": [], "x": NaN}',
    "NaN in a room": b'{"allowed_rooms": [{"a": NaN}]}',
    "Infinity in a room": b'{"allowed_rooms": [{"a": -Infinity}]}',
}


@check(cases=REFUSING)
def an_unusable_answer_fails_the_handshake(world, case):
    failed(world, world.backend.plan(Answer(body=case)))


@check(cases={"empty text": b'""', "empty object": b"{}"})
def allowed_rooms_that_are_empty_but_no_list_fail_the_handshake(world, case):
    failed(world, world.backend.plan(Answer(body=b'{"allowed_rooms": %s}' % case)))


@check()
def html_refuses(world):
    html = {"Content-Type": "text/html"}
    refused(world, Answer(body=b"<html><body>Please log in</body></html>", headers=html), UNUSABLE)


BROKEN = {
    "reset": Answer(reset=True),
    "closed without an answer": Answer(raw=b""),
    "cut short": Answer(raw=b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"allowed_rooms": []}'),
    "cut short in the head": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Le"),
    "not HTTP": Answer(raw=b"220 mail.example.org ESMTP\r\n"),
}


@check(cases=BROKEN)
def a_broken_answer_fails_the_handshake(world, case):
    failed(world, world.backend.plan(case))


@check(background=True)
def the_connection_of_a_client_whose_backend_does_not_answer_ends_within_31_seconds(world):
    forever = threading.Event()
    started = time.monotonic()
    client = world.dial(world.backend.plan(Answer(until=forever)), open_timeout=35)
    code, _ = client.ended(35)
    seconds = time.monotonic() - started
    forever.set()
    equal(code, 1013, "close code, and no frame before it")
    holds(seconds < 31, "seconds until the end", "at most 30", round(seconds, 1))


@check(world="down")
def a_backend_that_is_down_fails_the_handshake(world):
    for _ in range(5):
        try:
            world.dial(world.backend.plan())
        except InvalidStatus as error:
            equal(error.response.status_code, 503, "status")
        else:
            raise Mismatch("handshake: expected 503; came 101")


@check()
def a_refused_client_is_not_counted(world):
    watcher = world.connect()
    before = watcher.status()["open_connections"]
    client = world.dial(world.backend.plan(Answer(status=403)))
    client.receive()
    client.ended()
    equal(watcher.status()["open_connections"], before, "open_connections")


# --- several clients


@check()
def every_connection_asks_anew(world):
    plan = world.backend.plan(Answer(status=403))
    equal(world.dial(plan).receive(), REFUSED, "first frame of a refused client")
    for number in range(1, 4):
        rooms = [{"a": str(number)}]
        plan.bootstrap = Answer(body={"allowed_rooms": rooms})
        equal(world.dial(plan).receive(), {"is_authorized": True, "allowed_rooms": rooms}, f"first frame {number}")


@check()
def clients_with_the_same_cookie_at_once_are_all_let_in(world):
    plan = world.backend.allowing([{"a": "1"}], seconds=0.3)
    waiting = []
    for _ in range(20):
        client = world.socket()
        client.send(raw.request("/ws/", {**raw.upgrade(world.server.host), "Cookie": plan.cookie}))
        waiting.append(client)
    for client in waiting:
        equal(client.response()[0], 101, "status")
        equal(client.read_json(), {"is_authorized": True, "allowed_rooms": [{"a": "1"}]}, "first frame")
        client.send_frame(raw.TEXT, '{"type":"subscribe","room":{"a":"1"},"requestId":1}')
        equal(client.read_json(), SUCCESS, "reply to subscribe")


DIFFERENT = {
    "real IP": ("/ws/", "X-Real-IP", "x-real-ip"),
    "user agent": ("/ws/", "User-Agent", "user-agent"),
    "token": ("/ws/?token={}", None, "authorization"),
}


@check(cases=DIFFERENT)
def clients_with_different_headers_at_once_are_asked_for_each_with_its_own(world, case):
    path, header, at_backend = case
    plan = world.backend.allowing([], seconds=0.3)
    values = [f"v{number}" for number in range(5)]
    waiting = []
    for value in values:
        client = world.socket()
        headers = {**raw.upgrade(world.server.host), "Cookie": plan.cookie, **({header: value} if header else {})}
        client.send(raw.request(path.format(value), headers))
        waiting.append(client)
    for client in waiting:
        equal(client.response()[0], 101, "status")
        equal(client.read_json()["is_authorized"], True, "is_authorized")
    came = sorted(request.header(at_backend).removeprefix("Token ") for request in plan.bootstraps())
    equal(came, values, f"{at_backend} at the backend")


# --- frames sent before the first frame


EARLY = [
    ("ping", "pong"),
    ('{"type":"subscribe","room":{"a":"1"},"requestId":1}', SUCCESS),
    ('{"type":"subscribe","room":{"a":"1"}}', {"code": "error", "message": "no-request-id"}),
    ('{"type":"unsubscribe","requestId":1}', SUCCESS),
    ('{"type":"unsubscribe","requestId":1}', {"code": "error", "message": "not-subscribed"}),
    ("ping", "pong"),
]


@check(cases={"at once": 0, "after 0.5 s": 0.5})
def frames_sent_with_the_handshake_are_handled_after_the_first_frame(world, case):
    plan = world.backend.allowing([{"a": "1"}], seconds=case)
    behind = b"".join(raw.frame(raw.TEXT, text) for text, _ in EARLY)
    client = world.raw(plan=plan, behind=behind)
    equal(client.read_json(), {"is_authorized": True, "allowed_rooms": [{"a": "1"}]}, "first frame")
    for text, reply in EARLY:
        equal(client.read_json(), reply, f"reply to {text}")


@check()
def frames_sent_before_a_refusal_are_not_answered(world):
    plan = world.backend.plan(Answer(status=403, seconds=0.2))
    behind = b"".join(raw.frame(raw.TEXT, text) for text, _ in EARLY)
    client = world.raw(plan=plan, behind=behind)
    equal(client.read_json(), REFUSED, "first frame")
    frames = client.rest()
    equal([(f.opcode, f.close_code) for f in frames], [(raw.CLOSE, 1000)], "frames after it")


@check()
def a_client_that_leaves_before_the_answer_is_not_counted(world):
    watcher = world.connect()
    before = watcher.status()["open_connections"]
    plan = world.backend.allowing([], seconds=0.5)
    client = world.socket()
    client.send(raw.request("/ws/", {**raw.upgrade(world.server.host), "Cookie": plan.cookie}))
    plan.wait("bootstrap/")
    client.reset()
    last = world.connect()
    plan_done = time.monotonic() + 1
    while time.monotonic() < plan_done:
        equal(watcher.status()["open_connections"], before + 1, "open_connections, one more client connected")
        time.sleep(0.05)
    last.close()
