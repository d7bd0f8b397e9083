"""The page's playout in the audio thread, run by Node in simulated time on the lines that the Python one is tried on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import infer

WORKLETS = Path(infer.__file__).parent / "web" / "worklets.js"
DRIVER = """
const fs = require("fs");
const { arrivals, seconds, rate, tone } = JSON.parse(fs.readFileSync(0, "utf8"));
const made = {};
const Processor = class { constructor() { this.port = { postMessage() {} }; } };
new Function("sampleRate", "AudioWorkletProcessor", "registerProcessor", fs.readFileSync(process.argv[1], "utf8"))(
  rate, Processor, (name, kind) => { made[name] = kind; });
const playout = new made["duplex-playout"](), heard = [], delays = [];
let next = 0, phase = 0;
for (let at = 0; at < seconds; at += 128 / rate) {
  while (next < arrivals.length && arrivals[next] <= at) {
    const frame = new Int16Array(1920);
    for (let i = 0; i < 1920; i++) frame[i] = tone * Math.sin(2 * Math.PI * 200 * (phase++) / 24000);
    playout.port.onmessage({ data: frame });
    next++;
  }
  const output = new Float32Array(128);
  playout.process([], [[output]]);
  if (at < 2) heard.push(...output);
  delays.push(playout.delay);
}
const { underruns, silence, trimmed } = playout;
const late = delays.slice(Math.floor(delays.length / 2));
console.log(JSON.stringify({ underruns, silence, trimmed, target: playout.target, heard,
  delay: late.reduce((a, b) => a + b, 0) / late.length, greatest: Math.max(...late) }));
"""


def play(arrivals, seconds, rate=48_000, tone=0.0):
    node = shutil.which("node")
    if node is None:
        pytest.skip("apt-get install nodejs")
    given = json.dumps({"arrivals": list(arrivals), "seconds": seconds, "rate": rate, "tone": tone})
    done = subprocess.run([node, "-e", DRIVER, str(WORKLETS)], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_an_even_line_is_played_whole_after_the_wait():
    found = play(np.arange(0, 4, 0.08), 3.9, tone=8000)
    assert found["underruns"] == 0 and found["trimmed"] == 0 and found["delay"] == pytest.approx(0.06, abs=0.01)
    heard = np.array(found["heard"])
    assert not heard[: int(0.055 * 48_000)].any()
    sound = heard[int(0.2 * 48_000) :]
    assert np.abs(sound).max() == pytest.approx(8000 / 32768, rel=0.05)
    assert np.abs(np.diff(sound)).max() < 1.2 * 2 * np.pi * 200 / 48_000 * 8000 / 32768  # no click


def test_a_line_that_is_bad_in_both_directions_leaves_few_gaps():
    rng, sent = np.random.default_rng(3), np.arange(0, 180, 0.08)
    there = np.maximum.accumulate(sent + rng.uniform(0.02, 0.08, len(sent)) + 0.2 * (rng.random(len(sent)) < 0.02))
    back = np.maximum.accumulate(there + rng.uniform(0.02, 0.08, len(sent)) + 0.2 * (rng.random(len(sent)) < 0.02))
    found = play(back, 179, rate=24_000)
    assert found["silence"] / 179 <= 0.005 and found["trimmed"] <= 0.2 and found["delay"] < 0.4 and found["greatest"] <= 0.501


def test_a_source_that_paused_is_heard_again_at_once():
    arrivals = np.arange(0, 9, 0.08)
    found = play(arrivals[(arrivals < 4) | (arrivals >= 6)], 8.9, rate=24_000)
    assert 1.8 < found["silence"] < 2.2 and found["delay"] < 0.13 and found["trimmed"] == 0
