"""Model folders, as Kyutai publishes them: found, checked and read; `duplex.saving` writes them.

A folder holds `config.json` (network keys and the names of the other files), the language model's
weights, the codec's weights, the sentencepiece model, and where they are needed a codec configuration, a
LoRA adapter and a model card. Weights are safetensors only, and every message names the file and the
mend.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from duplex.archive import ENDINGS
from duplex.codec import Codec, MimiCodec, MimiConfig
from duplex.conditions import PREFIX, bake_conditions, condition_tables
from duplex.config import FOLDER_KEYS, LMConfig, SamplingConfig
from duplex.engine import Engine
from duplex.errors import CheckpointError, ConfigError
from duplex.fast.backends import make_engine, with_backend
from duplex.filling import Filling, plan_filling
from duplex.hub import HUB_ID, fetch, fetch_file
from duplex.jsonfile import read_configuration
from duplex.model.lm import DuplexLM
from duplex.overlay import build_fields
from duplex.safefile import nearest, read_header, show
from duplex.saving import CARD_NAME, CONFIG_NAME, LM_NAME, LORA_NAME, MIMI_NAME, OWN_NAME, TOKENIZER_NAME, save_lm
from duplex.streams import StreamLayout
from duplex.text import TextTokenizer, Tokenizer
from duplex.weights import empty_lm, load_adapter, refuse_foreign_names, stored_dtype

# What a file is called when config.json does not say: the name in released folders, then that in ours.
LM_NAMES = (LM_NAME, "consolidated.safetensors")
MIMI_NAMES = ("tokenizer-e351c8d8-checkpoint125.safetensors", MIMI_NAME)
TOKENIZER_NAMES = ("tokenizer_spm_32k_3.model", TOKENIZER_NAME)
__all__ = ["LoadedModel", "ModelFolder", "load_lm", "load_model", "open_folder", "resolve", "save_lm"]
_OWN_KEYS = FOLDER_KEYS | {"mimi_config"}


@dataclass(frozen=True)
class LoadedModel:
    """Everything that a session needs, loaded and checked to fit together."""

    lm: DuplexLM
    config: LMConfig
    codec: Codec
    tokenizer: TextTokenizer
    meta: dict[str, Any]
    """The keys of config.json that describe the folder (`model_type`, `lm_gen_config`, ...), and `source`."""
    folder: Path
    backend: str = "naive"
    """How the steps are computed: a name in `duplex.fast.backends.BACKENDS`."""

    def engine(self, sampling: SamplingConfig | None = None) -> Engine:
        """A streaming engine on this model's backend; `sampling` None takes what the folder recommends."""
        return make_engine(self.lm, sampling or self.sampling, self.backend)

    @property
    def sampling(self) -> SamplingConfig:
        """The sampling that the folder recommends (`lm_gen_config`, and what only this library knows in `duplex.json`), the
        defaults where it says nothing."""
        names = {"temp": "audio_temperature", "top_k": "audio_top_k", "temp_text": "text_temperature",
                 "top_k_text": "text_top_k"}
        recommended = self.meta.get("lm_gen_config") or {}
        chosen = {ours: recommended[theirs] for theirs, ours in names.items() if theirs in recommended}
        chosen["greedy"] = recommended.get("use_sampling") is False
        sampling = build_fields(SamplingConfig, chosen, f"{self.folder / CONFIG_NAME}: lm_gen_config")
        if OWN_NAME in self.meta:
            own = build_fields(SamplingConfig, self.meta[OWN_NAME], str(self.folder / OWN_NAME))
            sampling = replace(sampling, **{name: getattr(own, name) for name in self.meta[OWN_NAME]})
        return sampling


