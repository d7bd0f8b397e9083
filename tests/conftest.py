"""Property tests draw new examples on every run at home, and the same ones in CI, where a red run must be repeatable."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
