"""What is done apart from requests, by one thread in each process that serves: publishing, and looking who is gone."""

import logging
import random
import threading
import time
from typing import NoReturn

from django.conf import settings
from django.db import connection

from . import presence
from .amqp import AmqpTransport
from .errors import Unavailable
from .publishing import Transport, flush, waiting
from .sidecar import HttpTransport

logger = logging.getLogger(__name__)

IDLE = 3.0  # seconds between two looks at what other processes have left, and who is gone
SHORTEST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds until the next attempt, after a failure


def start() -> None:
    # Used by this thread alone.
    transport = AmqpTransport(settings.AMQP_URL, settings.AMQP_EXCHANGE) if settings.AMQP_URL else HttpTransport()
    threading.Thread(target=run, args=[transport], name="background", daemon=True).start()


def run(transport: Transport) -> NoReturn:
    delay = SHORTEST_WAIT
    while True:
        try:
            step(transport)
            delay = SHORTEST_WAIT
            waiting.wait(IDLE)
            continue
        except Unavailable as error:
            logger.warning("cannot publish now, will go on trying: %s", error)
        except Exception:  # whatever it is, such as a locked database: this thread has to go on
            logger.exception("the background thread has failed, and goes on")
            connection.close()
        time.sleep(delay * random.uniform(0.5, 1))
        delay = min(2 * delay, LONGEST_WAIT)


def step(transport: Transport) -> None:
    waiting.clear()
    presence.remove_the_silent()
    flush(transport)
    transport.keep_alive()
