"""One process of the server under test."""

import atexit
import http.client
import random
import signal
import socket
import subprocess
import time


def free_port():
    """One below the range from which the kernel takes the ports of outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server:
    def __init__(self, command, api_url, amqp_url, log_path, environment=None, umask=-1):
        """`environment` is added; a variable that is None there is left out."""
        self.port, self.internal_port = free_port(), free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.log_path = log_path
        variables = {
            "API_URL": api_url,
            "LISTEN": self.host,
            "INTERNAL_LISTEN": f"127.0.0.1:{self.internal_port}",
            "AMQP_URL": amqp_url,
            **(environment or {}),
        }
        variables = {name: value for name, value in variables.items() if value is not None}
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=umask,
            )
        atexit.register(self.kill)  # if the walk is interrupted

    def wait_ready(self, seconds=20, path="/readyz"):
        deadline = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended by itself ({self.process.returncode}):\n{self.log()}")
            try:
                status = self.internal("GET", path)[0]
                if status == 200:
                    return
            except OSError as error:
                status = error
            if time.monotonic() > deadline:
                raise AssertionError(f"GET {path} is not 200 after {seconds} s but {status}:\n{self.log()}")
            time.sleep(0.02)

    def internal(self, method, path, body=None, headers=None, seconds=10):
        """A request to the internal listener: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.internal_port, timeout=seconds)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def stop(self, number=signal.SIGTERM, seconds=20):
        """The exit code; None if it had to be killed."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self, lines=20):
        with open(self.log_path, errors="replace") as log:
            return "".join(log.readlines()[-lines:])
