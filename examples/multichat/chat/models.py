"""Rooms and what is said in them, who is there, and what is to be published."""

import uuid

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import models

User = settings.AUTH_USER_MODEL


class Room(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    staff_only = models.BooleanField(default=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def address(self) -> dict:
        """The room as high-templar knows it. One wildcard for each audience allows them all: see `api.bootstrap`."""
        return {"audience": "staff" if self.staff_only else "everyone", "room": self.slug}

    def is_open_to(self, user) -> bool:
        return user.is_active and (user.is_staff or not self.staff_only)

    def as_json(self) -> dict:
        return {"slug": self.slug, "name": self.name, "staff_only": self.staff_only, "address": self.address}


class Message(models.Model):
    class Kind(models.TextChoices):
        NORMAL = "normal"
        WARNING = "warning", "Warning (staff only)"
        MUTED = "muted", "Muted (no notification)"

    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(User, models.SET_NULL, null=True)
    key = models.UUIDField(default=uuid.uuid4, help_text="Made by the page, so that a request sent twice makes one message.")
    kind = models.CharField(max_length=7, choices=Kind.choices, default=Kind.NORMAL)
    text = models.TextField(max_length=2000, blank=True)
    # A page may see a change twice, or an old state after a new one: it keeps the highest version.
    version = models.PositiveIntegerField(default=1)
    is_deleted = models.BooleanField(default=False, help_text="Kept without its text, so that pages learn of it.")
    written = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["author", "key"], name="one_message_for_each_key")]
        indexes = [models.Index(fields=["room", "-id"], name="newest_of_a_room")]

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict:
        return {
            "id": self.pk,
            "version": self.version,
            "deleted": self.is_deleted,
            "author": self.author and person(self.author),
            "kind": self.kind,
            "text": self.text,
            "written": self.written.isoformat(),
        }


class Membership(models.Model):
    """A user has joined a room, with whatever pages."""

    room = models.ForeignKey(Room, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["room", "user"], name="joined_once")]


class Presence(models.Model):
    """The connections of one browser, as the hooks tell of them. Ends with the session."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True)
    user = models.ForeignKey(User, models.CASCADE, related_name="presences")
    connections = models.PositiveIntegerField()
    seen = models.DateTimeField()


class Outgoing(models.Model):
    """What is to be published, in this order: see `publishing`."""

    class Kind(models.TextChoices):
        TRIGGER = "trigger"
        CONTROL = "control"

    kind = models.CharField(max_length=7, choices=Kind.choices)
    body = models.JSONField()

    class Meta:
        ordering = ["pk"]


def person(user) -> dict:
    return {"id": user.pk, "name": user.get_username()}
