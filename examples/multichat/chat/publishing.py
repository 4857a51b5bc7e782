"""A transactional outbox: what changed and the news of it are committed together, and no news is lost.

`publish` and `control` write rows, within the transaction of the change. A thread (see `background`) publishes them in order, and
deletes each one when it has been confirmed. It may publish one twice, if it is interrupted between the two; the `id` makes
high-templar deliver it once. For that reason, several processes may do this at once, too.
"""

import logging
import threading
import uuid
from typing import Protocol

from django.db import transaction

from .errors import Refused
from .models import Outgoing

logger = logging.getLogger(__name__)

waiting = threading.Event()
"""Something may wait for being published."""


class Transport(Protocol):
    def publish(self, kind: str, body: dict) -> None:
        """Returns when it has been confirmed. Raises `Unavailable`, or `Refused`."""

    def keep_alive(self) -> None:
        """Is called every few seconds while nothing is published."""


def publish(room: dict, /, **data) -> None:
    """Sends `data` to everybody who is subscribed to `room`, once the transaction has been committed."""
    _enqueue(Outgoing.Kind.TRIGGER, {"rooms": [room], "data": data, "id": uuid.uuid4().hex})


def control(action: str, **target) -> None:
    """Has high-templar apply a change of permissions, likewise."""
    _enqueue(Outgoing.Kind.CONTROL, {"action": action, **target})


def _enqueue(kind: Outgoing.Kind, body: dict) -> None:
    Outgoing.objects.create(kind=kind, body=body)
    transaction.on_commit(waiting.set)


def flush(transport: Transport) -> None:
    """Publishes everything that waits. Raises `Unavailable` at the first one that cannot be published now."""
    while row := Outgoing.objects.first():
        try:
            transport.publish(row.kind, row.body)
        except Refused as error:
            logger.error("%s dropped, as it will always be refused: %s", row.kind, error)
        row.delete()
