"""The configuration of a model and of its sampling, as frozen dataclasses.

`LMConfig` has the field names, defaults and meaning of the `config.json` files of the Moshi family, so that
such a file is read, and written, without translation. Whatever a published file may say is either honoured or
refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duplex.errors import ConfigError
from duplex.jsonfile import read_configuration
from duplex.overlay import build_fields, load_toml
from duplex.wording import show

__all__ = ["FOLDER_KEYS", "PRESETS", "LMConfig", "SamplingConfig", "load_toml"]

INHERIT = "inherit"

FOLDER_KEYS = frozenset({
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type",
    "lm_gen_config", "tts_config", "stt_config", "model_id", "version",
})
"""Keys of a `config.json` that describe the folder and not the network; `LMConfig.from_dict` skips them."""

NORMS = ("layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32")
POSITIONS = ("none", "sin", "rope", "sin_rope", "rope_concat")
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softsign", "identity")

# Written to config.json only where they differ from their default: older readers do not know all of them.
_OPTIONAL = frozenset({
    "text_card_out", "demux_second_stream", "norm_emb", "bias_proj", "kv_repeat", "positional_scale",
    "depformer_kv_repeat", "depformer_positional_scale", "depformer_norm",
    "depformer_weights_per_step_schedule", "depformer_low_rank_embeddings", "depformer_context",
    "existing_text_end_padding_id", "extra_heads_num_heads", "extra_heads_dim", "cross_attention",
    "conditioners", "fuser", "quantize", "gradient_checkpointing", "lora", "lora_rank", "lora_scaling",
    "n_user",
})


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Shape of a temporal and a depth transformer over text, system and user rows (arXiv:2410.00037, 3.4)."""

    delays: tuple[int, ...]
    """Frames by which each of the 1 + n_q rows is delayed: text, then system, then user codebooks."""
    dim: int
    """Width of the temporal transformer."""
    num_heads: int
    num_layers: int
    n_q: int
    """Audio rows that the model reads: system codebooks, then user codebooks."""
    dep_q: int
    """Audio rows that the depth transformer predicts, the first of the `n_q`; 0 for text output alone."""
    card: int = 1024
    """Entries per audio codebook; the id `card` stands for "before the first frame"."""
    text_card: int = 32000
    """Text vocabulary; the id `text_card` stands for "before the first frame"."""
    text_card_out: int | None = None
    """Text vocabulary of the output where it differs from that of the input."""
    existing_text_padding_id: int = 3
    """PAD: the text token of a frame on which no word piece starts."""
    existing_text_end_padding_id: int = 0
    """EPAD: the text token of the frame before a word."""
    demux_second_stream: bool = False
    """Text ids carry two tokens, `second * (text_card + 1) + first`, each with its own projection."""
    hidden_scale: float = 4
    """Feed-forward width over `dim`, before the gated form takes two thirds of it."""
    causal: bool = True
    layer_scale: float | None = None
    """Initial value of a learnt scale on each residual branch; None for no scale."""
    context: int | None = None
    """Frames that attention reaches back, the present one included; None for all (then no streaming)."""
    max_period: float = 10_000
    gating: str = "none"
    """Activation of the gated feed-forward, or "none" for a plain GELU one."""
    norm: str = "layer_norm"
    norm_emb: bool = False
    """Layer norm after each embedding."""
    bias_proj: bool = False
    """Bias in the text and audio output layers."""
    positional_embedding: str = "sin"
    positional_scale: float = 1.0
    """Scale of the sinusoidal embedding."""
    kv_repeat: int = 1
    """Query heads that share one key and value head."""
    depformer_dim: int = 256
    depformer_dim_feedforward: int | tuple[int, ...] | None = None
    """Feed-forward width, one for all or one per weight set; None for `hidden_scale * depformer_dim`."""
    depformer_num_heads: int = 8
    depformer_num_layers: int | str = INHERIT
    depformer_layer_scale: float | None | str = INHERIT
    depformer_multi_linear: bool = False
    """One input projection per weight set rather than one for all rows."""
    depformer_context: int | None = None
    """Kept for the file's sake: the depth transformer always attends to all earlier rows of its frame."""
    depformer_max_period: float | str = INHERIT
    depformer_gating: str = INHERIT
    depformer_pos_emb: str = "sin"
    depformer_positional_scale: float | str = INHERIT
    depformer_kv_repeat: int | str = INHERIT
    depformer_weights_per_step: bool = False
    """Separate weights for each predicted row."""
    depformer_weights_per_step_schedule: tuple[int, ...] | None = None
    """Weight set of each of the `dep_q` rows, where several rows share one."""
    depformer_low_rank_embeddings: int | None = None
    """Inner width of the depth embeddings, followed by a projection."""
    depformer_norm: str | None = None
    """Norm before each audio output layer."""
    extra_heads_num_heads: int = 0
    """Auxiliary classifiers on the temporal output."""
    extra_heads_dim: int = 6
    cross_attention: bool = False
    conditioners: Mapping[str, Any] | None = field(default=None, hash=False)
    fuser: Mapping[str, Any] | None = field(default=None, hash=False)
    quantize: bool = False
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    lora: bool = False
    lora_rank: int = 128
    lora_scaling: float = 2.0
    n_user: int | None = None
    """Rows of the user among the `n_q`; None derives them from `dep_q` and `delays` (see `user_rows`)."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "layer_scale", "max_period", "gating", "positional_scale", "kv_repeat"):
            if getattr(self, f"depformer_{name}") == INHERIT:
                object.__setattr__(self, f"depformer_{name}", getattr(self, name))
            own = getattr(self, f"depformer_{name}")
            if isinstance(own, str) and name != "gating":
                raise ConfigError(f"depformer_{name}: expected a number or '{INHERIT}', got {show(own)}")
        _check(self)

    @property
    def num_rows(self) -> int:
        """Rows of `codes[B, K, T]`: text and the `n_q` audio rows."""
        return 1 + self.n_q

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    @property
    def user_rows(self) -> int:
        """How many of the `n_q` audio rows, the last ones, belong to the user.

        Rows that the model reads but does not predict are the user's. Where it predicts all of them, two
        equal halves of the delays, each with a semantic codebook ahead of acoustic ones, mean two speakers.
        """
        if self.n_user is not None:
            return self.n_user
        if self.dep_q < self.n_q:
            return self.n_q - self.dep_q
        half, odd = divmod(self.n_q, 2)
        first, second = self.delays[1 : 1 + half], self.delays[1 + half :]
        two_speakers = not odd and half > 1 and first == second and first[0] < min(first[1:])
        return half if two_speakers else 0

    @property
    def depth_weight_sets(self) -> int:
        """Weight sets of the depth transformer's layers: 1 when all rows share them."""
        if not self.depformer_weights_per_step:
            return 1
        schedule = self.depformer_weights_per_step_schedule
        return max(schedule) + 1 if schedule else self.dep_q

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> LMConfig:
        """The configuration in `values`, the content of a `config.json` or of a TOML table.

        `FOLDER_KEYS` are skipped. `preset` names the entry of `PRESETS` that the other keys are laid over; a
        file without network keys is a Moshi 7B, or a PersonaPlex where its `model_type` says so, as
        published. Raises ConfigError for unknown keys (naming the nearest), missing ones and values that do
        not fit.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: expected a table of settings, got {type(values).__name__}")
        model_type = values.get("model_type")
        own = {key: value for key, value in values.items() if key not in FOLDER_KEYS}
        # Names that published files use for the same thing, or that no longer mean anything.
        own.pop("depformer_causal", None)
        if "demux_second_text_stream" in own:
            own["demux_second_stream"] = own.pop("demux_second_text_stream")
        preset = own.pop("preset", None)
        if preset is None and not own:
            preset = "personaplex-7b" if model_type == "personaplex" else "moshi-7b"
        if preset is not None:
            if not isinstance(preset, str) or preset not in PRESETS:
                raise ConfigError(f"{source}: unknown preset {show(preset)}; known: {', '.join(PRESETS)}")
            own = PRESETS[preset].to_dict() | own
        try:
            return build_fields(cls, own, source)
        except ConfigError as error:
            message = str(error)
            raise error if message.startswith(source) else ConfigError(f"{source}: {message}") from None

    @classmethod
    def from_json(cls, path: str | Path) -> LMConfig:
        """The configuration in the `config.json` at `path`. Raises ConfigError naming the file."""
        return cls.from_dict(read_configuration(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The keys of a `config.json` that describe this network; `from_dict` gives back an equal object."""
        result: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in _OPTIONAL:
                inherited = self._inherited(f.name)
                if value == (f.default if inherited is None else inherited):
                    continue
            result[f.name] = list(value) if isinstance(value, tuple) else value
        return result

    def _inherited(self, name: str) -> Any:
        short = name.removeprefix("depformer_")
        return getattr(self, short) if short in ("kv_repeat", "positional_scale") and short != name else None


