"""How the time of a frame grows: with the context, with the rows of a batch, over a call. Functions for `benchmarks.latency`.

Nothing of a step's cost depends on what was said, so a context of t frames is made by setting the state to frame t.
"""

from __future__ import annotations

import resource
import statistics as stats
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from duplex.checkpoint import LoadedModel
from duplex.session import Session
from duplex.streams import StreamLayout
from duplex.testing import scripted_speech
from duplex.units import FRAME_RATE, FRAME_SAMPLES, FRAME_SECONDS


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in ms (nearest rank), mean time per 80 ms of sound, and how many frames took longer than that."""
    times = np.asarray(seconds)
    p50, p95, p99 = (round(1e3 * float(value), 3) for value in np.percentile(times, (50, 95, 99), method="inverted_cdf"))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": round(1e3 * float(times.max()), 3),
            "real_time_factor": round(float(times.mean()) / FRAME_SECONDS, 4),
            "deadline_misses": int((times > FRAME_SECONDS).sum())}


def user_sound() -> np.ndarray:
    """float32 [T, 1920]: eight seconds in which somebody speaks and is silent by turns."""
    return scripted_speech([(0.5, 3.0), (4.0, 6.5)], 8.0).reshape(-1, FRAME_SAMPLES)


def interleaved(calls: dict[object, Callable[[], object]], rounds: int, wait: Callable[[], None] | None = None
                ) -> dict[object, list[float]]:
    """Seconds of each call in each round; the order turns round by round, so that disturbances meet all alike."""
    times: dict[object, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            start = time.perf_counter()
            calls[name]()
            if wait is not None:
                wait()
            times[name].append(time.perf_counter() - start)
    return times


def waiter(model: LoadedModel) -> Callable[[], None] | None:
    """Waits for an accelerator's work; None where there is none."""
    device = model.lm.text_linear.weight.device
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else None


def by_context(model: LoadedModel, contexts: Sequence[int], rounds: int = 30) -> list[dict[str, float]]:
    """Time of the model's step after each number of frames; numbers above the model's context cost no more than it."""
    engine, layout = model.engine(), StreamLayout.from_config(model.config)
    codes = torch.randint(0, model.config.card, (1, layout.n_user), device=engine.device)

    def step(state: list) -> Callable[[], object]:
        return lambda: state.__setitem__(0, engine.step(state[0], codes)[0])

    calls: dict[object, Callable[[], object]] = {}
    for context in contexts:
        state = engine.init_state()
        state.frames_B += context
        state.kv.store_LBGCE.normal_()
        state.line.ring_BKR.zero_()
        calls[context] = step([state])
    interleaved(calls, 3, waiter(model))
    return [{"frames": context, **summary(seconds)} for context, seconds in interleaved(calls, rounds, waiter(model)).items()]


def by_rows(model: LoadedModel, rows: Sequence[int], rounds: int = 20) -> list[dict[str, float]]:
    """Time of a whole frame (codec in, model, codec out) of a batch, with a full context, and of its share for one session."""
    engine, layout = model.engine(), StreamLayout.from_config(model.config)
    calls: dict[object, Callable[[], object]] = {}
    models: dict[object, Callable[[], object]] = {}

    def frame(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        stream, state = model.codec.stream(size), engine.init_state(size)
        state.frames_B += model.config.context or 0
        state.line.ring_BKR.zero_()
        pcm = 0.1 * torch.randn(size, 1, FRAME_SAMPLES, device=engine.device)
        held = [state]

        def whole() -> None:
            codes = stream.encode_frame(pcm)
            held[0], out = engine.step(held[0], codes[:, : layout.n_user])
            stream.decode_frame(out.tokens[:, layout.system_rows].clamp(min=0))

        def step() -> None:
            held[0], _ = engine.step(held[0], torch.zeros(size, layout.n_user, dtype=torch.long, device=engine.device))

        return whole, step

    for size in rows:
        calls[size], models[size] = frame(size)
    interleaved(calls, 2, waiter(model))
    whole, steps = interleaved(calls, rounds, waiter(model)), interleaved(models, rounds, waiter(model))
    base = stats.median(whole[rows[0]]) / rows[0]
    base_step = stats.median(steps[rows[0]]) / rows[0]
    return [{"rows": size, **summary(whole[size]), "ms_per_session": round(1e3 * stats.median(whole[size]) / size, 3),
             "throughput_gain": round(base * size / stats.median(whole[size]), 2),
             "model_p50_ms": round(1e3 * stats.median(steps[size]), 3),
             "model_throughput_gain": round(base_step * size / stats.median(steps[size]), 2)} for size in rows]


def over_a_call(model: LoadedModel, minutes: float, buckets: int = 6) -> list[dict[str, float]]:
    """A call of so many minutes, every frame of it, in equal parts: the time of a session's step and the memory at the end."""
    session, user = Session(model), user_sound()
    frames, result = max(round(minutes * 60 * FRAME_RATE), buckets), []
    for part in range(buckets):
        seconds: list[float] = []
        for number in range(frames * part // buckets, frames * (part + 1) // buckets):
            start = time.perf_counter()
            session.step(user[number % len(user)])
            seconds.append(time.perf_counter() - start)
        result.append({"until_minute": round(minutes * (part + 1) / buckets, 3), **summary(seconds), "memory_mb": memory_mb()})
    return result


def memory_mb() -> float:
    """Resident memory of this process in MB; the greatest so far where the present one cannot be read."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return round(int(file.read().split()[1]) * resource.getpagesize() / 1e6, 1)
    except OSError:
        return peak_memory_mb()


def peak_memory_mb() -> float:
    """Greatest resident memory of this process so far in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def session_bytes(model: LoadedModel) -> int:
    """Bytes of state that one conversation holds: model and codec."""
    tensors = [*model.engine().init_state().to_dict().values(), *model.codec.stream(1).to_dict().values()]
    return sum(tensor.nbytes for tensor in tensors)
