"""What a check is, how it says what went wrong, and how checks are run."""

import inspect
import itertools
import json
import threading
import time
import traceback
from dataclasses import dataclass

_numbers = itertools.count(1)


class Mismatch(Exception):
    """The server did something else than the specification says."""

    def __init__(self, what, expected, came):
        super().__init__(f"{what}: expected {shown(expected)}; came {shown(came)}")


def shown(value):
    text = value if isinstance(value, str) else exact(value)
    return text if len(text) <= 600 else f"{text[:400]} … {text[-100:]} ({len(text)} characters)"


def exact(value):
    """One text per JSON value; unlike Python's ==, it tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)


def equal(came, expected, what="value"):
    if exact(came) != exact(expected):
        raise Mismatch(what, expected, came)


def one_of(came, options, what="value"):
    if exact(came) not in [exact(option) for option in options]:
        raise Mismatch(what, "one of " + exact(list(options)), came)


def holds(condition, what, expected, came):
    if not condition:
        raise Mismatch(what, expected, came)


def eventually(read, expected, what, seconds=5):
    """Asks again until the expected value is there."""
    deadline = time.monotonic() + seconds
    while True:
        came = read()
        if exact(came) == exact(expected):
            return
        if time.monotonic() > deadline:
            raise Mismatch(f"{what} after {seconds} s", expected, came)
        time.sleep(0.01)


def unique(prefix="u"):
    """A word that no other check uses."""
    return f"{prefix}{next(_numbers)}"


@dataclass
class Check:
    function: object
    world: str
    case: object = None
    case_name: str = ""
    way: str = ""
    background: bool = False

    @property
    def needs_broker(self):
        return "publish_by_amqp" in inspect.signature(self.function).parameters

    @property
    def name(self):
        name = self.function.__name__.replace("_", " ")
        if self.case_name:
            name += f" [{self.case_name}]"
        if self.way:
            name += f" (by {self.way})"
        return name


class Registry:
    """All checks in the order of their definition."""

    def __init__(self):
        self._entries = []

    def check(self, world="default", cases=None, background=False):
        """Makes a function a check.

        The function takes `world` and, by name if it wants them: `case` (it then runs once for each of
        `cases`, a dict from name to value) and `publish` (once for each way to send a trigger).
        `background` checks take long and run beside the others.
        """

        def register(function):
            self._entries.append((function, world, cases or {"": None}, background))
            return function

        return register

    def expand(self, ways):
        for function, world, cases, background in self._entries:
            wants = inspect.signature(function).parameters
            for case_name, case in cases.items():
                for way in ways if "publish" in wants else [""]:
                    yield Check(function, world, case, case_name, way, background)


registry = Registry()
check = registry.check


class Report:
    """Prints one line per check and counts the failures."""

    def __init__(self):
        self.passed = 0
        self.failures = []
        self._lock = threading.Lock()

    def add(self, name, seconds, problem=None):
        with self._lock:
            late = f"  ({seconds:.1f} s)" if seconds > 1 else ""
            if problem is None:
                self.passed += 1
                print(f"ok    {name}{late}", flush=True)
            else:
                self.failures.append(name)
                print(f"FAIL  {name}{late}\n      {problem}", flush=True)


def run(check, world, report, label):
    wants = inspect.signature(check.function).parameters
    arguments = {}
    if "case" in wants:
        arguments["case"] = check.case
    if "publish" in wants:
        arguments["publish"] = world.publisher(check.way)
    if "publish_by_amqp" in wants:
        arguments["publish_by_amqp"] = world.publisher("amqp")
    started = time.monotonic()
    problem = None
    try:
        check.function(world, **arguments)
    except Mismatch as mismatch:
        problem = str(mismatch)
    except Exception as error:  # a broken connection, a timeout: the check says where
        here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
        where = " <- ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(here[1:][:4]))
        problem = f"{type(error).__name__}: {error} at {where}"
    report.add(f"{label}: {check.name}", time.monotonic() - started, problem)
