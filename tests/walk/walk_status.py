"""The status object (section 12)."""

import datetime
import json

import raw
from checks import check, equal, eventually, holds, unique
from client import SUCCESS

COUNTERS = [
    "open_connections",
    "num_rooms",
    "rabbitmq_messages_received",
    "ws_messages_received",
    "ws_messages_send",
    "ws_messages_send_error",
    "ws_messages_send_queued",
]


@check()
def the_status_has_these_keys_and_types(world):
    status = world.connect().status()
    equal(sorted(status), sorted([*COUNTERS, "online_since"]), "keys")
    for key in COUNTERS:
        holds(type(status[key]) is int and status[key] >= 0, key, "an integer, not negative", status[key])


@check()
def online_since_is_the_start_of_the_process(world):
    status = world.connect().status()
    since = datetime.datetime.fromisoformat(status["online_since"])
    age = (datetime.datetime.now(since.tzinfo) - since).total_seconds()
    holds(0 <= age < 3600, "seconds since online_since", "as long as the process runs", age)
    equal(world.connect().status()["online_since"], status["online_since"], "online_since the next time")


@check()
def open_connections_counts_the_asker_and_all_others(world):
    first = world.connect()
    before = first.status()["open_connections"]
    holds(before >= 1, "open_connections with the asker", "at least 1", before)
    others = []
    for count in range(1, 6):
        others.append(world.connect())
        equal(first.status()["open_connections"], before + count, f"open_connections with {count} more")
        equal(others[-1].status()["open_connections"], before + count, "the same, asked by the other")
    for count in range(4, -1, -1):
        others.pop().close()
        equal(first.status()["open_connections"], before + count, f"open_connections with {count} more, after a close")


@check()
def num_rooms_counts_rooms_with_a_subscription_once(world):
    key = unique()
    one, two = world.connect([{key: "*"}]), world.connect([{key: "*"}])
    before = one.status()["num_rooms"]

    def more():
        return one.status()["num_rooms"] - before

    one.subscribe({key: "1"}, "a")
    equal(more(), 1, "rooms after the first subscription")
    one.subscribe({key: "1"}, "b")
    two.subscribe({key: "1"}, "a")
    equal(more(), 1, "rooms after more subscriptions of that room")
    two.subscribe({key: "2"}, "b")
    equal(more(), 2, "rooms after a subscription of another")
    one.unsubscribe("a")
    one.unsubscribe("b")
    equal(more(), 2, "rooms with the first one still in use by the other client")
    two.unsubscribe("a")
    equal(more(), 1, "rooms after the last subscription of the first went")
    two.close()
    equal(more(), 0, "rooms after the other client went")


@check()
def ws_messages_send_counts_publish_frames_only(world, publish):
    key = unique()
    client, watcher = world.connect([{key: "*"}]), world.connect()
    client.subscribe({key: "1"}, "a")
    client.subscribe({key: "1"}, "b")
    before = watcher.status()["ws_messages_send"]
    for number in range(10):
        publish({"rooms": [{key: "1"}], "data": number})
    for _ in range(20):
        client.receive()
    for _ in range(5):
        client.ask("ping")
        client.ask("x")
    eventually(lambda: watcher.status()["ws_messages_send"] - before, 20, "publish frames sent")
    publish({"rooms": [{key: "2"}], "data": 1})
    client.before_marker(publish, {key: "1"}, copies=2)
    eventually(lambda: watcher.status()["ws_messages_send"] - before, 22, "publish frames sent")


@check()
def ws_messages_received_counts_data_frames_from_clients(world):
    client, watcher = world.raw_member(), world.connect()
    before = watcher.status()["ws_messages_received"]
    for text in ("ping", "x", "{}", '{"type":"status"}'):
        client.send_frame(raw.TEXT, text)
        client.read_json()
    client.send_frame(raw.BINARY, b"{}")
    client.read_json()
    client.send_frame(raw.TEXT, "pi", final=False)
    client.send_frame(raw.PING, "not counted")
    client.send_frame(raw.CONTINUATION, "ng")
    equal(client.read_frame().opcode, raw.PONG, "answer to the websocket ping")
    equal(client.read_text(), "pong", "reply to the fragmented ping")
    # The asker's own question may count with itself or with the next.
    equal(watcher.status()["ws_messages_received"] - before, 7, "data frames more: 6 and one status")


@check()
def nothing_is_queued_or_lost_when_all_is_quiet(world, publish):
    room = {unique(): "1"}
    client = world.connect([room])
    client.subscribe(room, "r")
    errors = client.status()["ws_messages_send_error"]
    for number in range(20):
        publish({"rooms": [room], "data": number})
    for _ in range(20):
        client.receive()
    eventually(lambda: client.status()["ws_messages_send_queued"], 0, "ws_messages_send_queued")
    equal(client.status()["ws_messages_send_error"], errors, "ws_messages_send_error")


@check()
def numbers_follow_connect_subscribe_unsubscribe_and_close(world):
    room = {unique(): "1"}
    watcher = world.connect()
    start = watcher.status()

    def more():
        status = watcher.status()
        return [status[key] - start[key] for key in ("open_connections", "num_rooms")]

    for _ in range(20):
        client = world.raw_member([room])
        equal(more(), [1, 0], "after the connect")
        client.send_frame(raw.TEXT, json.dumps({"type": "subscribe", "room": room, "requestId": "r"}))
        equal(client.read_json(), SUCCESS, "reply")
        equal(more(), [1, 1], "after the subscribe")
        client.send_frame(raw.TEXT, '{"type":"unsubscribe","requestId":"r"}')
        equal(client.read_json(), SUCCESS, "reply")
        equal(more(), [1, 0], "after the unsubscribe")
        client.send_frame(raw.CLOSE, b"\x03\xe8")
        client.read_frame()
        equal(more(), [0, 0], "after the close")
