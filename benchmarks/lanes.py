"""Ways to process one frame, each timing its own stages, to be run side by side in one process.

Stages: `resample` (a device's 48 kHz to 24 kHz), `encode`, `temporal` (embeddings, temporal transformer, text head), `depth`,
`sampling`, `model` (the whole step), `decode`, `playout` (in and out of the jitter buffer), `together` (all of them).

Each stage has two times: by the clock, and of the processor in this thread, which other programs on the core do not lengthen.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torchaudio.transforms import Resample

from duplex import engine as engine_module
from duplex.checkpoint import LoadedModel
from duplex.codec import MimiCodec
from duplex.config import SamplingConfig
from duplex.engine import Engine
from duplex.errors import InputError
from duplex.fast import lm as native
from duplex.playout import PlayoutBuffer
from duplex.session import Session
from duplex.streams import StreamLayout
from duplex.units import FRAME_SAMPLES, SAMPLE_RATE

STAGES = ("encode", "model", "decode")
MODEL_STAGES = ("temporal", "depth", "sampling")
DEVICE_RATE = 48_000


Spent = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def now() -> Spent:
    """Both clocks."""
    return time.perf_counter(), time.thread_time()


def since(start: Spent) -> Spent:
    """What has passed on both."""
    wall, processor = now()
    return wall - start[0], processor - start[1]


def added(*spans: Spent) -> Spent:
    """Their sum."""
    return sum(span[0] for span in spans), sum(span[1] for span in spans)


class Lane(ABC):
    """One way to process a frame; gives what its stages took."""

    def __init__(self, name: str, model: LoadedModel):
        self.name, self.layout = name, StreamLayout.from_config(model.config)
        self.device = model.lm.text_linear.weight.device

    def timed(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any, Spent]:
        """The result of a call and the time until it is there; an accelerator is waited for."""
        start = now()
        result = call(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result, since(start)

    def pcm_11S(self, pcm: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pcm)[None, None].to(self.device)

    @abstractmethod
    def __call__(self, pcm: np.ndarray) -> dict[str, Spent]:
        """One frame, float32 [1920]: the time of each stage."""


class StagesLane(Lane):
    """The parts of this library, called one after another as a live end calls them."""

    def __init__(self, model: LoadedModel, name: str = "stages"):
        super().__init__(name, model)
        self.codec, self.engine = model.codec.stream(1), model.engine()
        self.parts = _parts_of(self.engine)
        self.state = self.engine.init_state()
        self.playout = PlayoutBuffer()
        self.resample = Resample(DEVICE_RATE, SAMPLE_RATE, lowpass_filter_width=64, rolloff=0.98)  # as in duplex.audio

    def __call__(self, pcm: np.ndarray) -> dict[str, Spent]:
        at_device = torch.from_numpy(np.repeat(pcm, DEVICE_RATE // SAMPLE_RATE))
        _, resampling = self.timed(self.resample, at_device)
        codes, encode = self.timed(self.codec.encode_frame, self.pcm_11S(pcm))
        with self.parts as parts:
            (self.state, out), step = self.timed(self.engine.step, self.state, codes[:, : self.layout.n_user])
        if not bool(out.ready[0]):  # within the acoustic delay, which the warm-up covers
            return {}
        sound, decode = self.timed(self.codec.decode_frame, out.tokens[:, self.layout.system_rows])
        _, playout = self.timed(self._play, sound[0, 0].float().cpu().numpy())
        return {"resample": resampling, "encode": encode, **parts, "model": step, "decode": decode, "playout": playout,
                "together": added(resampling, encode, step, decode, playout)}

    def _play(self, pcm: np.ndarray) -> None:
        """A frame into the jitter buffer and four callbacks of a device out of it."""
        self.playout.push(pcm)
        for _ in range(4):
            self.playout.pull(FRAME_SAMPLES // 4)


class SessionLane(Lane):
    """A whole session step, from samples to samples, text and events."""

    def __init__(self, model: LoadedModel):
        super().__init__("session", model)
        self.session = Session(model)

    def __call__(self, pcm: np.ndarray) -> dict[str, Spent]:
        return {"session": self.timed(self.session.step, pcm)[1]}


class MoshiLane(Lane):
    """The `moshi` package on a copy of the same weights: its streaming Mimi and its LMGen."""

    def __init__(self, model: LoadedModel):
        super().__init__("moshi", model)
        self.mimi, self.lm = reference_codec(model), reference_lm(model)

    def __call__(self, pcm: np.ndarray) -> dict[str, Spent]:
        with as_published(self.device):
            return self._frame(pcm)

    def _frame(self, pcm: np.ndarray) -> dict[str, Spent]:
        codes, encode = self.timed(self.mimi.encode, self.pcm_11S(pcm))
        tokens, step = self.timed(self.lm.step, codes[:, : self.layout.n_user])
        if tokens is None:
            return {}
        _, decode = self.timed(self.mimi.decode, tokens[:, self.layout.system_rows])
        return {"encode": encode, "model": step, "decode": decode, "together": added(encode, step, decode)}


def reference_codec(model: LoadedModel) -> Any:
    """The `moshi` package's streaming Mimi on a copy of the same weights; InputError for a model with another codec."""
    if not isinstance(model.codec, MimiCodec):
        raise InputError("--reference moshi: the model's codec is not a Mimi; leave the option out")
    mimi = copy.deepcopy(model.codec.mimi)
    mimi.streaming_forever(1)
    return mimi


