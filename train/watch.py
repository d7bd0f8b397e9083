"""Short free-running rollouts while a model trains, and what a fine-tune may lose: answers, timing, interruptions.

The likelihood of the next token says little about a conversation: a model can predict well and fall silent, or never yield.
So every N steps the model is put into places of held-out dialogues, as far as a user's turn ends or an interruption begins,
and is left to itself from there while the user's recorded codes go on. Text and time alone are scored; no codec is needed.

B rollouts, K rows, T frames.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from duplex.config import LMConfig, SamplingConfig
from duplex.engine import Engine
from duplex.model.lm import DuplexLM
from duplex.streams import StreamLayout
from duplex.units import frames_to_seconds, seconds_to_frames
from train.files import replace_file
from train.keeping import entries
from train.recipe import WatchSettings
from train.sharding import gathered
from train.shards import ShardSet

WATCH = "watch.jsonl"
YIELD = seconds_to_frames(1.5)  # a system that goes on longer after an interruption has not yielded
SILENT = seconds_to_frames(0.96)  # frames without a word that count as silence
TALKING = 0.25  # share of PAD below which a model babbles without pause: what it "answers" then is no answer to lose
SLOWER = 0.5  # seconds by which the median response may grow
_RED, _PLAIN = "\033[31m", "\033[0m"


@dataclass(frozen=True)
class WatchItem:
    """A place in a held-out dialogue."""

    codes: Tensor
    """int64 [K, T]: what goes before, and the user's part of what follows."""
    at: int
    """Frame from which the model is left to itself."""
    interruption: bool
    """The user breaks in at ``at``; otherwise a turn of the user's ends there."""


