#!/usr/bin/env python3
"""The application of the chat demo: serves the page, and makes the signed calls that a browser cannot make.

It stands for the application you have already. A browser proves who it is to the application (here: by a random cookie),
the application decides what that browser may do, and says so to high-templar with Channelstream's signed API. Only
WebSocket, long polling and `/disconnect` go from the browser to high-templar directly.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Optional
from uuid import uuid4

HERE = Path(__file__).resolve().parent
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/channelstream-client.js": ("channelstream-client.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
CHANNEL_CONFIG = {
    "notify_presence": True,
    "broadcast_presence_with_user_lists": True,
    "notify_state": True,
    "store_history": True,
    "history_size": 50,
}
LONGEST_NAME = 40
LONGEST_TEXT = 2000
MOST_CHANNELS = 20
LARGEST_BODY = 64 * 1024


class Refused(Exception):
    """The browser gets this status and text."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


# --- the signed API ------------------------------------------------------------------------------------------------


def sign(secret, value, now):
    """A token for the header `x-channelstream-secret`: what itsdangerous' `TimestampSigner(secret).sign(value)` gives.

    >>> sign("secret", "channelstream", 1700000000)
    'channelstream.ZVPxAA.UB9ITnnv9UITu0ka92WJCn1VFsQ'
    >>> sign("zażółć", "/message", 1700000000)
    '/message.ZVPxAA.lpWsqYWYrcmdSmk2SJaK7-iOzyI'
    """

    def encode(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    key = hashlib.sha1(b"itsdangerous.Signersigner" + secret.encode()).digest()
    seconds = int(now)
    signed = f"{value}.{encode(seconds.to_bytes((seconds.bit_length() + 7) // 8, 'big'))}"
    return f"{signed}.{encode(hmac.new(key, signed.encode(), hashlib.sha1).digest())}"


class Channelstream:
    """high-templar's internal side."""

    def __init__(self, base, secret):
        self.base, self.secret = base.rstrip("/"), secret
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method, path, body):
        """What it answers; raises Refused with 502 if it does not, or not with 200."""
        headers = {
            "Content-Type": "application/json",
            "x-channelstream-secret": sign(self.secret, path, time.time()),
        }
        request = urllib.request.Request(self.base + path, json.dumps(body).encode(), headers, method=method)
        try:
            with self.opener.open(request, timeout=15) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            answer = error.read(1000).decode(errors="replace")
            print(f"{method} {path} was answered with {error.code}: {answer}", flush=True)
            raise Refused(502, f"high-templar answered {method} {path} with {error.code}") from None
        except (OSError, ValueError) as error:
            raise Refused(502, f"high-templar cannot be reached: {getattr(error, 'reason', error)}") from None


# --- who may do what -----------------------------------------------------------------------------------------------