@dataclass(frozen=True)
class ModelFolder:
    """A folder with its `config.json` parsed; paths are resolved when asked for and checked to exist."""

    path: Path
    raw: dict[str, Any]
    """config.json as it is; {} when there is none, which stands for a Moshi 7B as first published."""

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG_NAME

    def network(self) -> LMConfig:
        """The network keys without conditions that go into the weights; ConfigError for unknown keys."""
        source = str(self.config_path)
        baked = {"conditioners", "fuser"} if condition_tables(self.raw, source) else set()
        own = {key: value for key, value in self.raw.items() if key not in {"mimi_config"} | baked}
        known = LMConfig.__dataclass_fields__.keys() | _OWN_KEYS
        for key in own.keys() - known:
            hint = nearest(key, sorted(_OWN_KEYS), cutoff=0.8)
            if hint:  # LMConfig knows the names of its own keys only
                raise ConfigError(f"{source}: unknown key {show(key)}{hint}")
        return LMConfig.from_dict(own, source)

    def file(self, key: str, default_names: tuple[str, ...]) -> Path:
        """The file that `key` of config.json names, else the first of `default_names` that exists."""
        name = self.raw.get(key)
        if name is None:
            found = [self.path / name for name in default_names if (self.path / name).is_file()]
            if not found:
                raise CheckpointError(f"{self.path}: {key} is not in {CONFIG_NAME}, and there is no "
                                      f"{' or '.join(default_names)} either; add the file")
            return found[0]
        if isinstance(name, str) and name.startswith("hf://"):
            return fetch_file(name)
        path = self.path / self._plain(key, name)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file, though {CONFIG_NAME} names it as {key}; add it")
        return path

    def _plain(self, key: str, name: Any) -> str:
        """`name` if it is a file inside the folder: a downloaded configuration must not point elsewhere."""
        good = isinstance(name, str) and name and name.isprintable() and not set(name) & set("\\:") and len(name) < 256
        if not good or any(part in ("", ".", "..") for part in name.split("/")):
            raise CheckpointError(
                f"{self.config_path}: {key} is {show(name)}; it must name a file inside the folder")
        return name

    def mimi_config(self) -> MimiConfig | None:
        """The codec's configuration, in config.json or in a file that it names; None: the released one."""
        values: Any = self.raw.get("mimi_config")
        source = self.config_path
        if values is None and self.raw.get("mimi_config_name") is not None:
            source = self.file("mimi_config_name", ())
            values = read_configuration(source, CheckpointError)
        if values is None:
            return None
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: mimi_config must be a table of settings; copy the file again")
        return _nested(values, source) if "seanet" in values else MimiConfig.from_dict(values, str(source))


def _nested(values: Mapping[str, Any], source: Path) -> MimiConfig:
    """The flat form of the nested arguments that `moshi` takes; ConfigError for what the flat form cannot
    say.
    """
    try:
        seanet, books, transformer = values["seanet"], values["quantizer"], values["transformer"]
        shared = {name: seanet[name] for name in (
            "dimension", "n_filters", "ratios", "n_residual_layers", "kernel_size", "residual_kernel_size",
            "last_kernel_size", "compress", "dilation_base")}
        shared |= {name: transformer[name] for name in (
            "num_heads", "num_layers", "dim_feedforward", "context", "max_period", "layer_scale")}
        shared["codebook_dim"], shared["n_codebooks"] = books["dimension"], books["n_q"]
        shared["cardinality"] = books["bins"]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{source}: codec configuration lacks {error}; copy the file again") from None
    config = MimiConfig.from_dict(shared, str(source))
    for section, expected in config.upstream().items():
        if json.loads(json.dumps(expected)) != values.get(section):
            raise ConfigError(f"{source}: codec section '{section}' is not that of a Mimi; use a Mimi codec")
    return config


