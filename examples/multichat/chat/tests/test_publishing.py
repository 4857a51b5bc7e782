import threading
from unittest.mock import patch

from django.db import transaction
from django.test import TestCase

from chat import background
from chat.errors import Refused, Unavailable
from chat.models import Outgoing
from chat.publishing import control, flush, publish, waiting

ROOM = {"room": "a"}


class Recorder:
    """A transport that fails when it is told to."""

    def __init__(self) -> None:
        self.got, self.errors = [], []

    def publish(self, kind: str, body: dict) -> None:
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.got.append((kind, body))

    def keep_alive(self) -> None:
        self.got.append("kept alive")


class Outbox(TestCase):
    def setUp(self) -> None:
        self.transport = Recorder()

    def numbers(self) -> list:
        return [body["data"]["number"] for _, body in self.transport.got]

    def test_what_is_published_has_room_data_and_an_id_of_its_own(self):
        publish(ROOM, event="hello")
        publish(ROOM, event="hello")
        control("reauthorize", user="17")
        flush(self.transport)
        (kind, first), (_, second), last = self.transport.got
        self.assertEqual((kind, first["rooms"], first["data"]), ("trigger", [ROOM], {"event": "hello"}))
        self.assertNotEqual(first["id"], second["id"])
        self.assertEqual(last, ("control", {"action": "reauthorize", "user": "17"}))
        self.assertEqual(Outgoing.objects.count(), 0)

    def test_a_failure_keeps_the_rest_in_order(self):
        for number in range(5):
            publish(ROOM, number=number)
        self.transport.errors = [None, None, Unavailable("broker away")]
        with self.assertRaises(Unavailable):
            flush(self.transport)
        self.assertEqual((self.numbers(), Outgoing.objects.count()), ([0, 1], 3))
        flush(self.transport)
        self.assertEqual((self.numbers(), Outgoing.objects.count()), ([0, 1, 2, 3, 4], 0))

    def test_what_will_never_be_accepted_does_not_stop_the_rest(self):
        for number in range(3):
            publish(ROOM, number=number)
        self.transport.errors = [None, Refused("too large")]
        with self.assertLogs("chat.publishing", "ERROR") as logs:
            flush(self.transport)
        self.assertIn("too large", logs.output[0])
        self.assertEqual(self.numbers(), [0, 2])

    def test_an_answer_that_was_lost_repeats_the_same_id(self):
        publish(ROOM, event="hello")
        ids = []

        def publish_and_fail(_, body):
            ids.append(body["id"])
            if len(ids) == 1:
                raise Unavailable("no answer")

        with patch.object(self.transport, "publish", publish_and_fail):
            with self.assertRaises(Unavailable):
                flush(self.transport)
            flush(self.transport)
        self.assertEqual(len(set(ids)), 1)

    def test_the_change_and_the_news_of_it_are_undone_together(self):
        waiting.clear()
        with self.captureOnCommitCallbacks(execute=True):
            try:
                with transaction.atomic():
                    publish(ROOM, event="hello")
                    raise RuntimeError
            except RuntimeError:
                pass
        self.assertEqual((Outgoing.objects.count(), waiting.is_set()), (0, False))
        with self.captureOnCommitCallbacks(execute=True):
            publish(ROOM, event="hello")
            self.assertFalse(waiting.is_set())
        self.assertTrue(waiting.is_set())


class Stop(BaseException):
    """Ends the thread, which otherwise goes on for ever."""


class Background(TestCase):
    def run_steps(self, *outcomes) -> tuple[list, list]:
        """How long it slept after failures, and waited after successes."""
        slept, waited = [], []
        with (
            patch.object(background, "step", side_effect=[*outcomes, Stop]),
            patch.object(background.time, "sleep", slept.append),
            patch.object(background.random, "uniform", lambda low, high: high),
            patch.object(threading.Event, "wait", lambda event, timeout: waited.append(timeout)),
            self.assertRaises(Stop),
        ):
            background.run(Recorder())
        return slept, waited

    def test_it_waits_longer_after_each_failure_and_begins_anew_after_a_success(self):
        away = Unavailable("away")
        with self.assertLogs("chat.background", "WARNING") as logs:
            slept, waited = self.run_steps(away, away, away, None, away, *[away] * 5)
        self.assertEqual(slept, [0.2, 0.4, 0.8, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
        self.assertEqual((waited, len(logs.output)), ([background.IDLE], 9))

    def test_it_outlives_any_error(self):
        with self.assertLogs("chat.background", "ERROR"):
            slept, waited = self.run_steps(ZeroDivisionError(), None)
        self.assertEqual((len(slept), len(waited)), (1, 1))

    def test_a_step_publishes_what_waits_and_keeps_the_connection_alive(self):
        publish(ROOM, number=1)
        waiting.set()
        transport = Recorder()
        background.step(transport)
        self.assertEqual((len(transport.got), transport.got[-1], waiting.is_set()), (2, "kept alive", False))
