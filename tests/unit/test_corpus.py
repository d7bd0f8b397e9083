"""Scripts, the utterance bank and dialogue synthesis, with an engine that speaks tones."""

import json
import random

import numpy as np
import pytest
import soundfile

from duplex.text import Word
from duplex.units import SAMPLE_RATE
from train import synthesize
from train.corpus import scripts
from train.corpus.bank import Bank, Request, fill
from train.corpus.dialogue import Composer, Phenomena, written
from train.corpus.voices import Utterance
from train.speak import script_lines


class ToneEngine:
    """Every word is 0.2 s of a tone of its own, 0.05 s apart, after 0.1 s of silence."""

    name = "hibari"

    def say(self, text, voice, speed=1.0, seed=0):
        parts, words, clock = [np.zeros(2400, np.float32)], [], 0.1
        for word in text.split():
            pitch = 200 + sum(map(ord, word)) % 500
            tone = 0.3 * np.sin(np.arange(4800) * 2 * np.pi * pitch / SAMPLE_RATE)
            parts += [tone.astype(np.float32), np.zeros(1200, np.float32)]
            words.append(Word(word, clock, clock + 0.2))
            clock += 0.25
        return Utterance(np.concatenate(parts), tuple(words))


def requests():
    users, systems = script_lines(0, draws=3000)
    return [Request(t, "heart", "user") for t in users] + [Request(t, "heart", "system") for t in systems]


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    assert list(fill(folder, ToneEngine(), requests()))
    return folder


def test_splits_share_no_sum_and_every_scenario_speaks():
    users = {}
    for split in ("train", "test"):
        rng = random.Random(1)
        users[split] = {e.user for e in scripts.exchanges(rng, split, 4000)}
    sums = [{u for u in users[s] if " plus " in u} for s in ("train", "test")]
    operands = [{tuple(w for w in u.rstrip("?").split() if w in scripts.NUMBERS) for u in s} for s in sums]
    assert operands[0] and operands[1] and not operands[0] & operands[1]
    assert len(scripts.names()) >= 12
    assert not any(ch.isdigit() for u in users["train"] for ch in u)


def test_sums_are_right():
    rng = random.Random(0)
    for _ in range(200):
        (exchange,) = scripts.addition(rng, scripts.Picker(rng, "train"))
        a, b, c = [scripts.NUMBERS.index(w) for w in exchange.system.rstrip(".").split() if w in scripts.NUMBERS]
        assert a + b == c


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="dev"):
        scripts.Picker(random.Random(0), "dev")


def test_a_stopped_bank_goes_on_and_ends_up_the_same(tmp_path, bank_folder):
    wanted = requests()
    for done in fill(tmp_path, ToneEngine(), wanted):
        if done == 20:
            break
    with open(tmp_path / "hibari.jsonl", "a") as index:
        index.write('{"text": "half a li')
    assert next(iter(fill(tmp_path, ToneEngine(), wanted))) == 21
    list(fill(tmp_path, ToneEngine(), wanted))
    assert (tmp_path / "hibari.pcm").read_bytes() == (bank_folder / "hibari.pcm").read_bytes()
    assert (tmp_path / "hibari.jsonl").read_text() == (bank_folder / "hibari.jsonl").read_text()


def test_speech_is_trimmed_and_its_words_move_along(bank_folder):
    bank = Bank(bank_folder)
    speech = bank.speech(bank.find("system", "okay.")[0])
    assert speech.words[0].start == pytest.approx(0.02, abs=0.01)
    assert np.abs(speech.samples[int(speech.words[0].start * SAMPLE_RATE) + 50 :][:100]).max() > 0.1


def test_dialogues_are_a_function_of_their_seed(bank_folder):
    composer = Composer(Bank(bank_folder), Phenomena(), "train")
    one, two, other = composer.compose("7", 30.0), composer.compose("7", 30.0), composer.compose("8", 30.0)
    assert np.array_equal(one.user, two.user) and one.system_words == two.system_words
    assert not np.array_equal(one.user, other.user)
    assert len(one.system) == len(one.user) == 30 * SAMPLE_RATE


def test_words_lie_on_sound_and_the_system_yields_in_time(bank_folder):
    phenomena = Phenomena(barge_in=0.9, backchannel=0.05, quiet_noise=0.0)
    composer = Composer(Bank(bank_folder), phenomena, "train")
    yields = words = 0
    for seed in range(12):
        dialogue = composer.compose(str(seed), 40.0)
        for word in dialogue.system_words:
            at = int((word.start + 0.05) * SAMPLE_RATE)
            if at + 500 < len(dialogue.system):
                words += 1
                assert np.abs(dialogue.system[at : at + 500]).max() > 0.05, word
        for event in dialogue.events:
            if event["kind"] == "yielded" and event["end"] + 0.2 < 40.0:
                yields += 1
                low, high = phenomena.yield_after
                assert low - 0.01 <= event["end"] - event["start"] <= high + 0.01
                after = dialogue.system[int(event["end"] * SAMPLE_RATE) + 10 :][: int(0.15 * SAMPLE_RATE)]
                assert np.abs(after).max() < 1e-3
    assert words > 100 and yields > 5