_LARGEST = 2**24
"""No size, width or period of a model that fits a computer is larger."""


def _check(c: LMConfig) -> None:
    """Raises ConfigError, naming the key, unless the fields of `c` fit each other."""

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(message)

    for f in dataclasses.fields(c):
        value = getattr(c, f.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)):
                need(abs(number) <= _LARGEST, f"{f.name}: {show(number)} is out of all proportion")
    for name in ("dim", "num_heads", "num_layers", "n_q", "card", "text_card", "depformer_dim",
                 "depformer_num_heads", "depformer_num_layers", "kv_repeat", "depformer_kv_repeat"):
        need(getattr(c, name) >= 1, f"{name}: must be at least 1, got {getattr(c, name)}")
    for name in ("hidden_scale", "max_period", "depformer_max_period"):
        need(getattr(c, name) > 0, f"{name}: must be above 0, got {getattr(c, name)}")
    widths = c.depformer_dim_feedforward
    for name, number in (("depformer_low_rank_embeddings", c.depformer_low_rank_embeddings), ("text_card_out", c.text_card_out),
                         *(("depformer_dim_feedforward", w) for w in (widths if isinstance(widths, tuple) else (widths,)))):
        need(number is None or number >= 1, f"{name}: must be at least 1, got {number}")
    need(c.hidden_scale * c.dim >= 3 and c.hidden_scale * c.depformer_dim >= 3,
         f"hidden_scale: {c.hidden_scale} leaves the feed-forward layers without width")
    need(0 <= c.dep_q <= c.n_q, f"dep_q: must be between 0 and n_q={c.n_q}, got {c.dep_q}")
    need(len(c.delays) == c.num_rows, f"delays: needs {c.num_rows} values (text and n_q={c.n_q} rows), "
                                      f"got {len(c.delays)}")
    need(min(c.delays) >= 0, "delays: must not be negative")
    need(c.context is None or c.context >= 1, f"context: must be at least 1 or null, got {c.context}")
    for prefix, dim, heads, repeat, positions in (
        ("", c.dim, c.num_heads, c.kv_repeat, c.positional_embedding),
        ("depformer_", c.depformer_dim, c.depformer_num_heads, c.depformer_kv_repeat, c.depformer_pos_emb),
    ):
        need(dim % heads == 0, f"{prefix}dim: {dim} must be a multiple of {prefix}num_heads={heads}")
        need(heads % repeat == 0, f"{prefix}kv_repeat: {repeat} must divide {prefix}num_heads={heads}")
        need("rope" not in positions or (dim // heads) % 2 == 0,
             f"{prefix}dim: rotary positions need an even head width, got {dim // heads}")
        need("sin" not in positions or (dim > 2 and dim % 2 == 0),
             f"{prefix}dim: sinusoidal positions need an even width above 2, got {dim}")
    for name, known in (("norm", NORMS), ("depformer_norm", (None, *NORMS)),
                        ("positional_embedding", POSITIONS), ("depformer_pos_emb", POSITIONS),
                        ("gating", ("none", *ACTIVATIONS)), ("depformer_gating", ("none", *ACTIVATIONS))):
        if getattr(c, name) not in known:
            choices = ", ".join(map(str, known))
            raise ConfigError(f"{name}: must be one of {choices}, got {show(getattr(c, name))}")
    for name in ("existing_text_padding_id", "existing_text_end_padding_id"):
        need(0 <= getattr(c, name) < c.text_card, f"{name}: must be below text_card={c.text_card}")
    schedule = c.depformer_weights_per_step_schedule
    if schedule is not None:
        need(c.depformer_weights_per_step,
             "depformer_weights_per_step_schedule: needs depformer_weights_per_step = true")
        need(len(schedule) == c.dep_q and min(schedule, default=0) >= 0,
             f"depformer_weights_per_step_schedule: needs dep_q={c.dep_q} numbers from 0, got {schedule}")
    widths = c.depformer_dim_feedforward
    if isinstance(widths, tuple):
        need(c.depformer_weights_per_step and len(widths) == c.depth_weight_sets,
             f"depformer_dim_feedforward: needs one width or {c.depth_weight_sets}, one per weight set")
    need(not c.depformer_weights_per_step or c.depformer_gating != "none",
         "depformer_weights_per_step: needs a gated feed-forward; set depformer_gating, say to 'silu'")
    need(not (c.norm_emb and c.demux_second_stream), "norm_emb: cannot be combined with demux_second_stream")
    user = c.user_rows
    need(0 <= user <= c.n_q and (c.dep_q in (0, c.n_q) or c.dep_q == c.n_q - user),
         f"n_user: {user} does not fit n_q={c.n_q} and dep_q={c.dep_q}; dep_q must be n_q - n_user or n_q")
    need(c.causal, "causal: a model that listens and speaks at once must be causal; set it to true")
    need(not c.cross_attention, "cross_attention: models conditioned by cross-attention are not supported")
    need(not c.quantize, "quantize: 8-bit weights are not supported; use the bf16 files of the same model")
    need(not c.conditioners and not any((c.fuser or {}).get(kind) for kind in ("sum", "cross", "prepend")),
         "conditioners: models with extra conditioning inputs are not supported")


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn from logits. The defaults are those of the Moshi release."""

    audio_temperature: float = 0.8
    audio_top_k: int = 250
    """Candidates kept per audio token; 0 keeps all."""
    text_temperature: float = 0.7
    text_top_k: int = 25
    greedy: bool = False
    """Take the most likely token always; temperatures and top-k are then unused."""
    repetition_window: int = 0
    """Word pieces of the system's own text that the repetition guard remembers; 0 switches it off."""
    repetition_penalty: float = 1.0
    """Factor by which the guard divides the odds of a remembered word piece (never of PAD and EPAD)."""
    patience: float = 0.0
    """Logits by which PAD is favoured while the system is silent, less the longer it has wished to speak
    (`duplex.sampling.wait`): fewer pauses are taken for the end of a turn, for answers that come a little later. 0
    switches it off."""

    def __post_init__(self) -> None:
        for name in ("audio_temperature", "text_temperature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must be a number from 0 (greedy) up, got {show(getattr(self, name))}")
        for name in ("audio_top_k", "text_top_k", "repetition_window"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be negative, got {show(getattr(self, name))}")
        if not 1.0 <= self.repetition_penalty < float("inf"):
            raise ConfigError(f"repetition_penalty: must be at least 1, got {self.repetition_penalty}")
        if not 0 <= self.patience < float("inf"):
            raise ConfigError(f"patience: must be a number from 0 up, got {self.patience}")


def _family(**values: Any) -> LMConfig:
    """What all published speech-to-speech models of the family share, with `values` laid over it."""
    common: dict[str, Any] = {
        "card": 2048, "hidden_scale": 4.125, "gating": "silu", "norm": "rms_norm_f32",
        "positional_embedding": "rope", "depformer_dim": 1024, "depformer_num_heads": 16,
        "depformer_num_layers": 6, "depformer_pos_emb": "none", "depformer_multi_linear": True,
        "depformer_weights_per_step": True,
    }
    return LMConfig(**(common | values))


def _delays(acoustic: int, books: int, speakers: int = 2) -> tuple[int, ...]:
    return (0, *((0, *[acoustic] * (books - 1)) * speakers))


_MOSHI_7B: dict[str, Any] = {
    "dim": 4096, "num_heads": 32, "num_layers": 32, "n_q": 16, "dep_q": 8, "context": 3000,
    "depformer_dim_feedforward": 4224, "depformer_context": 8, "delays": _delays(1, 8),
}

PRESETS: dict[str, LMConfig] = {
    "moshi-7b": _family(**_MOSHI_7B),
    "personaplex-7b": _family(**_MOSHI_7B | {"dep_q": 16, "depformer_context": 16}),
    "hibiki-2b": _family(
        dim=2560, num_heads=20, num_layers=24, n_q=32, dep_q=16, context=500, text_card=48000,
        max_period=100_000, delays=_delays(2, 16), depformer_dim_feedforward=3072, depformer_context=16,
        depformer_max_period=10_000, depformer_low_rank_embeddings=128,
        depformer_weights_per_step_schedule=(0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8),
    ),
    "toy": _family(
        dim=192, num_heads=6, num_layers=4, n_q=8, dep_q=4, card=512, text_card=2000, context=750,
        delays=_delays(1, 4), hidden_scale=4, depformer_dim=96, depformer_num_heads=4, depformer_num_layers=2,
        depformer_dim_feedforward=384, depformer_context=4,
    ),
}
"""Model shapes by name, for `LMConfig.from_dict({"preset": ...})`: the published ones as their papers describe them,
and a small one for tests and benchmarks. A checkpoint's own config.json always decides about that checkpoint.
"""
