"""Unix sockets and the variables of 3.1's start-up script (section 13)."""

import os
import stat
import urllib.parse

import raw
from backend import Backend
from checks import check, equal, holds, unique
from client import SUCCESS, publication

UMASK = 0o022


def joined(path, plan, query=""):
    """A raw client at a unix socket, with its first frame read."""
    client = raw.RawClient(path)
    headers = {**raw.upgrade("app.example.org"), "Cookie": plan.cookie, "X-Real-IP": "10.1.2.3"}
    client.send(raw.request(f"/ws/{query}", headers))
    equal(client.response()[0], 101, "status")
    equal(client.read_json().get("is_authorized"), True, "is_authorized")
    return client


@check(world="stop", cases={"none": None, "open to all": 0o000, "owner only": 0o077})
def the_server_listens_on_a_unix_socket_whose_mode_follows_the_umask(world, case):
    path = world.path(f"{unique('ws')}.sock")
    server = world.extra_server({"LISTEN": f"unix:{path}"}, umask=UMASK if case is None else case)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    equal(oct(mode), oct(0o777 & ~(UMASK if case is None else case)), "mode of the socket")
    plan = world.backend.plan()
    client = joined(path, plan)
    client.send_frame(raw.TEXT, "ping")
    equal(client.read_text(), "pong", "reply")
    equal(plan.bootstraps()[0].header("X-Real-IP"), "10.1.2.3", "X-Real-IP at the backend")
    client.close()
    equal(server.stop(), 0, "exit code")


@check(world="stop")
def a_stale_socket_file_is_replaced(world):
    path = world.path(f"{unique('ws')}.sock")
    first = world.extra_server({"LISTEN": f"unix:{path}"})
    first.kill()
    holds(os.path.exists(path), "socket file after a kill", "left behind", "gone")
    second = world.extra_server({"LISTEN": f"unix:{path}"})
    joined(path, world.backend.plan()).close()
    equal(second.stop(), 0, "exit code")


@check(world="stop", cases={"BINDER_SOCKET with BINDER_INTERNAL": True, "BINDER_SOCKET alone": False})
def the_backend_is_reached_over_a_unix_socket(world, case):
    path = world.path(f"{unique('api')}.sock")
    backend = Backend(path)
    plan = backend.allowing([])
    environment = {"API_URL": None, "BINDER_SOCKET": path, "APP_URL": "https://app.example.org"}
    if case:
        environment["BINDER_INTERNAL"] = "http://inside.example/deep/api/"
    server = world.extra_server(environment, ready=False)
    server.wait_ready(path="/healthz")  # without AMQP_URL these variables stand for a RabbitMQ on localhost
    client = world.dial(plan, server=server)
    equal(client.receive(), {"is_authorized": True, "allowed_rooms": []}, "first frame")
    request = plan.requests()[0]
    expected = ["inside.example", "/deep/api/bootstrap/"] if case else ["localhost", "/api/bootstrap/"]
    equal([request.header("Host"), request.target], expected, "Host and path at the backend")


# --- as 3.1 was configured


def by_3_1(world):
    """The variables of 3.1 for this world's backend and broker."""
    url = urllib.parse.urlsplit(world.amqp_url)
    return {
        "API_URL": None,
        "AMQP_URL": None,
        "APP_URL": "https://app.example.org",
        "BINDER_INTERNAL": world.api_url,
        "RABBITMQ_USERNAME": urllib.parse.unquote(url.username or "guest"),
        "RABBITMQ_PASSWORD": urllib.parse.unquote(url.password or "guest"),
        "RABBITMQ_HOST": f"{url.hostname}:{url.port or 5672}{urllib.parse.unquote(url.path)}",
    }


@check(world="outage")
def the_variables_of_3_1_reach_backend_and_broker(world, publish_by_amqp):
    room = {unique(): "1"}
    server = world.extra_server(by_3_1(world))
    client = world.connect([room], server=server)
    client.subscribe(room, "r")
    publish_by_amqp({"rooms": [room], "data": 7})
    equal(client.receive(), publication(7, "r"), "publication")
    equal(client.plan.bootstraps()[0].header("Referer"), "https://app.example.org/api/", "Referer at the backend")


@check(world="outage")
def the_variables_of_3_1_pass_the_session_token_on(world):
    server = world.extra_server(by_3_1(world))
    client = world.connect(server=server, path="/ws/?session_token=abc&token=t")
    request = client.plan.bootstraps()[0]
    equal(request.header("X-Session-Token"), "abc", "X-Session-Token at the backend")
    equal(request.header("Authorization"), "Token t", "Authorization at the backend")
    client = world.connect(server=server)
    equal(client.plan.bootstraps()[0].header("X-Session-Token"), None, "X-Session-Token without the parameter")


@check(world="outage")
def the_variables_of_3_1_switch_the_hooks_on(world):
    server = world.extra_server(by_3_1(world))
    client = world.connect(server=server)
    client.plan.wait("user/notify_online/")
    client.close()
    client.plan.wait("user/notify_offline/")
    for request in client.plan.requests():
        equal(request.header("Referer"), "https://app.example.org/api/", f"Referer of {request.target}")


@check(world="outage")
def with_the_variables_of_3_1_delivery_is_exact(world, publish_by_amqp):
    key = unique()
    server = world.extra_server(by_3_1(world))
    client = world.connect([{key: "*"}], server=server)
    equal(client.ask({"type": "subscribe", "room": {key: "*"}, "requestId": "star"}), SUCCESS, "reply")
    client.subscribe({key: "1"}, "one")
    publish_by_amqp({"rooms": [{key: "*"}], "data": 7})
    publish_by_amqp({"rooms": [{key: "1"}], "data": 8})
    came = [client.receive() for _ in range(2)]
    equal(came, [publication(7, "star"), publication(8, "one")], "publications")
    equal(client.before_marker(publish_by_amqp, {key: "1"}), [], "frames before the marker")
