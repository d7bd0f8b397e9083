"""Checkpoints against the `moshi` package: what either side writes, the other loads and computes alike."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from moshi.conditioners import ConditionAttributes
from moshi.models import LMModel
from moshi.models import loaders as moshi_loaders
from moshi.utils.compile import no_compile
from safetensors.torch import load_file, save_file

from duplex.checkpoint import load_lm, load_model, save_lm
from duplex.codec import MimiCodec, MimiConfig, build_mimi
from duplex.config import FOLDER_KEYS, LMConfig
from duplex.model.lm import DuplexLM
from duplex.model.lora import adapted_layers, add_lora, merge_lora
from duplex.model.projections import stacked_state_dict
from duplex.saving import LM_NAME, LORA_NAME

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def uncompiled():
    with no_compile(), torch.no_grad():
        yield


def moshi_like(**changes: Any) -> dict[str, Any]:
    """A scaled-down Moshi 7B in the words of a config.json."""
    return {
        "dim": 32, "text_card": 48, "existing_text_padding_id": 3, "n_q": 16, "dep_q": 8, "card": 24,
        "num_heads": 4, "num_layers": 2, "hidden_scale": 4.125, "causal": True, "layer_scale": None,
        "context": 20, "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32",
        "positional_embedding": "rope", "depformer_dim": 16, "depformer_dim_feedforward": 66,
        "depformer_num_heads": 2, "depformer_num_layers": 1,
        "depformer_causal": True, "depformer_layer_scale": None, "depformer_multi_linear": True,
        "depformer_context": 8, "depformer_max_period": 10000, "depformer_gating": "silu",
        "depformer_pos_emb": "none", "depformer_weights_per_step": True,
        "delays": [0, *[0, *[1] * 7] * 2], **changes,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "moshi": moshi_like(),
    "personaplex": moshi_like(dep_q=16, depformer_context=16),
    "hibiki": moshi_like(
        n_q=32, dep_q=16, delays=[0, *[0, *[2] * 15] * 2], depformer_low_rank_embeddings=8, kv_repeat=2,
        depformer_kv_repeat=1, depformer_weights_per_step_schedule=[0, 1, 2, 3, 4, 5, 6, 7, *[8] * 8]),
    "plain": moshi_like(
        norm="layer_norm", gating="none", layer_scale=0.1, positional_embedding="sin", bias_proj=True,
        depformer_multi_linear=False, depformer_weights_per_step=False, depformer_gating="none",
        depformer_norm="layer_norm", extra_heads_num_heads=2, norm_emb=True),
    "text_only": moshi_like(n_q=8, dep_q=0, delays=[0] * 9),
}


def moshi_model(kwargs: dict[str, Any], seed: int = 0) -> LMModel:
    torch.manual_seed(seed)
    model = moshi_loaders.get_moshi_lm(None, kwargs, dtype=torch.float32)
    for parameter in model.parameters():  # fresh norms and scales are constant: make every number matter
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def write_folder(folder: Path, model: LMModel, config: dict[str, Any], stacked: bool = True) -> Path:
    """A folder as Kyutai writes it, from moshi's own model."""
    folder.mkdir()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(stacked_state_dict(state) if stacked else state, folder / LM_NAME)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def codes_for(config: LMConfig, frames: int = 25, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randint(0, config.card, (2, config.n_q, frames), generator=generator)
    text = torch.randint(0, config.text_card, (2, 1, frames), generator=generator)
    return torch.cat([text, audio], 1)


def difference(ours: DuplexLM, theirs: LMModel, **conditions: Any) -> float:
    """The largest difference of text and audio logits over frames past the context window."""
    codes = codes_for(ours.config)
    a = ours(codes)
    if not ours.config.dep_q:
        inputs = torch.cat([theirs._get_initial_token().expand(2, -1, -1), codes], 2)[..., :-1]
        text = theirs.forward_text(inputs)[1]
        return (a.text_logits - text).abs().max().item()
    b = theirs(codes, **conditions)
    assert torch.equal(a.mask, b.mask) and torch.equal(a.text_mask, b.text_mask)
    assert a.mask.any() and a.text_mask.all()
    return max((a.text_logits - b.text_logits).abs().max().item(),
               (a.logits - b.logits)[a.mask].abs().max().item())


@pytest.mark.parametrize("shape, stacked", [*((shape, True) for shape in SHAPES), ("hibiki", False)])
def test_their_folder_loads_here(tmp_path: Path, report, shape: str, stacked: bool):
    theirs = moshi_model(SHAPES[shape])
    folder = write_folder(tmp_path / "m", theirs, SHAPES[shape] | {"model_type": "moshi"}, stacked)
    ours, config, raw = load_lm(folder)
    assert raw["model_type"] == "moshi" and config.dep_q == SHAPES[shape]["dep_q"]
    assert not ours.training and all(p.dtype == torch.float32 for p in ours.parameters())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    worst = difference(ours, theirs)
    report(f"checkpoint {shape}: largest logit difference", worst)
    assert worst < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_our_folder_loads_there(tmp_path: Path, shape: str):
    torch.manual_seed(0)
    ours = DuplexLM(LMConfig.from_dict(SHAPES[shape])).eval()
    folder = save_lm(ours, tmp_path / "m", {"model_type": "moshi", "lm_gen_config": {"temp": 0.5}})
    raw = json.loads((folder / "config.json").read_text())
    kwargs = {key: value for key, value in raw.items() if key not in FOLDER_KEYS}
    theirs = moshi_loaders.get_moshi_lm(folder / LM_NAME, kwargs, dtype=torch.float32)  # strict
    assert difference(ours, theirs) < TOLERANCE
    fresh = moshi_model(SHAPES[shape], seed=5)
    fresh.load_state_dict(load_file(folder / LM_NAME), strict=True)
    assert difference(ours, fresh) < TOLERANCE
    again, config, _ = load_lm(folder)
    assert config == ours.config
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("model_type", ["moshi", "hibiki"])
def test_their_loader_reads_our_whole_folder(tmp_path: Path, monkeypatch, model_type: str):
    text = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["hello there how are you"] * 9), model_writer=text, model_type="char",
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2, hard_vocab_limit=False)
    (tmp_path / "text.model").write_bytes(text.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "text.model")).vocab_size()
    size = MimiConfig(dimension=16, n_filters=2, codebook_dim=8, n_codebooks=9, cardinality=24, num_heads=2,
                      num_layers=1, dim_feedforward=16, context=20)
    torch.manual_seed(0)
    lm = DuplexLM(LMConfig.from_dict(SHAPES["moshi"] | {"text_card": pieces})).eval()
    folder = save_lm(lm, tmp_path / "m", {"model_type": model_type, "lm_gen_config": {"temp": 0.6}},
                     codec=MimiCodec(build_mimi(size), size), tokenizer=tmp_path / "text.model")
    monkeypatch.setattr(moshi_loaders, "hf_hub_download", lambda repo, name, **_: str(folder / name))
    info = moshi_loaders.CheckpointInfo.from_hf_repo("some-org/some-model")
    ours = load_model(folder)
    assert info.lm_gen_config == {"temp": 0.6} and ours.sampling.audio_temperature == 0.6
    assert difference(ours.lm, info.get_moshi(dtype=torch.float32)) < TOLERANCE
    mimi = info.get_mimi()
    assert mimi.num_codebooks == ours.codec.n_codebooks == 8
    pcm = torch.randn(1, 1, 1920 * 5)
    assert torch.equal(mimi.encode(pcm), ours.codec.encode(pcm))
    assert info.get_text_tokenizer().encode("hello you") == ours.tokenizer.encode("hello you")


