"""The toy, by its command: two steps, and a second call that has nothing left to do."""

from __future__ import annotations

import pytest
from toy_training import ledger

from train import toy


@pytest.mark.slow
def test_the_toy_trains_converses_and_goes_on(tmp_path, capsys):
    for _ in range(2):
        assert toy.main(["--out", str(tmp_path), "--steps", "2"]) == 0
        said = capsys.readouterr().out
        assert "after 2 steps" in said and "the user hums at 3 s and 8 s" in said
    assert len(ledger(tmp_path / "run")) == 2
    assert toy.main(["--out", str(tmp_path), "--steps", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
