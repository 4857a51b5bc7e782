"""Who is there, and in which rooms: what joins and leaves come to.

A user is there as long as one of their browsers has a connection. high-templar tells of those by hooks. A browser that has lost
its last one may be about to come back, and counts as gone only after `GRACE`; so does one that has been silent for `SILENCE`, should
high-templar have failed to tell of its end.
"""

from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from .models import Membership, Presence, Room, person
from .publishing import publish

LIST = {"list": "rooms"}
"""The room of all pages: who is there, and which rooms there are."""

GRACE = timedelta(seconds=5)
SILENCE = timedelta(seconds=90)  # a page pings every 30 s


def online() -> list[dict]:
    users = get_user_model().objects.filter(presences__seen__gte=timezone.now() - SILENCE)
    return [person(user) for user in users.distinct().order_by("username")]


@transaction.atomic
def connected(user, session_key: str) -> None:
    _lock(user)
    presence, came = _seen(user, session_key)
    if not came:
        presence.connections += 1
        presence.save()


@transaction.atomic
def pinged(user, session_key: str) -> None:
    _lock(user)
    _seen(user, session_key)


@transaction.atomic
def disconnected(user, session_key: str, connections: int) -> None:
    _lock(user)
    presence = Presence.objects.filter(session=session_key).first()
    if presence is not None:
        presence.connections = max(0, presence.connections - connections)
        presence.seen = timezone.now()
        presence.save()


@transaction.atomic
def remove_the_silent() -> None:
    """Is called every few seconds."""
    now = timezone.now()
    Presence.objects.filter(Q(seen__lt=now - SILENCE) | Q(connections=0, seen__lt=now - GRACE)).delete()  # `ended` follows
    # Who joined and has never been connected.
    for user in get_user_model().objects.filter(presences=None, memberships__since__lt=now - SILENCE).distinct():
        leave_all(user)


@transaction.atomic
def ended(user) -> None:
    """One of the user's browsers is gone."""
    _lock(user)
    if not Presence.objects.filter(user=user).exists():
        leave_all(user)
        publish(LIST, event="offline", user=person(user))


@transaction.atomic
def join(user, room: Room) -> None:
    _, is_new = Membership.objects.get_or_create(user=user, room=room)
    if is_new:
        publish(room.address, event="join", user=person(user))
        publish({"user": user.pk}, event="joined", slug=room.slug)  # the user's other pages follow


@transaction.atomic
def leave(user, room: Room, reason: str = "left") -> bool:
    """Whether the user was in it. `reason`: `left` by choice, `gone` with the last connection, or `closed` to the user."""
    deleted, _ = Membership.objects.filter(user=user, room=room).delete()
    if deleted:
        publish(room.address, event="leave", user=person(user), reason=reason)
    return bool(deleted)


@transaction.atomic
def leave_all(user) -> None:
    for membership in Membership.objects.filter(user=user).select_related("room"):
        leave(user, membership.room, "gone")


def members(room: Room) -> list[dict]:
    memberships = room.memberships.select_related("user").order_by("user__username")
    return [person(membership.user) for membership in memberships]


def _lock(user) -> None:
    """One at a time for each user, so that the last one to go is seen to be the last."""
    get_user_model().objects.select_for_update().filter(pk=user.pk).first()


def _seen(user, session_key: str) -> tuple[Presence, bool]:
    is_first = not Presence.objects.filter(user=user).exists()
    # Where there is no presence yet, a connection has just come, or its coming was missed.
    defaults = {"user": user, "seen": timezone.now()}
    presence, is_new = Presence.objects.update_or_create(
        session_id=session_key, defaults=defaults, create_defaults={**defaults, "connections": 1}
    )
    if is_first:
        publish(LIST, event="online", user=person(user))
    return presence, is_new
