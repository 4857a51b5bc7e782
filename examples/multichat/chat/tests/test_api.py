import json
import uuid
from unittest.mock import patch

from django.test import Client, override_settings

from chat.models import Membership, Message

from .support import ChatTestCase

LOBBY, OFFICE = {"audience": "everyone", "room": "lobby"}, {"audience": "staff", "room": "office"}


def message(text="hello", key=None, **other) -> str:
    return json.dumps({"text": text, "key": str(key or uuid.uuid4()), **other})


class Bootstrap(ChatTestCase):
    def test_nobody_is_let_in_without_a_login(self):
        self.assertEqual(Client().get("/api/bootstrap/").status_code, 401)

    def test_users_may_join_public_rooms_and_staff_all(self):
        answers = {user: self.call(user, "GET", "bootstrap/").json() for user in (self.alice, self.bob)}
        everyone, staff = {"audience": "everyone", "room": "*"}, {"audience": "staff", "room": "*"}
        for user, rooms in [(self.bob, [everyone]), (self.alice, [everyone, staff])]:
            own = [{"list": "rooms"}, {"user": user.pk}]
            self.assertEqual(answers[user], {"user": {"data": {"id": user.pk}}, "allowed_rooms": own + rooms})

    def test_an_inactive_user_is_nobody(self):
        self.bob.is_active = False
        self.bob.save()
        self.assertEqual(self.call(self.bob, "GET", "bootstrap/").status_code, 401)


class Snapshots(ChatTestCase):
    def test_what_changes_after_the_position_was_asked_for_is_in_it(self):
        def position():
            Message.objects.create(room=self.lobby, author=self.bob, text="just now")
            return "e:1"

        with patch("chat.sidecar.position", position):
            answer = self.call(self.alice, "GET", "rooms/lobby/").json()
        self.assertEqual((answer["position"], [row["text"] for row in answer["messages"]]), ("e:1", ["just now"]))

    @override_settings(SIDECAR_INTERNAL=["http://127.0.0.1:9"])
    def test_without_high_templar_there_is_no_position(self):
        self.assertIsNone(self.call(self.bob, "GET", "rooms/").json()["position"])

    @patch("chat.sidecar.position", lambda: None)
    def test_the_newest_messages_come_in_order_deleted_ones_without_text(self):
        for number in range(60):
            Message.objects.create(room=self.lobby, author=self.bob, text=str(number))
        self.call(self.bob, "DELETE", f"messages/{Message.objects.last().pk}/")
        answer = self.call(self.alice, "GET", "rooms/lobby/").json()
        rows = answer["messages"]
        self.assertEqual([row["text"] for row in rows], [str(number) for number in range(10, 59)] + [""])
        self.assertEqual((rows[-1]["deleted"], rows[-1]["version"], answer["has_older"]), (True, 2, True))

    @patch("chat.sidecar.position", lambda: None)
    def test_the_list_has_all_rooms_and_says_who_one_is(self):
        answer = self.call(self.bob, "GET", "rooms/").json()
        self.assertEqual([(room["slug"], room["address"]) for room in answer["rooms"]], [("lobby", LOBBY), ("office", OFFICE)])
        self.assertEqual(answer["me"], {"id": self.bob.pk, "name": "bob", "is_staff": False})


class OlderMessages(ChatTestCase):
    def fill(self, count: int) -> list[int]:
        return [Message.objects.create(room=self.lobby, author=self.bob, text=str(number)).pk for number in range(count)]

    def older(self, before, user=None, room="lobby"):
        return self.call(user or self.bob, "GET", f"rooms/{room}/messages/?before={before}")

    @patch("chat.sidecar.position", lambda: None)
    def test_pages_join_up_with_the_snapshot_and_with_each_other_whatever_is_written_meanwhile(self):
        self.fill(120)
        snapshot = self.call(self.bob, "GET", "rooms/lobby/").json()
        seen, has_older = snapshot["messages"], snapshot["has_older"]
        sizes = []
        while has_older:
            self.fill(1)
            page = self.older(seen[0]["id"]).json()
            seen, has_older = page["messages"] + seen, page["has_older"]
            sizes.append(len(page["messages"]))
        self.assertEqual(([row["text"] for row in seen], sizes), ([str(number) for number in range(120)], [50, 20]))

    def test_a_page_that_is_full_says_whether_it_is_the_last(self):
        last = self.fill(51)[-1]
        answers = [self.older(before).json() for before in (last, last + 1)]
        self.assertEqual([(len(answer["messages"]), answer["has_older"]) for answer in answers], [(50, False), (50, True)])

    def test_it_is_of_this_room_without_what_was_deleted(self):
        one, two, three = self.fill(3)
        Message.objects.create(room=self.office, author=self.alice, text="among ourselves")
        self.call(self.bob, "DELETE", f"messages/{two}/")
        self.assertEqual([row["id"] for row in self.older(10**17).json()["messages"]], [one, three])
        self.assertEqual(self.older(one).json(), {"messages": [], "has_older": False})

    def test_it_takes_one_query_for_messages_however_many_there_are(self):
        self.fill(60)
        with self.assertNumQueries(4):  # session, user, room, messages with their authors
            self.older(10**17)

    def test_what_is_no_id_is_refused_with_the_reason(self):
        for before in ("", "x", "-1", "1.5", "9" * 19, "9" * 5000):
            answer = self.older(before)
            self.assertEqual((answer.status_code, answer.json()), (400, {"error": "before must be the id of a message."}))


