"""Row numbers and the exchange of the two voices."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from duplex.config import PRESETS
from duplex.errors import InputError
from duplex.streams import StreamLayout


def test_rows_tile_the_codes_in_order():
    layout = StreamLayout(n_system=3, n_user=2)
    rows = torch.arange(layout.n_rows)
    assert layout.text_row == 0
    assert rows[layout.system_rows].tolist() == [1, 2, 3]
    assert rows[layout.user_rows].tolist() == [4, 5]
    assert rows[layout.audio_rows].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("name", "system", "user"), [("moshi-7b", 8, 8), ("personaplex-7b", 8, 8),
                                                      ("hibiki-2b", 16, 16), ("toy", 4, 4)])
def test_layout_of_known_models(name, system, user):
    assert StreamLayout.from_config(PRESETS[name]) == StreamLayout(system, user)


def test_layout_of_a_model_that_only_listens():
    config = dataclasses.replace(PRESETS["toy"], dep_q=0)
    assert StreamLayout.from_config(config) == StreamLayout(0, 8)


def test_swap_exchanges_the_voices_and_keeps_the_text():
    layout = StreamLayout(2, 2)
    codes = torch.arange(10).view(5, 2)
    swapped = layout.swap(codes)
    assert swapped[:, 0].tolist() == [0, 6, 8, 2, 4]
    assert torch.equal(layout.swap(swapped), codes)
    assert codes[1, 0] == 2, "the input must stay as it was"


def test_unequal_voices_cannot_be_swapped():
    with pytest.raises(InputError, match="3 system with 2 user"):
        StreamLayout(3, 2).swap(torch.zeros(6, 4, dtype=torch.long))