def test_written_form():
    assert written("nice to meet you, anna. i am here.") == "Nice to meet you, Anna. I am here."


def test_synthesize_resumes_byte_for_byte(tmp_path, bank_folder, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("seed = 3\nseconds = 20.0\n")
    arguments = [str(recipe), "--bank", str(bank_folder), "--hours", "0.03", "--workers", "1"]
    for name in ("a", "b"):
        assert synthesize.main([*arguments, "--out", str(tmp_path / name)]) == 0
    first = tmp_path / "a" / "train" / "000001.wav"
    assert first.read_bytes() == (tmp_path / "b" / "train" / "000001.wav").read_bytes()
    first.unlink()
    assert synthesize.main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert first.read_bytes() == (tmp_path / "b" / "train" / "000001.wav").read_bytes()
    info = soundfile.info(first)
    assert (info.channels, info.samplerate, info.frames) == (2, SAMPLE_RATE, 20 * SAMPLE_RATE)
    labels = {label for _, _, label in json.loads(first.with_suffix(".json").read_text())["alignments"]}
    assert labels == {"SPEAKER_MAIN", "SPEAKER_USER"}


@pytest.mark.parametrize("text, hint", [("secnods = 3.0\n", "seconds"), ("seconds = 'long'\n", "seconds")])
def test_a_bad_recipe_is_one_line(tmp_path, bank_folder, capsys, text, hint):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    assert synthesize.main([str(recipe), "--bank", str(bank_folder), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and hint in err and not (tmp_path / "out").exists()


def test_composed_codes_carry_the_clips_and_the_words(tmp_path, bank_folder):
    import torch

    from duplex.codec import MimiCodec, MimiConfig, build_mimi
    from duplex.testing import ByteTokenizer
    from duplex.text import row_to_words
    from train.coded import LEVELS_DB, CodedBank, ComposedSource, _save, encode_stream, noise, streams

    torch.manual_seed(0)
    config = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=2, cardinality=16, num_heads=2, num_layers=1,
                        dim_feedforward=32, context=16, layer_scale=0.1)
    mimi = build_mimi(config)
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            torch.nn.init.normal_(module.embedding_sum)
    codec, bank = MimiCodec(mimi, config), Bank(bank_folder)
    jobs = streams(bank, 0, passes=3)
    assert jobs[0][0] == "system" and {level for role, level, _ in jobs if role == "user"} == set(range(len(LEVELS_DB)))
    (tmp_path / "meta.json").write_text(json.dumps({"codec": "x", "codebooks": "2", "cardinality": "16"}))
    for level in range(len(LEVELS_DB)):
        sound = torch.from_numpy(noise(np.random.default_rng(level), level, 20 * 1920))[None, None]
        _save(tmp_path / f"background-{level}.npz", codes=codec.encode(sound)[0].numpy().astype(np.int16))
    systems = sum(role == "system" for role, _, _ in jobs)
    for number, (role, level, clips) in enumerate(jobs[: systems + 12]):
        codes, places = encode_stream(bank, codec, role, level, clips, (0, 1, number))
        timing = [[length, [[w.text, w.start, w.end] for w in words]] for length, words in map(bank.timing, clips)]
        labels = json.dumps({"role": role, "level": level, "places": places, "timing": timing,
                             "clips": [[c.text, c.speaker] for c in clips]})
        _save(tmp_path / f"stream-{number:05d}.npz", codes=codes, labels=np.frombuffer(labels.encode(), np.uint8))
    coded, tokenizer = CodedBank(tmp_path), ByteTokenizer()
    source = ComposedSource(coded, tokenizer, synthesize.DialogueRecipe(seconds=30.0), frames=375, seed=1)
    sample = source.sample(4)
    assert sample.shape == (5, 375) and torch.equal(sample, source.sample(4)) and not torch.equal(sample, source.sample(5))
    # The plan that was rendered says which clip starts where: its codes must be there, and its words in the text row.
    plan = source.composers[0].plan("1:composed:0", 30.0)
    codes = coded.render(plan, 0, 375, tokenizer, np.random.default_rng(0))
    first = next(p for p in plan.placements if p.speaker == "system")
    at = round(first.start * 12.5)
    assert np.array_equal(codes[1:3, at : at + 4], coded.codes(first.clip)[:, :4])
    spoken = [w.text for w in plan.system_words][:3]
    assert [w.text for w in row_to_words(codes[0], tokenizer)][:3] == spoken
