"""Delivery of triggers (section 7), with wildcards as they are by default (section 5 of the page on v4)."""

import json
import time

import raw
from checks import check, equal, eventually, holds, unique
from client import SUCCESS, publication


@check()
def a_trigger_reaches_the_subscribers_of_its_room(world, publish):
    key = unique()
    rooms = [{key: "1"}, {key: "2"}]
    one, two, both = (world.connect([{key: "*"}]) for _ in range(3))
    one.subscribe(rooms[0], "r1")
    two.subscribe(rooms[1], "r2")
    both.subscribe(rooms[0], "r1")
    both.subscribe(rooms[1], "r2")
    publish({"rooms": [rooms[0]], "data": {"type": "message", "id": 1}})
    equal(one.receive(), publication({"type": "message", "id": 1}, "r1"), "publication of one")
    equal(both.receive(), publication({"type": "message", "id": 1}, "r1"), "publication of both")
    equal(two.before_marker(publish, rooms[1]), [], "what two got before the marker")


@check()
def a_trigger_on_several_rooms_reaches_the_subscribers_of_each(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    for value in "123":
        client.subscribe({key: value}, value)
    publish({"rooms": [{key: "1"}, {key: "9"}, {key: "3"}], "data": None})
    came = sorted(client.receive()["requestId"] for _ in range(2))
    equal(came, ["1", "3"], "requestIds of the publications")
    equal(client.before_marker(publish, {key: "2"}), [], "frames before the marker")


@check()
def unknown_rooms_and_no_rooms_deliver_nothing(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    client.subscribe({key: "1"}, "r")
    for rooms in ([], [{unique(): "1"}], [{}], [{key: "1", "more": "2"}]):
        publish({"rooms": rooms, "data": 1})
    equal(client.before_marker(publish, {key: "1"}), [], "frames before the marker")


@check()
def other_keys_of_a_trigger_are_ignored(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    publish({"type": "x", "rooms": [room], "requestId": 9, "data": 7, "x": [{}]})
    equal(client.receive(), publication(7, "r"), "publication")


@check()
def of_duplicate_keys_of_a_trigger_the_last_counts(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    client.subscribe({key: "1"}, "1")
    client.subscribe({key: "2"}, "2")
    publish(f'{{"data":1,"rooms":[{{"{key}":"1"}}],"rooms":[{{"{key}":"1","{key}":"2"}}],"data":2}}')
    equal(client.receive(), publication(2, "2"), "publication")
    equal(client.before_marker(publish, {key: "1"}), [], "frames before the marker")


# Rooms subscribed and triggered as JSON text with KEY for a key of the check's own, and whether they match.
MATCHES = {
    "equal": ('{"KEY":"1","b":"2"}', '{"b":"2","KEY":"1"}', True),
    "* subscribed": ('{"KEY":"*"}', '{"KEY":"1"}', True),
    "* triggered": ('{"KEY":"1"}', '{"KEY":"*"}', True),
    "* on both sides": ('{"KEY":"*"}', '{"KEY":"*"}', True),
    "* crosswise": ('{"KEY":"*","b":"1"}', '{"KEY":"2","b":"*"}', True),
    "* subscribed, the other key differs": ('{"KEY":"*","b":"1"}', '{"KEY":"2","b":"2"}', False),
    "* triggered, the other key differs": ('{"KEY":"1","b":"1"}', '{"KEY":"*","b":"2"}', False),
    "* and a key too many": ('{"KEY":"*"}', '{"KEY":"1","b":"2"}', False),
    "* and a key missing": ('{"KEY":"1","b":"2"}', '{"KEY":"*"}', False),
    "* for a number": ('{"KEY":"*"}', '{"KEY":1}', True),
    "* for null": ('{"KEY":"*"}', '{"KEY":null}', True),
    "* for a nested value": ('{"KEY":"*"}', '{"KEY":{"x":[1]}}', True),
    "nested * is literal": ('{"KEY":{"x":"*"}}', '{"KEY":{"x":"1"}}', False),
    "nested * in a trigger is literal": ('{"KEY":["1"]}', '{"KEY":["*"]}', False),
    "nested * matches itself": ('{"KEY":["*"]}', '{"KEY":["*"]}', True),
    "*a is literal": ('{"KEY":"*a"}', '{"KEY":"ba"}', False),
    "text for a number": ('{"KEY":"1"}', '{"KEY":1}', False),
    "true for 1": ('{"KEY":true}', '{"KEY":1}', False),
    "null for empty text": ('{"KEY":null}', '{"KEY":""}', False),
    "other case": ('{"KEY":"x"}', '{"KEY":"X"}', False),
    "escaped": (r'{"KEY":"\u0078"}', '{"KEY":"x"}', True),
    "nested keys in another order": ('{"KEY":{"x":1,"y":2}}', '{"KEY":{"y":2,"x":1}}', True),
    "beyond 53 bits": ('{"KEY":9007199254740992}', '{"KEY":9007199254740993}', False),
    "spellings of a float": ('{"KEY":1.50}', '{"KEY":15e-1}', True),
}


@check(cases=MATCHES)
def a_subscription_and_a_trigger_match_key_by_key(world, publish, case):
    subscribed, triggered, match = case
    key = unique()
    subscribed, triggered = subscribed.replace("KEY", key), triggered.replace("KEY", key)
    client = world.connect([{key: "*"}, {key: "*", "b": "*"}])
    reply = client.ask(f'{{"type":"subscribe","room":{subscribed},"requestId":"r"}}')
    equal(reply, SUCCESS, f"subscribe to {subscribed}")
    publish(f'{{"rooms":[{triggered}],"data":"it"}}')
    came = client.before_marker(publish, json.loads(subscribed))
    equal(came, [publication("it", "r")] if match else [], f"delivered to {subscribed}, triggered {triggered}")


@check()
def a_subscription_gets_a_trigger_at_most_once(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    client.subscribe({key: "*"}, "star")
    client.subscribe({key: "1"}, "one")
    publish({"rooms": [{key: "1"}, {key: "1"}, {key: "*"}, {key: "2"}], "data": 7})
    came = sorted(client.receive()["requestId"] for _ in range(2))
    equal(came, ["one", "star"], "requestIds of the publications")
    equal(client.before_marker(publish, {key: "1"}, copies=2), [], "frames before the marker")


BAD = {
    "no JSON": b"{",
    "empty": b"",
    "text": b"hello",
    "null": b"null",
    "a number": b"1",
    "no rooms": b'{"data":1}',
    "no data": b'{"rooms":[ROOM]}',
    "rooms null": b'{"rooms":null,"data":1}',
    "rooms an object": b'{"rooms":ROOM,"data":1}',
    "rooms text": b'{"rooms":"","data":1}',
    "one room a number": b'{"rooms":[ROOM,1],"data":1}',
    "one room null": b'{"rooms":[null,ROOM],"data":1}',
    "one room empty text": b'{"rooms":[ROOM,""],"data":1}',
    "one room a list of pairs": b'{"rooms":[[["a","1"]],ROOM],"data":1}',
    "something behind": b'{"rooms":[ROOM],"data":1}x',
    "cut": b'{"rooms":[ROOM],"data":1',
    "not UTF-8": b'{"rooms":[ROOM],"data":"\xff"}',
    "not UTF-8 in a key": b'{"rooms":[ROOM],"data":1,"\xff":1}',
    "NaN": b'{"rooms":[ROOM],"data":NaN}',
    "Infinity": b'{"rooms":[ROOM],"data":[-Infinity]}',
    "deep nesting in a room": b'{"rooms":[ROOM,{"a":' + b"[" * 100_000 + b'],"data":1}',
}


@check(cases=BAD)
def a_bad_trigger_is_dropped_whole_and_the_next_is_delivered(world, publish, case):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    publish.refused(case.replace(b"ROOM", json.dumps(room).encode()))
    equal(client.before_marker(publish, room), [], "frames before the marker")


DATA = {
    "null": "null",
    "false": "false",
    "0": "0",
    "empty text": '""',
    "empty list": "[]",
    "empty object": "{}",
    "minus zero": "-0",
    "a float that is whole": "1.0",
    "an exponent": "[1e2,1E2,1E+2,100.0,1.50]",
    "digits of a float": "[0.1,0.30000000000000004,3.141592653589793238462643383279]",
    "integers of any length": "[9007199254740993,18446744073709551617,1234567890123456789012345678901234567890]",
    "key order": '{"z":1,"a":2,"m":{"y":1,"b":2}}',
    "whitespace": '{ "a" :\n\t[ 1 ,2 ] , "b":"  " }',
    "escapes": r'"\u00e9\/\b\f\n\r\t\"\\ \ud83d\ude00"',
    "UTF-8": '"é ☃ 😀"',
    "line separators": '"\u2028\u2029\u0085"',
    "markup": '"</script><!-- & -->"',
    "a NUL": r'"\u0000"',
    "keys of our own frames": '{"type":"publish","data":{"data":1},"requestId":"r","rooms":[]}',
    "duplicate keys": '{"a":1,"a":2}',
    "a large text": '"' + "x" * 300_000 + '"',
    "many elements": "[" + ",".join(str(n) for n in range(20_000)) + "]",
}


def data_of(text):
    """The bytes of `data` in a publication whose other values hold no `"data"`."""
    start = text.index('"data"') + len('"data"')
    start = text.index(":", start) + 1
    while text[start] in " \t\r\n":
        start += 1
    return text[start:]


@check(cases=DATA)
def data_arrives_byte_for_byte(world, publish, case):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, 1)
    publish(f'{{ "data" : {case} , "rooms" : [{json.dumps(room)}] }}')
    text = client.receive_text()
    frame = json.loads(text)
    equal([sorted(frame), frame["type"], frame["requestId"]], [["data", "requestId", "type"], "publish", 1], "frame")
    rest = data_of(text)
    holds(rest.startswith(case) and rest[len(case) :].lstrip()[:1] in (",", "}"), "data", case, rest)


ODD_DATA = {
    "1E400": "1E400",
    "a lone surrogate": r'"\ud800"',
    "5000 digits": "7" * 5000,
    "nested 100 deep": "[" * 100 + "]" * 100,
    "nested 100 000 deep": "[" * 100_000 + "]" * 100_000,
}


@check(cases=ODD_DATA)
def odd_data_is_passed_on_unchanged_or_dropped(world, publish, case):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, 1)
    send = publish if not hasattr(publish, "attempt") else publish.attempt
    send(f'{{"rooms":[{json.dumps(room)}],"data":{case}}}')
    publish({"rooms": [room], "data": "after"})
    text = client.receive_text()
    if '"after"' not in text:
        holds(data_of(text).startswith(case), "data", case, text)
        text = client.receive_text()
    equal(json.loads(text), publication("after", 1), "the next trigger")


@check()
def a_subscription_gets_the_triggers_in_their_order(world, publish):
    key = unique()
    clients = [world.connect([{key: "*"}]) for _ in range(5)]
    for client in clients:
        client.subscribe({key: "1"}, "one")
        client.subscribe({key: "*"}, "star")
    for number in range(500):
        publish({"rooms": [{key: "1"}], "data": number})
    for client in clients:
        came = {"one": [], "star": []}
        for _ in range(1000):
            frame = client.receive()
            came[frame["requestId"]].append(frame["data"])
        equal(came["one"], list(range(500)), "numbers of one subscription")
        equal(came["star"], list(range(500)), "numbers of the other subscription")


@check()
def a_room_with_many_clients_reaches_all_of_them_once(world, publish):
    room = {unique(): "1"}
    clients = [world.raw_member([room]) for _ in range(200)]
    for client in clients:
        client.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
        equal(client.read_json(), SUCCESS, "reply")
    publish({"rooms": [room], "data": 1})
    publish({"rooms": [room], "data": 2})
    for client in clients:
        equal([client.read_json() for _ in range(2)], [publication(1, "r"), publication(2, "r")], "publications")


@check()
def a_client_that_does_not_read_delays_nobody_and_is_closed(world, publish):
    room = {unique(): "1"}
    watcher = world.connect()
    before = watcher.status()["open_connections"]
    stuck, healthy = world.raw_member([room], receive_buffer=4096), world.connect([room])
    stuck.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
    equal(stuck.read_json(), SUCCESS, "reply to the stuck client")
    healthy.subscribe(room, "r")
    count, filler = 400, "x" * 65_536
    for number in range(count):
        started = time.monotonic()
        publish({"rooms": [room], "data": [number, filler]})
        equal(healthy.receive(seconds=10)["data"][0], number, "number of the healthy client's publication")
        seconds = round(time.monotonic() - started, 1)
        holds(seconds < 2, "seconds that the healthy client waited", "less than 2", seconds)
    eventually(lambda: watcher.status()["open_connections"], before + 1, "open_connections", seconds=15)
    stuck.socket.settimeout(10)
    got = [json.loads(f.payload)["data"][0] for f in stuck.rest() if f.opcode == raw.TEXT]
    equal(got, list(range(len(got))), "numbers that the stuck client finds when it reads at last")
    holds(len(got) < count, "publications of the stuck client", f"fewer than {count}", len(got))


@check()
def a_client_that_vanished_delays_nobody(world, publish):
    room = {unique(): "1"}
    healthy = world.connect([room])
    healthy.subscribe(room, "r")
    for number in range(20):
        gone = world.raw_member([room])
        gone.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
        equal(gone.read_json(), SUCCESS, "reply")
        gone.reset()
        publish({"rooms": [room], "data": number})
        started = time.monotonic()
        equal(healthy.receive(), publication(number, "r"), "publication")
        holds(time.monotonic() - started < 2, "delay", "less than 2 s", round(time.monotonic() - started, 1))
