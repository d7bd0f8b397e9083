"""The engine on CUDA as one recorded graph for the whole frame: delays, temporal, depth, sampling, and no wait for the device.

`Engine.step` on CUDA neither looks at values nor changes shapes, so that it can be recorded as it is. A graph reads and writes
fixed places in memory: inputs are copied into places of its own, and a state is stepped where it lies. Each state therefore has a
graph of its own, recorded at its first steps and dropped with it; `clone`, `reset_rows` and `to_dict` work on the same tensors.

The codec's graphs lie beside it: the upstream streaming module records its encoder, decoder and transformers on CUDA itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from duplex.config import SamplingConfig
from duplex.engine import Engine, FrameOut, StreamState
from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM

Recorder = Callable[[Callable[[], Any]], tuple[Callable[[], None], Callable[[], Any]]]


def cuda_recorder(run: Callable[[], Any]) -> tuple[Callable[[], None], Callable[[], Any]]:
    """Records what `run` does on the device: a function that replays it, and one that gives its result's tensors."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, lambda: result


def plain_recorder(run: Callable[[], Any]) -> tuple[Callable[[], None], Callable[[], Any]]:
    """The same without a device: replaying runs the function again. For tests."""
    held: list[Any] = []

    def replay() -> None:
        held[:] = [run()]

    return replay, lambda: held[0]


@dataclass
class _Recording:
    inputs: dict[str, Tensor]
    replay: Callable[[], None]
    result: Callable[[], FrameOut]
    owners: tuple[int, ...]


class GraphEngine(Engine):
    """`Engine` whose steps are recorded once per state and way of calling, and replayed.

    The first two steps of a state run as they are, which also warms up the libraries that may not allocate within a recording.
    Raises ConfigError for a model that is not on CUDA, unless it is given another `recorder`.
    """

    WARM_UP = 2

    def __init__(self, model: DuplexLM, sampling: SamplingConfig | None = None, recorder: Recorder = cuda_recorder) -> None:
        super().__init__(model, sampling)
        if self.device.type != "cuda" and recorder is cuda_recorder:
            raise ConfigError(f"backend graph: the model is on {self.device}; load it on cuda or choose the backend 'native'")
        self._recorder = recorder
        self._states: weakref.WeakKeyDictionary[StreamState, dict] = weakref.WeakKeyDictionary()

    @torch.no_grad()
    def step(
        self, state: StreamState, user_codes: Tensor | None, *, active: Tensor | None = None, forced_text: Tensor | None = None,
        forced_system: Tensor | None = None, text_bias: Tensor | None = None, sampling: SamplingConfig | None = None,
        temperatures: Tensor | None = None,
    ) -> tuple[StreamState, FrameOut]:
        """As `Engine.step`."""
        given = {"user_codes": user_codes, "active": active, "forced_text": forced_text, "forced_system": forced_system,
                 "text_bias": text_bias, "temperatures": temperatures}
        inputs = {name: value for name, value in given.items() if value is not None}
        known = self._states.setdefault(state, {})
        key = (sampling, *inputs)
        seen = known.get(key, 0)
        if isinstance(seen, int) and seen < self.WARM_UP:
            known[key] = seen + 1
            frames_B = state.frames_B
            _, out = super().step(state, user_codes, sampling=sampling, **{k: v for k, v in given.items() if k != "user_codes"})
            state.frames_B = frames_B.copy_(state.frames_B)  # the counter stays where it is
            return state, out
        self._check_inputs(state, inputs)
        if isinstance(seen, int) or seen.owners != _places(state):
            seen = known[key] = self._record(state, inputs, sampling)
        for name, value in inputs.items():
            seen.inputs[name].copy_(value, non_blocking=True)
        seen.replay()
        out = seen.result()
        copied = FrameOut(out.text_now.clone(), out.tokens.clone(), out.ready.clone(), out.text_logits.clone(),
                          tuple(head.clone() for head in out.extra))
        return state, copied

    def _check_inputs(self, state: StreamState, inputs: dict[str, Tensor]) -> None:
        config, layout, B = self.model.config, self.layout, state.batch_size
        for name, shape, vocabulary in (("user_codes", (B, layout.n_user), config.card), ("forced_text", (B,), config.text_card),
                                        ("forced_system", (B, layout.n_system), config.card)):
            self._checked(name, inputs.get(name), shape, vocabulary)

    def _record(self, state: StreamState, inputs: dict[str, Tensor], sampling: SamplingConfig | None) -> _Recording:
        places = {name: value.to(self.device, copy=True) for name, value in inputs.items()}
        options = {name: value for name, value in places.items() if name != "user_codes"}
        frames_B, weak = state.frames_B, weakref.ref(state)
        plain_step = super().step

        def run() -> FrameOut:
            held = weak()
            assert held is not None  # a recording is used by the step of its own state only
            _, out = plain_step(held, places.get("user_codes"), sampling=sampling, **options)
            held.frames_B = frames_B.copy_(held.frames_B)
            return out

        replay, result = self._recorder(run)
        return _Recording(places, replay, result, _places(state))


def _places(state: StreamState) -> tuple[int, ...]:
    """Where the state's tensors lie: a recording holds for these places only."""
    return tuple(tensor.data_ptr() for tensor in state.to_dict().values())
