"""The API: what pages call, and the one call by which high-templar asks who somebody is."""

import json
import uuid
from collections.abc import Callable
from functools import wraps

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

from . import presence, sidecar
from .models import Message, Room, person
from .publishing import publish

PAGE = 50  # messages in a snapshot, and in a page of older ones
LONGEST_ID = 18  # digits, which every database takes for a number
TEXT_LIMIT = Message._meta.get_field("text").max_length


class Refusal(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


def view(**methods: Callable) -> Callable:
    """A view of one function for each method, which get the request's JSON, answer with JSON, and are for users only."""

    @never_cache
    def answer(request: HttpRequest, *args, **kwargs) -> JsonResponse:
        try:
            if request.method not in methods:
                raise Refusal(405, f"There is no {request.method} here.")
            if not request.user.is_authenticated:
                raise Refusal(401, "You are not logged in.")
            status, body = methods[request.method](request, *args, **kwargs)
        except Refusal as refusal:
            status, body = refusal.status, {"error": refusal.text}
        return JsonResponse(body, status=status)

    return answer


def bootstrap(request: HttpRequest):
    # A wildcard for each audience: a room that is added changes nobody's permissions.
    allowed = [{"list": "rooms"}, {"user": request.user.pk}, {"audience": "everyone", "room": "*"}]
    if request.user.is_staff:
        allowed.append({"audience": "staff", "room": "*"})
    return 200, {"user": {"data": {"id": request.user.pk}}, "allowed_rooms": allowed}


def snapshot(read: Callable) -> Callable:
    """Adds the position to subscribe `since`: asked for *before* the data is read, so that nothing falls between the two."""

    @wraps(read)
    def reading(request: HttpRequest, *args, **kwargs):
        position = sidecar.position()
        return 200, {"position": position, **read(request, *args, **kwargs)}

    return reading


@snapshot
def read_rooms(request: HttpRequest) -> dict:
    rooms = [room.as_json() for room in Room.objects.all()]
    me = {**person(request.user), "is_staff": request.user.is_staff}
    return {"me": me, "rooms": rooms, "online": presence.online()}


@snapshot
def read_room(request: HttpRequest, slug: str) -> dict:
    room = _room(request, slug)
    return {"room": room.as_json(), "present": presence.members(room), **_newest(room.messages.all())}


def read_older(request: HttpRequest, slug: str):
    """Answers the messages before the one with the id `before`. New messages do not move such a cursor, unlike a page number."""
    room, before = _room(request, slug), request.GET.get("before", "")
    if not (before.isdecimal() and len(before) <= LONGEST_ID):
        raise Refusal(400, "before must be the id of a message.")
    return 200, _newest(room.messages.filter(pk__lt=int(before), is_deleted=False))


def _newest(messages: QuerySet[Message]) -> dict:
    rows = list(messages.select_related("author").order_by("-pk")[: PAGE + 1])  # one more, to know whether there are older ones
    return {"messages": [row.as_json() for row in reversed(rows[:PAGE])], "has_older": len(rows) > PAGE}


def join(request: HttpRequest, slug: str):
    presence.join(request.user, _room(request, slug))
    return 200, {}


@transaction.atomic
def leave(request: HttpRequest, slug: str):
    if presence.leave(request.user, _room(request, slug)):
        publish({"user": request.user.pk}, event="left", slug=slug)  # the user's other pages follow
    return 200, {}


@transaction.atomic
def write(request: HttpRequest, slug: str):
    room, text, kind = _room(request, slug), _text(request), _kind(request)
    try:
        key = uuid.UUID(_body(request).get("key"))
    except (TypeError, ValueError, AttributeError):
        raise Refusal(400, "The key must be a UUID.") from None
    defaults = {"room": room, "kind": kind, "text": text}
    message, is_new = Message.objects.get_or_create(author=request.user, key=key, defaults=defaults)
    if is_new:
        publish(room.address, event="message", message=message.as_json())
    return 201 if is_new else 200, message.as_json()


@transaction.atomic
def edit(request: HttpRequest, pk: int):
    return _change(_own_message(request, pk), text=_text(request))


@transaction.atomic
def delete(request: HttpRequest, pk: int):
    return _change(_own_message(request, pk), text="", is_deleted=True)


def _change(message: Message, **changes):
    for name, value in {**changes, "version": message.version + 1}.items():
        setattr(message, name, value)
    message.save()
    publish(message.room.address, event="message", message=message.as_json())
    return 200, message.as_json()


def _room(request: HttpRequest, slug: str) -> Room:
    room = Room.objects.filter(slug=slug).first()
    if room is None:
        raise Refusal(404, "There is no such room.")
    if not room.is_open_to(request.user):
        raise Refusal(403, f"{room} is for staff only.")
    return room


def _own_message(request: HttpRequest, pk: int) -> Message:
    message = Message.objects.select_for_update(of=["self"]).select_related("room").filter(pk=pk, is_deleted=False).first()
    if message is None or not message.room.is_open_to(request.user):
        raise Refusal(404, "There is no such message.")
    if message.author_id != request.user.pk:
        raise Refusal(403, "That is somebody else's message.")
    return message


def _body(request: HttpRequest) -> dict:
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return body


def _kind(request: HttpRequest) -> str:
    kind = _body(request).get("kind", Message.Kind.NORMAL)
    if kind not in Message.Kind.values:
        raise Refusal(400, f"The kind must be one of: {', '.join(Message.Kind.values)}.")
    if kind == Message.Kind.WARNING and not request.user.is_staff:
        raise Refusal(403, "Only the staff may write warnings.")
    return kind


def _text(request: HttpRequest) -> str:
    text = _body(request).get("text")
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        raise Refusal(400, "There is no text.")
    if len(text) > TEXT_LIMIT:
        raise Refusal(400, f"The text has more than {TEXT_LIMIT} characters.")
    return text