class Newest(OrderedDict):
    """Forgets what has come first when it is full."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        while len(self) > 10_000:
            self.popitem(last=False)


class Connection(NamedTuple):
    browser: str
    username: str
    channels: set


class Message(NamedTuple):
    username: str
    channel: Optional[str]
    to: Optional[str]

    def target(self):
        """Whom a call about it is for. A private message is for both, wherever they are, and is in no history."""
        if self.to is None:
            return {"channel": self.channel}
        return {"pm_users": sorted({self.username, self.to})}


def name(value, what):
    """A name of a user or a channel."""
    value = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
        raise Refused(400, f"{what} has 1 to {LONGEST_NAME} characters")
    return value


def names(values, what):
    if not isinstance(values, list) or len(values) > MOST_CHANNELS:
        raise Refused(400, f"there can be up to {MOST_CHANNELS} channels")
    return [name(value, what) for value in values]


def colour(value):
    if not isinstance(value, str) or not re.fullmatch("[a-z]{1,20}", value):
        raise Refused(400, "a colour is a word")
    return value


def text(value):
    value = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(value) <= LONGEST_TEXT:
        raise Refused(400, f"a message has 1 to {LONGEST_TEXT} characters")
    return value


class Application:
    """What it remembers is in memory; a real one has its users and messages in a database."""

    def __init__(self, channelstream, public):
        self.channelstream, self.public = channelstream, public.rstrip("/")
        self.lock = threading.Lock()
        self.owners = Newest()  # the browser to which a user's name belongs
        self.connections = Newest()  # by conn_id
        self.messages = Newest()  # by uuid
        self.routes = {
            ("POST", "/demo/connect"): self.connect,
            ("POST", "/demo/subscribe"): self.subscribe,
            ("POST", "/demo/unsubscribe"): self.unsubscribe,
            ("POST", "/demo/message"): self.send,
            ("PATCH", "/demo/message"): self.edit,
            ("DELETE", "/demo/message"): self.delete,
            ("POST", "/demo/user_state"): self.user_state,
            ("POST", "/demo/info"): self.info,
        }

    def connect(self, browser, body):
        username = name(body.get("username"), "your name")
        channels = names(body.get("channels"), "the name of a channel")
        state = {"colour": colour(body.get("colour"))}
        with self.lock:
            if self.owners.setdefault(username, browser) != browser:
                raise Refused(409, "somebody else has this name: choose another one")
        answer = self.channelstream.call(
            "POST",
            "/connect",
            {
                "username": username,
                "channels": channels,
                "user_state": state,
                # What is not named here is for the application alone; each call sets the list anew.
                "state_public_keys": ["colour"],
                "channel_configs": {channel: CHANNEL_CONFIG for channel in channels},
                "info": {"return_public_state": True},
            },
        )
        with self.lock:
            self.connections[answer["conn_id"]] = Connection(browser, username, set(answer["channels"]))
        return {
            "server": self.public,
            "conn_id": answer["conn_id"],
            "username": answer["username"],
            "channels": answer["channels"],
            "channels_info": answer["channels_info"],
        }

    def connection(self, browser, body):
        """The browser's own; 410 makes the page connect again."""
        with self.lock:
            connection = self.connections.get(str(body.get("conn_id")))
        if connection is None or connection.browser != browser:
            raise Refused(410, "this connection is not known here")
        return connection

    def subscribe(self, browser, body):
        connection = self.connection(browser, body)
        channels = names(body.get("channels"), "the name of a channel")
        answer = self.channelstream.call(
            "POST",
            "/subscribe",
            {
                "conn_id": body["conn_id"],
                "channels": channels,
                "channel_configs": {channel: CHANNEL_CONFIG for channel in channels},
                # What is in the others the page has seen.
                "info": {"return_public_state": True, "exclude_channels": sorted(connection.channels.difference(channels))},
            },
        )
        with self.lock:
            connection.channels.update(channels)
        return answer

    def unsubscribe(self, browser, body):
        connection = self.connection(browser, body)
        with self.lock:  # who is not in a channel would be announced as leaving it
            channels = [channel for channel in names(body.get("channels"), "a channel") if channel in connection.channels]
            connection.channels.difference_update(channels)
        if not channels:
            return {"channels": sorted(connection.channels)}
        return self.channelstream.call(
            "POST",
            "/unsubscribe",
            {"conn_id": body["conn_id"], "channels": channels, "info": {"include_history": False, "include_users": False}},
        )

    def send(self, browser, body):
        connection = self.connection(browser, body)
        content = {"text": text(body.get("text"))}
        if body.get("to") is not None:
            content["to"] = name(body["to"], "the other's name")
            message = Message(connection.username, None, content["to"])
        else:
            message = Message(connection.username, body.get("channel"), None)
            with self.lock:
                if not isinstance(message.channel, str) or message.channel not in connection.channels:
                    raise Refused(403, "you are not in this channel")
        uuid = str(uuid4())
        with self.lock:
            self.messages[uuid] = message
        item = {"uuid": uuid, "user": message.username, "message": content, **message.target()}
        self.channelstream.call("POST", "/message", [item])
        return {"uuid": uuid}

    def own_message(self, browser, body):
        connection = self.connection(browser, body)
        with self.lock:
            message = self.messages.get(str(body.get("uuid")))
        if message is None or message.username != connection.username:
            raise Refused(403, "this is not a message of yours")
        return message

    def edit(self, browser, body):
        message = self.own_message(browser, body)
        content = {"text": text(body.get("text"))}
        if message.to is not None:
            content["to"] = message.to
        item = {"uuid": body["uuid"], "user": message.username, "message": content, **message.target()}
        self.channelstream.call("PATCH", "/message", [item])
        return {"uuid": body["uuid"]}

    def delete(self, browser, body):
        message = self.own_message(browser, body)
        self.channelstream.call("DELETE", "/message", [{"uuid": body["uuid"], **message.target()}])
        with self.lock:
            self.messages.pop(body["uuid"], None)
        return {"uuid": body["uuid"]}

    def user_state(self, browser, body):
        connection = self.connection(browser, body)
        state = {"colour": colour(body.get("colour"))}
        self.channelstream.call("POST", "/user_state", {"user": connection.username, "user_state": state})
        return state

    def info(self, browser, body):
        """Which channels there are, with the number of their users."""
        self.connection(browser, body)
        answer = self.channelstream.call("POST", "/info", {"info": {"include_history": False, "return_public_state": True}})
        return {"channels": {channel: about["total_users"] for channel, about in answer["channels"].items()}}


