"""The frames of section 5 and the odd input of section 16."""

import random
import re

import raw
from checks import check, equal, holds, one_of
from client import SUCCESS, error

MINE = {"target": "message", "customer": "1"}
ALLOWED = [{"target": "message", "customer": "*"}]
STATUS_KEYS = 8


def connection_id(client):
    reply = client.ask("no JSON")
    identity = reply.get("requestId")
    holds(
        isinstance(identity, str) and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", identity),
        "requestId of an error",
        "the connection's UUID, in small letters",
        reply,
    )
    return identity


@check()
def ping_is_answered_by_pong(world):
    client = world.connect()
    client.send("ping")
    equal(client.receive_text(), "pong", "reply to ping")


@check()
def subscribe_is_answered_by_success(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "subscribe", "room": MINE, "requestId": "r1"}, SUCCESS)


@check()
def subscribe_to_a_room_not_permitted_is_room_not_found(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "subscribe", "room": {"target": "x"}, "requestId": "r1"}, error("room-not-found"))


@check()
def subscribe_without_request_id_is_no_request_id(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "subscribe", "room": MINE}, error("no-request-id"))


@check()
def the_request_id_is_looked_at_before_the_permission(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "subscribe", "room": {"target": "x"}}, error("no-request-id"))


@check()
def unsubscribe_is_answered_by_success_once(world):
    client = world.connect(ALLOWED)
    client.subscribe(MINE, "r1")
    client.expect({"type": "unsubscribe", "requestId": "r1"}, SUCCESS)
    client.expect({"type": "unsubscribe", "requestId": "r1"}, error("not-subscribed"))


@check()
def unsubscribe_of_an_unknown_id_is_not_subscribed(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "unsubscribe", "requestId": "r1"}, error("not-subscribed"))


@check()
def unsubscribe_without_request_id_is_no_request_id(world):
    client = world.connect(ALLOWED)
    client.expect({"type": "unsubscribe"}, error("no-request-id"))
    client.expect({"type": "unsubscribe", "room": MINE}, error("no-request-id"))


@check()
def the_connection_id_is_the_same_in_all_errors_of_a_connection(world):
    first, second = world.connect(), world.connect()
    identity = connection_id(first)
    equal(connection_id(first), identity, "second error of the connection")
    first.expect({"type": "nothing", "requestId": "mine"}, error("message-type-not-allowed", identity))
    holds(connection_id(second) != identity, "another connection's id", "another one", identity)


NOT_JSON = {
    "PING": "PING",
    "ping and a blank": "ping ",
    "blank and ping": " ping",
    "pong": "pong",
    "empty": "",
    "a blank": " ",
    "a byte order mark": '\ufeff{"type":"status"}',
    "cut": '{"type":"status"',
    "something behind": '{"type":"status"} x',
    "two objects": '{"type":"status"}{"type":"status"}',
    "single quotes": "{'type':'status'}",
    "a comma too many": '{"type":"status",}',
    "a comment": '{"type":"status"}//',
    "no quotes": "{type:1}",
    "leading zero": "01",
    "a cut literal": "nul",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "a control character in text": '"a\nb"',
    "a bad escape": r'"\x41"',
}


@check(cases=NOT_JSON)
def text_that_is_not_json_is_non_json_message(world, case):
    client = world.connect()
    identity = connection_id(client)
    client.expect(case, error("non-json-message", identity))
    equal(client.ask("ping"), "pong", "ping afterwards")


WRONG_TYPE = {
    text: text
    for text in [
        "{}",
        '{"requestId":"r1"}',
        '{"type":"publish"}',
        '{"type":"Subscribe","room":{},"requestId":"r1"}',
        '{"type":"subscribe ","room":{},"requestId":"r1"}',
        '{"type":"ping"}',
        '{"type":""}',
        '{"type":null}',
        '{"type":1}',
        '{"type":true}',
        '{"type":[]}',
        '{"type":{}}',
        '{"type":["subscribe"]}',
        '{"Type":"status"}',
        "[]",
        '["status"]',
        '[{"type":"status"}]',
        '"x"',
        '"ping"',
        "1",
        "-1.5e3",
        "null",
        "true",
        "false",
    ]
}


