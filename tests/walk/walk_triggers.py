"""The ways in: POST /trigger/ (section 6 of the page on v4) and RabbitMQ (section 8)."""

import json
import re
import select
import socket

import pika

from checks import check, equal, holds, one_of, unique
from client import publication
from publisher import EXCHANGE

SUCCESS = {"code": "success"}


def member(world):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    return client, room


TYPES = {
    "none": {},
    "JSON": {"Content-Type": "application/json"},
    "text": {"Content-Type": "text/plain; charset=latin-1"},
    "form": {"Content-Type": "application/x-www-form-urlencoded"},
    "nonsense": {"Content-Type": "%%%"},
}


@check(cases=TYPES)
def the_content_type_of_a_posted_trigger_does_not_matter(world, case):
    client, room = member(world)
    post = world.post_to(world.server)
    equal(list(post.attempt({"rooms": [room], "data": 7}, case)), [200, SUCCESS], "answer")
    equal(client.receive(), publication(7, "r"), "publication")


@check()
def a_trigger_may_be_posted_in_chunks(world):
    client, room = member(world)
    body = json.dumps({"rooms": [room], "data": 7}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[:5], body[5:])) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.server.internal_port), 5) as connection:
        connection.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        holds(connection.recv(12).endswith(b"200"), "status", "200", "something else")
    equal(client.receive(), publication(7, "r"), "publication")


MESSAGES = {
    "cut": ("{", "malformed-json"),
    "empty": ("", "malformed-json"),
    "text": ("rooms", "malformed-json"),
    "something behind": ('{"rooms":[],"data":1}x', "malformed-json"),
    "NaN": ('{"rooms":[],"data":NaN}', "malformed-json"),
    "not UTF-8": (b'{"rooms":[],"data":"\xff"}', "malformed-json"),
    "no rooms": ('{"data":1}', "no-rooms"),
    "no data": ('{"rooms":[]}', "no-data"),
}


@check(cases=MESSAGES)
def a_bad_posted_trigger_is_answered_400_with_the_reason(world, case):
    body, message = case
    equal(world.post_to(world.server).refused(body), message, "message")


REASONS = {
    "rooms null": '{"rooms":null,"data":1}',
    "rooms an object": '{"rooms":{},"data":1}',
    "a room that is a number": '{"rooms":[1],"data":1}',
    "a room that is a list": '{"rooms":[[]],"data":1}',
    "null": "null",
    "a number": "1",
    "text": '"x"',
}


@check(cases=REASONS)
def any_other_bad_posted_trigger_is_answered_400_with_one_word(world, case):
    message = world.post_to(world.server).refused(case)
    holds(re.fullmatch(r"[a-z]+(-[a-z]+)*", message), "message", "one word", message)


@check()
def get_of_the_trigger_path_is_answered_405_or_404(world):
    one_of(world.server.internal("GET", "/trigger/")[0], [404, 405], "status")


@check()
def a_body_beyond_all_measure_is_answered_413(world):
    """Sends until an answer comes, at most 64 MiB."""
    with socket.create_connection(("127.0.0.1", world.server.internal_port), 5) as connection:
        connection.sendall(b"POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        piece = b"x" * 65_536
        for _ in range(1024):
            if select.select([connection], [], [], 0.005)[0]:
                break
            connection.sendall(piece)
        first = connection.recv(12)
    equal(first.decode(), "HTTP/1.1 413", "first line of the answer")


@check()
def a_large_posted_trigger_is_delivered(world):
    client, room = member(world)
    trigger = {"rooms": [room], "data": "x" * (1 << 19)}
    equal(list(world.post_to(world.server).attempt(trigger)), [200, SUCCESS], "answer")
    equal(client.receive(seconds=10), publication(trigger["data"], "r"), "publication")


# --- RabbitMQ


@check()
def the_exchange_is_as_3_1_declares_it(world, publish_by_amqp):
    channel = publish_by_amqp.new_channel()
    channel.exchange_declare(EXCHANGE, "direct", durable=False, auto_delete=False, internal=False)
    channel.close()


@check(cases={key: key for key in ["", "x", "**", "#", "a.b"]})
def a_trigger_with_another_routing_key_is_not_delivered(world, publish_by_amqp, case):
    client, room = member(world)
    publish_by_amqp({"rooms": [room], "data": 1}, key=case)
    equal(client.before_marker(publish_by_amqp, room), [], "frames before the marker")


PROPERTIES = {
    "content type": {"content_type": "application/xml"},
    "encoding": {"content_encoding": "gzip"},
    "headers": {"headers": {"x": 1, "requestId": "y"}},
    "priority": {"priority": 9},
    "persistent": {"delivery_mode": 2},
    "reply to": {"reply_to": "somebody", "correlation_id": "1"},
    "type and ids": {"type": "control", "message_id": "1", "app_id": "a", "timestamp": 1},
}


@check(cases=PROPERTIES)
def the_properties_of_a_message_are_ignored(world, publish_by_amqp, case):
    client, room = member(world)
    publish_by_amqp({"rooms": [room], "data": 7}, properties=pika.BasicProperties(**case))
    equal(client.receive(), publication(7, "r"), "publication")


@check()
def bad_messages_between_good_ones_hold_nothing_up(world, publish_by_amqp):
    client, room = member(world)
    for number in range(100):
        publish_by_amqp({"rooms": [room], "data": number})
        publish_by_amqp("no trigger")
    equal([client.receive()["data"] for _ in range(100)], list(range(100)), "numbers")
    equal(client.before_marker(publish_by_amqp, room), [], "frames before the marker")


@check()
def the_status_counts_triggers_from_rabbitmq_malformed_ones_included(world, publish_by_amqp):
    client, room = member(world)
    before = client.status()["rabbitmq_messages_received"]
    for trigger in ({"rooms": [room], "data": 1}, "no trigger", {"rooms": []}, {"rooms": [{"q": 1}], "data": 2}):
        publish_by_amqp(trigger)
    equal(client.receive(), publication(1, "r"), "publication")
    equal(client.before_marker(publish_by_amqp, room), [], "frames before the marker")
    equal(client.status()["rabbitmq_messages_received"] - before, 5, "rabbitmq_messages_received more")
