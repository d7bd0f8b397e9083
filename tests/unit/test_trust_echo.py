"""How few disturbed turns it takes to say that few are disturbed."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("sphn", reason="the server's parts are not installed: pip install -e '.[serve]'")
pytest.importorskip("websockets", reason="the server's parts are not installed: pip install -e '.[serve]'")
from benchmarks.trust import echo  # noqa: E402


def test_the_upper_bound_is_the_exact_one():
    for trials in (1, 14, 56, 154):
        assert echo.upper_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials), abs=1e-9)
    assert echo.upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.01)
    assert echo.upper_bound(1, 10) == pytest.approx(0.394163, abs=1e-5)  # the table of Clopper and Pearson, 90 % both sides
    assert echo.upper_bound(5, 5) == 1.0 and echo.upper_bound(4, 5) == pytest.approx(math.pow(0.95, 1 / 5), abs=1e-9)


@pytest.mark.parametrize("times, turns, short, met", [
    (0, 154, False, True), (1, 154, False, None), (3, 154, False, None), (4, 154, False, False), (0, 56, False, None),
    (0, 14, True, True), (1, 14, True, False)])
def test_a_share_counts_as_small_only_where_its_bound_is(times, turns, short, met):
    promise = echo.judged("it is quiet", times, turns, "how", short)
    assert promise.met is met
    bound = f"at most {100 * echo.upper_bound(times, turns):.1f} %"
    assert bound in (promise.measured or promise.how) and (met is None) is promise.how.startswith("too few turns")


def test_the_long_form_has_turns_enough():
    assert echo.upper_bound(0, 7 * echo.ROOMS) <= echo.SHARE