@check(cases=WRONG_TYPE)
def json_of_another_or_no_type_is_message_type_not_allowed(world, case):
    client = world.connect(ALLOWED)
    identity = connection_id(client)
    client.expect(case, error("message-type-not-allowed", identity))
    equal(client.ask("ping"), "pong", "ping afterwards")


@check()
def status_is_answered_by_the_status_object(world):
    equal(len(world.connect().ask({"type": "status"})), STATUS_KEYS, "number of keys")


EXTRA_KEYS = {
    "subscribe": ('{"type":"subscribe","room":{"target":"message","customer":"1"},"requestId":"r1",'
                  '"data":1,"scope":{"a":[]},"code":"error"}', SUCCESS),
    "unsubscribe with a room": ('{"type":"unsubscribe","room":{"no":1},"requestId":"r0","data":null}', SUCCESS),
    "whitespace": (' \t\r\n{ "type" : "subscribe" , "room" : { "target":"message","customer":"1" } ,'
                   ' "requestId" : "r1" }\n', SUCCESS),
    "escaped spelling": (r'{"\u0074ype":"subscri\u0062e","room":{"target":"m\u0065ssage","customer":"1"},'
                         r'"request\u0049d":"r1"}', SUCCESS),
    "duplicate keys, the last counts": ('{"type":"status","type":"subscribe","room":1,'
                                        '"room":{"target":"message","customer":"1"},"requestId":"r1"}', SUCCESS),
}


@check(cases=EXTRA_KEYS)
def extra_keys_and_spelling_do_not_matter(world, case):
    client = world.connect(ALLOWED)
    client.subscribe(MINE, "r0")
    client.expect(*case)


@check()
def extra_keys_of_a_status_are_ignored(world):
    reply = world.connect().ask({"type": "status", "requestId": [1], "room": 7})
    equal(len(reply), STATUS_KEYS, f"number of keys of {reply}")


@check()
def a_binary_frame_is_handled_like_text(world):
    client = world.connect(ALLOWED)
    identity = connection_id(client)
    client.expect(b'{"type":"subscribe","room":{"target":"message","customer":"1"},"requestId":"r1"}', SUCCESS)
    client.expect(b"nothing", error("non-json-message", identity))
    client.expect(b"[]", error("message-type-not-allowed", identity))
    one_of(client.ask(b"ping"), ["pong", error("non-json-message", identity)], "reply to a binary ping")


@check(cases={"bytes that are no UTF-8": b"\xff\xfe\x00{", "cut UTF-8": b'"\xc3"', "empty": b""})
def a_binary_frame_that_is_no_text_is_non_json_message(world, case):
    client = world.connect()
    client.expect(case, error("non-json-message", connection_id(client)))
    equal(client.ask("ping"), "pong", "ping afterwards")


@check()
def binary_utf_16_is_accepted_or_non_json_message(world):
    client = world.connect()
    identity = connection_id(client)
    reply = client.ask('{"type":"status"}'.encode("utf-16"))
    holds(reply == error("non-json-message", identity) or len(reply) == STATUS_KEYS, "reply", "status or error", reply)


ODD = {
    "NaN inside": '{"type":"status","x":NaN}',
    "Infinity inside": '{"type":"status","x":-Infinity}',
    "a lone surrogate inside": r'{"type":"status","x":"\ud800"}',
    "a lone surrogate as key": r'{"type":"status","\udc00":1}',
    "a number of 5000 digits inside": '{"type":"status","x":' + "7" * 5000 + "}",
    "1E400 inside": '{"type":"status","x":1E400}',
}


@check(cases=ODD)
def odd_values_inside_are_accepted_or_one_of_the_two_errors(world, case):
    client = world.connect()
    identity = connection_id(client)
    reply = client.ask(case)
    errors = [error("non-json-message", identity), error("message-type-not-allowed", identity)]
    holds(reply in errors or len(reply) == STATUS_KEYS, "reply", "status or one of two errors", reply)
    equal(client.ask("ping"), "pong", "ping afterwards")


DEEP = {
    "lists": "[" * 100_000 + "]" * 100_000,
    "lists, cut": "[" * 100_000,
    "objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "inside type": '{"type":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a number of 5000 digits": "7" * 5000,
}


@check(cases=DEEP)
def deep_nesting_and_long_numbers_are_one_of_the_two_errors(world, case):
    client = world.connect()
    identity = connection_id(client)
    errors = [error("non-json-message", identity), error("message-type-not-allowed", identity)]
    one_of(client.ask(case), errors, "reply")
    equal(client.ask("ping"), "pong", "ping afterwards")


