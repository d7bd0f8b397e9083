"""What a small model hears less of in training: whole columns, and all but the semantic codebook."""

import numpy as np
import pytest
import torch

from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.testing import tiny_lm_config
from train.chances import Dropout, drop_user, mix_own, thin_user, warp_user
from train.recipe import FitRecipe, FitSettings, MachineSettings


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


def test_own_noise_mixes_whole_columns_of_the_system_in_time_and_nothing_else():
    config = tiny_lm_config()
    layout = StreamLayout.from_config(config)
    codes = torch.arange(40).expand(50, config.num_rows, 40).clone()  # every column tells its time
    out = mix_own(codes, layout, 0.8, [np.random.default_rng(n) for n in range(50)])
    own = out[:, layout.system_rows]
    assert torch.equal(own.amin(1), own.amax(1))  # whole columns
    moved = (own[:, 0] != torch.arange(40)).float().mean(1)
    assert moved.max() <= 0.8 + 0.1 and moved.min() < 0.1 and 0.25 < moved.mean() < 0.5  # uniform, a sample
    rest = [n for n in range(config.num_rows) if not layout.system_rows.start <= n < layout.system_rows.stop]
    assert torch.equal(out[:, rest], codes[:, rest]) and torch.equal(codes[:, 1], torch.arange(40).expand(50, 40))
    assert torch.equal(mix_own(codes, layout, 0.0, []), codes)


def test_what_is_seen_changes_the_temporal_input_and_no_target():
    torch.manual_seed(0)
    config = tiny_lm_config()
    model = DuplexLM(config).eval()
    codes = torch.randint(0, config.card, (2, config.num_rows, 12))
    index = torch.arange(24)
    with torch.no_grad():
        plain, same = model(codes, index), model(codes, index, seen=codes)
        hidden = model(codes, index, seen=torch.full_like(codes, -1))
    assert torch.equal(plain.text_logits[plain.text_mask], same.text_logits[same.text_mask])
    assert torch.equal(plain.depth_targets, hidden.depth_targets)
    assert not torch.allclose(plain.text_logits[plain.text_mask], hidden.text_logits[hidden.text_mask])


def generators(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(n)]


def test_warped_columns_of_the_user_keep_together_and_near():
    config = tiny_lm_config()
    layout = StreamLayout.from_config(config)
    codes = torch.arange(300).expand(20, config.num_rows, 300).clone()  # every column tells its time
    out = warp_user(codes, layout, 2, generators(20))
    user = out[:, layout.user_rows]
    assert torch.equal(user.amin(1), user.amax(1))  # whole columns
    shift = user[:, 0] - torch.arange(300)
    assert set(shift[:, 2:-2].unique().tolist()) == {-2, -1, 0, 1, 2}
    assert shift.diff().abs().max() == 1 and (shift.diff() != 0).float().mean() < 0.3
    assert torch.equal(out[:, : layout.user_rows.start], codes[:, : layout.user_rows.start])
    assert torch.equal(warp_user(codes, layout, 0, []), codes)


def test_thinned_codes_of_the_user_go_one_by_one():
    config = tiny_lm_config()
    layout = StreamLayout.from_config(config)
    codes = torch.randint(0, config.card, (100, config.num_rows, 50))
    out = thin_user(codes, layout, 0.6, generators(100))
    gone = out != codes
    assert (out[gone] == -1).all() and not gone[:, : layout.user_rows.start].any()
    share = gone[:, layout.user_rows].float().mean((1, 2))
    assert share.max() < 0.7 and 0.2 < share.mean() < 0.4 and share.std() > 0.1  # another share in every sample
    assert (gone[:, layout.user_rows].any(1) & ~gone[:, layout.user_rows].all(1)).any()


def test_dropout_is_a_samples_own_wherever_it_is_trained_and_nothing_outside_training():
    torch.manual_seed(0)
    config = tiny_lm_config()
    model = DuplexLM(config)
    codes = torch.randint(0, config.card, (3, config.num_rows, 12))
    plain = model.temporal(codes)
    dropout = Dropout(model.transformer.layers, 0.5)
    assert torch.equal(model.temporal(codes), plain)

    def thinned(*samples: int) -> torch.Tensor:
        dropout.begin(0, list(samples))
        out = model.temporal(codes[list(samples)])
        dropout.end()
        return out

    together, apart = thinned(0, 1, 2), torch.cat([thinned(0), thinned(1), thinned(2)])
    assert torch.allclose(together, apart, atol=1e-5) and not torch.allclose(together, plain, atol=1e-2)
    assert torch.equal(thinned(0, 1, 2), together) and torch.equal(model.temporal(codes), plain)


def test_dropout_and_passes_that_are_worked_out_again_exclude_each_other():
    with pytest.raises(ConfigError, match="train.dropout: .*gradient_checkpointing"):
        FitRecipe(tiny_lm_config(), FitSettings(dropout=0.1), machine=MachineSettings(gradient_checkpointing=True))
