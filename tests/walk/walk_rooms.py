"""Permission to subscribe, and which rooms are one room (section 6)."""

from checks import check, equal
from client import SUCCESS, error

# name: (allowed room, wanted room, permitted), as JSON text.
PERMISSION = {
    "the room itself": ('{"a":"1"}', '{"a":"1"}', True),
    "other order of keys": ('{"a":"1","b":"2"}', '{"b":"2","a":"1"}', True),
    "another value": ('{"a":"1"}', '{"a":"2"}', False),
    "a key missing": ('{"a":"1","b":"2"}', '{"a":"1"}', False),
    "a key too many": ('{"a":"1"}', '{"a":"1","b":"2"}', False),
    "another key": ('{"a":"1"}', '{"A":"1"}', False),
    "* for text": ('{"a":"*"}', '{"a":"x"}', True),
    "* for empty text": ('{"a":"*"}', '{"a":""}', True),
    "* for a number": ('{"a":"*"}', '{"a":1.5}', True),
    "* for null": ('{"a":"*"}', '{"a":null}', True),
    "* for true": ('{"a":"*"}', '{"a":true}', True),
    "* for a list": ('{"a":"*"}', '{"a":[1,{"b":2}]}', True),
    "* for an object": ('{"a":"*"}', '{"a":{"b":2}}', True),
    "* for *": ('{"a":"*"}', '{"a":"*"}', True),
    "* for one key of two": ('{"a":"*","b":"1"}', '{"a":"x","b":"1"}', True),
    "* for one key, the other differs": ('{"a":"*","b":"1"}', '{"a":"x","b":"2"}', False),
    "* with the key missing": ('{"a":"*","b":"1"}', '{"b":"1"}', False),
    "* with a key too many": ('{"a":"*"}', '{"a":"1","b":"2"}', False),
    "wanting * where it is not allowed": ('{"a":"1"}', '{"a":"*"}', False),
    "*a is literal": ('{"a":"*a"}', '{"a":"ba"}', False),
    "*a for itself": ('{"a":"*a"}', '{"a":"*a"}', True),
    "** is literal": ('{"a":"**"}', '{"a":"x"}', False),
    "** for itself": ('{"a":"**"}', '{"a":"**"}', True),
    "a key named * is literal": ('{"*":"1"}', '{"a":"1"}', False),
    "a key named * for itself": ('{"*":"1"}', '{"*":"1"}', True),
    "* in a list is literal": ('{"a":["*"]}', '{"a":["x"]}', False),
    "* in a list for itself": ('{"a":["*"]}', '{"a":["*"]}', True),
    "* in an object is literal": ('{"a":{"b":"*"}}', '{"a":{"b":"x"}}', False),
    "{} for {}": ("{}", "{}", True),
    "{} for more": ("{}", '{"a":"1"}', False),
    "more for {}": ('{"a":"*"}', "{}", False),
    "no case folding": ('{"a":"x"}', '{"a":"X"}', False),
    "no Unicode normalisation": (r'{"a":"\u00e9"}', r'{"a":"e\u0301"}', False),
    "escaped text": (r'{"a":"\u00e9"}', '{"a":"é"}', True),
    "an escaped *": (r'{"a":"\u002a"}', '{"a":"x"}', True),
    "a blank more": ('{"a":"x"}', '{"a":"x "}', False),
    "text for a number": ('{"a":1}', '{"a":"1"}', False),
    "a number for text": ('{"a":"1"}', '{"a":1}', False),
    "1.0 for 1": ('{"a":1}', '{"a":1.0}', True),
    "1 for 1.0": ('{"a":1.0}', '{"a":1}', True),
    "1e2 for 100": ('{"a":100}', '{"a":1e2}', True),
    "100 for 1E+2": ('{"a":1E+2}', '{"a":100}', True),
    "0.1 for 0.10": ('{"a":0.10}', '{"a":0.1}', True),
    "10e-2 for 0.1": ('{"a":0.1}', '{"a":10e-2}', True),
    "1.5 for 1": ('{"a":1}', '{"a":1.5}', False),
    "-1 for 1": ('{"a":1}', '{"a":-1}', False),
    "beyond 53 bits": ('{"a":9007199254740992}', '{"a":9007199254740993}', False),
    "beyond 53 bits, a float": ('{"a":9007199254740992.0}', '{"a":9007199254740993.0}', False),
    "beyond 53 bits, integer for float": ('{"a":9007199254740992.0}', '{"a":9007199254740993}', False),
    "beyond 53 bits, itself": ('{"a":9007199254740993}', '{"a":9007199254740993}', True),
    "beyond 64 bits": ('{"a":18446744073709551616}', '{"a":18446744073709551617}', False),
    "beyond 64 bits, itself": ('{"a":18446744073709551617}', '{"a":18446744073709551617}', True),
    "1e20 for its digits": ('{"a":100000000000000000000}', '{"a":1e20}', True),
    "1 for true": ('{"a":true}', '{"a":1}', False),
    "true for 1": ('{"a":1}', '{"a":true}', False),
    "0 for false": ('{"a":false}', '{"a":0}', False),
    "false for 0": ('{"a":0}', '{"a":false}', False),
    "true for true": ('{"a":true}', '{"a":true}', True),
    "null for null": ('{"a":null}', '{"a":null}', True),
    "empty text for null": ('{"a":null}', '{"a":""}', False),
    "false for null": ('{"a":null}', '{"a":false}', False),
    "text null for null": ('{"a":null}', '{"a":"null"}', False),
    "a list": ('{"a":[1,"2",null]}', '{"a":[1,"2",null]}', True),
    "a list in another order": ('{"a":[1,2]}', '{"a":[2,1]}', False),
    "a longer list": ('{"a":[1]}', '{"a":[1,1]}', False),
    "true in a list for 1": ('{"a":[1]}', '{"a":[true]}', False),
    "1.0 in a list for 1": ('{"a":[1]}', '{"a":[1.0]}', True),
    "an object in another order": ('{"a":{"x":1,"y":2}}', '{"a":{"y":2,"x":1}}', True),
    "an object with one key more": ('{"a":{"x":1}}', '{"a":{"x":1,"y":2}}', False),
    "a duplicate key, the last counts": ('{"a":"2"}', '{"a":"1","a":"2"}', True),
    "a duplicate key, the first does not": ('{"a":"1"}', '{"a":"1","a":"2"}', False),
    "an empty key": ('{"":"1"}', '{"":"1"}', True),
    "a NUL": (r'{"a":"x\u0000y"}', r'{"a":"x\u0000y"}', True),
    "behind a NUL": (r'{"a":"x\u0000y"}', r'{"a":"x\u0000z"}', False),
}


