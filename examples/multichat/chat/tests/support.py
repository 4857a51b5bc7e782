from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.test import Client, TestCase

from chat.models import Outgoing, Room


class ChatTestCase(TestCase):
    """Two users, alice of the staff and bob, each with a browser; a room for all and one for the staff."""

    def setUp(self) -> None:
        users = get_user_model().objects
        self.alice, self.bob = users.create_user("alice", is_staff=True), users.create_user("bob")
        self.lobby = Room.objects.create(slug="lobby", name="Lobby")
        self.office = Room.objects.create(slug="office", name="Office", staff_only=True)
        self.browsers = {user.pk: self.browser(user) for user in (self.alice, self.bob)}
        self.published()

    @staticmethod
    def browser(user, **options) -> Client:
        client = Client(**options)
        client.force_login(user)
        return client

    def call(self, user, method: str, path: str, body: str = "{}"):
        return self.browsers[user.pk].generic(method, f"/api/{path}", body, content_type="application/json")

    def hook(self, who, name: str, body: str = ""):
        """`who` is a user, or a browser."""
        browser = who if isinstance(who, Client) else self.browsers[who.pk]
        return browser.generic("POST", f"/api/hooks/{name}/", body)

    def published(self) -> list:
        """What was enqueued since the last call, in order: (room, data) of triggers, and control messages."""
        rows = [row.body for row in Outgoing.objects.all()]
        Outgoing.objects.all().delete()
        return [(row["rooms"][0], row["data"]) if "rooms" in row else row for row in rows]

    def events(self) -> list:
        """Of the triggers among them, only what they are about and whom."""
        return [
            (data["event"], data.get("user", {}).get("name") or data.get("slug") or data["room"]["slug"])
            for _, data in (row for row in self.published() if isinstance(row, tuple))
        ]

    @staticmethod
    def session(client: Client) -> Session:
        return Session.objects.get(pk=client.session.session_key)
