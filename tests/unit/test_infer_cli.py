"""The commands: a conversation from files to files, and one line for everything that a user may get wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch

from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.model.lm import DuplexLM
from duplex.saving import save_lm
from duplex.testing import fake_loaded_model, scripted_speech, tiny_lm_config
from infer import cli, demo, dialogues, simulate

ROOT = Path(__file__).resolve().parents[2]
FILES = ["conversation.wav", "events.jsonl", "timeline.png", "transcript.md"]
MIMI = MimiConfig(dimension=32, n_filters=4, codebook_dim=16, n_codebooks=4, cardinality=64, num_heads=2, num_layers=2,
                  dim_feedforward=64, context=50)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with a good recording of 2 s, and the fake model in place of the embedded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate, "load_model", lambda source, device, backend: fake_loaded_model())
    soundfile.write("user.wav", scripted_speech([(0.4, 1.4)], 2.0), 24_000)
    return tmp_path


def made(folder):
    return sorted(os.listdir(folder))


def test_a_recording_becomes_a_report(place, capsys):
    Path("words.json").write_text(json.dumps({"words": [["hello", 0.4, 0.8], ["there", 0.9, 1.4]]}))
    assert simulate.main("--user user.wav --user-words words.json --tail 1 --out out/a --seed 3".split()) == 0
    assert made("out/a") == FILES and made("out") == ["a"]
    said = capsys.readouterr()
    assert said.err == ""
    assert "frame 38/38  3.0 s of 3.0 s" in said.out and "x real time" in said.out
    assert "   user  0:00.4 - 0:01.4  hello there" in said.out
    assert "compute per 80 ms frame: p50" in said.out and "response latency" in said.out
    samples, rate = soundfile.read("out/a/conversation.wav")
    assert rate == 24_000 and samples.shape == (38 * 1_920, 2)
    assert np.abs(samples[:48_000, 1] - soundfile.read("user.wav")[0]).max() < 1e-4
    first = json.loads(Path("out/a/events.jsonl").read_text().splitlines()[0])
    assert first["seed"] == 3 and first["sampling"]["text_top_k"] == 25
    assert "hello there" in Path("out/a/transcript.md").read_text()


def test_the_same_seed_gives_the_same_files_and_another_one_does_not(place):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert simulate.main(["--user", "user.wav", "--tail", "0", "--out", name, "--seed", seed]) == 0
    sounds = [Path(name, "conversation.wav").read_bytes() for name in "abc"]
    assert sounds[0] == sounds[1] != sounds[2]
    assert Path("a/timeline.png").read_bytes() == Path("b/timeline.png").read_bytes()


def test_options_of_sampling_and_prompt_reach_the_session(place, monkeypatch):
    seen = {}
    original = dialogues.SessionBatch

    def watched(model, seeds, sampling, prompt, policies):
        seen.update(sampling=sampling, seeds=seeds, prompt=prompt)
        return original(model, seeds, sampling, prompt, policies)

    monkeypatch.setattr(dialogues, "SessionBatch", watched)
    assert simulate.main("--user user.wav --tail 0 --temperature-text 0.5 --temperature-audio 0.6 --top-k-text 7 --top-k-audio 9 "
                         "--greedy --repetition-window 5 --repetition-penalty 1.5 --prompt-text hi --prompt-audio user.wav "
                         "--seed 11".split()) == 0
    sampling = seen["sampling"]
    assert (sampling.text_temperature, sampling.audio_temperature) == (0.5, 0.6)
    assert (sampling.text_top_k, sampling.audio_top_k, sampling.greedy) == (7, 9, True)
    assert (sampling.repetition_window, sampling.repetition_penalty, seen["seeds"]) == (5, 1.5, [11])
    assert seen["prompt"].text == "hi" and seen["prompt"].audio.shape == (48_000,)
    assert simulate.main("--user user.wav --tail 0".split()) == 0
    assert seen["sampling"] == fake_loaded_model().sampling and seen["prompt"] is None


def test_two_instances_talk_to_each_other(place, capsys):
    assert simulate.main("--self --seconds 1.6 --out out/self".split()) == 0
    assert made("out/self") == FILES
    assert soundfile.info("out/self/conversation.wav").frames == 20 * 1_920
    assert "frame 20/20" in capsys.readouterr().out


def test_one_channel_of_a_stereo_file_can_be_chosen(place):
    left, right = scripted_speech([(0.2, 0.5)], 0.8), scripted_speech([(0.4, 0.7)], 0.8, 300.0)
    soundfile.write("stereo.flac", np.stack([left, right], 1), 24_000)
    for channel, expected in (("left", left), ("right", right), ("mix", (left + right) / 2)):
        assert simulate.main(["--user", "stereo.flac", "--channel", channel, "--tail", "0", "--out", channel]) == 0
        heard = soundfile.read(f"{channel}/conversation.wav")[0][:, 1]
        assert np.abs(heard - expected).max() < 1e-3


def test_the_demo_is_a_simulation_with_the_recording_that_comes_along(place, monkeypatch):
    words = place / "duplex" / "assets" / "demo"
    words.mkdir(parents=True)
    (place / "user.wav").rename(words / "user.wav")
    (words / "user.json").write_text(json.dumps({"words": [["hello", 0.4, 0.8]]}))
    monkeypatch.setattr(demo.importlib.resources, "files", lambda package: place / package)
    assert demo.main(["--out", "out/demo"]) == 0
    assert made("out/demo") == FILES and "hello" in Path("out/demo/transcript.md").read_text()


def write_bad(kind):
    samples = scripted_speech([(0.4, 1.4)], 2.0)
    if kind == "truncated":
        Path("bad.wav").write_bytes(Path("user.wav").read_bytes()[:-1_000])
    elif kind == "empty":
        Path("bad.wav").write_bytes(b"")
    elif kind == "nan":
        samples[10] = np.nan
        soundfile.write("bad.wav", samples, 24_000, subtype="FLOAT")
    elif kind == "text":
        Path("bad.wav").write_text("this is a text\n" * 20)


def check_refusal(status, out, err, says):
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert says in err and "Traceback" not in err
    assert "wrote" not in out


@pytest.mark.parametrize(("kind", "says"), [
    ("truncated", "bad.wav: truncated"), ("empty", "bad.wav: is empty"), ("nan", "bad.wav: holds NaN"),
    ("text", "bad.wav: cannot be read as audio"), ("missing", "bad.wav: no such file")])
@pytest.mark.parametrize("option", ["--user", "--prompt-audio"])
def test_a_bad_recording_is_one_line(place, capsys, kind, says, option):
    write_bad(kind)
    before = made(".")
    user = [] if option == "--user" else ["--user", "user.wav"]
    status = simulate.main([*user, option, "bad.wav", "--out", "out/x"])
    check_refusal(status, *capsys.readouterr(), says)
    assert made(".") == before


@pytest.mark.parametrize(("arguments", "says"), [
    ("", "one of the arguments --user --script --self is required"),
    ("--user user.wav --self", "not allowed with"),
    ("--user user.wav --seed one", "--seed: invalid integer value: 'one'"),
    ("--user user.wav --seed 1.5", "--seed: invalid integer value: '1.5'"),
    ("--user user.wav --seed -1", "--seed: -1 is less than 0"),
    ("--user user.wav --tail nan", "--tail: nan is not a number in 0..3600"),
    ("--user user.wav --tail -1", "--tail: -1 is not a number"),
    ("--user user.wav --tail long", "--tail: invalid number value: 'long'"),
    ("--self --seconds 0", "--seconds: 0 is not a number"),
    ("--user user.wav --temperature-text -1", "--temperature-text: -1 is not a number"),
    ("--user user.wav --temperature-audio inf", "--temperature-audio: inf is not a number"),
    ("--user user.wav --top-k-text 2.5", "--top-k-text: invalid integer value"),
    ("--user user.wav --repetition-penalty 0.5", "--repetition-penalty: 0.5 is not a number"),
    ("--user user.wav --threads 0", "--threads: 0 is less than 1"),
    ("--user user.wav --channel middle", "--channel: invalid choice: 'middle'"),
    ("--user user.wav --channel left", "user.wav: has 1 channels"),
    ("--user user.wav --device toaster", "--device toaster: no such device here"),
    ("--user user.wav --tial 3", "unrecognized arguments: --tial 3"),
    ("--user user.wav --user-words none.json", "none.json: cannot be read"),
    ("--user user.wav --user-words user.wav", "user.wav: not a file of timed words"),
    ("--user user.wav --partner x", "--partner goes with --self"),
    ("--self --network 50,30", "conditions do not go with --self"),
    ("--user user.wav user.wav", "two users are called user"),
    ("--user user.wav --network 50", "--network: invalid DELAY,JITTER value: '50'"),
    ("--user user.wav --network 20,30", "jitter_ms (30) cannot exceed delay_ms (20)"),
    ("--user user.wav --stalls 2,200", "stall_share: must lie in 0..1"),
    ("--user user.wav --policy rude", "--policy: invalid choice: 'rude'"),
    ("--user user.wav --barge-in-after 0.5", "--barge-in-after: 0.5 is not a number in 0.71..10"),
    ("--script none.toml", "none.toml: cannot be read"),
    ("--self --user-words words.json", "--user-words does not go with --self"),
    ("--user user.wav --out user.wav", "user.wav is a file"),
])
def test_a_mistaken_argument_is_one_line(place, capsys, arguments, says):
    before = made(".")
    check_refusal(simulate.main(arguments.split()), *capsys.readouterr(), says)
    assert made(".") == before


@pytest.mark.parametrize("words", [
    "[]", "{}", '{"words": 3}', '{"words": [["a", 0]]}', '{"words": [["a", -1, 2]]}', '{"words": [["a", 2, 1]]}',
    '{"words": [["a", 0, NaN]]}', '{"words": [["", 0, 1]]}', '{"words": [[3, 0, 1]]}', "\x00"])
def test_bad_words_are_one_line(place, capsys, words):
    Path("words.json").write_text(words)
    status = simulate.main("--user user.wav --user-words words.json --out out/x".split())
    check_refusal(status, *capsys.readouterr(), "words.json")
    assert not Path("out").exists()


def test_a_bug_keeps_its_traceback_and_an_interruption_writes_nothing(place, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise failure

    monkeypatch.setattr(simulate, "converse", stop)
    failure = KeyboardInterrupt()
    assert simulate.main("--user user.wav --out out/x".split()) == cli.INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
    failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        simulate.main("--user user.wav --out out/x".split())
    assert made(".") == ["user.wav"]


def make_model_folder(folder):
    """A whole checkpoint folder with random weights: small Mimi, tiny language model, sentencepiece tokenizer."""
    tokenizer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["hello there how are you", "the train leaves at nine"] * 20), model_writer=tokenizer,
        vocab_size=300, unk_id=0, bos_id=1, eos_id=2, pad_id=3, byte_fallback=True, hard_vocab_limit=False, minloglevel=2)
    path = folder.with_name("tokenizer.model")
    path.write_bytes(tokenizer.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).vocab_size()
    torch.manual_seed(0)
    lm = DuplexLM(tiny_lm_config(text_card=pieces)).eval()
    save_lm(lm, folder, codec=MimiCodec(build_mimi(MIMI), MIMI), tokenizer=path)


def python_m(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_folder_converses_and_a_truncated_recording_or_weights_do_not_as_processes_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("user.wav", scripted_speech([(0.2, 0.7)], 0.8), 24_000)
    make_model_folder(tmp_path / "model")
    done = python_m("infer.simulate", "--user", "user.wav", "--model", "model", "--tail", "0", "--out", "out/a")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert made("out/a") == FILES
    weights = Path("model", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1_000])
    status = simulate.main("--user user.wav --model model --out out/b".split())
    check_refusal(status, *capsys.readouterr(), "model.safetensors: truncated")
    Path("user.wav").write_bytes(Path("user.wav").read_bytes()[:-1_000])
    done = python_m("infer.simulate", "--user", "user.wav", "--model", "model", "--out", "out/b")
    check_refusal(done.returncode, done.stdout, done.stderr, "user.wav: truncated")
    assert made("out") == ["a"]
