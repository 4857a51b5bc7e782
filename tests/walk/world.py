"""A server with its backend and its clients, as one set of environment variables makes it."""

import json
import os
import socket
import threading

import raw
from backend import Backend
from checks import equal, eventually, exact
from client import Client
from publisher import ByAmqp, ByPost
from server import Server, free_port

HOOKS = {
    "HOOK_CONNECT": "user/notify_online/",
    "HOOK_PING": "user/notify_online/",
    "HOOK_DISCONNECT": "user/notify_offline/",
}


class World:
    def __init__(self, name, command, amqp_url, directory, environment=None, instances=1, backend_is_up=True):
        self.name = name
        self.amqp_url = amqp_url
        self.backend = Backend()
        self.api_url = self.backend.api_url if backend_is_up else f"http://127.0.0.1:{free_port()}/api/"
        self._command = command
        self.directory = directory
        self._environment = environment or {}
        self._publishers = {}
        self._mine = threading.local()
        self.servers = [None] * instances

    # --- servers

    @property
    def server(self):
        return self.servers[0]

    def start(self):
        """Starts whatever does not run (any more)."""
        for index, server in enumerate(self.servers):
            if server is None or server.process.poll() is not None:
                self.close_publishers()
                self.servers[index] = self.launch(f"{self.name}-{index}", self._environment)
        for server in self.servers:
            server.wait_ready()

    def launch(self, name, environment=None, umask=-1):
        return Server(self._command, self.api_url, self.amqp_url, self.path(f"{name}.log"), environment, umask)

    def path(self, name):
        """A file in the directory of this walk."""
        return os.path.join(self.directory, name)

    def extra_server(self, environment=None, ready=True, umask=-1):
        """A server of the running check's own; killed after the check if it still runs."""
        server = self.launch(f"{self.name}-extra-{len(self._owned())}", environment, umask)
        self._owned().append(server)
        if ready:
            server.wait_ready()
        return server

    # --- clients

    def connect(self, allowed=(), server=None, **options):
        """A client that has been let in; `plan` is what the backend recorded of it."""
        client = self.dial(self.backend.allowing(_rooms(allowed)), server, **options)
        first = client.receive()
        equal(first.get("is_authorized"), True, f"is_authorized of the first frame {exact(first)}")
        return client

    def dial(self, plan, server=None, path="/ws/", headers=None, cookie=None, **options):
        """A client whose first frame has not been read."""
        headers = {"Cookie": f"{plan.cookie}; {cookie}" if cookie else plan.cookie, **(headers or {})}
        client = Client(f"ws://{(server or self.server).host}{path}", headers, **options)
        client.plan = plan
        self._owned().append(client)
        return client

    def dial_when_listening(self, server, seconds=10):
        """The same, for a server whose readiness cannot be asked."""
        eventually(lambda: _listens(server.port), True, f"a listener on port {server.port}", seconds)
        return self.dial(self.backend.plan(), server)

    def raw(self, allowed=(), plan=None, path="/ws/", headers=(), behind=b"", server=None, receive_buffer=None):
        """A bare socket that was answered 101; `behind` is sent together with the handshake."""
        server = server or self.server
        plan = plan or self.backend.allowing(_rooms(allowed))
        client = self.socket(receive_buffer, server)
        client.plan = plan
        named = {_text(name).lower() for name, _ in headers}
        pairs = list(raw.upgrade(server.host).items()) + list(headers)
        if "cookie" not in named:
            pairs.append(("Cookie", plan.cookie))
        client.send(raw.request(path, pairs) + behind)
        status, _, body = client.response()
        equal(status, 101, f"status of the handshake, body {body[:200]!r}")
        return client

    def raw_member(self, allowed=(), **options):
        """The same with the first frame read and found good."""
        client = self.raw(allowed, **options)
        equal(client.read_json().get("is_authorized"), True, "is_authorized")
        return client

    def socket(self, receive_buffer=None, server=None):
        client = raw.RawClient((server or self.server).port, receive_buffer)
        self._owned().append(client)
        return client

    def exchange(self, data, server=None):
        """Sends bytes to the public listener: status, headers, body."""
        client = self.socket(server=server)
        client.send(data)
        return client.response()

    # --- triggers

    def publisher(self, way):
        if way not in self._publishers:
            self._publishers[way] = ByAmqp(self.amqp_url) if way == "amqp" else self.post_to(self.server)
        return self._publishers[way]

    def post_to(self, server):
        publisher = ByPost(server)
        self._owned().append(publisher)
        return publisher

    def close_publishers(self):
        for publisher in self._publishers.values():
            try:
                publisher.close()
            except Exception:  # the broker may have ended the connection already
                pass
        self._publishers = {}

    # --- the end

    def _owned(self):
        if not hasattr(self._mine, "things"):
            self._mine.things = []
        return self._mine.things

    def cleanup(self):
        """Ends what the check of this thread left open."""
        things, self._mine.things = self._owned(), []
        for thing in things:
            try:
                thing.kill() if isinstance(thing, Server) else thing.close()
            except Exception:  # it may be closed already
                pass

    def wait_quiet(self, seconds=5):
        """Until the servers know of no client and no room: the numbers of the next check begin at nothing."""
        for server in self.servers:
            plan = self.backend.plan()
            client = Client(f"ws://{server.host}/ws/", {"Cookie": plan.cookie})
            client.receive()
            try:
                eventually(lambda: _counted(client), [1, 0], "connections and rooms after a check", seconds)
            finally:
                client.close()

    def stop(self):
        """The exit codes after SIGTERM."""
        self.close_publishers()
        return [server.stop() for server in self.servers if server is not None]


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _counted(client):
    status = client.status()
    return [status["open_connections"], status["num_rooms"]]


def _rooms(allowed):
    return allowed if isinstance(allowed, str) else json.dumps(list(allowed))


def _text(name):
    return name.decode("latin-1") if isinstance(name, bytes) else name
