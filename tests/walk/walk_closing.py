"""Ends of connections and limits (section 11)."""

import json
import socket
import struct
import time

import raw
from checks import check, equal, eventually, holds, one_of, unique
from client import SUCCESS, publication

MEBIBYTE = 1 << 20


def payload(code, reason=""):
    return struct.pack("!H", code) + reason.encode()


def subscriber(world, room=None):
    """A raw client with one subscription, and a watcher with the numbers from before."""
    room = room or {unique(): "1"}
    watcher = world.connect()
    before = numbers(watcher)
    client = world.raw_member([room])
    client.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
    equal(client.read_json(), SUCCESS, "reply to subscribe")
    equal(numbers(watcher), [before[0] + 1, before[1] + 1], "connections and rooms with the client")
    return client, watcher, before


def numbers(watcher):
    status = watcher.status()
    return [status["open_connections"], status["num_rooms"]]


CLOSES = {
    "1000": payload(1000),
    "1000 with a reason": payload(1000, "good bye, käse"),
    "1001": payload(1001, "leaving"),
    "3000": payload(3000, "x"),
    "4999": payload(4999, "y" * 123),
    "no code": b"",
}


@check(cases=CLOSES)
def a_close_frame_is_answered_by_the_same_and_the_end(world, case):
    client, _, _ = subscriber(world)
    client.send_frame(raw.CLOSE, case)
    answer = client.read_frame()
    holds(answer is not None, "answer to the close frame", "a close frame", "end of the stream")
    equal([answer.opcode, answer.payload], [raw.CLOSE, case], "answer to the close frame")
    equal(client.rest(), [], "anything after it")


@check()
def a_closed_connection_is_out_of_the_books_before_its_close_is_answered(world):
    for _ in range(50):
        client, watcher, before = subscriber(world)
        client.send_frame(raw.CLOSE, payload(1000))
        client.read_frame()
        equal(numbers(watcher), before, "connections and rooms right after the answer to the close frame")
        client.close()
        watcher.close()


@check()
def frames_behind_a_close_frame_are_not_answered(world):
    client, _, _ = subscriber(world)
    client.send(raw.frame(raw.TEXT, "ping") + raw.frame(raw.CLOSE, payload(1000)) + raw.frame(raw.TEXT, "ping"))
    equal(client.read_json(), "pong", "reply to the ping before it")
    equal([f.opcode for f in client.rest()], [raw.CLOSE], "frames afterwards")


ENDS = {
    "end of the stream": lambda client: client.close(),
    "half-close": lambda client: client.socket.shutdown(socket.SHUT_WR),
    "reset": lambda client: client.reset(),
    "in the middle of a frame": lambda client: (client.send(raw.frame(raw.TEXT, "x" * 100)[:20]), client.close()),
    "in the middle of a message": lambda client: (client.send_frame(raw.TEXT, "x", final=False), client.close()),
}


@check(cases=ENDS)
def the_end_of_tcp_without_a_close_frame_deregisters_at_once(world, case):
    client, watcher, before = subscriber(world)
    case(client)
    eventually(lambda: numbers(watcher), before, "connections and rooms", seconds=1)


@check()
def a_vanished_client_s_room_gets_nothing_more(world, publish):
    room = {unique(): "1"}
    client, watcher, before = subscriber(world, room)
    client.reset()
    eventually(lambda: numbers(watcher), before, "connections and rooms", seconds=1)
    status = watcher.status()
    sent, taken = status["ws_messages_send"], status["rabbitmq_messages_received"]
    publish({"rooms": [room], "data": 1})
    eventually(lambda: watcher.status()["rabbitmq_messages_received"], taken + 1, "triggers taken")
    again = world.connect([room])
    again.subscribe(room, "r")
    equal(again.before_marker(publish, room), [], "frames before the marker")
    eventually(lambda: watcher.status()["ws_messages_send"] - sent, 1, "publish frames sent")


# --- limits


@check(cases={"one byte below": MEBIBYTE - 1, "exactly": MEBIBYTE})
def a_message_of_one_mebibyte_is_taken(world, case):
    client = world.connect()
    equal(client.ask("x" * case)["message"], "non-json-message", "reply")
    equal(client.ask("ping"), "pong", "ping afterwards")


