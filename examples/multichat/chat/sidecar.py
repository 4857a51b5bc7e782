"""Calls of high-templar's internal listener."""

import json
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from django.conf import settings

from .errors import Refused, Unavailable

TIMEOUT = 3  # seconds

_opener = build_opener(ProxyHandler({}))  # never by way of a proxy


def position() -> str | None:
    """Where the log of all triggers is now, if that can be told. Ask before reading what a page shall subscribe `since` then."""
    try:
        return call("/position").get("position")
    except (Refused, Unavailable):
        return None


def call(path: str, body: dict | None = None) -> dict:
    """Asks the addresses in turn."""
    last = Unavailable("SIDECAR_INTERNAL is not set")
    for base in settings.SIDECAR_INTERNAL:
        try:
            return _call(base.rstrip("/") + path, body)
        except Unavailable as error:
            last = error
    raise last


def _call(url: str, body: dict | None) -> dict:
    request = Request(url, None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if settings.INTERNAL_TOKEN:
        request.add_header("Authorization", f"Bearer {settings.INTERNAL_TOKEN}")
    try:
        with _opener.open(request, timeout=TIMEOUT) as response:
            return json.load(response)
    except HTTPError as error:
        with error:
            answer = error.read(1000).decode(errors="replace")
        kind = Refused if error.code in (400, 413) else Unavailable
        raise kind(f"{url} answered {error.code}: {answer}") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from error


class HttpTransport:
    def publish(self, kind: str, body: dict) -> None:
        call(f"/{kind}/", body)

    def keep_alive(self) -> None:
        pass
