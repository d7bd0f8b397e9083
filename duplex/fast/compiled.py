"""The engine with each frame as one compiled graph: AOTInductor on the CPU and on CUDA, kept on disk.

A package holds code and no weights: it fits every model of that shape, batch size and way of sampling, and a second start loads
it at once. The first start compiles for a minute or more, and the log says so. Without a C++ compiler it is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from duplex.config import SamplingConfig
from duplex.engine import Engine, StreamState, Task
from duplex.errors import ConfigError
from duplex.fast.build import cache_folder, compiler
from duplex.fast.program import FrameProgram
from duplex.model.lm import DuplexLM
from duplex.sampling import guarded

_log = logging.getLogger(__name__)
Runner = Callable[..., tuple[Tensor, ...]]


class ProgramEngine(Engine):
    """`Engine` whose networks run through `FrameProgram`; `prepare` turns a program into what is called, here itself."""

    def __init__(self, model: DuplexLM, sampling: SamplingConfig | None = None) -> None:
        super().__init__(model, sampling)
        self._runners: dict[tuple, Runner] = {}

    def prepare(self, program: FrameProgram, inputs: tuple[Tensor, ...]) -> Runner:
        """What computes `program` for inputs of the shapes of `inputs`."""
        return program

    def _compute(self, state: StreamState, task: Task) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        B, s = state.batch_size, task.settings
        heat_B2 = torch.stack([torch.as_tensor(heat, dtype=torch.float32, device=self.device).expand(B)
                               for heat in (task.text_heat, task.audio_heat)], 1)
        offset_BV = torch.zeros(B, len(self.model.text_linear.weight), device=self.device)
        offset_BV = guarded(offset_BV, state.onset_B2, state.recent_BW, s, self.model.config.existing_text_padding_id)
        if task.text_bias is not None:
            offset_BV = offset_BV + task.text_bias.to(offset_BV)
        free_B = torch.full_like(state.frames_B, -1)
        inputs = (task.tokens_BK, state.frames_B, state.kv.store_LBGCE, task.noise_BQ, heat_B2, offset_BV.contiguous(),
                  free_B if task.forced_text_B is None else task.forced_text_B, task.forced_BQ.contiguous())
        greedy = not isinstance(task.text_heat, Tensor) and task.text_heat == 0 == task.audio_heat
        generated = task.noise_BQ.shape[1] - 1
        key = (B, generated, greedy, s.text_top_k, s.audio_top_k)
        if key not in self._runners:
            program = FrameProgram(self.model, generated, greedy, s.text_top_k, s.audio_top_k).eval()
            self._runners[key] = self.prepare(program, inputs)
        logits_BV, text_B, audio_BQ, new_LBGE, heads = self._runners[key](*inputs)
        self._store(state, new_LBGE, None if task.all_active else task.active_B)
        return logits_BV, text_B, audio_BQ, tuple(heads.unbind(0)) if self.model.extra_heads else ()

    def _store(self, state: StreamState, new_LBGE: Tensor, active_B: Tensor | None) -> None:
        """Puts the frame's keys and values into their slots, except for inactive rows."""
        store, rows = state.kv.store_LBGCE, torch.arange(state.batch_size, device=self.device)
        slot_B = state.frames_B % store.shape[3]
        if active_B is not None:
            new_LBGE = torch.where(active_B[:, None, None], new_LBGE, store[:, rows, :, slot_B].transpose(0, 1))
        store[:, rows, :, slot_B] = new_LBGE.transpose(0, 1)


class CompiledEngine(ProgramEngine):
    """Each frame through AOTInductor. Raises ConfigError where there is no C++ compiler or compilation fails."""

    def prepare(self, program: FrameProgram, inputs: tuple[Tensor, ...]) -> Runner:
        if compiler() is None:
            raise ConfigError("backend compiled: there is no C++ compiler; install g++ or choose the backend 'naive'")
        path = package_path(program, inputs)
        weights = {**dict(program.named_parameters()), **dict(program.named_buffers())}
        if not path.is_file():
            _log.warning("compiling the frame for %d row(s); this takes a minute or more, once (%s)", len(inputs[0]), path)
            _compile(program, inputs, path)
        loaded = torch._inductor.aoti_load_package(str(path))
        wanted = set(loaded.get_constant_fqns())
        loaded.load_constants({name: value.data for name, value in weights.items() if name in wanted}, check_full_update=True,
                              user_managed=True)
        return loaded


def package_path(program: FrameProgram, inputs: tuple[Tensor, ...]) -> Path:
    """Where the compiled frame of this shape lies, or will lie. What it is named after is all that its code depends on."""
    from duplex.fast.build import _features

    sources = [Path(__file__).with_name("program.py"), *sorted(Path(__file__).parents[1].glob("model/*.py"))]
    described = json.dumps([program.model.config.to_dict(), program.generated, program.greedy, program.text_top_k,
                            program.audio_top_k, [[list(t.shape), str(t.dtype), t.device.type] for t in inputs],
                            str(program.model.text_linear.weight.dtype), torch.__version__, _features(), compiler()])
    digest = hashlib.sha256(described.encode())
    for source in sources:
        digest.update(source.read_bytes())
    return cache_folder() / f"frame-{digest.hexdigest()[:20]}.pt2"


def _compile(program: FrameProgram, inputs: tuple[Tensor, ...], path: Path) -> None:
    part = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            exported = torch.export.export(program, inputs)
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(part), inductor_configs={"aot_inductor.package_constants_in_so": False})
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written ({error.strerror}); set DUPLEX_CACHE to a folder that can") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(f"backend compiled: compilation failed ({reason}); choose the backend 'naive'") from None
    finally:
        part.unlink(missing_ok=True)
