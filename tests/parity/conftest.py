"""Settings and the closing report of the parity suite."""

import os

import pytest
import torch

# The reference package would compile its norms with a C++ compiler on first use.
os.environ.setdefault("NO_TORCH_COMPILE", "1")

_RESULTS: dict[str, float] = {}


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices are slower, not faster, on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def report():
    """`report(name, value)` adds a line to the summary at the end of the test run."""

    def add(name: str, value: float) -> None:
        _RESULTS[name] = max(value, _RESULTS.get(name, value))

    return add


def pytest_terminal_summary(terminalreporter):
    if _RESULTS:
        terminalreporter.section("parity with moshi 0.2.13")
        for name, value in sorted(_RESULTS.items()):
            terminalreporter.write_line(f"{name:<52}{value:.3g}")
