"""Many simulated conversations at once: plans in, dialogues out, the model stepped as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from duplex.batch import SessionBatch
from duplex.checkpoint import LoadedModel
from duplex.config import SamplingConfig
from duplex.conversation import SessionFrame
from duplex.policy import DEFAULT_POLICY, PolicyConfig
from duplex.session import Prompt
from duplex.simulate import Clock, Dialogue
from duplex.units import FRAME_SAMPLES, FRAME_SECONDS
from infer.conditions import Conditions
from infer.user import Said, User
from infer.world import Delivery, ImperfectWorld, PerfectWorld, World

OnSlot = Callable[[int], None]
"""Called after each 80 ms with the number of those that are over."""


@dataclass(frozen=True)
class Plan:
    """One conversation that is to be."""

    name: str
    """Of its folder."""
    user: Callable[[], User]
    about_user: str
    seed: int = 0
    policy: PolicyConfig = DEFAULT_POLICY
    conditions: Conditions = field(default_factory=Conditions)

    def world(self) -> World:
        return (PerfectWorld(self.user()) if self.conditions.perfect
                else ImperfectWorld(self.user(), self.conditions, self.seed))


@dataclass(frozen=True)
class Outcome:
    """One conversation that has been."""

    plan: Plan
    dialogue: Dialogue
    said: tuple[Said, ...]
    """The scripted lines, with their times."""
    delivery: Delivery | None
    """How the sound arrived, where the world was not perfect."""


def converse(model: LoadedModel, plans: Sequence[Plan], sampling: SamplingConfig | None = None, prompt: Prompt | None = None,
             batch: int = 16, clock: Clock | None = None, on_slot: OnSlot | None = None) -> Iterator[Outcome]:
    """Holds the conversations, up to `batch` at once, and gives each when its batch is over, in the order of the plans.

    The same plans and batch give the same dialogues bit for bit. Step times are those of the whole batch.
    """
    done = 0
    for first in range(0, len(plans), batch):
        chosen = plans[first : first + batch]
        sessions = SessionBatch(model, [plan.seed for plan in chosen], sampling, prompt, [plan.policy for plan in chosen])
        worlds, times = [plan.world() for plan in chosen], []
        open_rows = [row for row, world in enumerate(worlds) if not world.over]
        while open_rows:
            due = {row: worlds[row].slot() for row in open_rows}
            answers: dict[int, list[SessionFrame]] = {row: [] for row in open_rows}
            for turn in range(max(map(len, due.values()))):
                begin = clock() if clock else 0.0
                frames = sessions.step({row: frames[turn] for row, frames in due.items() if turn < len(frames)})
                if clock:
                    times.append(clock() - begin)
                for row, frame in frames.items():
                    answers[row].append(frame)
            for row in open_rows:
                worlds[row].answer(answers[row], sessions.talks[row])
            open_rows = [row for row in open_rows if not worlds[row].over]
            done += 1
            if on_slot:
                on_slot(done)
        for plan, world, talk in zip(chosen, worlds, sessions.talks, strict=True):
            yield Outcome(plan, world.dialogue(talk, times), world.user.said, world.delivery)


def converse_together(left: LoadedModel, right: LoadedModel, plans: Sequence[Plan], frames: int,
                      sampling: tuple[SamplingConfig | None, SamplingConfig | None] = (None, None),
                      prompt: Prompt | None = None, clock: Clock | None = None, on_slot: OnSlot | None = None) -> list[Outcome]:
    """Lets two models talk, once for each plan; the dialogue is that of `left`, whose user is `right`.

    Each hears what the other said one frame before. The partner's seed is that of the plan plus one.
    """
    system = SessionBatch(left, [plan.seed for plan in plans], sampling[0], prompt, [plan.policy for plan in plans])
    partner = SessionBatch(right, [plan.seed + 1 for plan in plans], sampling[1], prompt, [plan.policy for plan in plans])
    nothing = np.zeros(FRAME_SAMPLES, np.float32)
    heard, answered = dict.fromkeys(range(len(plans)), nothing), dict.fromkeys(range(len(plans)), nothing)
    told: list[list[list[SessionFrame]]] = [[[] for _ in plans], [[] for _ in plans]]
    inputs: list[list[np.ndarray]] = [[] for _ in plans]
    times = []
    for number in range(frames):
        begin = clock() if clock else 0.0
        mine, yours = system.step(answered), partner.step(heard)
        if clock:
            times.append(clock() - begin)
        for row in range(len(plans)):
            inputs[row].append(answered[row])
            told[0][row].append(mine[row])
            told[1][row].append(yours[row])
        heard, answered = ({row: frame.pcm for row, frame in side.items()} for side in (mine, yours))
        if on_slot:
            on_slot(number + 1)
    outcomes = []
    for row, plan in enumerate(plans):
        words, events = system.talks[row].finish()
        their_words = [word for frame in told[1][row] for word in frame.words] + list(partner.talks[row].finish()[0])
        here = told[0][row]
        dialogue = Dialogue(
            system_pcm=np.concatenate([frame.pcm for frame in here]), user_pcm=np.concatenate(inputs[row]), frames=tuple(here),
            words=(*(word for frame in here for word in frame.words), *words),
            events=tuple(sorted([*(event for frame in here for event in frame.events), *events],
                                key=lambda event: event.time)),
            user_words=tuple(replace(word, start=word.start + FRAME_SECONDS, end=word.end + FRAME_SECONDS)
                             for word in their_words),
            step_seconds=tuple(times), heard=system.talks[row].heard)
        outcomes.append(Outcome(plan, dialogue, (), None))
    return outcomes
