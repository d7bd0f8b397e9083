"""The recipe of a language-model stage: one TOML file, checked key by key before anything is loaded.

A stage differs from another in its tables alone: which data ([data]), from which weights ([start]), which loss and rates
([train]), on which machine ([machine]) and what is watched ([watch]).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from duplex.checkpoint import open_folder
from duplex.config import LMConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.loss import LossWeights
from duplex.overlay import build_fields

CHANGEABLE = ("delays", "context", "gradient_checkpointing", "lora", "lora_rank", "lora_scaling", "n_user", "max_period",
              "depformer_context")
"""Keys of the model that a stage may change without touching a weight."""


@dataclass(frozen=True)
class FitSettings:
    """[train]: optimiser, schedule and loss."""

    seed: int = 0
    steps: int = 6000
    batch: int = 8
    """Samples of one optimiser step, over all processes."""
    frames: int = 400
    """Frames in a crop; more than the context, so that every distance is trained."""
    lr: float = 1e-3
    """Learning rate of the temporal transformer and everything but the depth transformer."""
    depth_lr: float = 1e-3
    warmup: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final: float = 0.05
    """Learning rate at the end, as a share of its peak (cosine)."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    depth_share: float = 0.25
    """Share of the frames on which the depth transformer is evaluated; 1 for all."""
    token_dropout: float = 0.0
    """Share of the user's input columns replaced by "no token", so that no single frame decides."""
    speech_bias: float = 4.0
    """How much likelier a frame on which the system speaks is chosen for the depth transformer than a silent one."""
    acoustic_dropout: float = 0.0
    """Share of the samples that hear the user's semantic codebook alone: a new voice is then less of a surprise."""
    own_noise: float = 0.0
    """Up to this share of what a sample hears of the system itself comes from other frames: it must not count on that."""
    codebook_dropout: float = 0.0
    """Up to this share of the user's codes is replaced by "no token", each alone: a clip is not known by a code or two."""
    warp: int = 0
    """The user's frames come up to so many frames early or late, by turns: no clip has the same rhythm twice."""
    dropout: float = 0.0
    """Share of what each branch of the temporal transformer adds that is left out (Srivastava et al., 2014)."""
    heard: float = 0.0
    """Weight of predicting the user's words a little after they were spoken, by a head that export leaves out."""
    listen: float = 0.0
    """Share of the samples that are nothing but users' speech, clip after clip (`train.users_alone`); needs ``heard``."""
    validate_every: int = 500
    keep_every: int = 250
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "validate_every", "keep_every"):
            _need(getattr(self, name) >= 1, f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "depth_lr", "warmup", "weight_decay", "clip", "warp", "heard"):
            _need(getattr(self, name) >= 0, f"{name}: must not be negative, got {getattr(self, name)}")
        for name in ("depth_share", "token_dropout", "own_noise", "codebook_dropout", "final", "listen"):
            _need(0 <= getattr(self, name) <= 1, f"{name}: must be from 0 to 1, got {getattr(self, name)}")
        _need(self.heard > 0 or not self.listen,
              "listen: the words are all that such samples teach; give heard as well, 3 say, or set listen to 0")
        _need(0 <= self.dropout < 1, f"dropout: must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True)
class StartSettings:
    """[start]: the weights that a stage begins with."""

    folder: str = ""
    """Model folder in Kyutai's format; empty for fresh weights. ``--start`` gives it on the command line."""
    needed: bool = False
    """Refuse to begin with fresh weights."""
    lora_rank: int = 0
    """0 trains all weights; above, the weights stay and adapters of this rank are trained."""
    lora_scaling: float = 2.0
    train_embeddings: bool = False
    """With adapters: train the embedding tables as well."""
    depth_only: bool = False
    """The depth transformer learns alone: what it is given stays as it is, and costs no backward pass."""

    def __post_init__(self) -> None:
        _need(self.lora_rank >= 0, f"lora_rank: must not be negative, got {self.lora_rank}")
        _need(not (self.depth_only and self.lora_rank), "depth_only: adapters go on every layer; set lora_rank to 0")


@dataclass(frozen=True)
class DataSettings:
    """[data]: what becomes of a sample (arXiv:2410.00037, sections 4.2 to 4.4)."""

    kind: Literal["dialogues", "single", "text"] = "dialogues"
    """Two voices; one voice, the user's rows unknown; or text alone, all audio rows unknown."""
    text_share: float = 0.0
    """Share of the steps whose batch is text alone (from ``--text``), with optimiser moments of their own."""
    text_mask: float = 0.0
    """Share of the samples whose text row is unknown."""
    text_shift: float = 0.0
    """Seconds by which the text row is moved at most, either way, per sample."""
    augment: bool = False
    """Pass the user's sound through [augment] and encode it while training (needs sound, not shards)."""
    swap_share: float = 0.0
    """Share of the samples with the voices exchanged; their text, which is the other voice's, is then unknown."""
    first: int = 0
    """Train on the first so many dialogues of SHARDS/train alone, and validate on them; 0 for all. What a stage cannot learn by
    heart it cannot learn at all."""

    def __post_init__(self) -> None:
        for name in ("text_share", "text_mask", "swap_share"):
            _need(0 <= getattr(self, name) <= 1, f"{name}: must be from 0 to 1, got {getattr(self, name)}")
        _need(self.first >= 0, f"first: must not be negative, got {self.first}")
        _need(0 <= self.text_shift <= 10, f"text_shift: must be from 0 to 10 seconds, got {self.text_shift}")


@dataclass(frozen=True)
class AugmentSettings:
    """[augment]: the user's sound as rooms and lines make it (arXiv:2410.00037, section 4.4), before the codec."""

    gain_share: float = 0.5
    gain_db: tuple[float, float] = (-24.0, 15.0)
    noise_share: float = 0.3
    noise_db: tuple[float, float] = (-30.0, 6.0)
    """Loudness of added noise over that of the user's speech."""
    echo_share: float = 0.3
    echo_scale: tuple[float, float] = (0.0, 0.2)
    """The system's voice that comes back through the user's microphone."""
    echo_delay: tuple[float, float] = (0.1, 0.5)
    """Seconds."""
    reverb_seconds: tuple[float, float] = (0.1, 0.5)
    """Time in which the room's reverberation falls by 60 dB; applied with the echo."""

    def __post_init__(self) -> None:
        for name in ("gain_share", "noise_share", "echo_share"):
            _need(0 <= getattr(self, name) <= 1, f"{name}: must be from 0 to 1, got {getattr(self, name)}")
        for name in ("gain_db", "noise_db", "echo_scale", "echo_delay", "reverb_seconds"):
            low, high = getattr(self, name)
            _need(low <= high, f"{name}: the first number must not be above the second, got {low} and {high}")
        for name in ("echo_scale", "echo_delay", "reverb_seconds"):
            _need(getattr(self, name)[0] >= 0, f"{name}: must not be negative, got {getattr(self, name)[0]}")


@dataclass(frozen=True)
class MachineSettings:
    """[machine]: how many processes, and how Lightning divides the work."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """"fsdp" shards weights, gradients and optimiser over all processes (FSDP2) and keeps distributed checkpoints."""
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    micro_batch: int = 0
    """Samples that a process computes at a time; 0 for all of its share. Smaller ones accumulate gradients."""
    compile: bool = False
    """Compile the model's forward pass: minutes at the start, needs a C++ compiler on a CPU."""
    gradient_checkpointing: bool = False
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",)

    def __post_init__(self) -> None:
        for name, least in (("devices", 1), ("nodes", 1), ("micro_batch", 0)):
            _need(getattr(self, name) >= least, f"{name}: must be at least {least}, got {getattr(self, name)}")

    @property
    def processes(self) -> int:
        return self.devices * self.nodes

    def accumulate(self, batch: int) -> int:
        """Micro-batches of one optimiser step; ConfigError when ``batch`` cannot be divided so."""
        share, rest = divmod(batch, self.processes)
        _need(not rest and share > 0, f"train.batch: {batch} samples do not divide among {self.processes} processes")
        micro = self.micro_batch or share
        _need(share % micro == 0, f"machine.micro_batch: {micro} does not divide the {share} samples of a process")
        return share // micro


@dataclass(frozen=True)
class WatchSettings:
    """[watch]: short free-running rollouts while it trains."""

    every: int = 0
    """Steps between rollouts; 0 for none."""
    items: int = 16
    prompt: float = 4.0
    """Seconds of the reference that go before a rollout."""
    length: float = 8.0
    """Seconds that the model is left to itself."""
    tolerance: float = 0.2
    """A share that falls by more than this below its value at the start is reported as lost."""

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("items", 1), ("prompt", 0), ("length", 0.08), ("tolerance", 0)):
            _need(getattr(self, name) >= least, f"{name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class FitRecipe:
    """A language-model stage."""

    model: LMConfig
    train: FitSettings = field(default_factory=FitSettings)
    start: StartSettings = field(default_factory=StartSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> FitRecipe:
        """The recipe in `values`; a recipe without [model] takes the shape of the folder that it starts from."""
        values = dict(values)
        start, model = values.get("start"), values.get("model")
        folder = start.get("folder") if isinstance(start, Mapping) else None
        if folder and (model is None or isinstance(model, Mapping) and "preset" not in model):
            own = open_folder(folder).network().to_dict()
            values["model"] = LMConfig.from_dict(own | dict(model or {}), f"{source}: model")
        elif model is None:
            raise ConfigError(f"{source}: missing table [model]; add it, or give a model folder with --start")
        return build_fields(cls, values, source)

    def __post_init__(self) -> None:
        if self.start.needed and not self.start.folder:
            raise ConfigError("start.needed: this stage goes on from trained weights; give a model folder with --start")
        if self.start.lora_rank and not self.start.folder:
            raise ConfigError("start.lora_rank: adapters need the weights that they adapt; give a model folder with --start")
        if self.start.depth_only:
            for name, wrong, mend in (
                    ("start.folder", not self.start.folder, "give a model folder with --start"),
                    ("model.dep_q", not self.model.dep_q, "a model without a depth transformer has nothing to learn so"),
                    ("data", self.data.kind == "text" or self.data.text_share > 0, "text alone teaches it nothing"),
                    ("train.heard", self.train.heard, "the words heard are named by what stays as it is; set it to 0"),
                    ("train.listen", self.train.listen, "in samples of users alone there is no sound to learn; set it to 0"),
                    ("machine.strategy", self.machine.strategy == "fsdp", "choose 'ddp'")):
                if wrong:
                    raise ConfigError(f"start.depth_only: {name}: {mend}")
        if self.train.heard and self.machine.strategy == "fsdp":
            raise ConfigError("train.heard: is for small models, and its head is not sharded; set it to 0 or choose "
                              "machine.strategy 'ddp'")
        if self.train.dropout and (self.machine.gradient_checkpointing or self.model.gradient_checkpointing):
            raise ConfigError("train.dropout: a pass that is repeated for its gradients would leave out something else; set it "
                              "to 0, or machine.gradient_checkpointing to false")
        if self.watch.every and self.data.kind != "dialogues":
            raise ConfigError(f"watch.every: training on data.kind {self.data.kind!r} has no conversation to watch; set it to 0")
        if self.start.folder:
            check_start(self.model, self.start.folder)
        self.machine.accumulate(self.train.batch)


def check_start(config: LMConfig, folder: str) -> None:
    """Raises CheckpointError when the weights of `folder` have another shape than `config`."""
    have = open_folder(folder).network()
    for f in dataclasses.fields(LMConfig):
        ours, theirs = getattr(config, f.name), getattr(have, f.name)
        if f.name not in CHANGEABLE and ours != theirs:
            raise CheckpointError(f"{folder}: its {f.name} is {theirs}, the recipe's is {ours}; "
                                  "leave [model] out to take the folder's shape")


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
