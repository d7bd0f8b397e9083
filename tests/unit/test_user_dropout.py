"""What a small model hears less of in training: whole columns, and all but the semantic codebook."""

import numpy as np
import torch

from duplex.streams import StreamLayout
from duplex.testing import tiny_lm_config
from train.chances import drop_user
from train.recipe import FitSettings


def dropped(**settings) -> tuple[torch.Tensor, torch.Tensor, slice]:
    config = tiny_lm_config()
    layout = StreamLayout.from_config(config)
    codes = torch.randint(0, config.card, (200, config.num_rows, 5))
    out = drop_user(codes, layout, FitSettings(**settings), [np.random.default_rng(n) for n in range(200)])
    return codes, out, layout.user_rows


def test_acoustic_dropout_leaves_the_semantic_codebook_and_everything_else():
    codes, out, user = dropped(acoustic_dropout=0.4)
    acoustic = out[:, user.start + 1 : user.stop]
    alone = (acoustic == -1).all(2).all(1)
    assert 0.25 < alone.float().mean() < 0.55
    assert torch.equal(acoustic[~alone], codes[~alone, user.start + 1 : user.stop])
    assert torch.equal(out[:, : user.start + 1], codes[:, : user.start + 1])


def test_token_dropout_takes_whole_columns_of_the_user():
    codes, out, user = dropped(token_dropout=0.3)
    gone = out[:, user] == -1
    assert torch.equal(gone.all(1), gone.any(1)) and 0.2 < gone.float().mean() < 0.4
    assert torch.equal(out[:, : user.start], codes[:, : user.start])


def test_nothing_is_dropped_unless_asked_for():
    codes, out, _ = dropped()
    assert torch.equal(codes, out)
