"""Stop of the server, several instances, and a broker that goes away (sections 7, 8 and 11)."""

import json
import signal
import socket
import threading
import time

import raw
from backend import Answer
from checks import Mismatch, check, equal, eventually, holds, one_of, unique
from client import SUCCESS, publication
from proxy import Proxy
from publisher import EXCHANGE, ByAmqp
from server import free_port
from websockets.exceptions import InvalidStatus
from world import HOOKS


def accepted(post, trigger, headers=None, seconds=5):
    """Posts until the server takes the trigger: just after its start it may still connect."""
    eventually(lambda: post.attempt(trigger, headers)[0], 200, "status of POST /trigger/", seconds)


@check(world="stop", cases={"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT})
def a_stop_closes_the_clients_with_1001_and_ends_with_exit_code_0(world, case):
    server = world.extra_server()
    clients = [world.connect(server=server) for _ in range(50)]
    started = time.monotonic()
    equal(server.stop(case), 0, "exit code")
    seconds = time.monotonic() - started
    holds(seconds < 15, "seconds until the end", "less than 15", round(seconds, 1))
    for client in clients:
        equal(client.ended()[0], 1001, "close code")


@check(world="stop")
def a_stop_without_clients_is_quick(world):
    server = world.extra_server()
    started = time.monotonic()
    equal(server.stop(), 0, "exit code")
    seconds = time.monotonic() - started
    holds(seconds < 5, "seconds until the end", "less than 5", round(seconds, 1))


@check(world="stop")
def a_stop_is_not_held_up_by_clients_that_do_nothing(world):
    """One does not read, one never completed its request, one waits for the backend."""
    server = world.extra_server()
    forever = threading.Event()
    try:
        world.raw_member(server=server, receive_buffer=4096)
        world.socket(server=server).send(b"GET /ws/ HT")
        waiting = world.socket(server=server)
        plan = world.backend.plan(Answer(until=forever))
        waiting.send(raw.request("/ws/", {**raw.upgrade(server.host), "Cookie": plan.cookie}))
        plan.wait("bootstrap/")
        equal(server.stop(seconds=30), 0, "exit code")
    finally:
        forever.set()


@check(world="stop")
def a_trigger_accepted_before_a_stop_is_delivered_before_the_close(world):
    server = world.extra_server()
    room = {unique(): "1"}
    clients = [world.connect([room], server=server) for _ in range(20)]
    for client in clients:
        client.subscribe(room, "r")
    equal(list(world.post_to(server).attempt({"rooms": [room], "data": 7})), [200, SUCCESS], "answer")
    equal(clients[0].receive(), publication(7, "r"), "publication of the first")
    equal(server.stop(), 0, "exit code")
    for client in clients[1:]:
        equal(client.receive(), publication(7, "r"), "publication")
        equal(client.ended()[0], 1001, "close code")


@check(world="stop")
def after_a_stop_nobody_listens(world):
    server = world.extra_server()
    equal(server.stop(), 0, "exit code")
    for port in (server.port, server.internal_port):
        with socket.socket() as probe:
            equal(probe.connect_ex(("127.0.0.1", port)) != 0, True, f"connection refused at {port}")


@check(world="stop")
def a_server_without_api_url_says_so_and_ends(world):
    server = world.launch("no-api-url", {"API_URL": None})
    try:
        code = server.process.wait(10)
    finally:
        server.kill()
    holds(code != 0, "exit code", "not 0", code)
    holds("API_URL" in server.log(), "output", "the name API_URL", server.log())


@check(world="stop")
def an_internal_listener_for_others_needs_a_token(world):
    server = world.launch("open-without-token", {"INTERNAL_LISTEN": f"0.0.0.0:{free_port()}"})
    try:
        code = server.process.wait(10)
    finally:
        server.kill()
    holds(code != 0, "exit code", "not 0", code)
    holds("INTERNAL_TOKEN" in server.log(), "output", "the name INTERNAL_TOKEN", server.log())


@check(world="stop")
def the_internal_token_is_required_as_a_bearer_token(world):
    port = free_port()
    server = world.extra_server({"INTERNAL_LISTEN": f"0.0.0.0:{port}", "INTERNAL_TOKEN": "s3cret"}, ready=False)
    server.internal_port = port
    client = world.dial_when_listening(server)
    equal(client.receive()["is_authorized"], True, "is_authorized")
    for authorization in (None, "Bearer wrong", "Basic s3cret", "s3cret"):
        headers = {"Authorization": authorization} if authorization else {}
        status, _ = world.post_to(server).attempt({"rooms": [], "data": 1}, headers)
        one_of(status, [401, 403], f"status with {headers}")
    accepted(world.post_to(server), {"rooms": [], "data": 1}, {"Authorization": "Bearer s3cret"})


@check(world="stop")
def secrets_are_not_logged(world):
    server = world.extra_server({"LOG": "debug,high_templar=trace", **HOOKS})
    headers = {"Authorization": "Bearer secret-1"}
    path = "/ws/?token=secret-2&session_token=secret-3"
    client = world.connect(server=server, path=path, headers=headers, cookie="csrftoken=secret-4")
    client.plan.wait("user/notify_online/")
    client.ask("secret-5")
    refused = world.dial(world.backend.plan(Answer(status=403)), server=server, path=path, cookie="a=secret-6")
    refused.receive()
    try:
        world.dial(world.backend.plan(Answer(reset=True)), server=server, path=path, cookie="a=secret-7")
    except InvalidStatus as error:
        equal(error.response.status_code, 503, "status")
    world.post_to(server)({"rooms": [], "data": "secret-8"})
    equal(server.stop(), 0, "exit code")
    with open(server.log_path) as log:
        found = [line for line in log if "secret-" in line or "plan-" in line or "guest:guest" in line]
    equal(found, [], "lines of the log with cookies, tokens, passwords or payloads")


# --- several instances on one broker


@check(world="pair")
def a_trigger_posted_to_either_instance_reaches_clients_of_both_once(world):
    room = {unique(): "1"}
    clients = [world.connect([room], server=server) for server in world.servers for _ in range(3)]
    for client in clients:
        client.subscribe(room, "r")
    posts = [world.post_to(server) for server in world.servers]
    for number in range(20):
        posts[number % len(posts)]({"rooms": [room], "data": number})
        for client in clients:
            equal(client.receive(), publication(number, "r"), "publication")
    posts[0]({"rooms": [room], "data": "end"})
    for client in clients:
        equal(client.receive(), publication("end", "r"), "the last publication, nothing twice")


@check(world="pair")
def a_trigger_by_amqp_reaches_clients_of_both_instances_once(world, publish_by_amqp):
    room = {unique(): "1"}
    clients = [world.connect([room], server=server) for server in world.servers]
    for client in clients:
        client.subscribe(room, "r")
    for number in range(200):
        publish_by_amqp({"rooms": [room], "data": number})
    for client in clients:
        equal([client.receive()["data"] for _ in range(200)], list(range(200)), "numbers")
    publish_by_amqp({"rooms": [room], "data": "end"})
    for client in clients:
        equal(client.receive(), publication("end", "r"), "the last publication, nothing twice")


@check(world="pair")
def each_instance_counts_its_own_clients(world):
    one, two = (world.connect(server=server) for server in world.servers)
    equal([one.status()["open_connections"], two.status()["open_connections"]], [1, 1], "open_connections")


@check(world="pair")
def an_instance_that_is_killed_does_not_disturb_the_other(world):
    room = {unique(): "1"}
    victim = world.extra_server()
    client = world.connect([room])
    client.subscribe(room, "r")
    lost = world.connect([room], server=victim)
    lost.subscribe(room, "r")
    post = world.post_to(world.server)
    for number in range(50):
        if number == 25:
            victim.kill()
        post({"rooms": [room], "data": number})
    equal([client.receive()["data"] for _ in range(50)], list(range(50)), "numbers")


# --- a broker that goes away


@check(world="outage")
def a_trigger_posted_as_soon_as_the_server_is_ready_is_accepted(world):
    """The connections to the broker come up one after the other here."""
    for _ in range(6):
        with Proxy(world.amqp_url, second_waits=0.3) as proxy:
            server = world.extra_server({"AMQP_URL": proxy.url})
            equal(list(world.post_to(server).attempt({"rooms": [], "data": 1})), [200, SUCCESS], "answer")
            server.kill()


@check(world="outage")
def without_the_broker_clients_stay_and_afterwards_triggers_arrive_again(world):
    room, later = {unique(): "1"}, {unique(): "2"}
    with Proxy(world.amqp_url) as proxy:
        server = world.extra_server({"AMQP_URL": proxy.url, "ON_GAP": "ignore"})
        client = world.connect([room], server=server)
        client.subscribe(room, "r")
        accepted(world.post_to(server), {"rooms": [room], "data": 1})
        equal(client.receive(), publication(1, "r"), "publication")

        proxy.cut()
        eventually(lambda: server.internal("GET", "/readyz")[0] != 200, True, "readyz is not 200", seconds=10)
        equal(server.internal("GET", "/healthz")[0], 200, "status of healthz meanwhile")
        equal(client.ask("ping"), "pong", "reply meanwhile")
        newcomer = world.connect([later], server=server)
        newcomer.subscribe(later, "n")
        client.expect({"type": "unsubscribe", "requestId": "x"}, {"code": "error", "message": "not-subscribed"})
        status, headers, _ = server.internal("POST", "/trigger/", json.dumps({"rooms": [room], "data": 2}), seconds=30)
        equal(status, 503, "status of a trigger posted meanwhile")
        holds(headers.get("Retry-After", "").isdigit(), "Retry-After", "a number of seconds", headers.get("Retry-After"))

        proxy.restore()
        started = time.monotonic()
        server.wait_ready(seconds=15)
        seconds = time.monotonic() - started
        holds(seconds < 8, "seconds until it is ready again", "at most the 5 between two tries", round(seconds, 1))
        publisher = ByAmqp(world.amqp_url)
        publisher({"rooms": [room, later], "data": 3})
        frames = [client.receive()]
        while frames[-1]["data"] != 3:
            frames.append(client.receive())
        one_of([f["data"] for f in frames], [[3], [2, 3]], "data after the outage")
        equal(newcomer.receive(), publication(3, "n"), "publication of the newcomer")
        equal(server.stop(), 0, "exit code")


@check(world="outage")
def who_was_there_while_the_broker_was_away_is_told_to_come_back_where_there_is_no_log(world):
    room = {unique(): "1"}
    with Proxy(world.amqp_url) as proxy:
        server = world.extra_server({"AMQP_URL": proxy.url, "AMQP_LOG": "off"})
        client = world.connect([room], server=server)
        client.subscribe(room, "r")
        proxy.cut()
        eventually(lambda: server.internal("GET", "/readyz")[0] != 200, True, "readyz is not 200", seconds=10)
        equal(client.ask("ping"), "pong", "reply meanwhile")
        proxy.restore()
        equal(client.ended(seconds=15)[0], 1012, "close code")
        client = world.connect([room], server=server)
        client.subscribe(room, "r")
        # The publisher has a connection of its own, which it may be about to try again in five seconds.
        accepted(world.post_to(server), {"rooms": [room], "data": 1}, seconds=15)
        equal(client.receive(), publication(1, "r"), "publication")


@check(world="outage")
def what_was_published_while_a_server_was_cut_off_from_the_broker_comes_later(world):
    room = {unique(): "1"}
    with Proxy(world.amqp_url) as proxy:
        exchange = {"AMQP_EXCHANGE": unique()}
        server = world.extra_server({"AMQP_URL": proxy.url, **exchange})
        other = world.extra_server({"AMQP_URL": world.amqp_url, **exchange})
        client = world.connect([room], server=server)
        client.subscribe(room, "r")
        proxy.cut()
        eventually(lambda: server.internal("GET", "/readyz")[0] != 200, True, "readyz is not 200", seconds=10)
        for number in range(3):
            accepted(world.post_to(other), {"rooms": [room], "data": number})
        equal(client.ask("ping"), "pong", "reply meanwhile")
        proxy.restore()
        for number in range(3):
            equal(client.receive(seconds=15), publication(number, "r"), "publication")
        equal(client.ask("ping"), "pong", "reply after it")


@check(world="outage")
def a_server_started_without_a_broker_serves_clients_and_is_ready_later(world):
    room = {unique(): "1"}
    with Proxy(world.amqp_url) as proxy:
        proxy.cut()
        server = world.extra_server({"AMQP_URL": proxy.url, "ON_GAP": "ignore"}, ready=False)
        server.wait_ready(path="/healthz")
        client = world.connect([room], server=server)
        client.subscribe(room, "r")
        equal(client.ask("ping"), "pong", "reply")
        holds(server.internal("GET", "/readyz")[0] != 200, "status of readyz", "not 200", "200")
        proxy.restore()
        server.wait_ready(seconds=15)
        accepted(world.post_to(server), {"rooms": [room], "data": 1})
        equal(client.receive(), publication(1, "r"), "publication")


@check(world="outage")
def a_stop_without_the_broker_ends_with_exit_code_0(world):
    with Proxy(world.amqp_url) as proxy:
        server = world.extra_server({"AMQP_URL": proxy.url})
        client = world.connect(server=server)
        proxy.cut()
        eventually(lambda: server.internal("GET", "/readyz")[0] != 200, True, "readyz is not 200", seconds=10)
        equal(server.stop(), 0, "exit code")
        equal(client.ended()[0], 1001, "close code")


@check(world="outage")
def an_exchange_declared_differently_does_not_keep_websockets_from_being_served(world):
    publisher = ByAmqp(world.amqp_url)
    publisher.channel.exchange_delete(EXCHANGE)
    publisher.channel.exchange_declare(EXCHANGE, "fanout", durable=True)
    try:
        server = world.extra_server(ready=False)
        server.wait_ready(path="/healthz")
        client = world.connect([{"a": "1"}], server=server)
        client.subscribe({"a": "1"}, "r")
        for _ in range(20):
            equal(client.ask("ping"), "pong", "reply")
            time.sleep(0.1)
        if server.process.poll() is not None:
            raise Mismatch("server", "running", server.log())
        publisher.channel.exchange_delete(EXCHANGE)
        server.wait_ready(seconds=20)
    finally:
        publisher.close()
        tidy = ByAmqp(world.amqp_url)
        tidy.channel.exchange_delete(EXCHANGE)
        tidy.close()
