"""Publishing through RabbitMQ."""

import json

import pika
from pika.exceptions import AMQPError

from .errors import Unavailable

ROUTING_KEYS = {"trigger": "*", "control": "control"}
TIMEOUT = 5  # seconds
HEARTBEAT = 10  # seconds; two of them without a sign of life, and the connection is broken


class AmqpTransport:
    """Is used by one thread only, as pika demands."""

    def __init__(self, urls: list[str], exchange: str) -> None:
        self._parameters = [_parameters(url) for url in urls]
        self._exchange = exchange
        self._connection: pika.BlockingConnection | None = None

    def publish(self, kind: str, body: dict) -> None:
        # With confirms, pika raises what the broker does not take, and with `mandatory` what no queue would get: there is
        # none before the first high-templar has declared it.
        try:
            self._open_channel().basic_publish(self._exchange, ROUTING_KEYS[kind], json.dumps(body), mandatory=True)
        except (AMQPError, OSError) as error:
            self.close()
            raise Unavailable(f"RabbitMQ: {error!r}") from error

    def keep_alive(self) -> None:
        if self._connection is not None:
            try:
                self._connection.process_data_events(time_limit=0)  # heartbeats
            except (AMQPError, OSError):
                self.close()

    def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except (AMQPError, OSError):
                pass  # it was broken already

    def _open_channel(self):
        if self._connection is None:
            # The broker that comes first in the list, of those that are there.
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel


def _parameters(url: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = TIMEOUT
    return parameters
