"""What a codec keeps of speech: words, intelligibility, quality, waveform; and what it spends.

    python -m benchmarks.codec --model tiny [--clips 200] [--json codec.json]
    python -m benchmarks.codec --codec FOLDER            a folder of train.codec, a model's, or a published Mimi file

Lines of the test split, by the system's voice and by held-out users, are encoded and decoded. A recogniser reads originals and
reconstructions; the difference of its word error rates is the codec's. The last line of the output is the result as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from benchmarks import record
from benchmarks.clips import Clips
from benchmarks.items import core, draw
from benchmarks.kept import Kept, fingerprint
from benchmarks.recogniser import Recogniser
from benchmarks.statistics import Estimate, mean, ratio
from duplex.checkpoint import load_model
from duplex.codec import Codec
from duplex.errors import InputError
from duplex.metrics.quality import bitrate, codebook_use, si_sdr, stft_distance
from duplex.metrics.words import errors, spoken_words
from duplex.units import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, samples_to_frames
from infer import cli
from train.encode import codec_weights
from train.encode import open_codec as open_any

WIDE = 16_000  # PESQ's wide band
LEAD = 6  # frames of silence before a clip
ROWS = 16  # clips that the codec hears together


def lines(clips: Clips, count: int, seed: int, who: str) -> list[tuple[str, np.ndarray]]:
    """(text, float32 [S]) of lines that the system says ("system") or held-out users say ("users"), all different if possible."""
    rng, names, found = random.Random(f"codec:{seed}:{who}"), core(), {}
    for attempt in range(50 * count):
        exchange, _ = draw(rng, names[attempt % len(names)])
        text = exchange.system if who == "system" else exchange.user
        name = text if who == "system" or attempt < 25 * count else f"{text}#{attempt}"
        if name in found:
            continue
        if who == "system":
            found[name] = (text, clips.system(text).samples)
        else:
            found[name] = (text, clips.user(text, clips.speakers[len(found) % len(clips.speakers)], attempt % 3).samples)
        if len(found) == count:
            break
    return list(found.values())


def reconstruct(codec: Codec, sounds: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Each clip float32 [S] encoded and decoded, of its own length, and the codes [K, T] of all of them.

    Silence leads in and out, as in a conversation; codes of silence are not among those returned.
    """
    order = sorted(range(len(sounds)), key=lambda n: len(sounds[n]))
    decoded: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sounds)
    codes = []
    for at in range(0, len(order), ROWS):
        chosen = order[at : at + ROWS]
        frames = LEAD + samples_to_frames(len(sounds[chosen[-1]])) + 2
        pcm_BS = np.zeros((len(chosen), frames * FRAME_SAMPLES), np.float32)
        for row, n in enumerate(chosen):
            pcm_BS[row, LEAD * FRAME_SAMPLES :][: len(sounds[n])] = sounds[n]
        pcm_BTS, stream = torch.from_numpy(pcm_BS).unflatten(1, (frames, FRAME_SAMPLES)), codec.stream(len(chosen))
        codes_BKT, out = [], []
        for frame in range(frames):
            codes_BKT.append(stream.encode_frame(pcm_BTS[:, None, frame].contiguous()))
            out.append(stream.decode_frame(codes_BKT[-1])[:, 0].float())
        sound_BS, codes_BKT = torch.cat(out, 1).numpy(), torch.stack(codes_BKT, -1).numpy()
        for row, n in enumerate(chosen):
            decoded[n] = sound_BS[row, LEAD * FRAME_SAMPLES :][: len(sounds[n])]
            codes.append(codes_BKT[row, :, LEAD : LEAD + samples_to_frames(len(sounds[n]))])
    return decoded, np.concatenate(codes, 1)


def scores(codec: Codec, spoken: Sequence[tuple[str, np.ndarray]], recogniser: Recogniser | None) -> dict:
    """Measures over clips of (text, sound): Estimates by name, and what the codebooks are used for.

    A clip of which the codec makes no sound (a number that is none) is named in ``excluded`` and counts nowhere. One that a
    measure cannot take (too short for PESQ) is left out of that measure: its ``n`` says so.
    """
    from pystoi import stoi

    try:
        from pesq import PesqError, pesq
    except ImportError:  # it has no wheels and needs a C compiler to install
        pesq = None
    decoded, codes_KT = reconstruct(codec, [pcm for _, pcm in spoken])
    broken = [n for n, sound in enumerate(decoded) if not np.isfinite(sound).all()]
    excluded = [f"{spoken[n][0]!r}: what the codec makes of it is not finite" for n in broken]
    kept = [n for n in range(len(spoken)) if n not in set(broken)]
    items, spoken, decoded = len(spoken), [spoken[n] for n in kept], [decoded[n] for n in kept]
    found: dict[str, list[float]] = {"stoi": [], "si_sdr_db": [], "stft": [], "pesq": []}
    for (_, pcm), sound in zip(spoken, decoded, strict=True):
        found["stoi"].append(float(stoi(pcm, sound, SAMPLE_RATE)))
        found["si_sdr_db"].append(si_sdr(pcm, sound))
        found["stft"].append(stft_distance(pcm, sound))
        if pesq is not None:
            wide = [torchaudio.functional.resample(torch.from_numpy(x), SAMPLE_RATE, WIDE).numpy() for x in (pcm, sound)]
            try:
                found["pesq"].append(float(pesq(WIDE, *wide, "wb")))
            except PesqError:
                continue
    result: dict = {name: mean(values).to_dict() for name, values in found.items()}
    use = codebook_use(codes_KT, codec.cardinality)
    result |= {"items": items, "excluded": excluded, "clips": len(spoken), "codebooks": codec.n_codebooks,
               "cardinality": codec.cardinality, "use": use,
               "nominal_bits_per_s": bitrate(codec.n_codebooks, codec.cardinality),
               "entropy_bits_per_s": FRAME_RATE * sum(book["bits"] for book in use)}
    if recogniser is not None:
        texts = [text for text, _ in spoken]
        result |= {name: estimate.to_dict() for name, estimate in word_errors(
            texts, recogniser.transcribe([pcm for _, pcm in spoken]), recogniser.transcribe(decoded)).items()}
    return result