class Rooms(ChatTestCase):
    def test_a_staff_room_is_closed_to_others_in_every_way(self):
        own = Message.objects.create(room=self.office, author=self.bob, text="from when I was staff")
        for method, path, status in [
            ("GET", "rooms/office/", 403),
            ("GET", "rooms/office/messages/?before=9", 403),
            ("POST", "rooms/office/join/", 403),
            ("POST", "rooms/office/messages/", 403),
            ("PATCH", f"messages/{own.pk}/", 404),
            ("DELETE", f"messages/{own.pk}/", 404),
        ]:
            self.assertEqual(self.call(self.bob, method, path, message()).status_code, status, (method, path))
        self.assertEqual((Message.objects.get().text, self.published()), (own.text, []))
        self.assertEqual(self.call(self.alice, "POST", "rooms/office/join/").status_code, 200)

    def test_a_room_that_is_not_there_is_not_found(self):
        answer = self.call(self.bob, "POST", "rooms/nowhere/join/")
        self.assertEqual((answer.status_code, answer.json()), (404, {"error": "There is no such room."}))

    def test_joining_and_leaving_are_told_once(self):
        for _ in range(2):
            self.call(self.bob, "POST", "rooms/lobby/join/")
        bob = {"id": self.bob.pk, "name": "bob"}
        joined = [(LOBBY, {"event": "join", "user": bob}), ({"user": self.bob.pk}, {"event": "joined", "slug": "lobby"})]
        self.assertEqual(self.published(), joined)
        self.call(self.bob, "POST", "rooms/lobby/leave/")
        left = [(LOBBY, {"event": "leave", "user": bob, "reason": "left"}), ({"user": self.bob.pk}, {"event": "left", "slug": "lobby"})]
        self.assertEqual(self.published(), left)
        self.call(self.bob, "POST", "rooms/lobby/leave/")
        self.assertEqual((self.published(), Membership.objects.count()), ([], 0))