def open_folder(path: str | Path) -> ModelFolder:
    """The model folder at `path` with its config.json read. Raises CheckpointError when it is none."""
    path = Path(path)
    if not path.is_dir():
        packed = path.is_file() and path.name.endswith(ENDINGS)
        mend = "unpack it with python -m infer.unpack" if packed else "give the folder of a model"
        raise CheckpointError(f"{path}: not a folder; {mend}")
    if not (path / CONFIG_NAME).is_file():
        if not (path / LM_NAME).is_file():
            adapter = (path / LORA_NAME).is_file()
            mend = "load its base model with this adapter as `lora`" if adapter else "give a model's folder"
            raise CheckpointError(f"{path}: has neither {CONFIG_NAME} nor {LM_NAME}; {mend}")
        return ModelFolder(path, {})
    raw = read_configuration(path / CONFIG_NAME, CheckpointError)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path / CONFIG_NAME}: not a JSON object; copy the file again")
    for key, kind in {"model_type": str, "preset": str, "lm_gen_config": dict}.items():
        if raw.get(key) is not None and not isinstance(raw[key], kind):
            raise ConfigError(f"{path / CONFIG_NAME}: {key} is {show(raw[key])}; make it a {kind.__name__}")
    return ModelFolder(path, raw)


def load_lm(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    lora: str | Path | None = None,
    keep_lora: bool = False,
    conditions: Mapping[str, str | None] | None = None,
) -> tuple[DuplexLM, LMConfig, dict[str, Any]]:
    """The language model of `folder` in eval mode, its configuration and the folder's config.json.

    `dtype` None means float32 on the CPU and the stored type elsewhere. `lora` is an adapter file, or a
    folder with `lora.safetensors`, for this model; without it the adapter that config.json names is used,
    if any. It is merged into the weights, or kept as separate layers (`keep_lora`). `conditions` chooses
    values for models trained with fixed conditions (`duplex.conditions`). Raises CheckpointError and
    ConfigError.
    """
    opened = open_folder(folder)
    config = opened.network()
    adapter = _adapter(opened, lora, config)
    return _load_lm(opened, _plan_lm(opened, config), device, dtype, adapter, keep_lora, conditions or {})


def _plan_lm(opened: ModelFolder, config: LMConfig) -> Filling:
    """The language model of a folder without its memory, compared with the weight file to the last value."""
    header = read_header(opened.file("moshi_name", LM_NAMES))
    refuse_foreign_names(header)
    what = (str(opened.config_path) if opened.raw
            else f"a Moshi 7B, which a folder without {CONFIG_NAME} is taken for; add the {CONFIG_NAME}")
    tables = condition_tables(opened.raw, str(opened.config_path))
    ignore = [name for name in header.tensors if tables and name.startswith(PREFIX)]
    return plan_filling(empty_lm(config, opened.config_path, header), header, what, ignore)


def _load_lm(opened: ModelFolder, planned: Filling, device: torch.device | str, dtype: torch.dtype | None,
             adapter: tuple[Path, float] | None, keep_lora: bool, conditions: Mapping[str, str | None],
             ) -> tuple[DuplexLM, LMConfig, dict[str, Any]]:
    lm, header = planned.module, planned.header
    assert isinstance(lm, DuplexLM)
    config = lm.config
    planned.fill(device, dtype or (torch.float32 if torch.device(device).type == "cpu" else stored_dtype(header)))
    bake_conditions(lm, header, condition_tables(opened.raw, str(opened.config_path)), conditions)
    if adapter is not None:
        load_adapter(lm, *adapter, keep=keep_lora)
    if opened.raw.get("model_type") == "hibiki":
        # Hibiki may end its text (2) before the speech to translate has ended; fed back as PAD it goes on.
        with torch.no_grad():
            lm.text_emb.weight[2] = lm.text_emb.weight[config.existing_text_padding_id]
    return lm.eval(), config, opened.raw


def _adapter(opened: ModelFolder, lora: str | Path | None, config: LMConfig) -> tuple[Path, float] | None:
    """The adapter's file and its scaling, which the config.json beside an adapter says best."""
    if lora is None:
        name = opened.raw.get("lora_name")
        return None if name is None else (opened.file("lora_name", ()), config.lora_scaling)
    path = Path(lora)
    path = path / LORA_NAME if path.is_dir() else path
    beside, scaling = path.with_name(CONFIG_NAME), config.lora_scaling
    if beside.is_file():
        values = read_configuration(beside, CheckpointError)
        scaling = values.get("lora_scaling", scaling) if isinstance(values, dict) else scaling
    if isinstance(scaling, bool) or not isinstance(scaling, (int, float)):
        raise ConfigError(f"{beside}: lora_scaling is {show(scaling)}; give a number")
    return path, float(scaling)


