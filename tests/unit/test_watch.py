"""Rollouts while training: their places, their scores, and what counts as lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_training import EPAD, MODEL, PAD, corpus

from duplex.model.lm import DuplexLM
from train.recipe import WatchSettings
from train.shards import ShardSet
from train.watch import SILENT, WatchItem, loops, lost, rollouts, score, watch_items, yields

SETTINGS = WatchSettings(every=5, items=4, prompt=1.6, length=1.6)


def row(*words: int, length: int = 60) -> list[int]:
    """A text row with a word piece at each of the given frames."""
    return [7 if t in words else PAD for t in range(length)]


def item(interruption: bool = False) -> WatchItem:
    return WatchItem(torch.zeros(5, 100, dtype=torch.long), 20, interruption)


def test_places_from_marks_and_from_the_text(tmp_path):
    marked = watch_items(ShardSet(corpus(tmp_path / "a", marks=True) / "test"), MODEL, SETTINGS)
    assert [i.interruption for i in marked] == [False, False, True, True]
    assert {i.at for i in marked} == {20} and marked[0].codes.shape == (5, 40)
    plain = watch_items(ShardSet(corpus(tmp_path / "b") / "test"), MODEL, SETTINGS)
    assert len(plain) == 4 and not any(i.interruption for i in plain)
    # Left to itself half a second before the first word.
    assert all(i.codes[0, i.at + 6] not in (PAD, EPAD) for i in plain)


def test_scores_are_those_of_the_hand():
    said = np.array([row(10, 11), row(), row(4), row(*range(5)), row(*range(0, 60, 3))])
    items = [item(), item(), item(), item(True), item(True)]
    scores = score(said, items, MODEL)
    assert scores["answered"] == pytest.approx(2 / 3) and scores["response"] == pytest.approx((0.8 + 0.32) / 2)
    assert scores["yielded"] == 0.5
    assert scores["pad"] == pytest.approx(1 - (2 + 0 + 1 + 5 + 20) / 300)
    assert scores["loops"] == pytest.approx(2 / 5)  # the same piece five and twenty times


def test_what_has_no_items_is_left_out():
    assert set(score(np.array([row()]), [item()], MODEL)) == {"pad", "loops", "answered"}
    assert "yielded" not in score(np.array([row(3)]), [item()], MODEL)


@pytest.mark.parametrize("words, expected", [((), True), (range(10), True), (range(40), False), (range(0, 60, SILENT), False)])
def test_yielding(words, expected):
    assert yields(np.array(row(*words)) == 7) is expected


@pytest.mark.parametrize("pieces, expected", [
    ([], False), ([1, 2, 3], False), ([5, 5, 5], False), ([5, 5, 5, 5], True), ([9, 1, 2, 1, 2, 1, 2, 1, 2], True),
    ([1, 2, 1, 2, 1, 2, 3], False), (list(range(8)) * 4, True), (list(range(9)) * 4, False)])
def test_loops(pieces, expected):
    assert loops(pieces) is expected


def test_losses_are_told_against_the_best_before():
    good = {"answered": 0.9, "response": 0.5, "pad": 0.7, "loops": 0.0, "yielded": 0.8}
    past = [{"step": 0, **good}, {"step": 10, **good, "answered": 0.95}]
    assert lost([], good, 0.2) == [] and lost(past, good, 0.2) == []
    bad = {"answered": 0.0, "pad": 1.0, "loops": 0.5, "yielded": 0.3}
    told = " / ".join(lost(past, bad, 0.2))
    for words in ("answers to the user's turns: 95% at step 10, 0% now", "interruptions: 80%", "loops: 0%", "PAD collapse"):
        assert words in told
    assert "time to respond: 0.50 s" in lost(past, good | {"response": 1.2}, 0.2)[0]
    babble = [{"step": 0, "answered": 1.0, "response": 0.0, "pad": 0.01, "loops": 0.0, "yielded": 0.0}]
    assert lost(babble, {"answered": 0.1, "response": 1.0, "pad": 0.8, "loops": 0.1, "yielded": 0.0}, 0.2) == []


def test_a_rollout_follows_its_prompt_and_depends_on_nothing_else(tmp_path):
    torch.manual_seed(0)
    model = DuplexLM(dataclasses.replace(MODEL, context=60)).eval()
    items = watch_items(ShardSet(corpus(tmp_path) / "test"), MODEL, SETTINGS)
    said = rollouts(model, items, 20)
    assert said.shape == (4, 20) and (said >= 0).all()
    assert np.array_equal(said, rollouts(model, items, 20))
    # What the system is to say after the place is no input: the model is left to itself there.
    blind = [dataclasses.replace(i, codes=i.codes.clone()) for i in items]
    for i in blind:
        i.codes[:3, i.at :] = 1
    assert np.array_equal(said, rollouts(model, blind, 20))
    deaf = [dataclasses.replace(i, codes=i.codes.clone()) for i in items]
    for i in deaf:
        i.codes[3:] = 1
    assert not np.array_equal(said, rollouts(model, deaf, 20))