def reference_lm(model: LoadedModel, rows: int = 1, sampling: SamplingConfig | None = None) -> Any:
    """The `moshi` package's LMGen on a copy of the same weights, for so many conversations at once.

    `sampling` None takes what the model recommends. InputError for a model that generates both speakers.
    """
    if model.config.dep_q != StreamLayout.from_config(model.config).n_system:
        raise InputError("--reference moshi: this model predicts the user too, which LMGen would do in each frame and a "
                         "session does not; leave the option out")
    from moshi.models import LMGen, loaders

    s, config, weight = sampling or model.sampling, model.config, model.lm.text_linear.weight
    settings = {key: value for key, value in config.to_dict().items() if key != "n_user"}
    lm = loaders.get_moshi_lm(None, settings, device=weight.device, dtype=weight.dtype).eval()
    lm.load_state_dict(model.lm.state_dict(), strict=True)
    generator = LMGen(lm, use_sampling=not s.greedy, temp=s.audio_temperature, temp_text=s.text_temperature,
                      top_k=min(s.audio_top_k, config.card), top_k_text=min(s.text_top_k, config.text_card))
    generator.streaming_forever(rows)
    return generator


@contextmanager
def as_published(device: torch.device) -> Iterator[None]:
    """The package as it comes, without gradients; on the CPU it compiles no more than one norm, with a C++ compiler: not here."""
    from moshi.utils.compile import no_compile

    with torch.no_grad(), no_compile() if device.type == "cpu" else nullcontext():
        yield


def agreement(models: Sequence[LoadedModel], user: np.ndarray) -> dict[str, dict[str, int | bool]]:
    """{backend: how many greedy tokens and codes are the reference's} of models with the same weights, on float32 [T, 1920].

    Every model hears the codes of the reference's codec and goes on from its own tokens; its codec hears the same sound.
    Counted are `tokens` (text and system codes of all frames that come out), `codes`, and the `equal_` ones of each;
    `identical_` says whether all are.
    """
    greedy, first, found = SamplingConfig(greedy=True), models[0], {}
    layout, device = StreamLayout.from_config(first.config), first.lm.text_linear.weight.device
    frames = [torch.from_numpy(pcm)[None, None].to(device) for pcm in user]
    mimi, lm = reference_codec(first), reference_lm(first, sampling=greedy)
    with as_published(device):
        codes = [mimi.encode(pcm)[:, :, 0] for pcm in frames]
        steps = [lm.step(heard[:, : layout.n_user, None]) for heard in codes]
    theirs = [tokens[:, :, 0] for tokens in steps if tokens is not None]
    for model in models:
        engine, stream = model.engine(greedy), model.codec.stream(1)
        state, ours, encoded = engine.init_state(), [], []
        for pcm, heard in zip(frames, codes, strict=True):
            encoded.append(stream.encode_frame(pcm))
            state, out = engine.step(state, heard[:, : layout.n_user])
            ours += [out.tokens] if bool(out.ready[0]) else []
        found[model.backend] = _equal("tokens", ours, theirs) | _equal("codes", encoded, codes)
    return found


def _equal(what: str, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> dict[str, int | bool]:
    same = torch.cat(ours) == torch.cat(theirs)
    return {f"identical_{what}": bool(same.all()), f"equal_{what}": int(same.sum()), what: same.numel()}


def _parts_of(engine: Engine) -> _Parts:
    if isinstance(engine, native.NativeEngine):
        return _NativeParts(engine)
    return _PlainParts(engine) if type(engine) is Engine and engine.device.type == "cpu" else _Parts()


class _Parts:
    """Times of the stages inside one step of an engine; a context manager around the step. This one knows none."""

    def __enter__(self) -> dict[str, Spent]:
        return {}

    def __exit__(self, *_: object) -> None:
        return None


class _NativeParts(_Parts):
    """The native step says itself when a stage begins; the clock is ours."""

    def __init__(self, engine: native.NativeEngine) -> None:
        engine.set_mark(self._begins)

    def __enter__(self) -> dict[str, Spent]:
        self._spent = dict.fromkeys(MODEL_STAGES, (0.0, 0.0))
        self._stage, self._since = "other", now()
        return self._spent

    def _begins(self, number: int) -> None:
        if self._stage in self._spent:
            self._spent[self._stage] = added(self._spent[self._stage], since(self._since))
        self._stage, self._since = native.STAGES[number], now()


class _PlainParts(_Parts):
    """The plain engine calls modules and functions, which are replaced by timed ones during the step."""

    def __init__(self, engine: Engine) -> None:
        model = engine.model
        self._places: list[tuple[Any, str, str]] = [
            (model, "embed", "temporal"), (model.transformer, "step", "temporal"), (model, "depth_step", "depth"),
            (engine_module, "pick", "sampling"), (engine_module, "guarded", "sampling"),
            (engine_module, "uniform_noise", "sampling"), (engine_module, "remember", "sampling"),
            (engine_module, "note_wish", "sampling")]

    def __enter__(self) -> dict[str, Spent]:
        spent = dict.fromkeys(MODEL_STAGES, (0.0, 0.0))
        self._open = _replaced(self._places, spent)
        self._open.__enter__()
        return spent

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(None, None, None)


@contextmanager
def _replaced(places: list[tuple[Any, str, str]], spent: dict[str, Spent]) -> Iterator[None]:
    def timed(call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = now()
            result = call(*arguments, **named)
            spent[stage] = added(spent[stage], since(start))
            return result

        return run

    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, timed(getattr(owner, name), stage))
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
