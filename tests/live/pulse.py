"""A PulseAudio server of the test's own, with null sinks as microphone and speaker."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

NEEDED = ("pulseaudio", "pactl", "paplay", "parec")


def skip_without_pulse() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if ctypes.util.find_library("portaudio") is None:
        missing.append("libportaudio2")
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        missing.append("libasound2-plugins")
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install pulseaudio pulseaudio-utils libportaudio2 libasound2-plugins")


class Pulse:
    """Starts, stops and restarts; `env` is for programs that shall use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse"),
                    "HOME": str(folder), "PULSE_SINK": "spk", "PULSE_SOURCE": "micpipe.monitor",
                    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._server: subprocess.Popen | None = None
        self._keepers: list[subprocess.Popen] = []

    def start(self, record: Path | None = None) -> None:
        sink = "module-null-sink sink_name={} rate=24000 channels=1"
        self._server = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "-L", "module-native-protocol-unix",
             "-L", sink.format("spk"), "-L", sink.format("micpipe")],
            env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode:
            assert time.monotonic() < deadline and self._server.poll() is None, "PulseAudio does not start"
            time.sleep(0.2)
        # Somebody must listen to both monitors, or a null sink hands sound on in lumps of two seconds.
        for name, target in (("spk", record), ("micpipe", None)):
            command = ["parec", "-d", f"{name}.monitor", "--rate=24000", "--channels=1", "--format=s16le", "--latency-msec=20",
                       "--raw"]
            with open(target or os.devnull, "wb") as out:
                self._keepers.append(subprocess.Popen(command, env=self.env, stdout=out, stderr=subprocess.DEVNULL))

    def play(self, path: Path) -> subprocess.Popen:
        """Says a wav file into the microphone."""
        return subprocess.Popen(["paplay", "--device=micpipe", "--latency-msec=30", str(path)], env=self.env,
                                stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        for process in [*self._keepers, *([self._server] if self._server else [])]:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._keepers, self._server = [], None