def watch_items(shards: ShardSet, config: LMConfig, settings: WatchSettings) -> list[WatchItem]:
    """Up to ``settings.items`` places, half of them interruptions where the shards mark events; spread over the dialogues.

    Shards without marks give places where the system begins to speak after a silence, and no interruptions.
    """
    before, after = seconds_to_frames(settings.prompt), seconds_to_frames(settings.length)
    found: dict[bool, list[WatchItem]] = {False: [], True: []}
    for index in range(min(len(shards), 8 * settings.items)):
        codes = shards.dialogue(index)
        for at, interruption in places(codes[0].numpy(), shards.marks(index), config):
            if at >= SILENT and at + SILENT < codes.shape[1] and len(found[interruption]) < settings.items:
                first = max(0, at - before)
                found[interruption].append(WatchItem(codes[:, first : at + after], at - first, interruption))
    breaks = found[True][: settings.items // 2]
    return found[False][: settings.items - len(breaks)] + breaks


def places(text_T: np.ndarray, marks: list, config: LMConfig) -> list[tuple[int, bool]]:
    """(frame, is an interruption) of the places of one dialogue."""
    if marks:
        turns = [(m.end, False) for m in marks if m.kind == "user_turn"]
        return turns + [(m.first, True) for m in marks if m.kind.startswith("barge_in")]
    words = np.flatnonzero(is_word(text_T, config))
    starts = [b for a, b in zip(np.concatenate([[-1], words]), words, strict=False) if b - a > 2 * SILENT]
    return [(int(start) - seconds_to_frames(0.48), False) for start in starts]


def is_word(text: np.ndarray, config: LMConfig) -> np.ndarray:
    """bool: the token is a word piece, neither PAD nor EPAD nor unknown."""
    return (text >= 0) & (text != config.existing_text_padding_id) & (text != config.existing_text_end_padding_id)


def rollouts(model: DuplexLM, items: list[WatchItem], frames: int, sampling: SamplingConfig | None = None) -> np.ndarray:
    """Text int64 [B, frames] that the model says from each item's place on, all items as one batch."""
    layout, B = StreamLayout.from_config(model.config), len(items)
    device = model.text_linear.weight.device
    at_B = torch.tensor([item.at for item in items], device=device)
    last = int(at_B.max()) + frames
    codes_BKT = torch.full((B, layout.n_rows, last), -1)
    for b, item in enumerate(items):
        codes_BKT[b, :, : min(last, item.codes.shape[1])] = item.codes[:, :last]
    codes_BKT = codes_BKT.to(device)
    engine = Engine(model, sampling or SamplingConfig())
    state, said = engine.init_state(B, seeds=0), []
    for t in range(last):
        forced_B = (t < at_B) & (codes_BKT[:, layout.text_row, t] >= 0)
        text_B = torch.where(forced_B, codes_BKT[:, layout.text_row, t], -1)
        system_BK = torch.where((t < at_B)[:, None], codes_BKT[:, layout.system_rows, t], -1)
        heard = codes_BKT[:, layout.user_rows, t - 1] if t else torch.full_like(codes_BKT[:, layout.user_rows, 0], -1)
        state, out = engine.step(state, heard if layout.n_user else None, forced_text=text_B, forced_system=system_BK)
        said.append(out.text_now)
    said_BT = torch.stack(said, 1).cpu().numpy()
    return np.stack([row[item.at : item.at + frames] for row, item in zip(said_BT, items, strict=True)])


def score(said_BT: np.ndarray, items: list[WatchItem], config: LMConfig) -> dict[str, float]:
    """Shares and seconds over the rollouts; what has no items is left out.

    ``answered``: a word comes after the user's turn. ``response``: median seconds until it comes. ``pad``: share of PAD
    tokens. ``loops``: rollouts that say the same thing four times running. ``yielded``: the system falls silent within 1.5 s
    of an interruption.
    """
    words = is_word(said_BT, config)
    firsts = [int(np.argmax(row)) if row.any() else None
              for row, item in zip(words, items, strict=True) if not item.interruption]
    result = {"pad": float((said_BT == config.existing_text_padding_id).mean()),
              "loops": float(np.mean([loops(row[word].tolist()) for row, word in zip(said_BT, words, strict=True)]))}
    if firsts:
        result["answered"] = float(np.mean([f is not None for f in firsts]))
        heard = [frames_to_seconds(f) for f in firsts if f is not None]
        if heard:
            result["response"] = statistics.median(heard)
    breaks = [row for row, item in zip(words, items, strict=True) if item.interruption]
    if breaks:
        result["yielded"] = float(np.mean([yields(row) for row in breaks]))
    return result


def yields(words_T: np.ndarray) -> bool:
    """Whether a silence begins within 1.5 s."""
    return any(not words_T[t : t + SILENT].any() for t in range(min(YIELD, len(words_T)) + 1))


def loops(pieces: list[int], times: int = 4, longest: int = 8) -> bool:
    """Whether some run of up to ``longest`` pieces is said ``times`` times without anything between."""
    for n in range(1, longest + 1):
        same = 0
        for a, b in zip(pieces, pieces[n:], strict=False):
            same = same + 1 if a == b else 0
            if same >= n * (times - 1):
                return True
    return False


def lost(past: list[dict[str, Any]], now: dict[str, float], tolerance: float) -> list[str]:
    """What the rollouts of this step have lost against the best of the steps before, in words."""
    def best(name: str, choose=max) -> tuple[float, int] | None:
        known = [(line[name], line["step"]) for line in past if name in line and line["pad"] >= TALKING]
        return choose(known) if known else None

    said = []
    for name, what in (("answered", "answers to the user's turns"), ("yielded", "yielding to interruptions")):
        top = best(name)
        if top and now.get(name, 0.0) < top[0] - tolerance:
            said.append(f"{what}: {top[0]:.0%} at step {top[1]}, {now.get(name, 0.0):.0%} now")
    quick = best("response", min)
    if quick and "response" in now and now["response"] > quick[0] + SLOWER:
        said.append(f"time to respond: {quick[0]:.2f} s at step {quick[1]}, {now['response']:.2f} s now")
    calm = best("loops", min)
    if calm and now["loops"] > calm[0] + tolerance:
        said.append(f"repetition loops: {calm[0]:.0%} of rollouts at step {calm[1]}, {now['loops']:.0%} now")
    talk = best("pad", min)
    if talk and now["pad"] > 0.98 and talk[0] < 0.95:
        said.append(f"PAD collapse: {talk[0]:.0%} PAD at step {talk[1]}, {now['pad']:.0%} now")
    return said


class Watcher(L.Callback):
    """Runs the rollouts every so many steps, and at the start of a run that begins with trained weights.

    RUN/watch.jsonl has a line for each time.
    """

    def __init__(self, out: Path, settings: WatchSettings, items: list[WatchItem]):
        self.path, self.settings, self.items = out / WATCH, settings, items

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Cuts back to the step that the run goes on from; looks at the trained weights that it begins with."""
        # All processes must agree on what is looked at, also where only the first one sees this folder.
        self.past = trainer.strategy.broadcast([line for line in entries(self.path) if line["step"] <= trainer.global_step])
        if trainer.is_global_zero:
            replace_file(self.path, lambda part: part.write_text("".join(json.dumps(line) + "\n" for line in self.past)))
            if not any(item.interruption for item in self.items):
                self.tell("rollouts: the validation shards mark no interruptions; they are not watched")
        if not self.past and trainer.global_step == 0 and module.recipe.start.folder:
            self.look(trainer, module)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Looks at multiples of ``every``."""
        step = trainer.global_step
        if step and step % self.settings.every == 0 and (not self.past or step > self.past[-1]["step"]):
            self.look(trainer, module)

    def look(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """One round of rollouts; a loss is reported in red."""
        model: DuplexLM = module.model  # type: ignore[assignment]
        sharded = getattr(module, "sharded", False)
        line: dict[str, Any] = {"step": trainer.global_step}
        if self.items and (trainer.is_global_zero or sharded):
            model.eval()
            with gathered(model), torch.no_grad():
                said_BT = rollouts(model, self.items, seconds_to_frames(self.settings.length))
            model.train()
            scores = score(said_BT, self.items, model.config)
            gone = lost(self.past, scores, self.settings.tolerance)
            line |= scores | ({"lost": gone} if gone else {})
            if trainer.is_global_zero:
                with open(self.path, "a") as file:
                    file.write(json.dumps(line) + "\n")
                self.tell(f"step {line['step']} rollouts: " + ", ".join(f"{k} {v:.2f}" for k, v in scores.items()))
                for what in gone:
                    self.tell(f"LOST {what}", red=True)
                for logger in trainer.loggers:
                    logger.log_metrics({f"watch/{k}": v for k, v in scores.items()}, step=trainer.global_step)
        self.past.append(line)

    def tell(self, text: str, red: bool = False) -> None:
        """One line on stderr, in red where colour is not forbidden (NO_COLOR)."""
        red = red and not os.environ.get("NO_COLOR")
        print(f"\n{_RED}{text}{_PLAIN}" if red else f"\n{text}", file=sys.stderr, flush=True)
