"""Join a trained language model, codec and tokenizer into one model folder that every command loads.

    python -m train.export --run RUN --codec CODEC --tokenizer FILE.model --out FOLDER [--card CARD.md] [--half]

The folder has Kyutai's file and key names: `config.json`, `model.safetensors`, the codec, the tokenizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from duplex.config import LMConfig, SamplingConfig
from duplex.errors import CheckpointError
from duplex.model.lm import DuplexLM
from duplex.saving import save_lm
from train import cli
from train.files import trained_codec


def trained_model(run: Path) -> DuplexLM:
    """The model of RUN/last.ckpt; CheckpointError when the run has none."""
    if not (run / "last.ckpt").exists():
        raise CheckpointError(f"{run}: no last.ckpt; train with python -m train.fit --out {run}")
    config = LMConfig.from_json(run / "config.json")
    state = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    model = DuplexLM(config)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    return model.eval()


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, help="folder with mimi.safetensors and mimi.json")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--card", type=Path, help="model card to put into the folder")
    parser.add_argument("--half", action="store_true", help="store the language model as 16-bit floats")
    parser.add_argument("--text-temperature", type=float, default=SamplingConfig.text_temperature)
    parser.add_argument("--audio-temperature", type=float, default=SamplingConfig.audio_temperature)
    parser.add_argument("--text-top-k", type=int, default=SamplingConfig.text_top_k)
    parser.add_argument("--audio-top-k", type=int, default=SamplingConfig.audio_top_k)
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Writes the model folder, whole or not at all."""
    model = trained_model(args.run)
    codec = trained_codec(args.codec, model.config.dep_q)
    generation = {"temp": args.audio_temperature, "temp_text": args.text_temperature, "top_k": args.audio_top_k,
                  "top_k_text": args.text_top_k}
    save_lm(model, args.out, {"model_type": "moshi", "lm_gen_config": generation}, codec=codec, tokenizer=args.tokenizer,
            dtype=torch.float16 if args.half else None, card=args.card.read_text() if args.card else None, overwrite=True)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
