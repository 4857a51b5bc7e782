"""Delivery as 3.1 has it, by identity only (sections 6 and 7): the server runs with WILDCARD_DISPATCH=exact."""

import json

from checks import check, equal, unique
from client import SUCCESS, publication

# Rooms subscribed and triggered as JSON text, and whether they are one room.
IDENTITY = {
    "equal": ('{"KEY":"1","b":"2"}', '{"b":"2","KEY":"1"}', True),
    "* subscribed is literal": ('{"KEY":"*"}', '{"KEY":"1"}', False),
    "* triggered is literal": ('{"KEY":"1"}', '{"KEY":"*"}', False),
    "* for *": ('{"KEY":"*"}', '{"KEY":"*"}', True),
    "a key too many": ('{"KEY":"1"}', '{"KEY":"1","b":"2"}', False),
    "text for a number": ('{"KEY":"1"}', '{"KEY":1}', False),
    "true for 1": ('{"KEY":1}', '{"KEY":true}', False),
    "null for text": ('{"KEY":null}', '{"KEY":"null"}', False),
    "integer and float": ('{"KEY":1}', '{"KEY":1.0}', False),
    "nested integer and float": ('{"KEY":[1]}', '{"KEY":[1.0]}', False),
    "spellings of a float": ('{"KEY":1.0}', '{"KEY":1e0}', True),
    "other spellings of a float": ('{"KEY":0.5}', '{"KEY":5E-1}', True),
    "large integers": ('{"KEY":9007199254740992}', '{"KEY":9007199254740993}', False),
    "a large integer": ('{"KEY":18446744073709551617}', '{"KEY":18446744073709551617}', True),
    "lists in another order": ('{"KEY":[1,2]}', '{"KEY":[2,1]}', False),
    "nested keys in another order": ('{"KEY":{"x":{"p":1,"q":2}}}', '{"KEY":{"x":{"q":2,"p":1}}}', True),
    "keys in a list in another order": ('{"KEY":[{"p":1,"q":2}]}', '{"KEY":[{"q":2,"p":1}]}', True),
    "escapes": (r'{"KEY":"\u00e9"}', '{"KEY":"é"}', True),
    "not normalised": (r'{"KEY":"\u00e9"}', r'{"KEY":"e\u0301"}', False),
    "other case": ('{"KEY":"x"}', '{"KEY":"X"}', False),
}


@check(world="exact", cases=IDENTITY)
def a_trigger_reaches_its_own_room_only(world, publish, case):
    subscribed, triggered, same = case
    key = unique()
    subscribed, triggered = subscribed.replace("KEY", key), triggered.replace("KEY", key)
    client = world.connect([{key: "*"}, {key: "*", "b": "*"}])
    reply = client.ask(f'{{"type":"subscribe","room":{subscribed},"requestId":"r"}}')
    equal(reply, SUCCESS, f"subscribe to {subscribed}")
    publish(f'{{"rooms":[{triggered}],"data":"it"}}')
    came = before_marker(client, publish, subscribed)
    equal(came, [publication("it", "r")] if same else [], f"delivered to {subscribed}, triggered {triggered}")


def before_marker(client, publish, room):
    """As the client's own, for a room whose spelling matters."""
    marker = unique("marker")
    publish(f'{{"rooms":[{room}],"data":"{marker}"}}')
    frames = []
    while (frame := client.receive()).get("data") != marker:
        frames.append(frame)
    return frames


@check(world="exact")
def a_room_listed_twice_is_delivered_twice(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    client.subscribe({key: "1"}, "r")
    publish({"rooms": [{key: "1"}, {key: "2"}, {key: "1"}, {key: "*"}], "data": 7})
    equal([client.receive() for _ in range(2)], [publication(7, "r")] * 2, "publications")
    equal(client.before_marker(publish, {key: "1"}), [], "frames before the marker")


@check(world="exact")
def a_backend_that_wants_both_names_both_rooms(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    client.subscribe({key: "*"}, "star")
    client.subscribe({key: "1"}, "one")
    publish({"rooms": [{key: "*"}, {key: "1"}], "data": 7})
    came = sorted(client.receive()["requestId"] for _ in range(2))
    equal(came, ["one", "star"], "requestIds of the publications")
    equal(client.before_marker(publish, {key: "1"}), [], "frames before the marker")


@check(world="exact")
def permission_is_by_wildcard_all_the_same(world):
    client = world.connect([{"a": "*"}])
    equal(client.ask(json.dumps({"type": "subscribe", "room": {"a": "1"}, "requestId": 1})), SUCCESS, "reply")