def word_errors(texts: Sequence[str], originals: Sequence[str], reconstructions: Sequence[str]) -> dict[str, Estimate]:
    """Word error rates of the originals, of the reconstructions, and their difference (in points of 100), over all clips."""
    references = [spoken_words(text) for text in texts]
    counts = [len(words) for words in references]
    before, after = ([errors(words, spoken_words(heard)) for words, heard in zip(references, side, strict=True)]
                     for side in (originals, reconstructions))
    more = ratio([100 * (b - a) for a, b in zip(before, after, strict=True)], counts)
    return {"wer_original": ratio(before, counts), "wer": ratio(after, counts), "wer_points": more}


def open_codec(args: argparse.Namespace) -> tuple[Codec, Path, str]:
    """The codec of a model, or of a folder with mimi.safetensors and mimi.json; with its folder and backend."""
    if args.codec is None:
        model = load_model(args.model, backend="auto")
        return model.codec, model.folder, model.backend
    source = Path(args.codec)
    if not source.exists():
        raise InputError(f"{source}: is not there; give a folder of train.codec, a model's, or a Mimi file (.safetensors)")
    weights = codec_weights(source)
    if source.is_file():
        print(f"{source}: taken to be of Mimi's released size", file=sys.stderr)
    return open_any(source, args.codebooks), weights.parent, f"naive, {args.codebooks} codebooks"


def run(args: argparse.Namespace) -> None:
    """Measures and prints a table."""
    codec, folder, backend = open_codec(args)
    clips, clock, ears = Clips(args.clips_folder), record.Clock(), None if args.no_recogniser else Recogniser.named(args.whisper)
    recogniser = functools.cache(lambda: None if args.no_recogniser else Recogniser(args.whisper, args.threads))
    kept = Kept(args.keep, model=fingerprint(folder) if args.keep else "", backend=backend, seed=args.seed)
    voices = {}  # names and keys of the parts are those of the card, which has a row of the first
    for who in ("system", "users"):
        def measure(who: str = who) -> dict:
            return scores(codec, lines(clips, args.clips, args.seed, who), recogniser())

        voices[who] = kept.get(f"codec {who}", measure, clips=args.clips, ears=ears, voices=clips.versions)
        clock.done(f"{args.clips} clips: {who}")
    result = record.stamp("codec", args.seed, model=str(args.codec or args.model), engines=clips.versions, recogniser=ears,
                          kept=kept.measured, seconds=clock.spent, voices=voices)
    print(table(result))
    record.write(args.json, result)
    record.refuse_excluded({who: {"items": part.get("items", part["clips"]), "excluded": part.get("excluded", [])}
                            for who, part in voices.items()})
    print(json.dumps(result))


MEASURES = (("wer_points", "WER on reconstructions minus WER on originals", "points"), ("wer", "WER on reconstructions", ""),
            ("wer_original", "WER on originals", ""), ("stoi", "STOI", ""), ("pesq", "PESQ, wide band", ""),
            ("si_sdr_db", "SI-SDR", "dB"), ("stft", "multi-resolution STFT distance", ""))

RATES = (("bits per second, nominal", "nominal_bits_per_s"), ("bits per second, by entropy", "entropy_bits_per_s"))


def table(result: dict) -> str:
    """The result as a Markdown table."""
    voices = result["voices"]
    rows = ["| measure | " + " | ".join(voices) + " |", "|---|" + "---:|" * len(voices)]
    for name, what, unit in MEASURES:
        cells = [record.cell(scores.get(name), unit) for scores in voices.values()]
        rows.append(f"| {what} | " + " | ".join(cells) + " |")
    for label, name in RATES:
        rows.append(f"| {label} | " + " | ".join(f"{scores[name]:.0f}" for scores in voices.values()) + " |")
    used = [f"{100 * np.mean([book['used'] for book in scores['use']]):.0f} %" for scores in voices.values()]
    return "\n".join([*rows, "| codebook entries used, mean | " + " | ".join(used) + " |"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser("benchmarks.codec", "Measure what a codec keeps of speech.")
    parser.add_argument("--model", default="tiny", help="model whose codec it is")
    parser.add_argument("--codec", metavar="FOLDER", help="a codec alone: a folder of train.codec, or a Mimi file")
    parser.add_argument("--codebooks", type=cli.at_least(1), default=8, help="codebooks to use of --codec")
    parser.add_argument("--clips", type=cli.at_least(1), default=200, help="clips of each kind of voice")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, help="of the choice of clips")
    parser.add_argument("--no-recogniser", action="store_true", help="leave the word error rates out")
    record.add_options(parser)
    return cli.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
