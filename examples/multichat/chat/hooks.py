"""What high-templar posts when a connection comes, pings, or goes.

It does so on behalf of the client, with the client's cookies, and these alone say whose connection it is. So no secret is needed:
anybody who is logged in can post here, but only for themselves.
"""

import json
from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from . import presence


def hook(view: Callable[[HttpRequest], None]) -> Callable:
    @csrf_exempt  # there is no form, and another page's post would come with nothing but the truth
    @require_POST
    @wraps(view)
    def wrapper(request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return HttpResponse(status=403)
        try:
            view(request)
        except ValueError as error:
            return HttpResponse(str(error), status=400, content_type="text/plain")
        return HttpResponse(status=204)

    return wrapper


@hook
def connect(request: HttpRequest) -> None:
    presence.connected(request.user, request.session.session_key)


@hook
def ping(request: HttpRequest) -> None:
    presence.pinged(request.user, request.session.session_key)


@hook
def disconnect(request: HttpRequest) -> None:
    # Of an instance that died, all connections of the user are reported at once, in a body.
    body = json.loads(request.body) if request.body else {}
    connections = body.get("connections", [None]) if isinstance(body, dict) else None
    if not isinstance(connections, list):
        raise ValueError("connections must be a list")
    presence.disconnected(request.user, request.session.session_key, len(connections))
