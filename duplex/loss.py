"""Training loss and likelihoods.

The loss is CE(text) + sum_k alpha_k CE_k / sum_k alpha_k with alpha 100 for semantic and 1 for acoustic
codebooks, both speakers alike (arXiv:2410.00037, section 3.4.4). Everything is in nats per token.

Shapes: B batch, K rows, T frames, N tokens, Q audio rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from duplex.config import LMConfig
from duplex.errors import InputError
from duplex.model.lm import LMOutput
from duplex.streams import StreamLayout

_IGNORED = -100


@dataclass(frozen=True)
class LossWeights:
    """Relative weights of tokens in the training loss."""

    text: float = 1.0
    """Factor of the text term."""
    audio: float = 1.0
    """Factor of the audio term."""
    semantic: float = 100.0
    """alpha of the first codebook of each speaker."""
    acoustic: float = 1.0
    """alpha of the other codebooks."""
    system: float = 1.0
    """Factor on alpha of the system's rows."""
    user: float = 1.0
    """Factor on alpha of the user's rows, where the model predicts them."""
    pad: float = 0.5
    """Weight of a PAD target against that of a word piece."""
    epad: float = 1.0
    """Weight of an EPAD target."""


@dataclass(frozen=True)
class NLL:
    """Negative log likelihood of tokens in nats, as sums, so that batches add up exactly."""

    sums: Mapping[str, Tensor]
    """Scalar tensors by name: `text`, `text_word`, `text_pad`, `text_epad`, `audio_0` ... in row order."""
    counts: Mapping[str, Tensor] = field(repr=False)
    """Number of tokens behind each sum."""

    def __add__(self, other: NLL) -> NLL:
        return NLL({k: v + other.sums[k] for k, v in self.sums.items()},
                   {k: v + other.counts[k] for k, v in self.counts.items()})

    def means(self) -> dict[str, float]:
        """Nats per token by name; names without tokens are left out."""
        return {k: float(v / self.counts[k]) for k, v in self.sums.items() if self.counts[k] > 0}


@dataclass(frozen=True)
class LossOutput:
    """The training loss, with gradients, and what it is made of, without."""

    total: Tensor
    """Scalar: text term + audio term."""
    text: Tensor
    """Scalar: weighted mean cross entropy of the text row; 0 when it has no targets."""
    audio: Tensor
    """Scalar: alpha-weighted mean over audio rows of their mean cross entropy; 0 without targets."""
    nll: NLL
    """Unweighted likelihoods, detached."""


def audio_alphas(config: LMConfig, weights: LossWeights) -> list[float]:
    """alpha of each predicted audio row."""
    layout = StreamLayout.from_config(config)
    alphas = []
    for speaker, rows in ((weights.system, layout.n_system), (weights.user, layout.n_user)):
        alphas += [speaker * (weights.semantic if k == 0 else weights.acoustic) for k in range(rows)]
    return alphas[: config.dep_q]


def token_nll(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy in float32 nats, the shape of `targets`; 0, with no gradient, where `mask` is False.

    `logits` [..., V] may hold NaN where `mask` is False. Raises InputError for a masked-in target outside
    the vocabulary.
    """
    V = logits.shape[-1]
    known = torch.where(mask, targets, _IGNORED)
    # On other devices the check would wait for the device; there the kernel itself stops on such a token.
    if targets.device.type == "cpu":
        wrong = known[mask & ((targets < 0) | (targets >= V))]
        if wrong.numel():
            raise InputError(f"target token {int(wrong[0])} is outside the vocabulary of {V}")
    # A masked position gets no gradient of its own: NaN there is a constant that `align` put in.
    ce = F.cross_entropy(
        logits.flatten(0, -2).float(), known.flatten(), ignore_index=_IGNORED, reduction="none")
    return ce.view_as(known)


def _alone(counts: Tensor) -> Tensor:
    return counts


def dialogue_loss(
    output: LMOutput, codes: Tensor, config: LMConfig, weights: LossWeights | None = None,
    shared: Callable[[Tensor], Tensor] = _alone,
) -> LossOutput:
    """The loss of `output = model(codes, ...)`, with or without a `depth_index`; `codes` int64 [B, K, T].

    `shared` turns this process's token counts [1 + Q] (weighted for the text) into their mean over the processes that
    train together. The mean over processes of the losses, and of their gradients, is then that of one process with all
    samples, however unevenly the tokens fall.
    """
    weights = weights or LossWeights()
    audio_rows = slice(1, 1 + config.dep_q)
    text_targets, text_mask = codes[:, :1], output.text_mask
    text_ce = token_nll(output.text_logits, text_targets, text_mask)
    is_pad = text_mask & (text_targets == config.existing_text_padding_id)
    is_epad = text_mask & (text_targets == config.existing_text_end_padding_id)
    is_word = text_mask & ~is_pad & ~is_epad
    text_weight = is_word + weights.pad * is_pad + weights.epad * is_epad
    audio_targets = output.depth_targets if output.depth_index is not None else codes[:, audio_rows]
    audio_ce = token_nll(output.logits, audio_targets, output.mask)
    # Rows are dimension 1 in both forms; everything else is tokens.
    others = [d for d in range(audio_ce.dim()) if d != 1]
    sums_Q, counts_Q = audio_ce.sum(others), output.mask.sum(others)
    totals = shared(torch.cat([text_weight.sum()[None], counts_Q.to(text_weight.dtype)]))
    text_total, totals_Q = totals[0], totals[1:]
    text = _ratio((text_ce * text_weight).sum(), text_total)
    alphas_Q = torch.tensor(audio_alphas(config, weights), device=codes.device) * (totals_Q > 0)
    audio = _ratio((alphas_Q * sums_Q / torch.where(totals_Q > 0, totals_Q, 1.0)).sum(), alphas_Q.sum())

    names = {"text": text_mask, "text_word": is_word, "text_pad": is_pad, "text_epad": is_epad}
    sums = {name: (text_ce.detach() * mask).sum() for name, mask in names.items()}
    counts = {name: mask.sum() for name, mask in names.items()}
    for q in range(config.dep_q):
        sums[f"audio_{q}"], counts[f"audio_{q}"] = sums_Q[q].detach(), counts_Q[q]
    total = weights.text * text + weights.audio * audio
    return LossOutput(total, text, audio, NLL(sums, counts))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 for 0 / 0."""
    return numerator / torch.where(denominator > 0, denominator, 1.0)
