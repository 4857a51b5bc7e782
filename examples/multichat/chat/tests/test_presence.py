import json
from datetime import timedelta

from django.test import Client
from django.utils import timezone

from chat import presence
from chat.models import Membership, Presence

from .support import ChatTestCase


class PresenceTests(ChatTestCase):
    def wait(self, **time) -> None:
        """As if so much time had passed; then looks who is gone."""
        for row in Presence.objects.all():
            row.seen -= timedelta(**time)
            row.save()
        Membership.objects.update(since=timezone.now() - timedelta(**time))
        presence.remove_the_silent()

    def test_hooks_are_for_users_and_posts_only(self):
        for name in ("connect", "ping", "disconnect"):
            self.assertEqual(Client().post(f"/api/hooks/{name}/").status_code, 403)
            self.assertEqual(self.browsers[self.bob.pk].get(f"/api/hooks/{name}/").status_code, 405)
        self.assertEqual((self.events(), Presence.objects.count()), ([], 0))

    def test_a_user_is_there_from_the_first_connection_to_some_seconds_after_the_last(self):
        for _ in range(2):
            self.assertEqual(self.hook(self.bob, "connect").status_code, 204)
        self.assertEqual(self.events(), [("online", "bob")])
        self.assertEqual(presence.online(), [{"id": self.bob.pk, "name": "bob"}])
        self.hook(self.bob, "disconnect")
        self.wait(seconds=6)
        self.hook(self.bob, "disconnect")
        self.wait(seconds=4)
        self.assertEqual(self.events(), [])
        self.wait(seconds=2)
        self.assertEqual((self.events(), presence.online()), ([("offline", "bob")], []))

    def test_who_comes_back_soon_was_never_gone(self):
        self.hook(self.bob, "connect")
        self.call(self.bob, "POST", "rooms/lobby/join/")
        self.events()
        self.hook(self.bob, "disconnect")
        self.wait(seconds=4)
        self.hook(self.bob, "connect")
        self.wait(seconds=6)
        self.assertEqual((self.events(), Membership.objects.count()), ([], 1))

    def test_who_is_gone_has_left_the_rooms(self):
        self.hook(self.alice, "connect")
        for slug in ("lobby", "office"):
            self.call(self.alice, "POST", f"rooms/{slug}/join/")
        self.hook(self.alice, "disconnect")
        self.published()
        self.wait(seconds=6)
        rows = self.published()
        self.assertEqual([data["event"] for _, data in rows], ["leave", "leave", "offline"])
        self.assertEqual({room["room"] for room, data in rows if data["event"] == "leave"}, {"lobby", "office"})
        self.assertEqual([data["reason"] for _, data in rows[:2]], ["gone", "gone"])
        self.assertEqual(Membership.objects.count(), 0)

    def test_all_connections_of_an_instance_that_died_count(self):
        for _ in range(3):
            self.hook(self.bob, "connect")
        body = json.dumps({"user": str(self.bob.pk), "connections": ["a", "b"], "reason": "instance-lost"})
        self.assertEqual(self.hook(self.bob, "disconnect", body).status_code, 204)
        self.assertEqual(Presence.objects.get().connections, 1)
        self.hook(self.bob, "disconnect", body)
        self.assertEqual(Presence.objects.get().connections, 0)

    def test_a_body_that_cannot_be_read_is_refused(self):
        self.hook(self.bob, "connect")
        for body in ("{", "[]", '{"connections": 5}'):
            self.assertEqual(self.hook(self.bob, "disconnect", body).status_code, 400, body)
        self.assertEqual(Presence.objects.get().connections, 1)

    def test_pings_keep_a_user_there_and_silence_does_not(self):
        self.hook(self.bob, "connect")
        self.wait(seconds=60)
        self.hook(self.bob, "ping")
        self.wait(seconds=60)
        self.assertEqual(self.events(), [("online", "bob")])
        self.wait(seconds=31)
        self.assertEqual(self.events(), [("offline", "bob")])
        # It was there after all.
        self.hook(self.bob, "ping")
        self.assertEqual(self.events(), [("online", "bob")])

    def test_who_was_silent_is_not_shown_even_before_anybody_has_looked(self):
        self.hook(self.bob, "connect")
        Presence.objects.update(seen=timezone.now() - timedelta(seconds=91))
        self.assertEqual(presence.online(), [])

    def test_who_joined_and_never_connected_leaves(self):
        self.call(self.bob, "POST", "rooms/lobby/join/")
        self.published()
        self.wait(seconds=89)
        self.assertEqual(self.events(), [])
        self.wait(seconds=91)
        self.assertEqual(self.events(), [("leave", "bob")])

    def test_two_browsers_are_one_user(self):
        other = self.browser(self.bob)
        self.hook(self.bob, "connect")
        self.hook(other, "connect")
        self.hook(self.bob, "disconnect")
        self.wait(seconds=6)
        self.assertEqual(self.events(), [("online", "bob")])
        self.hook(other, "disconnect")
        self.wait(seconds=6)
        self.assertEqual(self.events(), [("offline", "bob")])

    def test_a_logout_ends_the_presence_of_that_browser_at_once(self):
        other = self.browser(self.bob)
        self.hook(self.bob, "connect")
        self.hook(other, "connect")
        self.browsers[self.bob.pk].post("/logout/")
        self.assertEqual(self.events(), [("online", "bob")])
        other.post("/logout/")
        self.assertEqual(self.events(), [("offline", "bob")])