def load_model(
    source: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    *,
    lora: str | Path | None = None,
    backend: str = "naive",
) -> LoadedModel:
    """Language model, codec and tokenizer of `source`, checked to fit together.

    `source` is "tiny" (the embedded model), a folder, or a hub id "org/name" (`revision`: its branch, tag or
    commit). `dtype` and `lora` as in `load_lm`; the codec always computes in float32. `backend` says how the
    steps are computed (`duplex.fast.backends`). Raises CheckpointError and ConfigError.
    """
    opened = open_folder(resolve(source, revision))
    config = opened.network()
    tokenizer = Tokenizer.load(opened.file("tokenizer_name", TOKENIZER_NAMES),
                               config.existing_text_padding_id, config.existing_text_end_padding_id)
    if tokenizer.vocab_size != config.text_card and not config.demux_second_stream:
        raise ConfigError(f"{opened.config_path}: text_card is {config.text_card}, but the tokenizer has "
                          f"{tokenizer.vocab_size} pieces; use the tokenizer of this model")
    sizes = _codec_sizes(opened, config)
    adapter, planned = _adapter(opened, lora, config), _plan_lm(opened, config)  # before the codec's memory is taken
    codec = _load_codec(opened, config, sizes, device)
    lm, config, raw = _load_lm(opened, planned, device, dtype, adapter, False, {})
    meta = {key: value for key, value in raw.items() if key in _OWN_KEYS} | {"source": str(source)}
    if (opened.path / OWN_NAME).is_file():
        meta[OWN_NAME] = read_configuration(opened.path / OWN_NAME, CheckpointError)
    loaded = LoadedModel(lm, config, codec, tokenizer, meta, opened.path)
    _ = loaded.sampling  # wrong settings are reported now and not in the middle of a session
    return with_backend(loaded, backend)


def _codec_sizes(opened: ModelFolder, config: LMConfig) -> MimiConfig:
    sizes = opened.mimi_config() or MimiConfig()
    if sizes.cardinality != config.card:
        raise ConfigError(f"{opened.config_path}: card is {config.card}, but the codec's books have "
                          f"{sizes.cardinality} entries; use the codec of this model")
    return sizes


def _load_codec(opened: ModelFolder, config: LMConfig, sizes: MimiConfig, device: torch.device | str) -> MimiCodec:
    layout = StreamLayout.from_config(config)
    return MimiCodec.from_files(opened.file("mimi_name", MIMI_NAMES), sizes, max(layout.n_system, layout.n_user), device)


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The folder that `source` means: "tiny", a local folder, or a hub id, whose files are fetched."""
    if source == "tiny":
        embedded = Path(str(importlib.resources.files("duplex"))) / "assets" / "tiny"
        if not embedded.is_dir():
            raise CheckpointError(
                "tiny: this installation came without the embedded model; install it again or give a folder")
        return embedded
    text = str(source)
    if Path(source).exists() or not HUB_ID.fullmatch(text):
        return Path(source)
    folder = fetch(text, [CONFIG_NAME], revision)
    raw = open_folder(folder).raw if (folder / CONFIG_NAME).is_file() else {}
    defaults = {"moshi_name": LM_NAMES, "mimi_name": MIMI_NAMES, "tokenizer_name": TOKENIZER_NAMES}
    names = [CONFIG_NAME, CARD_NAME, OWN_NAME]
    for key in ("mimi_config_name", "lora_name", *defaults):
        name = raw.get(key)
        names += [name] if isinstance(name, str) else defaults.get(key, ())
    # The folder of a snapshot is called by its commit: the second request must not get a newer one.
    return fetch(text, names, folder.name)
