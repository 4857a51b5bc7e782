"""A TCP proxy before the broker, so that a check can take the broker away."""

import itertools
import re
import socket
import threading
import time


class Proxy:
    def __init__(self, amqp_url, second_waits=0):
        """`second_waits` seconds are let pass before the second connection gets through."""
        found = re.fullmatch(r"(amqp://(?:[^@/]*@)?)([^:/@]+)(?::(\d+))?(/.*)?", amqp_url)
        if not found:
            raise ValueError("only amqp://user:password@host:port/vhost is understood")
        self._target = (found[2], int(found[3] or 5672))
        self._listener = None
        self._sockets = []
        self._second_waits = second_waits
        self._lock = threading.Lock()
        self._port = 0
        self.restore()
        self.url = f"{found[1]}127.0.0.1:{self._port}{found[4] or ''}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()

    def restore(self):
        """Takes connections (again), always on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen()
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self):
        """Ends all connections and refuses new ones."""
        with self._lock:
            ends, self._sockets = self._sockets, []
            listener, self._listener = self._listener, None
        if listener:
            ends.append(listener)
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def _accept(self, listener):
        for number in itertools.count(1):
            try:
                near, _ = listener.accept()
                if number == 2:
                    time.sleep(self._second_waits)
                far = socket.create_connection(self._target, 5)
            except OSError:
                return
            far.settimeout(None)
            with self._lock:
                if self._listener is not listener:
                    near.close()
                    far.close()
                    return
                self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