@check()
def a_fragmented_message_of_one_mebibyte_is_taken(world):
    client = world.raw_member()
    for number in range(16):
        opcode = raw.CONTINUATION if number else raw.TEXT
        client.send_frame(opcode, b"x" * (MEBIBYTE // 16), final=number == 15)
    equal(client.read_json()["message"], "non-json-message", "reply")


TOO_LARGE = {
    "one byte": [raw.frame(raw.TEXT, b"x" * (MEBIBYTE + 1))],
    "in fragments": [raw.frame(raw.TEXT if n == 0 else 0, b"x" * (MEBIBYTE // 8), final=False) for n in range(9)],
    "only announced": [raw.frame(raw.TEXT, b"", announced=MEBIBYTE + 1)],
    "announced beyond all measure": [raw.frame(raw.BINARY, b"", announced=(1 << 63) - 1)],
}


@check(cases=TOO_LARGE)
def a_message_beyond_the_limit_is_closed_with_1009_and_gone(world, case):
    client, watcher, before = subscriber(world)
    for piece in case:
        try:
            client.send(piece)
        except ConnectionError:
            break  # closed already; what it said is checked below
    frames = client.rest()
    equal([(f.opcode, f.close_code) for f in frames], [(raw.CLOSE, 1009)], "frames to the client")
    eventually(lambda: numbers(watcher), before, "connections and rooms", seconds=1)


VIOLATIONS = {
    "unmasked": raw.frame(raw.TEXT, "ping", masked=False),
    "reserved bit 1": raw.frame(raw.TEXT, "ping", reserved=4),
    "reserved bit 3": raw.frame(raw.TEXT, "ping", reserved=1),
    "reserved opcode 3": raw.frame(3, "ping"),
    "reserved opcode 11": raw.frame(11, "x"),
    "bad UTF-8": raw.frame(raw.TEXT, b'{"type":"\xff"}'),
    "UTF-8 cut at the end": raw.frame(raw.TEXT, b"\xc3"),
    "a surrogate in UTF-8": raw.frame(raw.TEXT, b"\xed\xa0\x80"),
    "bad UTF-8 over two fragments": raw.frame(raw.TEXT, b"\xc3", final=False) + raw.frame(0, b"("),
    "continuation of nothing": raw.frame(raw.CONTINUATION, "x"),
    "a new message inside another": raw.frame(raw.TEXT, "x", final=False) + raw.frame(raw.TEXT, "ping"),
    "a fragmented ping": raw.frame(raw.PING, "x", final=False),
    "a ping of 126 bytes": raw.frame(raw.PING, "x" * 126),
    "a close payload of one byte": raw.frame(raw.CLOSE, b"\x03"),
    "a close code 999": raw.frame(raw.CLOSE, payload(999)),
    "a close code 1005": raw.frame(raw.CLOSE, payload(1005)),
    "a close code 1006": raw.frame(raw.CLOSE, payload(1006)),
    "a close code 5000": raw.frame(raw.CLOSE, payload(5000)),
    "a close reason of bad UTF-8": raw.frame(raw.CLOSE, payload(1000) + b"\xff"),
}


@check(cases=VIOLATIONS)
def a_violation_of_the_protocol_ends_the_connection(world, case):
    client, watcher, before = subscriber(world)
    client.send(case)
    frames = client.rest()
    codes = [(f.opcode, f.close_code) for f in frames]
    one_of(codes, [[], [(raw.CLOSE, 1002)], [(raw.CLOSE, 1007)]], "frames to the client")
    eventually(lambda: numbers(watcher), before, "connections and rooms", seconds=1)


# --- silence; the server runs with a limit of one second


def lifetime(client, act=lambda: None, pause=0.25, until=4.0):
    """Seconds until the server closes the client, which does `act` now and then; the frames that came."""
    started = time.monotonic()
    client.socket.settimeout(pause)
    frames = []
    while time.monotonic() - started < until:
        try:
            got = client.read_frame()
        except AssertionError:  # nothing came within the pause
            try:
                act()
            except ConnectionError:
                pass
            continue
        if got is None:
            break
        frames.append(got)
        if got.opcode == raw.CLOSE:
            break
    return time.monotonic() - started, frames


@check(world="idle")
def a_silent_client_is_closed_with_1000(world):
    client = world.raw_member()
    seconds, frames = lifetime(client)
    equal([(f.opcode, f.close_code) for f in frames if f.opcode != raw.PING], [(raw.CLOSE, 1000)], "frames")
    holds(0.8 <= seconds <= 2, "seconds until the close", "about 1", round(seconds, 2))


@check(world="idle", cases={"ping": "ping", "no JSON": "x", "unknown type": "{}", "status": '{"type":"status"}'})
def any_data_frame_keeps_a_client_alive(world, case):
    client = world.raw_member()
    seconds, frames = lifetime(client, lambda: client.send_frame(raw.TEXT, case), until=2.5)
    equal([f.close_code for f in frames if f.opcode == raw.CLOSE], [], "close codes within 2.5 s")
    holds(seconds >= 2.5, "seconds alive", "2.5", round(seconds, 2))


@check(world="idle")
def a_binary_frame_keeps_a_client_alive(world):
    client = world.raw_member()
    seconds, frames = lifetime(client, lambda: client.send_frame(raw.BINARY, b"\xff"), until=2.5)
    equal([f.close_code for f in frames if f.opcode == raw.CLOSE], [], "close codes within 2.5 s")


@check(world="idle", cases={"ping": raw.PING, "pong": raw.PONG})
def websocket_pings_and_pongs_do_not_keep_a_client_alive(world, case):
    client = world.raw_member()
    seconds, frames = lifetime(client, lambda: client.send_frame(case, b"x"))
    equal([f.close_code for f in frames if f.opcode == raw.CLOSE], [1000], "close codes")
    holds(0.8 <= seconds <= 2, "seconds until the close", "about 1", round(seconds, 2))


@check(world="idle")
def publications_do_not_keep_a_client_alive(world, publish):
    room = {unique(): "1"}
    client = world.raw_member([room])
    client.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
    seconds, frames = lifetime(client, lambda: publish({"rooms": [room], "data": 1}), pause=0.2)
    equal([f.close_code for f in frames if f.opcode == raw.CLOSE], [1000], "close codes")
    texts = [json.loads(f.payload) for f in frames if f.opcode == raw.TEXT]
    holds(publication(1, "r") in texts, "frames", "publications", texts)
    holds(0.8 <= seconds <= 2, "seconds until the close", "about 1", round(seconds, 2))


@check(world="idle")
def a_client_closed_for_silence_is_out_of_the_books(world):
    client = world.connect([{"a": "*"}])
    client.subscribe({"a": "1"}, "r")
    equal(client.ended()[0], 1000, "close code")
    status = world.connect().status()
    equal([status["open_connections"], status["num_rooms"]], [1, 0], "connections and rooms")