@check(cases={"room": "room", "requestId": "requestId", "other": "other"})
def deep_nesting_inside_a_subscribe_gets_one_reply(world, case):
    client = world.connect(ALLOWED)
    keys = {"room": '{"target":"message","customer":"1"}', "requestId": '"r1"', "other": "1"}
    keys[case] = "[" * 100_000 + "]" * 100_000
    if case == "room":
        keys["room"] = '{"target":"message","customer":' + keys["room"] + "}"
    reply = client.ask('{"type":"subscribe",' + ",".join(f'"{key}":{value}' for key, value in keys.items()) + "}")
    one_of(reply.get("code"), ["success", "error"], "reply")
    equal(client.ask("ping"), "pong", "ping afterwards")


@check()
def a_fragmented_message_with_a_ping_between_is_one_message(world):
    client = world.raw_member(ALLOWED)
    text = b'{"type":"subscribe","room":{"target":"message","customer":"k\xc3\xa4se"},"requestId":"r1"}'
    cut = text.index(b"\xa4")  # in the middle of a character
    client.send_frame(raw.TEXT, text[:10], final=False)
    client.send_frame(raw.PING, b"between")
    client.send_frame(raw.CONTINUATION, text[10:cut], final=False)
    client.send_frame(raw.CONTINUATION, b"", final=False)
    client.send_frame(raw.CONTINUATION, text[cut:])
    pong = client.read_frame()
    equal([pong.opcode, pong.payload], [raw.PONG, b"between"], "answer to the ping")
    equal(client.read_json(), SUCCESS, "reply to the message")


@check()
def a_fragmented_ping_is_a_ping(world):
    client = world.raw_member()
    client.send_frame(raw.TEXT, b"pi", final=False)
    client.send_frame(raw.CONTINUATION, b"ng")
    equal(client.read_text(), "pong", "reply")


@check()
def a_websocket_ping_is_answered_by_a_websocket_pong(world):
    client = world.raw_member()
    for payload in (b"", b"ping", bytes(range(125))):
        client.send_frame(raw.PING, payload)
        pong = client.read_frame()
        equal([pong.opcode, pong.payload], [raw.PONG, payload], "answer")


@check()
def a_websocket_pong_is_ignored(world):
    client = world.raw_member()
    client.send_frame(raw.PONG, b"nobody asked")
    client.send_frame(raw.TEXT, b"ping")
    equal(client.read_text(), "pong", "reply to the ping behind it")


@check(cases={"byte by byte": 1, "three bytes at a time": 3})
def frames_may_arrive_in_pieces(world, case):
    client = world.raw_member()
    data = b"".join(raw.frame(raw.TEXT, text) for text in ("ping", "x" * 200, "ping"))
    for start in range(0, len(data), case):
        client.send(data[start : start + case])
    equal(client.read_text(), "pong", "first reply")
    equal(client.read_json()["message"], "non-json-message", "second reply")
    equal(client.read_text(), "pong", "third reply")


@check()
def replies_come_one_per_frame_in_the_order_of_the_frames(world):
    client = world.connect(ALLOWED)
    identity = connection_id(client)
    chance = random.Random(1)
    subscribed, sent = set(), []
    for _ in range(1000):
        number = chance.randrange(5)
        kind = chance.randrange(6)
        if kind == 0:
            sent.append(("ping", "pong"))
        elif kind == 1:
            sent.append(({"type": "subscribe", "room": MINE, "requestId": number}, SUCCESS))
            subscribed.add(number)
        elif kind == 2:
            reply = SUCCESS if number in subscribed else error("not-subscribed")
            sent.append(({"type": "unsubscribe", "requestId": number}, reply))
            subscribed.discard(number)
        elif kind == 3:
            sent.append(({"type": "subscribe", "room": {"x": 1}, "requestId": number}, error("room-not-found")))
        elif kind == 4:
            sent.append(("nothing", error("non-json-message", identity)))
        else:
            sent.append(({"type": "x"}, error("message-type-not-allowed", identity)))
    for message, _ in sent:
        client.send(message)
    for number, (message, reply) in enumerate(sent):
        equal(client.receive(), reply, f"reply {number}, to {message}")
