"""PortAudio in and out, opened, watched and closed; whatever goes wrong is one line that says what to do.

Sound passes as float32 mono at 24 kHz. A device that refuses this rate runs at its own and is resampled (soxr).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from duplex.errors import InputError
from duplex.units import SAMPLE_RATE

BLOCK_SECONDS = 0.02
OnCapture = Callable[[np.ndarray], None]
OnPlayout = Callable[[int], np.ndarray]


def portaudio() -> Any:
    """The module sounddevice, or InputError saying what is missing."""
    try:
        import sounddevice
    except ImportError:
        raise InputError("the microphone needs the package sounddevice; pip install -e '.[live]'") from None
    except OSError:
        raise InputError("the PortAudio library is missing; apt-get install libportaudio2 (macOS and Windows: pip install "
                         "--force-reinstall sounddevice)") from None
    return sounddevice


def device_table() -> str:
    """All devices in words, for --list-devices."""
    sd = portaudio()
    devices = sd.query_devices()
    if len(devices) == 0:
        return _nothing_here()
    default_in, default_out = sd.default.device
    lines = [f"{'':3} {'no':>3}  {'in':>3} {'out':>3}  {'rate':>6}  name"]
    for number, device in enumerate(devices):
        marks = ("<" if number == default_in else " ") + (">" if number == default_out else " ")
        lines.append(f"{marks:3} {number:>3}  {device['max_input_channels']:>3} {device['max_output_channels']:>3}  "
                     f"{device['default_samplerate']:>6.0f}  {device['name']}")
    return "\n".join([*lines, "< default microphone, > default speaker; choose with --input and --output, by number or part of "
                              "the name"])


def _nothing_here() -> str:
    sound = Path("/dev/snd")
    if sound.is_dir() and any(sound.iterdir()) and not all(os.access(path, os.R_OK) for path in sound.glob("pcm*")):
        return "no permission to use the sound devices; add yourself to the group audio and log in again"
    return ("no sound device found; connect one, or on a machine without any start PulseAudio with a null sink "
            "(docs/live.md)")


def find_device(which: str | None, kind: str) -> tuple[int, str]:
    """Number and name of the device that `which` (a number, part of a name, None: the default) means; `kind` is "input"
    or "output". InputError when there is none or several."""
    sd = portaudio()
    devices = sd.query_devices()
    if len(devices) == 0:
        raise InputError(_nothing_here())
    channels = f"max_{kind}_channels"
    fitting = [(number, device["name"]) for number, device in enumerate(devices) if device[channels] > 0]
    option = f"--{kind}"
    if not fitting:
        raise InputError(f"no {'microphone' if kind == 'input' else 'speaker'} found; connect one and see --list-devices")
    if which is None:
        number = sd.default.device[0 if kind == "input" else 1]
        return next(((n, name) for n, name in fitting if n == number), fitting[0])
    if which.isdecimal():
        found = [(number, name) for number, name in fitting if number == int(which)]
    else:
        found = [(number, name) for number, name in fitting if name.casefold() == which.casefold()] or [
            (number, name) for number, name in fitting if which.casefold() in name.casefold()]
    if not found:
        raise InputError(f"{option} {which}: no such device; see --list-devices")
    if len(found) > 1:
        raise InputError(f"{option} {which}: means {len(found)} devices ({', '.join(name for _, name in found[:4])}); give its "
                         "number")
    return found[0]


class SoundPorts:
    """A microphone and a speaker. `on_capture` and `on_playout` are called from PortAudio's threads."""

    def __init__(self, microphone: str | None, speaker: str | None, on_capture: OnCapture, on_playout: OnPlayout,
                 clock: Callable[[], float]) -> None:
        self._which = (microphone, speaker)
        self._on_capture, self._on_playout, self._clock = on_capture, on_playout, clock
        self._streams: list[Any] = []
        self._called = [0.0, 0.0]
        self.names = ("", "")
        """Names of the microphone and the speaker in use."""
        self.rates = (0, 0)
        self.overflows = 0
        """Times that PortAudio says it lost sound of its own."""

    def open(self) -> None:
        """Opens both; InputError in one line when that is not possible."""
        sd = portaudio()
        self.close()
        microphone, speaker = find_device(self._which[0], "input"), find_device(self._which[1], "output")
        self.names = (microphone[1], speaker[1])
        captured, played = self._open("input", sd.InputStream, microphone), self._open("output", sd.OutputStream, speaker)
        self.rates = (int(captured.samplerate), int(played.samplerate))
        try:
            for stream in self._streams:
                stream.start()
        except sd.PortAudioError as error:
            self.close()
            raise InputError(_explain(error, "sound device")) from None
        self._called = [self._clock()] * 2

    def close(self) -> None:
        """Closes what is open; a device that has gone may complain, which does not matter any more."""
        for stream in self._streams:
            try:
                stream.abort()
                stream.close()
            except Exception:  # noqa: BLE001 - PortAudio raises whatever the lost device gives
                pass
        self._streams = []

    def rescan(self) -> None:
        """Makes PortAudio look for devices anew, which it does only when it starts."""
        sd = portaudio()
        self.close()
        try:
            sd._terminate()
        except sd.PortAudioError:
            pass
        sd._initialize()

    @property
    def alive(self) -> bool:
        """Are both open and calling back?"""
        oldest = min(self._called)
        return bool(self._streams) and all(stream.active for stream in self._streams) and self._clock() - oldest < 1.0

    def _open(self, kind: str, make: Any, device: tuple[int, str]) -> Any:
        sd = portaudio()
        number, name = device
        own = int(sd.query_devices(number)["default_samplerate"])
        for rate in dict.fromkeys((SAMPLE_RATE, own, 48_000, 44_100)):
            callback = self._captured(rate) if kind == "input" else self._to_play(rate)
            try:
                stream = make(device=number, samplerate=rate, channels=1, dtype="float32",
                              blocksize=round(rate * BLOCK_SECONDS), latency="low", callback=callback)
            except sd.PortAudioError as error:
                if "sample rate" in str(error).casefold():
                    continue
                raise InputError(_explain(error, name)) from None
            self._streams.append(stream)
            return stream
        raise InputError(f"{name}: takes neither {SAMPLE_RATE} nor {own} nor 48000 nor 44100 Hz in mono; choose another with "
                         f"--{kind}, see --list-devices")

    def _captured(self, rate: int) -> Callable[..., None]:
        convert = _converter(rate, SAMPLE_RATE)

        def callback(data: np.ndarray, frames: int, times: Any, status: Any) -> None:
            self._called[0] = self._clock()
            self.overflows += bool(status)
            self._on_capture(convert(data[:, 0].copy()))

        return callback

    def _to_play(self, rate: int) -> Callable[..., None]:
        convert = _converter(SAMPLE_RATE, rate)
        ready = [np.zeros(0, np.float32)]

        def callback(data: np.ndarray, frames: int, times: Any, status: Any) -> None:
            self._called[1] = self._clock()
            self.overflows += bool(status)
            while len(ready[0]) < frames:
                ready[0] = np.concatenate([ready[0], convert(self._on_playout(round(SAMPLE_RATE * BLOCK_SECONDS)))])
            data[:, 0], ready[0] = ready[0][:frames], ready[0][frames:]

        return callback


def _converter(source: int, target: int) -> Callable[[np.ndarray], np.ndarray]:
    if source == target:
        return lambda pcm: pcm
    try:
        import soxr
    except ImportError:
        raise InputError(f"a device at {source if target == SAMPLE_RATE else target} Hz needs the package soxr; "
                         "pip install -e '.[live]'") from None
    return soxr.ResampleStream(source, target, 1, dtype="float32").resample_chunk


def _explain(error: Exception, name: str) -> str:
    """PortAudio's complaint about a device as one line with a mend."""
    text = str(error).splitlines()[0]
    if "-9985" in text or "unavailable" in text.casefold():
        return f"{name}: is in use or may not be used ({text}); close other programs, or allow this one to use it"
    if "-9999" in text or "host error" in text.casefold():
        return f"{name}: cannot be opened ({text}); check that it is connected and that you may use it"
    return f"{name}: cannot be opened ({text}); choose another, see --list-devices"
