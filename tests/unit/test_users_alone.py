"""Samples of nothing but users' speech."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_coded import loudness_of, small_bank  # noqa: F401
from toy_training import SMALL

import duplex
from duplex.config import LMConfig
from duplex.errors import InputError
from duplex.streams import ZERO_TOKEN
from duplex.testing import ByteTokenizer
from duplex.text import Tokenizer, row_to_words
from train.coded import HEARD_DELAY, streams
from train.corpus.bank import Bank
from train.module import DuplexModule
from train.recipe import FitSettings
from train.users_alone import ListeningSource

FRAMES = 500
EMBEDDED = Path(duplex.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def bank(tmp_path_factory, small_bank):  # noqa: F811
    spoken = Bank(small_bank)
    return loudness_of(spoken, streams(spoken, 0), tmp_path_factory.mktemp("coded"))


def test_it_is_speech_throughout_and_its_words_lie_where_they_are_loud(bank):
    tokenizer = Tokenizer.load(EMBEDDED / "tokenizer.model")  # few pieces a word: they fit where the word was
    source = ListeningSource(bank, tokenizer, FRAMES, seed=1)
    sample = source.sample(4)
    assert torch.equal(sample, source.sample(4)) and not torch.equal(sample, source.sample(5))
    text, system, user, heard = sample
    assert (text == ZERO_TOKEN).all() and (system == 0).all()
    words = row_to_words(heard.numpy(), tokenizer)
    said = {" ".join(w.text for w in words[n : n + 2]) for n in range(len(words))}
    lines = {" ".join(w.text.strip(",.?!").lower() for w in bank.timing(c)[1][:2]) for c in source.clips[source.levels[0]]}
    assert len(words) > 40 and said & lines
    # The row is late by a fixed time, and then each word begins on sound.
    late = round(HEARD_DELAY * 12.5)
    at = [n for n in (round(w.start * 12.5) - late for w in words) if n >= 0]
    assert np.mean([user[n : n + 2].max().item() for n in at]) > 0.9
    assert (user == 1).float().mean() > 0.5  # of a dialogue it is a quarter


def test_nothing_to_hear_is_refused(bank):
    silent = SimpleNamespace(at_level=bank.at_level, timing=lambda clip: (1.0, ()), folder="BANK", metadata={})
    with pytest.raises(InputError, match="no clip of a user has word times"):
        ListeningSource(silent, ByteTokenizer(), FRAMES, 0)


def test_a_listening_model_sees_pads_and_is_not_told_what_to_write():
    torch.manual_seed(0)
    config = LMConfig(**SMALL)
    codes = torch.randint(0, 4, (3, config.num_rows, 30))
    codes[:, 0] = config.existing_text_padding_id
    codes[1, 0] = ZERO_TOKEN  # the second only listens
    codes[2, 0, 5] = ZERO_TOKEN  # the third has a hole in its text, which stays one
    batch = {"codes": codes, "sample": torch.arange(3), "text_only": torch.tensor(False)}

    def given(**settings) -> dict:
        module = DuplexModule(config, FitSettings(heard=1.0, **settings))
        module.trainer = SimpleNamespace(training=True)
        return module.on_before_batch_transfer(dict(batch), 0)

    seen = given(listen=0.5)
    assert (seen["inputs"][1, 0] == config.existing_text_padding_id).all() and seen["inputs"][2, 0, 5] == ZERO_TOKEN
    assert (seen["codes"][1, 0] == ZERO_TOKEN).all() and torch.equal(seen["inputs"][:, 1:], codes[:, 1:])
    assert (given()["inputs"][1, 0] == ZERO_TOKEN).all()
