"""Fixtures shared by several unit tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A complete small model folder, not to be changed."""
    from model_folders import make_folder

    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory) -> Path:
    """An utterance bank in which tones say every line of the scripts, not to be changed."""
    from tones import ToneEngine, requests

    from train.corpus.bank import fill

    made = tmp_path_factory.mktemp("tones")
    assert list(fill(made, ToneEngine(), requests()))
    return made