# --- HTTP ----------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def browser(self):
        """The random cookie by which a browser is known; a new one, if it has none yet."""
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get("chat")
        except CookieError:
            cookie = None
        if cookie is not None and re.fullmatch(r"[\w-]{43}", cookie.value):
            return cookie.value
        self.new_cookie = secrets.token_urlsafe(32)
        return self.new_cookie

    def reply(self, status, content_type, body):
        public = self.server.application.public
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors 'none'; connect-src 'self' {public} {re.sub('^http', 'ws', public)}",
        )
        if getattr(self, "new_cookie", None):
            self.send_header("Set-Cookie", f"chat={self.new_cookie}; Path=/; HttpOnly; SameSite=Strict")
            self.new_cookie = None
        self.end_headers()
        self.wfile.write(body)

    def reply_json(self, status, body):
        self.reply(status, "application/json", json.dumps(body).encode())

    def do_GET(self):
        file, content_type = FILES.get(self.path.partition("?")[0], (None, None))
        if file is None:
            self.reply_json(404, {"error": "there is no such page"})
            return
        self.browser()
        self.reply(200, content_type, (HERE / file).read_bytes())

    def body(self):
        # A page of another origin cannot send this type without asking first, which is answered with 501.
        if self.headers.get_content_type() != "application/json":
            self.close_connection = True
            raise Refused(415, "the body must be application/json")
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= LARGEST_BODY:
                raise ValueError
            body = json.loads(self.rfile.read(length))
        except ValueError:
            self.close_connection = True
            raise Refused(400, "the body must be JSON, and not too large") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        return body

    def do_POST(self):
        try:
            route = self.server.application.routes.get((self.command, self.path))
            if route is None:
                self.close_connection = True
                raise Refused(404, "there is no such call")
            self.reply_json(200, route(self.browser(), self.body()))
        except Refused as refused:
            self.reply_json(refused.status, {"error": refused.text})

    do_PATCH = do_DELETE = do_POST

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, port, application):
        super().__init__(("127.0.0.1", port), Handler)
        self.application = application


def main():
    environment = os.environ.get
    parser = argparse.ArgumentParser(
        description="The application of the chat demo. CHANNELSTREAM_SECRET is what calls are signed with."
    )
    parser.add_argument(
        "--internal",
        default=environment("CHAT_INTERNAL", "http://127.0.0.1:8002"),
        help="where high-templar takes signed calls (CHAT_INTERNAL; %(default)s)",
    )
    parser.add_argument(
        "--public",
        default=environment("CHAT_PUBLIC", "http://127.0.0.1:8000"),
        help="where browsers find high-templar (CHAT_PUBLIC; %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=environment("CHAT_PORT", "8100"),
        help="port of the page, 0 for any that is free (CHAT_PORT; %(default)s)",
    )
    options = parser.parse_args()
    secret = environment("CHANNELSTREAM_SECRET")
    if not secret:
        parser.error("CHANNELSTREAM_SECRET is not set")
    server = Server(options.port, Application(Channelstream(options.internal, secret), options.public))
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
