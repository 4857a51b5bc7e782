"""Request ids, subscribing twice, unsubscribing (sections 5.1 and 5.2)."""

import json
import threading

from checks import Mismatch, check, equal, holds, one_of, unique
from client import SUCCESS, error, publication
from publisher import ByAmqp

IDS = {
    "text": '"r1"',
    "empty text": '""',
    "text that is long": '"' + "x" * 255 + '"',
    "text with escapes": r'"\"\\\n\u0001 \u2028 \ud83d\ude00 é"',
    "text with markup": '"</script>&"',
    "0": "0",
    "1": "1",
    "a negative number": "-3",
    "a fraction": "1.5",
    "a float that is whole": "1.0",
    "a large exponent": "1e300",
    "an integer beyond 53 bits": "9007199254740993",
    "an integer of 30 digits": "123456789012345678901234567890",
    "true": "true",
    "false": "false",
    "null": "null",
}


@check(cases=IDS)
def the_request_id_is_echoed_unchanged(world, publish, case):
    room = {unique(): "1"}
    client = world.connect([room])
    reply = client.ask(f'{{"type":"subscribe","room":{json.dumps(room)},"requestId":{case}}}')
    equal(reply, SUCCESS, "reply to subscribe")
    publish({"rooms": [room], "data": 1})
    came = json.loads(client.receive_text())
    equal(came, publication(1, json.loads(case)), "publication")
    equal(client.ask(f'{{"type":"unsubscribe","requestId":{case}}}'), SUCCESS, "reply to unsubscribe")


SAME_IDS = {
    "1 and 1.0": ("1", "1.0", True),
    "1 and 1e0": ("1", "1e0", True),
    "100 and 1E2": ("100", "1E2", True),
    "0.5 and 5e-1": ("0.5", "5e-1", True),
    "escaped text": (r'"\u0061"', '"a"', True),
    "a pair of surrogates": (r'"\ud83d\ude00"', '"😀"', True),
    "1 and true": ("1", "true", False),
    "0 and false": ("0", "false", False),
    "1 and text": ("1", '"1"', False),
    "null and text": ("null", '"null"', False),
    "null and false": ("null", "false", False),
    "null and empty text": ("null", '""', False),
    "null and 0": ("null", "0", False),
    "other case": ('"a"', '"A"', False),
    "not normalised": (r'"\u00e9"', r'"e\u0301"', False),
    "beyond 53 bits": ("9007199254740992", "9007199254740993", False),
    "beyond 64 bits": ("18446744073709551616", "18446744073709551617", False),
}


@check(cases=SAME_IDS)
def request_ids_are_compared_by_type_and_value(world, case):
    first, second, same = case
    client = world.connect([{"a": "*"}])
    equal(client.ask(f'{{"type":"subscribe","room":{{"a":"1"}},"requestId":{first}}}'), SUCCESS, "subscribe")
    reply = client.ask(f'{{"type":"unsubscribe","requestId":{second}}}')
    equal(reply, SUCCESS if same else error("not-subscribed"), f"unsubscribe {second} where {first} is subscribed")


@check()
def true_and_1_are_two_subscriptions(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, True)
    client.subscribe(room, 1)
    publish({"rooms": [room], "data": 7})
    came = sorted(repr(client.receive()["requestId"]) for _ in range(2))
    equal(came, ["1", "True"], "requestIds of the publications")