def test_published_names_are_written(tmp_path: Path):
    ours = DuplexLM(LMConfig.from_dict(SHAPES["moshi"]))
    keys = load_file(save_lm(ours, tmp_path / "m") / LM_NAME)
    assert {"text_emb.weight", "emb.15.weight", "text_linear.weight", "out_norm.alpha", "linears.7.weight",
            "transformer.layers.1.self_attn.in_proj_weight", "transformer.layers.1.self_attn.out_proj.weight",
            "transformer.layers.0.norm1.alpha", "transformer.layers.0.gating.linear_in.weight",
            "depformer.layers.0.self_attn.in_proj_weight", "depformer.layers.0.gating.7.linear_in.weight",
            "depformer_in.7.weight", "depformer_text_emb.weight", "depformer_emb.6.weight"} <= keys.keys()
    assert keys["depformer.layers.0.self_attn.in_proj_weight"].shape == (8 * 48, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files(tmp_path: Path, dtype: torch.dtype):
    theirs = moshi_model(SHAPES["moshi"]).to(dtype)
    folder = write_folder(tmp_path / "m", theirs, SHAPES["moshi"])
    ours, _, _ = load_lm(folder)
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    assert difference(ours, theirs.float()) < TOLERANCE
    half, _, _ = load_lm(folder, dtype=dtype)
    assert all(p.dtype == dtype for p in half.parameters())
    written = load_file(save_lm(ours, tmp_path / "w", dtype=dtype) / LM_NAME)
    assert {value.dtype for value in written.values()} == {dtype}
    assert torch.equal(written["text_emb.weight"], theirs.to(dtype).text_emb.weight)


def adapter_of(model: LMModel, path: Path, stacked: bool, dtype: torch.dtype = torch.float32) -> Path:
    """Random adapters for every linear layer of moshi's model, as its fine-tuner saves them."""
    torch.manual_seed(7)
    adapted = moshi_loaders.get_lora_moshi(model, None, lora_rank=4, lora_scaling=2.0, dtype=torch.float32)
    state = {name: (0.1 * torch.randn(value.shape)).to(dtype) for name, value in adapted.state_dict().items()
             if "lora_" in name}
    if stacked:
        groups: dict[str, list[torch.Tensor]] = {}
        for name, value in state.items():
            head, _, tail = name.partition("_projs.")
            groups.setdefault(f"{head}_proj.{tail.partition('.')[2]}" if tail else name, []).append(value)
        state = {name: torch.cat(values) for name, values in groups.items()}
    save_file(state, path)
    return path


@pytest.mark.parametrize("shape, stacked", [("moshi", False), ("hibiki", False), ("hibiki", True)])
def test_adapters_compute_what_moshi_computes(tmp_path: Path, shape: str, stacked: bool):
    kwargs = SHAPES[shape] | {"lora": True, "lora_rank": 4, "lora_scaling": 1.5}
    folder = write_folder(tmp_path / "m", moshi_model(SHAPES[shape]), kwargs)
    adapter = adapter_of(moshi_model(SHAPES[shape]), tmp_path / LORA_NAME, stacked)
    base = load_lm(folder)[0]
    merged = load_lm(folder, lora=adapter)[0]
    kept = load_lm(folder, lora=adapter, keep_lora=True)[0]
    for fuse in (False, True):
        theirs = moshi_loaders.get_moshi_lm(
            folder / LM_NAME, kwargs, dtype=torch.float32, lora_weights=adapter, fuse_lora=fuse)
        assert difference(merged, theirs) < TOLERANCE and difference(kept, theirs) < TOLERANCE
        assert difference(base, theirs) > 0.01
    assert not list(adapted_layers(merged)) and len(list(adapted_layers(kept))) > 20
    merge_lora(kept)
    assert not list(adapted_layers(kept))
    for name, value in merged.state_dict().items():
        assert torch.allclose(value, kept.state_dict()[name], atol=1e-6)


def test_adapter_named_by_the_folder_and_scaling_beside_the_adapter(tmp_path: Path):
    kwargs = SHAPES["moshi"] | {"lora": True, "lora_rank": 4, "lora_scaling": 1.5, "lora_name": LORA_NAME}
    folder = write_folder(tmp_path / "m", moshi_model(SHAPES["moshi"]), kwargs)
    adapter = adapter_of(moshi_model(SHAPES["moshi"]), folder / LORA_NAME, stacked=False)
    theirs = moshi_loaders.get_moshi_lm(
        folder / LM_NAME, {key: value for key, value in kwargs.items() if key != "lora_name"},
        dtype=torch.float32, lora_weights=adapter)
    assert difference(load_lm(folder)[0], theirs) < TOLERANCE
    # As the public fine-tuner leaves it: the adapter and a config.json, without the base weights.
    plain = write_folder(tmp_path / "base", moshi_model(SHAPES["moshi"]), SHAPES["moshi"])
    (folder / LM_NAME).unlink()
    assert difference(load_lm(plain, lora=folder)[0], theirs) < TOLERANCE


def test_our_adapters_load_there(tmp_path: Path):
    torch.manual_seed(3)
    ours = DuplexLM(LMConfig.from_dict(SHAPES["moshi"])).eval()
    before = save_lm(ours, tmp_path / "before")
    add_lora(ours, rank=2, scaling=0.7)
    base = moshi_loaders.get_moshi_lm(before / LM_NAME, SHAPES["moshi"], dtype=torch.float32)
    assert difference(ours, base) < TOLERANCE  # a fresh adapter changes nothing
    for _, layer in adapted_layers(ours):
        layer.lora_B.weight.normal_(std=0.1)
    folder = save_lm(ours, tmp_path / "m")
    raw = json.loads((folder / "config.json").read_text())
    kwargs = {key: value for key, value in raw.items() if key not in FOLDER_KEYS}
    theirs = moshi_loaders.get_moshi_lm(
        folder / LM_NAME, kwargs, dtype=torch.float32, lora_weights=folder / raw["lora_name"])
    assert difference(ours, theirs) < TOLERANCE
    assert difference(load_lm(folder)[0], theirs) < TOLERANCE
    assert difference(load_lm(folder, keep_lora=True)[0], theirs) < TOLERANCE


@pytest.mark.parametrize("value", ["very_good", "bad", None])
def test_fixed_conditions_go_into_the_weights(tmp_path: Path, value: str | None):
    values = ["very_bad", "bad", "neutral", "good", "very_good"]
    kwargs = SHAPES["hibiki"] | {
        "conditioners": {"description": {"type": "lut", "lut": {
            "n_bins": 31, "dim": 16, "tokenizer": "noop", "possible_values": values}}},
        "fuser": {"sum": ["description"]}}
    theirs = moshi_model(kwargs)
    folder = write_folder(tmp_path / "m", theirs, kwargs)
    ours, config, _ = load_lm(folder, conditions=None if value == "very_good" else {"description": value})
    assert config.conditioners is None
    if value is None:
        vector = theirs.condition_provider.conditioners["description"].learnt_padding.expand(2, -1, -1)
        tensors = {"description": (vector, torch.zeros(2, 1, dtype=torch.bool))}
    else:
        wanted = [ConditionAttributes(text={"description": value}, tensor={}) for _ in range(2)]
        tensors = theirs.condition_provider.prepare_and_provide(wanted)
    assert difference(ours, theirs, condition_tensors=tensors) < TOLERANCE
    other = load_lm(folder, conditions={"description": "neutral"})[0]
    assert difference(other, theirs, condition_tensors=tensors) > 1e-3
