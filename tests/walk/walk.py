"""An outside client's walk through the wire protocol, against a real server.

    python3 -m venv venv && venv/bin/pip install -r tests/walk/requirements.txt
    venv/bin/python tests/walk/walk.py --binary target/release/high-templar --amqp none
    venv/bin/python tests/walk/walk.py --binary target/release/high-templar --amqp "$(tests/rabbitmq/node start DIR)"

Every behaviour is one small function in a file `walk_*.py`, with its sentence for a name. One line per check:
`ok`, or `FAIL` with what was expected and what came. The exit code is 1 if any failed.

The server is started with API_URL, LISTEN and INTERNAL_LISTEN, with AMQP_URL if there is a broker, and in further
runs with what WORLDS adds. The exchange `hightemplar` of the broker is used, and deleted at the end.
"""

import argparse
import importlib
import itertools
import shlex
import signal
import sys
import tempfile
import threading
import time

from checks import Report, registry, run
from world import HOOKS, World

# The order of the walk.
TOPICS = [
    *("handshake", "forwarding", "answers", "frames", "rooms", "subscriptions", "dispatch", "triggers"),
    *("closing", "status", "metrics", "exact", "hooks", "lifecycle", "deployment", "clients"),
]
for topic in TOPICS:
    importlib.import_module(f"walk_{topic}")

# name: (additional environment, instances, the backend is up, a broker is needed)
WORLDS = {
    "default": ({}, 1, True, False),
    "exact": ({"WILDCARD_DISPATCH": "exact"}, 1, True, False),
    "hooks": (HOOKS, 1, True, False),
    "idle": ({"IDLE_TIMEOUT": "1s", **HOOKS}, 1, True, False),
    "down": ({}, 1, False, False),
    "stop": ({}, 0, True, False),  # each check starts its own
    "pair": ({}, 2, True, True),
    "outage": ({}, 0, True, True),  # so here, with a broker
}


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    amqp_url = None if arguments.amqp == "none" else arguments.amqp
    report = Report()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="walk-") as directory:
        for name, checks in chosen(arguments, amqp_url):
            environment, instances, backend_is_up, _ = WORLDS[name]
            command = shlex.split(arguments.binary)
            world = World(name, command, amqp_url, arguments.logs or directory, environment, instances, backend_is_up)
            walk(world, checks, report)
    seconds = time.monotonic() - started
    print(f"{report.passed} ok, {len(report.failures)} failed, {seconds:.0f} s, broker: {arguments.amqp}")
    for failure in report.failures:
        print(f"  FAIL  {failure}")
    return 1 if report.failures or not report.passed else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True, help="the server, with arguments if it needs any")
    parser.add_argument("--amqp", required=True, metavar="URL|none", help="a broker, or none for the embedded one")
    parser.add_argument("--logs", metavar="DIR", help="keep the servers' logs there")
    parser.add_argument("--list", action="store_true", help="only name the checks")
    parser.add_argument("filter", nargs="*", help="words that must all be in `world: name of the check`")
    return parser.parse_args()


def chosen(arguments, amqp_url):
    """Pairs of a world's name and its checks, in the order of WORLDS."""
    ways = ["post", "amqp"] if amqp_url else ["post"]
    checks = [check for check in registry.expand(ways) if amqp_url or not needs_broker(check)]
    checks = [check for check in checks if all(word in f"{check.world}: {check.name}" for word in arguments.filter)]
    if arguments.list:
        for check in checks:
            print(f"{check.world}: {check.name}")
        sys.exit(0)
    checks.sort(key=lambda check: list(WORLDS).index(check.world))
    return [(name, list(group)) for name, group in itertools.groupby(checks, key=lambda check: check.world)]


def needs_broker(check):
    return check.needs_broker or WORLDS[check.world][3]


def walk(world, checks, report):
    """Runs a world's checks; the slow ones beside the others."""
    if not start(world, report):
        return
    aside = [check for check in checks if check.background]
    slow = [threading.Thread(target=run_one, args=(check, world, report), daemon=True) for check in aside]
    for thread in slow:
        thread.start()
    still_quiet = world.name != "down"
    for check in checks:
        if check.background:
            continue
        run_one(check, world, report)
        if any(server.process.poll() is not None for server in world.servers):
            report.add(f"{world.name}: the server lives on", 0, "it ended by itself:\n" + world.server.log())
            if not start(world, report):
                return
        elif still_quiet:
            still_quiet = is_quiet(world, report)
    for thread in slow:
        thread.join()
    if world.servers:
        codes = world.stop()
        problem = None if set(codes) == {0} else f"exit codes: expected 0; came {codes}\n{world.server.log()}"
        report.add(f"{world.name}: the server ends with exit code 0 on SIGTERM", 0, problem)


def start(world, report):
    try:
        world.start()
    except AssertionError as problem:
        report.add(f"{world.name}: the server starts and is ready", 0, str(problem))
        world.stop()
        return False
    return True


def run_one(check, world, report):
    try:
        run(check, world, report, world.name)
    finally:
        world.cleanup()


def is_quiet(world, report):
    try:
        world.wait_quiet()
    except Exception as problem:
        report.add(f"{world.name}: nothing is left of the check before", 0, str(problem))
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