@check()
def subscribing_the_same_twice_is_one_subscription(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    for number in (1, 1.0, 1):
        client.subscribe(room, number)
    equal(client.before_marker(publish, room), [], "frames before the marker")
    equal(client.before_marker(publish, room), [], "frames before the next: the first came once")
    client.unsubscribe(1)
    client.expect({"type": "unsubscribe", "requestId": 1}, error("not-subscribed"))


@check()
def one_room_under_several_ids_publishes_once_to_each(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    ids = ["a", "b", 3]
    for request_id in ids:
        client.subscribe(room, request_id)
    publish({"rooms": [room], "data": 7})
    came = [client.receive() for _ in ids]
    equal(sorted(map(str, came)), sorted(str(publication(7, i)) for i in ids), "publications")
    equal(client.before_marker(publish, room, copies=3), [], "frames before the marker")


@check()
def one_id_on_several_rooms_publishes_for_each(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    for value in "123":
        client.subscribe({key: value}, "same")
    for value in "321":
        publish({"rooms": [{key: value}], "data": value})
        equal(client.receive(), publication(value, "same"), "publication")


@check()
def unsubscribe_removes_an_id_from_all_its_rooms(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    for value in "123":
        client.subscribe({key: value}, "same")
    client.subscribe({key: "0"}, "other")
    client.unsubscribe("same")
    client.expect({"type": "unsubscribe", "requestId": "same"}, error("not-subscribed"))
    for value in "123":
        publish({"rooms": [{key: value}], "data": value})
    equal(client.before_marker(publish, {key: "0"}), [], "frames before the marker")


@check()
def unsubscribe_touches_no_other_connection(world, publish):
    room = {unique(): "1"}
    one, other = world.connect([room]), world.connect([room])
    one.subscribe(room, "same")
    other.subscribe(room, "same")
    one.unsubscribe("same")
    publish({"rooms": [room], "data": 7})
    equal(other.receive(), publication(7, "same"), "the other's publication")


@check()
def unsubscribe_touches_no_other_id_of_the_room(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "a")
    client.subscribe(room, "b")
    client.unsubscribe("a")
    publish({"rooms": [room], "data": 7})
    equal(client.receive(), publication(7, "b"), "publication")
    equal(client.before_marker(publish, room), [], "frames before the marker")


@check()
def an_id_can_be_used_again_for_another_room(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    for value in "1234":
        client.subscribe({key: value}, "again")
        client.unsubscribe("again")
    client.expect({"type": "unsubscribe", "requestId": "again"}, error("not-subscribed"))
    client.subscribe({key: "5"}, "again")
    for value in "12345":
        publish({"rooms": [{key: value}], "data": value})
    equal(client.receive(), publication("5", "again"), "publication")


@check(cases={"an object": '{"a":1}', "a list": "[1]", "empty list": "[]", "empty object": "{}"})
def a_request_id_that_is_no_scalar_is_refused_and_leaves_nothing(world, case):
    client = world.connect([{"a": "*"}])
    before = client.status()["num_rooms"]
    reply = client.ask(f'{{"type":"subscribe","room":{{"a":"1"}},"requestId":{case}}}')
    equal(reply, error("no-request-id"), "reply to subscribe")
    reply = client.ask(f'{{"type":"unsubscribe","requestId":{case}}}')
    one_of(reply, [error("not-subscribed"), error("no-request-id")], "reply to unsubscribe")
    equal(client.status()["num_rooms"], before, "num_rooms")


@check()
def neither_room_nor_request_id_is_either_error(world):
    client = world.connect([{"a": "*"}])
    reply = client.ask({"type": "subscribe"})
    one_of(reply, [error("no-request-id"), error("room-not-found")], "reply")
    equal(client.ask("ping"), "pong", "ping afterwards")


@check()
def a_refused_subscribe_leaves_earlier_ones_of_its_id_alone(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    client.expect({"type": "subscribe", "room": {"x": "y"}, "requestId": "r"}, error("room-not-found"))
    publish({"rooms": [room], "data": 7})
    equal(client.receive(), publication(7, "r"), "publication")


@check()
def publications_come_only_between_the_two_replies(world, publish):
    """Triggers flow all the time while a client comes and goes."""
    room = {unique(): "1"}
    client = world.connect([room])
    stop = threading.Event()
    problems = []

    def flood():
        own = ByAmqp(world.amqp_url) if isinstance(publish, ByAmqp) else world.post_to(world.server)
        try:
            number = 0
            while not stop.is_set():
                number += 1
                own({"rooms": [room], "data": number})
                stop.wait(0.0005)
        except Exception as error_:
            problems.append(error_)
        finally:
            own.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        last, seen = 0, 0
        for _ in range(200):
            client.send({"type": "subscribe", "room": room, "requestId": "r"})
            equal(client.receive(), SUCCESS, "first frame after subscribe")
            client.send({"type": "unsubscribe", "requestId": "r"})
            while (frame := client.receive()) != SUCCESS:
                equal([frame.get("type"), frame.get("requestId")], ["publish", "r"], f"type and id of {frame}")
                holds(frame["data"] > last, "number of the trigger", f"more than {last}", frame["data"])
                last, seen = frame["data"], seen + 1
            equal(client.ask("ping"), "pong", "next frame after the reply to unsubscribe")
        for _ in range(10_000):
            if seen:
                break
            client.subscribe(room, "r")
            frame = client.receive()
            seen += frame.get("type") == "publish"
    finally:
        stop.set()
        thread.join()
    if problems:
        raise Mismatch("publisher", "no error", repr(problems[0]))
    holds(seen > 0, "publications seen", "some", seen)


@check()
def fifteen_hundred_subscriptions_and_triggers_one_by_one_take_less_than_a_minute(world, publish):
    key = unique()
    client = world.connect([{key: "*"}])
    for number in range(1500):
        client.subscribe({key: number}, number)
    for number in range(1500):
        publish({"rooms": [{key: number}], "data": number})
        equal(client.receive(), publication(number, number), "publication")