@check(cases=PERMISSION)
def a_room_is_permitted_by_an_allowed_room(world, case):
    allowed, wanted, permitted = case
    client = world.connect(f"[{allowed}]")
    reply = client.ask(f'{{"type":"subscribe","room":{wanted},"requestId":"1"}}')
    equal(reply, SUCCESS if permitted else error("room-not-found"), f"subscribe to {wanted}, allowed {allowed}")


@check()
def one_of_several_allowed_rooms_is_enough(world):
    client = world.connect([{"a": "1"}, {"b": "*"}, {"a": "3", "b": "4"}])
    for room in ({"a": "1"}, {"b": "7"}, {"a": "3", "b": "4"}):
        client.subscribe(room, "1")
    for room in ({"a": "2"}, {"a": "1", "b": "7"}, {"c": "1"}):
        client.expect({"type": "subscribe", "room": room, "requestId": "1"}, error("room-not-found"))


@check()
def without_allowed_rooms_nothing_is_permitted(world):
    client = world.connect([])
    for room in ({}, {"a": "*"}, {"a": "1"}):
        client.expect({"type": "subscribe", "room": room, "requestId": "1"}, error("room-not-found"))


NO_ROOMS = ["null", "1", '"text"', "true", "[1]", '""', "[]", '[["a","1"]]', '["ab"]', "false", "0"]


@check(cases={"no room": "", **{room: f'"room":{room},' for room in NO_ROOMS}})
def a_room_that_is_no_object_is_room_not_found(world, case):
    client = world.connect([{}, {"a": "*"}])
    reply = client.ask(f'{{"type":"subscribe",{case}"requestId":"1"}}')
    equal(reply, error("room-not-found"), "reply")
    equal(client.ask("ping"), "pong", "ping afterwards")
    client.expect({"type": "unsubscribe", "requestId": "1"}, error("not-subscribed"))


# Rooms as JSON text, and how many rooms they are.
COUNTED = {
    "other order of keys": (['{"a":1,"b":2}', '{"b":2,"a":1}'], 1),
    "other order of nested keys": (['{"a":{"x":[{"p":1,"q":2}]}}', '{"a":{"x":[{"q":2,"p":1}]}}'], 1),
    "types": (['{"a":"1"}', '{"a":1}', '{"a":true}', '{"a":null}'], 4),
    "spellings of one float": (['{"a":1.0}', '{"a":1e0}', '{"a":10e-1}', '{"a":1.00}'], 1),
    "large integers": (['{"a":9007199254740992}', '{"a":9007199254740993}', '{"a":18446744073709551617}'], 3),
    "escapes": ([r'{"a":"\u00e9"}', '{"a":"é"}'], 1),
    "* is a room of its own": (['{"a":"*"}', '{"a":"1"}'], 2),
    "lists": (['{"a":[1,2]}', '{"a":[2,1]}', '{"a":[1,2]}'], 2),
}


@check(cases=COUNTED)
def rooms_are_counted_by_their_identity(world, case):
    count_rooms(world, *case)


@check(world="exact", cases={**COUNTED, "integer and float": (['{"a":1}', '{"a":1.0}', '{"a":1e0}'], 2)})
def rooms_are_counted_by_their_identity_in_3_1_too(world, case):
    count_rooms(world, *case)


def count_rooms(world, rooms, count):
    watcher, client = world.connect(), world.connect([{"a": "*"}, {"a": "*", "b": "*"}])
    before = watcher.status()["num_rooms"]
    for number, room in enumerate(rooms):
        reply = client.ask(f'{{"type":"subscribe","room":{room},"requestId":{number}}}')
        equal(reply, SUCCESS, f"subscribe to {room}")
    equal(watcher.status()["num_rooms"] - before, count, f"num_rooms more after subscribing to {rooms}")
    for number in range(len(rooms)):
        client.unsubscribe(number)
    equal(watcher.status()["num_rooms"], before, "num_rooms after unsubscribing")
