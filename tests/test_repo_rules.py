"""Rules of the repository that no single module can keep: import directions, forbidden imports, sizes.

Each rule is a function from sources to a list of violations; each is tried on a source that breaks it, too.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("duplex", "train", "infer", "benchmarks")
MAX_LINES = 450

# Who may import whom among the top-level packages.
MAY_IMPORT = {
    "duplex": {"duplex"},
    "train": {"train", "duplex"},
    "infer": {"infer", "duplex"},
    "benchmarks": {"benchmarks", "duplex", "train", "infer"},
}
# Inside duplex a module imports only modules of a lower rank (of its own rank: only inside its own folder).
RANKS = {
    "errors": 0, "units": 1, "config": 2, "streams": 3, "delays": 4, "model": 5, "sampling": 6, "engine": 7,
    "session": 9,
}
# Modules that meet the engine only in the session: the model's side may not know them, nor they the model.
SIDE = {"audio", "codec", "text", "turns"}
NEVER_IN_DUPLEX = {"argparse", "click", "lightning", "pytorch_lightning", "sounddevice", "time", "datetime"}
PICKLES = {"pickle", "dill", "joblib", "cloudpickle"}


def sources(*packages: str) -> Iterator[tuple[str, str]]:
    """(path relative to the root, text) of every Python file of the named packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def imported(path: str, text: str) -> set[str]:
    """Absolute dotted names of everything that a file imports, also inside functions."""
    names: set[str] = set()
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.add(module)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def direction_violations(path: str, text: str) -> list[str]:
    """Imports of a top-level package of this repository that the file's own package may not import."""
    package = path.split("/")[0]
    tops = {name.split(".")[0] for name in imported(path, text)} & set(PACKAGES)
    return [f"{path} imports {top}" for top in sorted(tops - MAY_IMPORT[package])]


def order_violations(path: str, text: str) -> list[str]:
    """Imports inside duplex that go up the order of the modules."""
    own = path.removeprefix("duplex/").removesuffix(".py").split("/")[0]
    others = {name.split(".")[1] for name in imported(path, text) if name.startswith("duplex.")} - {own}
    found = []
    for other in sorted(others):
        if own in RANKS and own != "session":
            bad = other in SIDE or other == "checkpoint" or RANKS.get(other, -1) >= RANKS[own]
        elif own in SIDE:
            bad = RANKS.get(other, -1) > RANKS["config"] or other == "checkpoint"
        else:
            bad = own == "checkpoint" and other in ("session", "testing")
        if bad:
            found.append(f"{path} imports duplex.{other}")
    return found


def library_violations(path: str, text: str) -> list[str]:
    """What duplex never touches: command lines, devices, the clock; moshi outside codec.py."""
    tops = {name.split(".")[0] for name in imported(path, text)}
    found = [f"{path} imports {name}" for name in sorted(tops & NEVER_IN_DUPLEX)]
    if "moshi" in tops and path != "duplex/codec.py":
        found.append(f"{path} imports moshi")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in (("asyncio", "sleep"), ("time", "sleep"), ("time", "time")):
                found.append(f"{path}:{node.lineno} calls {node.value.id}.{node.attr}")
    return found


