"""What this product is built of: a lock with versions and hashes, the licences of all of it, and known advisories.

    python -m benchmarks.trust.supply lock           # requirements.lock from pyproject.toml (uv; keeps versions that still fit)
    python -m benchmarks.trust.supply licences       # docs/licences.md, from what is installed
    python -m benchmarks.trust.supply advisories     # asks the advisory database about the lock (pip-audit; needs a network)

The lock is for Python 3.11 on Linux x86_64, for all extras. `make` installs by the ranges of pyproject.toml, so that other
systems and Pythons work; who wants the very files that were tested here installs with
`pip install --require-hashes -r requirements.lock` and then `pip install --no-deps -e .`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.trust import Options, Promise
from duplex.errors import InputError
from duplex.jsonfile import parse_json, read_bytes
from duplex.overlay import read_toml
from train.files import replace_file

AREA = "supply chain"
ROOT = Path(__file__).resolve().parents[2]
LOCK, LICENCES, PROJECT = ROOT / "requirements.lock", ROOT / "docs" / "licences.md", ROOT / "pyproject.toml"
_ENVIRONMENT = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux", "platform_system": "Linux",
                "platform_machine": "x86_64", "os_name": "posix", "implementation_name": "cpython",
                "platform_python_implementation": "CPython", "extra": ""}
_HEAD = "# Python 3.11, Linux x86_64, all extras. Made by: python -m benchmarks.trust.supply lock\n"
_LINE = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)((?: --hash=sha256:[0-9a-f]{64})+)")
_ADDRESS = re.compile(r"\w+://|\bwww\.|@\s|--(?:extra-)?index|--find-links|\b[\w-]+\.(?:org|com|net|io|dev)\b")


@dataclass(frozen=True)
class Locked:
    """One line of the lock."""

    name: str
    version: str
    hashes: tuple[str, ...]


def read_lock(text: str) -> dict[str, Locked]:
    """The lock's packages by name. Raises InputError for a line without version or hash, or with an address."""
    found: dict[str, Locked] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or _ADDRESS.search(line):
            raise InputError(f"requirements.lock: {line[:60]!r} is no 'name==version --hash=sha256:...'; make the lock again")
        name = canonicalize_name(match[1])
        found[name] = Locked(name, match[2], tuple(re.findall(r"sha256:([0-9a-f]{64})", match[3])))
    return found


def direct(project: dict) -> list[Requirement]:
    """The dependencies that pyproject.toml names, extras included, so far as they concern the lock's system."""
    named = [*project["project"]["dependencies"], *(one for extra in project["project"]["optional-dependencies"].values()
                                                    for one in extra)]
    parsed = [Requirement(one) for one in named]
    return [one for one in parsed if one.marker is None or Marker(str(one.marker)).evaluate(_ENVIRONMENT)]


def disagreements(project: dict, locked: dict[str, Locked]) -> list[str]:
    """Where the lock does not do what pyproject.toml asks."""
    found = []
    for one in direct(project):
        name = canonicalize_name(one.name)
        if name not in locked:
            found.append(f"{name} is not locked")
        elif not one.specifier.contains(locked[name].version, prereleases=True):
            found.append(f"{name} {locked[name].version} is outside of {one.specifier}")
    return found


