"""Make the demo's recorded user: a human voice, laid out in time, with exact word times.

    python -m train.demo_recording [--out duplex/assets/demo]

Needs the Debian packages asterisk-core-sounds-en-g722 (Allison Smith, CC-BY-SA-3.0) and ffmpeg. The result is committed, so
that the demo needs neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import soundfile

from duplex.units import SAMPLE_RATE, seconds_to_samples
from train.corpus.recordings import AsteriskEngine
from train.corpus.voices import EngineMissing

# When the user says what. Both sums are in training (in other voices); new ones the embedded model gets wrong. "six plus six"
# breaks into the system's counting.
SCRIPT = (
    (0.8, "hello"),
    (5.2, "five plus five"),
    (10.0, "one, two, three"),
    (13.7, "six plus six"),
    (19.4, "today is monday"),
    (24.2, "thank you"),
    (27.4, "goodbye"),
)
SECONDS = 28.8
PEAK = 0.4


def recording() -> tuple[np.ndarray, list[list]]:
    """float32 [S] at 24 kHz and [[word, start, end], …]."""
    engine = AsteriskEngine()
    pcm = np.zeros(seconds_to_samples(SECONDS), np.float32)
    words = []
    for start, text in SCRIPT:
        said = engine.say(text)
        at = seconds_to_samples(start)
        pcm[at : at + len(said.samples)] += said.samples * (PEAK / np.abs(said.samples).max())
        words += [[w.text, round(w.start + start, 3), round(w.end + start, 3)] for w in said.words]
    return pcm, words


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("duplex/assets/demo"))
    args = parser.parse_args(argv)
    try:
        pcm, words = recording()
    except EngineMissing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    soundfile.write(args.out / "user.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    (args.out / "user.json").write_text(json.dumps({"words": words}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
