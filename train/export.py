"""Join a trained language model, codec and tokenizer into one model folder that every command loads.

    python -m train.export --run RUN --codec CODEC --tokenizer FILE.model --out FOLDER [--card CARD.md] [--half] [--merge]

The folder has Kyutai's file and key names: `config.json`, `model.safetensors`, the codec, the tokenizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.distributed import checkpoint as dcp

from duplex.config import LMConfig, SamplingConfig
from duplex.errors import CheckpointError, ConfigError
from duplex.jsonfile import read_configuration
from duplex.model.lm import DuplexLM
from duplex.model.lora import add_lora, merge_lora
from duplex.saving import save_lm
from duplex.streams import StreamLayout
from train import cli
from train.files import trained_codec
from train.keeping import MADE_WITH, resume_point
from train.same_codes import codes_fingerprint
from train.shards import fingerprint


def trained_model(run: Path) -> DuplexLM:
    """The model of the newest checkpoint of RUN, with its adapters; CheckpointError when the run has none."""
    checkpoint = resume_point(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: no last.ckpt; train with python -m train.fit --out {run}")
    config = LMConfig.from_json(run / "config.json")
    model = DuplexLM(config)
    if config.lora:
        add_lora(model, config.lora_rank, config.lora_scaling)
    if checkpoint.is_dir():
        # A distributed checkpoint: every process wrote its share, and the shares are read into whole weights.
        state = {"state_dict": {f"model.{name}": weight for name, weight in model.state_dict().items()}}
        dcp.load(state, checkpoint_id=checkpoint, no_dist=True)
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    model.load_state_dict(weights)
    return model.eval()


def check_tools(run: Path, codec: Path, tokenizer: Path) -> None:
    """Raises ConfigError where RUN learnt from another tokenizer's tokens, or from another codec's codes, as far as it tells."""
    if not (run / MADE_WITH).exists():
        return
    learnt = read_configuration(run / MADE_WITH)
    if "tokenizer" in learnt and tokenizer.is_file() and learnt["tokenizer"] != fingerprint(tokenizer):
        raise ConfigError(f"{tokenizer}: not the tokenizer of the corpus that {run} learnt from; give that one")
    weights = codec / "mimi.safetensors"
    if weights.is_file() and "codes" in learnt and learnt["codes"] != codes_fingerprint(weights):
        raise ConfigError(f"{codec}: its codes are not those that {run} learnt; give the corpus's codec, or a decoder "
                          "trained on it")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, help="folder with mimi.safetensors and mimi.json")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--card", type=Path, help="model card to put into the folder")
    parser.add_argument("--half", action="store_true", help="store the language model as 16-bit floats")
    parser.add_argument("--merge", action="store_true", help="work adapters into the weights instead of keeping them beside")
    parser.add_argument("--text-temperature", type=float, default=SamplingConfig.text_temperature)
    parser.add_argument("--audio-temperature", type=float, default=SamplingConfig.audio_temperature)
    parser.add_argument("--patience", type=float, default=SamplingConfig.patience, help="recommended patience, in logits")
    parser.add_argument("--text-top-k", type=int, default=SamplingConfig.text_top_k)
    parser.add_argument("--audio-top-k", type=int, default=SamplingConfig.audio_top_k)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    check_tools(args.run, args.codec, args.tokenizer)
    model = trained_model(args.run)
    if args.merge:
        merge_lora(model)
    codec = trained_codec(args.codec, StreamLayout.from_config(model.config).n_system)
    generation = {"temp": args.audio_temperature, "temp_text": args.text_temperature, "top_k": args.audio_top_k,
                  "top_k_text": args.text_top_k}
    save_lm(model, args.out, {"model_type": "moshi", "lm_gen_config": generation}, codec=codec, tokenizer=args.tokenizer,
            dtype=torch.float16 if args.half else None, card=args.card.read_text() if args.card else None,
            own={"patience": args.patience} if args.patience else None, overwrite=True)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
