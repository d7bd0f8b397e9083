"""The short forms of what is tried of parsers, checkpoints and the supply chain, and that the trials can fail."""

import json

import pytest

pytest.importorskip("soxr", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("prometheus_client", reason="the server's parts are not installed: pip install -e '.[serve]'")
from benchmarks.trust import checkpoints, examples, fuzz, parsers, supply  # noqa: E402
from benchmarks.trust.targets import ERRORS, TARGETS, Broken, Target, Timed, typed  # noqa: E402
from duplex.errors import CheckpointError, InputError  # noqa: E402
from duplex.overlay import read_toml  # noqa: E402
from train.files import codec_config, trained_codec  # noqa: E402


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_end_in_a_value_or_a_typed_error(name):
    assert examples.check(name, 150, seed=7).calls == 150


def test_the_costliest_messages_end_soon():
    line = parsers.largest()
    assert line.met, line.measured


def test_a_reader_that_breaks_is_found_and_its_example_made_small(monkeypatch):
    def reader(data):
        if b"x" in data:
            raise KeyError("x")

    monkeypatch.setitem(TARGETS, "bad", Target("bad", "test", reader, lambda: [b"0123456789" * 20], ("x",)))
    with pytest.raises(examples.Failed, match=r"KeyError.*with b'x'"):
        examples.check("bad", 500)
    with pytest.raises(Broken, match="not one line"):
        typed(lambda: (_ for _ in ()).throw(InputError("two\nlines")))
    assert all(issubclass(kind, Exception) for kind in ERRORS)


def test_a_slow_call_is_told(monkeypatch):
    monkeypatch.setattr("benchmarks.trust.targets.CALL_SECONDS", 0.001)
    slow = Timed(Target("slow", "test", lambda data: sum(range(1_000_000)), lambda: [b""]))
    with pytest.raises(Broken, match="slow: a call took"):
        slow(b"")


def test_the_fuzzers_words_are_read(tmp_path, monkeypatch):
    """What libFuzzer says of a run is counted; an input that it left is a finding."""
    def run(command, stderr=None, **_):
        stderr.write("#5\tINITED cov: 10 ft: 11 corp: 3/9b\n#9\tNEW    cov: 12 ft: 20 corp: 4/10b\nKeyError: 'x'\n"
                     "stat::number_of_executed_units: 1234\n")
        (tmp_path / "pages-crash-1").write_bytes(b"x")
        (tmp_path / "pages-slowest.json").write_text('{"ms": 3.5}')
        return type("Done", (), {"returncode": 77})

    monkeypatch.setattr(fuzz.subprocess, "run", run)
    assert fuzz.fuzz("pages", 1, tmp_path) == fuzz.Fuzzed("pages", 1, 1234, 12, 10, 4, 3.5, ("pages-crash-1",), "KeyError: 'x'")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"n_filter": 2}', '{"dimension": 1e999}', "[" * 20_000])
def test_sizes_of_a_codec_that_are_none(tmp_path, text):
    (tmp_path / "mimi.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        trained_codec(tmp_path, 4)
    assert isinstance(caught.value, ERRORS) and "mimi.json" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    (tmp_path / "mimi.json").unlink()
    with pytest.raises(ValueError, match="mimi.json: cannot be read"):
        codec_config(tmp_path)


@pytest.mark.slow
def test_bad_checkpoints_take_no_memory(saved, tmp_path):
    line = checkpoints.refused(tmp_path, saved)
    assert line.met, line.measured


def test_mutated_checkpoints_and_archives(saved, tmp_path):
    for line in (checkpoints.mutated(tmp_path, saved, 25, 3), checkpoints.archives(tmp_path, 120, 3)):
        assert line.met, line.measured


def test_values_are_looked_through_before_memory_is_taken(saved, tmp_path, monkeypatch):
    """The last value is NaN; no tensor may have been read into memory when that is said."""
    from duplex import checkpoint
    from duplex.safefile import TensorReader

    folder = checkpoints._copy(saved, tmp_path / "bad")
    name = json.loads((saved / "config.json").read_text())["moshi_name"]
    checkpoints._put(folder / name, checkpoints._nan((saved / name).read_bytes()))
    monkeypatch.setattr(TensorReader, "read", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(CheckpointError, match="NaN"):
        checkpoint.load_model(folder)


def test_the_lock_does_what_the_project_asks():
    locked = supply.read_lock(supply.LOCK.read_text())
    project = read_toml(supply.PROJECT)
    assert supply.disagreements(project, locked) == [] and all(one.hashes for one in locked.values())
    assert len(supply.direct(project)) > 30 and len(locked) > 150
    assert {name: one.version for name, one in locked.items()} == supply.listed(supply.LICENCES.read_text())


def test_a_lock_that_does_not_fit_is_told():
    locked = supply.read_lock("torch==2.8.0 \\\n    --hash=sha256:" + "a" * 64 + "\n")
    wrong = supply.disagreements({"project": {"dependencies": ["torch==2.9.*", "numpy"], "optional-dependencies": {
        "x": ["tomli; python_version < '3.11'"]}}}, locked)
    assert wrong == ["torch 2.8.0 is outside of ==2.9.*", "numpy is not locked"]


@pytest.mark.parametrize("line", ["torch==2.9.1", "torch>=2 --hash=sha256:" + "a" * 64, "--index-url somewhere",
                                  "torch @ https://x.invalid/torch.whl --hash=sha256:" + "a" * 64,
                                  "torch==2.9.1 --hash=md5:" + "a" * 32])
def test_lines_without_hash_or_with_an_address_are_refused(line):
    with pytest.raises(InputError, match="requirements.lock"):
        supply.read_lock(line)


def test_advisories_are_never_none_when_nobody_answered():
    locked = {name: supply.Locked(name, "1", ("a",)) for name in ("a", "b")}
    known = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
                              {"name": "b", "version": "1", "vulns": []}], "fixes": []}
    assert supply.judged(json.dumps(known), "", locked) == ["a 1: X-1 (mended in 2)"]
    skipped = {"dependencies": [known["dependencies"][0], {"name": "b", "skip_reason": "not found"}]}
    for answer, words in ((json.dumps(skipped), "did not answer for 1 of 2"), (json.dumps({"dependencies": []}), "for 2 of 2"),
                          ("", "cannot be reached"), ("null", "no answer"), ("[]", "no answer")):
        with pytest.raises(InputError, match=words) as caught:
            supply.judged(answer, "ConnectionError: Failed to resolve 'db.invalid'" if not answer else "", locked)
        assert len(str(caught.value).splitlines()) == 1 and "nothing is known" in str(caught.value)
