"""How the time of a frame grows: with the context, with the rows of a batch, over a call. Functions for `benchmarks.latency`.

Nothing of a step's cost depends on what was said, so a context of t frames is made by setting the state to frame t.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.lanes import Spent, now, since
from duplex.checkpoint import LoadedModel
from duplex.session import Session
from duplex.streams import StreamLayout
from duplex.testing import scripted_speech
from duplex.units import FRAME_RATE, FRAME_SAMPLES, FRAME_SECONDS


def summary(spent: Sequence[Spent]) -> dict[str, float]:
    """Percentiles in ms (nearest rank), mean time per 80 ms of sound, and how many frames took longer than that.

    `cpu_*` are the same percentiles of the processor's time.
    """
    times, processor = np.asarray(spent, dtype=np.float64).reshape(-1, 2).T
    ranks = {name: np.percentile(values, (50, 95, 99), method="inverted_cdf") for name, values in
             (("", times), ("cpu_", processor))}
    result = {f"{kind}{name}_ms": round(1e3 * float(value), 3) for kind, values in ranks.items()
              for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
    return result | {"max_ms": round(1e3 * float(times.max()), 3),
                     "real_time_factor": round(float(times.mean()) / FRAME_SECONDS, 4),
                     "deadline_misses": int((times > FRAME_SECONDS).sum())}


def user_sound() -> np.ndarray:
    """float32 [T, 1920]: eight seconds in which somebody speaks and is silent by turns."""
    return scripted_speech([(0.5, 3.0), (4.0, 6.5)], 8.0).reshape(-1, FRAME_SAMPLES)


def interleaved(calls: dict[object, Callable[[], object]], rounds: int, wait: Callable[[], None] | None = None
                ) -> dict[object, list[Spent]]:
    """Times of each call in each round; the order turns round by round, so that disturbances meet all alike."""
    times: dict[object, list[Spent]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            start = now()
            calls[name]()
            if wait is not None:
                wait()
            times[name].append(since(start))
    return times


def waiter(model: LoadedModel) -> Callable[[], None] | None:
    """Waits for an accelerator's work; None where there is none."""
    device = model.lm.text_linear.weight.device
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else None


def by_context(model: LoadedModel, contexts: Sequence[int], rounds: int = 12) -> list[dict[str, float]]:
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


def by_rows(model: LoadedModel, rows: Sequence[int], rounds: int = 8) -> list[dict[str, float]]:
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
    wait = waiter(model)
    interleaved(calls, 2, wait)
    whole, steps = interleaved(calls, rounds, wait), interleaved(models, rounds, wait)
    found = [(size, summary(whole[size]), summary(steps[size])) for size in rows]
    key = "p50_ms" if wait else "cpu_p50_ms"  # gains are those of the processor's time where it does the work
    base, base_step = (found[0][i][key] / rows[0] for i in (1, 2))
    return [{"rows": size, **frame, "ms_per_session": round(frame[key] / size, 3),
             "throughput_gain": round(base * size / frame[key], 2), "model_ms": step[key],
             "model_throughput_gain": round(base_step * size / step[key], 2)} for size, frame, step in found]


def over_a_call(model: LoadedModel, minutes: float, buckets: int | None = None) -> list[dict[str, float]]:
    """A call of so many minutes, every frame of it, one after another without waiting for real time to pass.

    In equal parts (a minute each, but at least six): the time of a session's step; at the end of each part the memory of the
    process and the bytes of the session, as it would be stored to go on later.
    """
    session, user = Session(model), user_sound()
    buckets = max(6, round(minutes)) if buckets is None else buckets
    frames, result = max(round(minutes * 60 * FRAME_RATE), buckets), []
    for part in range(buckets):
        spent: list[Spent] = []
        for number in range(frames * part // buckets, frames * (part + 1) // buckets):
            start = now()
            session.step(user[number % len(user)])
            spent.append(since(start))
        with tempfile.TemporaryDirectory() as folder:
            session.save(Path(folder) / "session")
            stored = sum(path.stat().st_size for path in Path(folder).iterdir())
        result.append({"until_minute": round(minutes * (part + 1) / buckets, 3), **summary(spent), "memory_mb": memory_mb(),
                       "session_bytes": stored})
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