def pickle_violations(path: str, text: str) -> list[str]:
    """Anything that would open a pickle: torch.load, numpy with allow_pickle, the pickle modules."""
    tops = {name.split(".")[0] for name in imported(path, text)}
    found = [f"{path} imports {name}" for name in sorted(tops & PICKLES)]
    if "torch.load" in imported(path, text):
        found.append(f"{path} imports torch.load")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) == ("torch", "load"):
                found.append(f"{path}:{node.lineno} calls torch.load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append(f"{path} allows pickles")
    return found


def docstring_violations(path: str, text: str) -> list[str]:
    """Modules, public classes and public module-level functions without a docstring."""
    tree = ast.parse(text)
    found = [] if ast.get_docstring(tree) or not tree.body else [f"{path} has no module docstring"]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("_") and not ast.get_docstring(node):
                found.append(f"{path}:{node.lineno} {node.name} has no docstring")
    return found


def machine_path_violations(path: str, text: str) -> list[str]:
    """Absolute paths of somebody's machine."""
    pattern = re.compile(r"(?<![\w.~])/(?:work|root|home|Users)/[\w.]+")
    return [f"{path}: {match.group()}" for match in pattern.finditer(text)]


def collect(rule, *packages: str) -> list[str]:
    """All violations of `rule` in the named packages."""
    return [violation for path, text in sources(*packages) for violation in rule(path, text)]


def test_packages_import_one_way():
    assert collect(direction_violations, *PACKAGES) == []
    inner = "def f():\n    from train.data import y"
    assert direction_violations("duplex/x.py", inner) == ["duplex/x.py imports train"]
    assert direction_violations("train/x.py", "import infer.live") == ["train/x.py imports infer"]
    assert direction_violations("infer/x.py", "import train") == ["infer/x.py imports train"]
    assert direction_violations("duplex/x.py", "import benchmarks") == ["duplex/x.py imports benchmarks"]
    assert direction_violations("benchmarks/x.py", "import train, infer, duplex") == []


def test_modules_of_the_library_import_downwards():
    assert collect(order_violations, "duplex") == []
    for path, text, bad in [
        ("duplex/config.py", "from .engine import Engine", "duplex.engine"),
        ("duplex/model/lm.py", "from ..codec import x", "duplex.codec"),
        ("duplex/engine.py", "from duplex import text", "duplex.text"),
        ("duplex/text.py", "import duplex.engine", "duplex.engine"),
    ]:
        assert order_violations(path, text) == [f"{path} imports {bad}"]
    assert order_violations("duplex/session.py", "from duplex import engine, codec, text, turns") == []
    assert order_violations("duplex/model/lm.py", "from duplex.model.layers import x") == []


def test_library_touches_no_command_line_no_device_no_clock():
    assert collect(library_violations, "duplex") == []
    assert library_violations("duplex/x.py", "import argparse, time") == [
        "duplex/x.py imports argparse", "duplex/x.py imports time"]
    assert library_violations("duplex/x.py", "from lightning.pytorch import Trainer") != []
    assert library_violations("duplex/text.py", "from moshi.models import loaders") != []
    assert library_violations("duplex/codec.py", "from moshi.models import loaders") == []
    assert library_violations("duplex/x.py", "async def f(asyncio): await asyncio.sleep(1)") != []


def test_no_pickle_is_ever_opened():
    assert collect(pickle_violations, "duplex", "infer") == []
    assert pickle_violations("duplex/x.py", "import torch\ntorch.load('x')") != []
    assert pickle_violations("duplex/x.py", "from torch import load") != []
    assert pickle_violations("duplex/x.py", "np.load(p, allow_pickle=True)") != []
    assert pickle_violations("duplex/x.py", "import pickle") != []


def test_everything_public_is_documented():
    assert collect(docstring_violations, "duplex") == []
    assert docstring_violations("duplex/x.py", '"""Doc."""\ndef f(): pass\ndef _g(): pass') == [
        "duplex/x.py:2 f has no docstring"]


def test_files_stay_short():
    long = [f"{path} has {text.count(chr(10))} lines" for path, text in sources(*PACKAGES, "tests")
            if text.count("\n") > MAX_LINES]
    assert long == []


def test_every_package_folder_is_a_package():
    for package in PACKAGES:
        folders = {path.parent for path in (ROOT / package).rglob("*.py")}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_machine_paths_in_the_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2_000_000:
            try:
                found += machine_path_violations(name, path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                continue  # binary
    assert found == []
    assert machine_path_violations("x", "see /" + "home/me/data") != []


def test_import_is_quick_and_light():
    code = ("import sys, time; t = time.perf_counter(); import duplex; t = time.perf_counter() - t;"
            "heavy = {'torch', 'moshi', 'numpy', 'sentencepiece', 'huggingface_hub'} & set(sys.modules);"
            "print(sorted(heavy), t)")
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
            for _ in range(3)]
    heavy, seconds = zip(*(run.stdout.rsplit(" ", 1) for run in runs), strict=True)
    assert set(heavy) == {"[]"}
    assert min(float(s) for s in seconds) < 0.5
