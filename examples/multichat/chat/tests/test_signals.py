from django.contrib.auth import get_user_model
from django.test import Client

from chat.models import Membership, Room

from .support import ChatTestCase

LIST = {"list": "rooms"}


class RoomChanges(ChatTestCase):
    def test_pages_learn_of_rooms_that_are_added_renamed_and_removed(self):
        room = Room.objects.create(slug="garden", name="Garden")
        self.assertEqual(self.published(), [(LIST, {"event": "room", "room": room.as_json()})])
        room.name = "Park"
        room.save()
        self.assertEqual(self.published(), [(LIST, {"event": "room", "room": room.as_json()})])
        room.delete()
        unsubscribe = {"action": "unsubscribe", "room": {"audience": "everyone", "room": "garden"}}
        self.assertEqual(self.published(), [(LIST, {"event": "room-removed", "slug": "garden"}), unsubscribe])

    def test_who_may_not_have_it_any_more_leaves_a_room_that_becomes_the_staffs(self):
        for user in (self.alice, self.bob):
            self.call(user, "POST", "rooms/lobby/join/")
        self.published()
        self.lobby.staff_only = True
        self.lobby.save()
        listed, unsubscribe, left = self.published()
        self.assertEqual(listed[1]["room"]["staff_only"], True)
        self.assertEqual(unsubscribe, {"action": "unsubscribe", "room": {"audience": "everyone", "room": "lobby"}})
        self.assertEqual(left[0], {"audience": "staff", "room": "lobby"})
        self.assertEqual((left[1]["event"], left[1]["user"]["name"], left[1]["reason"]), ("leave", "bob", "closed"))
        self.assertEqual([row.user for row in Membership.objects.all()], [self.alice])

    def test_a_room_that_becomes_everybodys_has_another_address(self):
        self.office.staff_only = False
        self.office.save()
        self.assertEqual(self.published()[1], {"action": "unsubscribe", "room": {"audience": "staff", "room": "office"}})

    def test_all_rooms_that_are_removed_together_are_told_of(self):
        Room.objects.all().delete()
        self.assertEqual(sum(isinstance(row, tuple) for row in self.published()), 2)


class UserChanges(ChatTestCase):
    def test_staff_rights_that_are_taken_away_are_checked_at_once(self):
        for slug in ("lobby", "office"):
            self.call(self.alice, "POST", f"rooms/{slug}/join/")
        self.published()
        self.alice.is_staff = False
        self.alice.save()
        left, reauthorize = self.published()
        self.assertEqual((left[0]["room"], left[1]["reason"]), ("office", "closed"))
        self.assertEqual(reauthorize, {"action": "reauthorize", "user": str(self.alice.pk)})
        self.assertEqual([row.room for row in Membership.objects.all()], [self.lobby])

    def test_a_user_who_is_made_inactive_or_removed_is_disconnected_and_gone(self):
        for end in (lambda user: setattr(user, "is_active", False) or user.save(), lambda user: user.delete()):
            user = get_user_model().objects.create_user("eve")
            self.browsers[user.pk] = self.browser(user)
            self.hook(user, "connect")
            self.call(user, "POST", "rooms/lobby/join/")
            pk = user.pk
            self.published()
            end(user)
            rows = self.published()
            self.assertIn({"action": "disconnect", "user": str(pk)}, rows)
            self.assertEqual([row[1]["event"] for row in rows if isinstance(row, tuple)], ["leave", "offline"])
            get_user_model().objects.filter(pk=pk).delete()

    def test_what_has_nothing_to_do_with_rights_is_not_told(self):
        self.bob.first_name = "Bob"
        self.bob.save()
        get_user_model().objects.create_user("carol")
        self.assertEqual(self.published(), [])

    def test_a_new_password_ends_sessions(self):
        self.bob.set_password("another")
        self.bob.save()
        self.assertEqual(self.published(), [{"action": "reauthorize", "user": str(self.bob.pk)}])
        self.assertEqual(self.call(self.bob, "GET", "bootstrap/").status_code, 401)


class Logout(ChatTestCase):
    def test_a_logout_has_the_users_connections_checked_once_the_session_is_gone(self):
        other = self.browser(self.bob)
        with self.captureOnCommitCallbacks() as callbacks:
            self.browsers[self.bob.pk].post("/logout/")
        self.assertEqual(self.published(), [{"action": "reauthorize", "user": str(self.bob.pk)}])
        self.assertEqual(len(callbacks), 1)
        self.assertEqual(self.call(self.bob, "GET", "bootstrap/").status_code, 401)
        self.assertEqual(other.get("/api/bootstrap/").status_code, 200)

    def test_so_has_a_logout_in_the_admin(self):
        self.browsers[self.alice.pk].post("/admin/logout/")
        self.assertEqual(self.published(), [{"action": "reauthorize", "user": str(self.alice.pk)}])

    def test_nobody_is_checked_for_a_session_without_a_user(self):
        client = Client()
        client.session.save()
        self.session(client).delete()
        self.assertEqual(self.published(), [])
