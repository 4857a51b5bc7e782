"""What the measurements run on: processes pinned to a CPU each, and `high-templar bench` against them."""

import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER_CPU, CLIENT_CPU = 0, 1
# Descriptors that a process needs beside one for each connection.
OTHER_DESCRIPTORS = 400


class Failed(Exception):
    """A measurement that cannot be used; says why."""


def build(example="limit"):
    """Builds the server and an example; the folder they are in."""
    subprocess.run(["cargo", "build", "--locked", "--release", "--bin", "high-templar", "--example", example],
                   cwd=ROOT, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"],
                              cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return pathlib.Path(json.loads(metadata)["target_directory"]) / "release"


def most_connections():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - OTHER_DESCRIPTORS


def machine():
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {"cpu": cpu[0] if cpu else "unknown", "cores": os.cpu_count(), "kernel": os.uname().release}


class Rig:
    """Starts servers, measures them, and stops everything at its end."""

    def __init__(self, folder):
        self.program, self.limit_program = str(folder / "high-templar"), str(folder / "examples" / "limit")
        self.running = []
        self.api = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.kill()
            process.wait()

    def limit(self):
        """The server that is nothing but `send`."""
        port = free_port()
        process = self.start(SERVER_CPU, [self.limit_program, "--listen", f"127.0.0.1:{port}", "--seconds", "86400"])
        return Target(process, port, port)

    def server(self, **settings):
        """high-templar, with these environment variables."""
        if self.api is None:
            self.api = free_port()
            self.start(CLIENT_CPU, [self.program, "bench", "--serve-api", f"127.0.0.1:{self.api}"])
            wait_for(self.api)
        public, internal = free_port(), free_port()
        settings |= {"API_URL": f"http://127.0.0.1:{self.api}/", "LISTEN": f"127.0.0.1:{public}",
                     "INTERNAL_LISTEN": f"127.0.0.1:{internal}", "LOG": "warn"}
        return Target(self.start(SERVER_CPU, [self.program], settings), public, internal)

    def stop(self, target):
        target.process.kill()
        target.process.wait()
        self.running.remove(target.process)

    def measure(self, target, amqp=None, broker_pid=None, **options):
        """One run of bench; its report. An option's name is the argument's."""
        command = [self.program, "bench", "--json", "--url", f"ws://127.0.0.1:{target.public}/ws/",
                   "--pid", str(target.process.pid)]
        if amqp:
            command += ["--amqp", amqp, "--exchange", options.pop("exchange")]
            command += ["--broker-pid", str(broker_pid)] if broker_pid else []
        else:
            command += ["--trigger", f"http://127.0.0.1:{target.internal}/trigger/"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(pinned(CLIENT_CPU, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command[3:])}: {done.stderr.strip()} {done.stdout.strip()}")
        return json.loads(done.stdout)

    def start(self, cpu, command, settings=None):
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | (settings or {})
        process = subprocess.Popen(pinned(cpu, command), env=environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(process)
        return process


class Target:
    """A server that runs; `taskset` has become it, so its process is the one that was started."""

    def __init__(self, process, public, internal):
        self.process, self.public, self.internal = process, public, internal
        wait_for(public)
        wait_for(internal)


def pinned(cpu, command):
    return ["taskset", "-c", str(cpu), *command]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, deadline_s=20):
    end = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise Failed(f"nothing listens at port {port} after {deadline_s} s") from None
            time.sleep(0.05)


def median(reports, *path):
    """The median of one number of several reports."""
    def number(report):
        for name in path:
            report = report[name]
        return report
    return statistics.median(map(number, reports))


def say(text):
    print(text, file=sys.stderr, flush=True)
