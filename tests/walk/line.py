"""A long line to a server: everything arrives later, the ends of connections as well."""

import queue
import socket
import threading
import time


class Line:
    def __init__(self, port, delay):
        """To this port of this machine; `delay` is the seconds one way."""
        self._target, self._delay = ("127.0.0.1", port), delay
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, and tells the other side
            except OSError:
                pass
            end.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += [near, far]
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                pieces = queue.Queue()
                threading.Thread(target=self._read, args=(source, pieces), daemon=True).start()
                threading.Thread(target=self._write, args=(sink, pieces), daemon=True).start()

    def _read(self, source, pieces):
        piece = b"something"
        while piece:
            try:
                piece = source.recv(65536)
            except OSError:
                piece = b""
            pieces.put((time.monotonic() + self._delay, piece))

    @staticmethod
    def _write(sink, pieces):
        while True:
            due, piece = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not piece:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(piece)
            except OSError:
                return None