def lock() -> dict[str, Locked]:
    """Makes the lock anew, keeping the versions of the present one where they still fit."""
    if importlib.util.find_spec("uv") is None and shutil.which("uv") is None:
        raise InputError("uv is not installed: pip install -e '.[audit]'")
    command = [sys.executable, "-m", "uv", "pip", "compile", str(PROJECT), "--all-extras", "--generate-hashes", "--quiet",
               "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-header", "--no-annotate",
               "--no-emit-index-url", "--no-emit-find-links", "--output-file", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the lock could not be made: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    text = _HEAD + LOCK.read_text().removeprefix(_HEAD)
    packages = read_lock(text)
    replace_file(LOCK, lambda part: part.write_text(text))
    return packages


def licence(name: str) -> str:
    """What the installed package says of its licence, in a few words. Raises InputError where it is not installed."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{name}: locked but not installed here; pip install --require-hashes -r requirements.lock") from None
    if about.get("License-Expression"):
        return about["License-Expression"]
    kinds = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    kinds = [kind for kind in kinds if kind != "OSI Approved"]
    if kinds:
        return ", ".join(sorted(set(kinds)))
    words = " ".join((about.get("License") or "").split())
    return words[:80] if words and words.upper() != "UNKNOWN" else "not stated"


def licence_page(locked: dict[str, Locked]) -> str:
    """docs/licences.md."""
    rows = [(one.name, one.version, licence(one.name)) for one in locked.values()]
    copyleft = [f"{name} ({kind})" for name, _, kind in rows if re.search(r"\bA?GPL|Affero|General Public", kind)]
    unstated = [name for name, _, kind in rows if kind == "not stated"]
    table = "\n".join(f"| {name} | {version} | {kind.replace('|', '/')} |" for name, version, kind in sorted(rows))
    return f"""# Licences of what this product uses

The packages of `requirements.lock`, each with what its own metadata says. None of them is part of this repository. Made by
`python -m benchmarks.trust.supply licences`; a test compares names and versions with the lock.

Under a General Public License in some form: {', '.join(copyleft) or 'none'}.
Those are tools and engines of extras, and none is needed by `import duplex`. Without a statement in the metadata: \
{', '.join(unstated) or 'none'}; see the project itself.

| package | version | licence |
|---|---|---|
{table}
"""


def listed(text: str) -> dict[str, str]:
    """{package: version} of docs/licences.md."""
    return dict(re.findall(r"^\| ([\w.-]+) \| (\d[^ |]*) \| [^|]+ \|$", text, re.M))


def advisories(locked: dict[str, Locked], service: str = "osv") -> list[str]:
    """Known advisories against the lock, one line each. Raises InputError unless every package was really looked up."""
    if importlib.util.find_spec("pip_audit") is None:
        raise InputError("pip-audit is not installed: pip install -e '.[audit]'")
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--require-hashes", "--disable-pip",
               "--format", "json", "--progress-spinner", "off", "--vulnerability-service", service, "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise InputError("the advisory database did not answer within 15 minutes; nothing is known; try again") from None
    return judged(done.stdout, done.stderr, locked)


def judged(output: str, complaints: str, locked: dict[str, Locked]) -> list[str]:
    """The advisories in pip-audit's answer. Raises InputError for an answer that leaves out a package.

    Its exit status is no guide: it is 0, and the words are "no known vulnerabilities", when no package could be looked up.
    """
    try:
        entries = {canonicalize_name(one["name"]): one for one in parse_json(output, "the answer")["dependencies"]}
    except (InputError, KeyError, TypeError):
        reason = (complaints.strip().splitlines() or ["no answer"])[-1]
        unreachable = re.search(r"resolve|refused|timed? ?out|unreachable|[Cc]onnection", reason)
        reason = "it cannot be reached" if unreachable else reason[:100]
        raise InputError(f"the advisory database gave no answer ({reason}); nothing is known; try again with a network") from None
    missed = [name for name in locked if "vulns" not in entries.get(name, {})]
    if missed:
        raise InputError(f"the advisory database did not answer for {len(missed)} of {len(locked)} packages (the first: "
                         f"{missed[0]}); nothing is known of them; try again with a network")
    return [f"{name} {one['version']}: {each['id']} (mended in {', '.join(each.get('fix_versions', [])) or 'no version yet'})"
            for name, one in entries.items() for each in one["vulns"]]


def run(options: Options) -> Iterator[Promise]:
    """The lock, the licences, the advisories."""
    locked = read_lock(read_bytes(LOCK).decode())
    wrong = disagreements(read_toml(PROJECT), locked)
    hashes = sum(len(one.hashes) for one in locked.values())
    yield Promise(AREA, "every dependency is locked by version and hash, without addresses", "all of pyproject.toml",
                  "; ".join(wrong) or f"{len(locked)} packages, {hashes:,} sha256 hashes", not wrong,
                  "requirements.lock read line by line and compared with pyproject.toml, all extras; Python 3.11, Linux x86_64")
    have = listed(read_bytes(LICENCES).decode())
    missing = [name for name, one in locked.items() if have.get(name) != one.version]
    yield Promise(AREA, "the licences of all of them are listed", "0 missing",
                  f"{len(missing)} missing" + (f" ({missing[0]})" if missing else f", {len(have)} listed"), not missing,
                  "docs/licences.md compared with the lock")
    try:
        known = advisories(locked)
    except InputError as error:
        yield Promise(AREA, "no known advisory against a locked version", "0", "", None, str(error))
        return
    yield Promise(AREA, "no known advisory against a locked version", "0", "; ".join(known) or "0", not known,
                  "pip-audit on the lock; every package was looked up")


def main(argv: Sequence[str] | None = None) -> int:
    """The three commands; exit status 1 for a known advisory, 2 for what could not be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust.supply", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("lock", "licences", "advisories"))
    parser.add_argument("--service", choices=("osv", "pypi"), default="osv", help="database that is asked for advisories")
    args = parser.parse_args(argv)
    try:
        if args.command == "lock":
            print(f"{len(lock())} packages in {LOCK.name}; now: python -m benchmarks.trust.supply licences")
            return 0
        locked = read_lock(read_bytes(LOCK).decode())
        if args.command == "licences":
            page = licence_page(locked)
            replace_file(LICENCES, lambda part: part.write_text(page, encoding="utf-8"))
            print(f"{len(locked)} packages in {LICENCES.relative_to(ROOT)}")
            return 0
        known = advisories(locked, args.service)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(known) or f"no advisory is known against the {len(locked)} locked packages")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