class Messages(ChatTestCase):
    def test_a_message_is_published_as_it_is_answered(self):
        answer = self.call(self.bob, "POST", "rooms/lobby/messages/", message("  hello  "))
        self.assertEqual((answer.status_code, answer.json()["text"], answer.json()["version"]), (201, "hello", 1))
        self.assertEqual(self.published(), [(LOBBY, {"event": "message", "message": answer.json()})])

    def test_a_request_that_is_sent_twice_makes_one_message(self):
        key = uuid.uuid4()
        answers = [self.call(self.bob, "POST", "rooms/lobby/messages/", message(key=key)) for _ in range(2)]
        self.assertEqual([answer.status_code for answer in answers], [201, 200])
        self.assertEqual(answers[0].json(), answers[1].json())
        self.assertEqual((len(self.published()), Message.objects.count()), (1, 1))
        # Another user's key is another key.
        self.assertEqual(self.call(self.alice, "POST", "rooms/lobby/messages/", message(key=key)).status_code, 201)

    def test_ones_own_message_is_edited_and_deleted_in_new_versions(self):
        pk = self.call(self.bob, "POST", "rooms/lobby/messages/", message()).json()["id"]
        self.published()
        edited = self.call(self.bob, "PATCH", f"messages/{pk}/", message("hello, all")).json()
        deleted = self.call(self.bob, "DELETE", f"messages/{pk}/").json()
        self.assertEqual((edited["text"], edited["version"], edited["deleted"]), ("hello, all", 2, False))
        self.assertEqual((deleted["text"], deleted["version"], deleted["deleted"]), ("", 3, True))
        self.assertEqual([data["message"] for _, data in self.published()], [edited, deleted])
        self.assertEqual(self.call(self.bob, "PATCH", f"messages/{pk}/", message("again")).status_code, 404)

    def test_nobody_changes_anothers_message(self):
        pk = self.call(self.bob, "POST", "rooms/lobby/messages/", message("bob's")).json()["id"]
        self.published()
        for method in ("PATCH", "DELETE"):
            self.assertEqual(self.call(self.alice, method, f"messages/{pk}/", message("alice's")).status_code, 403)
        self.assertEqual((Message.objects.get().text, self.published()), ("bob's", []))

    def test_what_cannot_be_a_message_is_refused_with_the_reason(self):
        for body, error in [
            ("", "The body must be a JSON object."),
            ("[]", "The body must be a JSON object."),
            (message("  "), "There is no text."),
            (json.dumps({"text": 5, "key": str(uuid.uuid4())}), "There is no text."),
            (message("x" * 2001), "The text has more than 2000 characters."),
            (message(key="none"), "The key must be a UUID."),
            (json.dumps({"text": "hello", "key": 5}), "The key must be a UUID."),
            (message(kind="shouted"), "The kind must be one of: normal, warning, muted."),
            (message(kind=["muted"]), "The kind must be one of: normal, warning, muted."),
        ]:
            answer = self.browsers[self.bob.pk].generic("POST", "/api/rooms/lobby/messages/", body)
            self.assertEqual((answer.status_code, answer.json()), (400, {"error": error}))
        self.assertEqual(self.published(), [])

    def test_a_message_is_of_a_kind_which_an_edit_does_not_change(self):
        for kind in ("normal", "muted"):
            written = self.call(self.bob, "POST", "rooms/lobby/messages/", message(kind=kind)).json()
            edited = self.call(self.bob, "PATCH", f"messages/{written['id']}/", message("hello, all")).json()
            self.assertEqual((written["kind"], edited["kind"]), (kind, kind))

    def test_only_the_staff_write_warnings(self):
        answers = [self.call(user, "POST", "rooms/lobby/messages/", message(kind="warning")) for user in (self.bob, self.alice)]
        self.assertEqual([answer.status_code for answer in answers], [403, 201])
        self.assertEqual([data["message"]["kind"] for _, data in self.published()], ["warning"])

    def test_what_an_author_who_was_deleted_has_said_stays(self):
        self.call(self.bob, "POST", "rooms/lobby/messages/", message())
        self.bob.delete()
        with patch("chat.sidecar.position", lambda: None):
            row = self.call(self.alice, "GET", "rooms/lobby/").json()["messages"][0]
        self.assertEqual((row["text"], row["author"]), ("hello", None))


class Pages(ChatTestCase):
    def test_another_sites_page_can_post_nothing_but_hooks(self):
        browser = self.browser(self.bob, enforce_csrf_checks=True)
        for path in ("rooms/lobby/join/", "rooms/lobby/messages/"):
            self.assertEqual(browser.post(f"/api/{path}", message(), content_type="application/json").status_code, 403)
        self.assertEqual(self.published(), [])
        self.assertEqual(browser.post("/api/hooks/ping/").status_code, 204)
        self.assertEqual(browser.post("/logout/").status_code, 403)

    def test_what_users_may_choose_is_escaped(self):
        self.bob.username = "<b>bob</b>"
        self.bob.save()
        with self.settings(SIDECAR_WS=["</script><script>alert(1)"]):
            page = self.browsers[self.bob.pk].get("/").content.decode()
        self.assertIn("&lt;b&gt;bob&lt;/b&gt;", page)
        self.assertNotIn("<b>bob", page)
        self.assertNotIn("</script><script>alert", page)
        door = Client().post("/login/", {"username": '"><script>', "password": "x"}).content.decode()
        self.assertIn("Please enter a correct username", door)
        self.assertNotIn('"><script>', door)

    def test_the_page_is_for_users(self):
        self.assertRedirects(Client().get("/"), "/login/?next=/")
        self.assertContains(self.browsers[self.alice.pk].get("/"), "/admin/")
        self.assertNotContains(self.browsers[self.bob.pk].get("/"), "/admin/")
