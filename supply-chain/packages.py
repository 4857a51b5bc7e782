"""The crates that a build of high-templar is made of, as Cargo.lock fixes them. Needs no network once they are fetched."""

import json
import pathlib
import re
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The same list on every machine.
TARGET = "x86_64-unknown-linux-gnu"


def cargo(command, *arguments):
    """What cargo prints."""
    return subprocess.run(["cargo", command, "--locked", *arguments], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


class Problem(Exception):
    """Something that a person has to decide about."""


class Packages:
    """high-templar and what it is built of."""

    def __init__(self):
        metadata = json.loads(cargo("metadata", "--format-version=1", f"--filter-platform={TARGET}"))
        self._all = {(package["name"], package["version"]): package for package in metadata["packages"]}
        # What cargo's metadata resolves has the features that tests need as well; the tree has those of the program.
        linked, _ = self._tree("normal")
        every, self._edges = self._tree("normal,build")
        root = next(iter(linked))
        self.root = self._all[root]
        # Linked into the program, or expanded into its code.
        self.linked = [self._all[key] for key in sorted(linked) if key != root]
        # Run while it is built, and not part of it.
        self.build_only = [self._all[key] for key in sorted(every) if key not in linked]
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
        self._checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}

    @staticmethod
    def _tree(edges):
        """Packages by name and version, the root first; and what each needs directly."""
        needed, above = {}, []
        for line in cargo("tree", f"--edges={edges}", f"--target={TARGET}", "--prefix=depth").splitlines():
            depth, name, version = re.match(r"(\d+)(\S+) v(\S+)", line).groups()
            key = (name, version)
            above[int(depth):] = [key]
            needed.setdefault(key, set())
            if len(above) > 1:
                needed[above[-2]].add(key)
        return needed.keys(), needed

    def dependencies(self, package):
        """What a package is built of directly."""
        return [self._all[key] for key in sorted(self._edges[package["name"], package["version"]])]

    def checksum(self, package):
        """SHA-256 of the crate's archive."""
        return self._checksums[package["name"], package["version"]]


def allowed():
    """Licences that may be used, the preferred ones first."""
    return tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"]


def expression(package):
    """A crate's licence as an SPDX expression; older crates write `/` for `OR`."""
    if not package["license"]:
        raise Problem(f"{package['name']} {package['version']} names no licence")
    return re.sub(r"\s*/\s*", " OR ", package["license"])


def chosen(package):
    """The licences under which a crate is used."""
    tokens = re.findall(r"[()]|[^\s()]+", expression(package))
    preferred = allowed()

    def any_of():
        choices = [all_of()]
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            choices.append(all_of())
        possible = [choice for choice in choices if all(name in preferred for name in choice)]

        def rank(choice):
            return len(choice), [preferred.index(name) for name in choice]

        return min(possible, key=rank) if possible else choices[0]

    def all_of():
        names = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            names = sorted({*names, *one()})
        return names

    def one():
        token = tokens.pop(0)
        if token == "(":
            names = any_of()
            tokens.pop(0)
            return names
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return [token]

    names = any_of()
    refused = [name for name in names if name not in preferred]
    if refused:
        raise Problem(f"{package['name']} {package['version']}: deny.toml does not allow {', '.join(refused)}")
    return names
