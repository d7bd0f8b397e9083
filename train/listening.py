"""Help for a small model in learning to listen: words heard as an extra target, and embeddings that begin as sounds.

Neither changes the model that comes out: the head is dropped at export, and embeddings are trained on as any others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplex.codec import MimiCodec
from duplex.model.lm import DuplexLM

PAD_WEIGHT = 0.1  # most steps hear no word's end


class Listener(nn.Module):
    """Predicts, from the temporal transformer's output, the user's words a little after they were spoken.

    ``model.out_norm`` is watched, so the model's own forward pass stays as it is.
    """

    def __init__(self, model: DuplexLM):
        super().__init__()
        self.pad = model.config.existing_text_padding_id
        self.head = nn.Linear(model.config.dim, model.config.text_card)
        self.hidden: Tensor | None = None
        model.out_norm.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        self.hidden = output

    def loss(self, heard_BT: Tensor, shared: Callable[[Tensor], Tensor] = lambda total: total) -> Tensor:
        """Mean cross-entropy in nats of int64 [B, T] (-1: not known) after a forward pass over the same T frames.

        ``shared`` turns this process's weight of tokens into the mean over processes (see `duplex.loss.dialogue_loss`).
        """
        logits = self.head(self.hidden)
        nll = F.cross_entropy(logits.flatten(0, 1), heard_BT.flatten(), ignore_index=-1, reduction="none")
        weights = torch.where(heard_BT == self.pad, PAD_WEIGHT, 1.0).flatten() * (heard_BT >= 0).flatten()
        self.hidden = None
        return (nll * weights).sum() / shared(weights.sum()).clamp(min=1.0)


def beside_silence(model: DuplexLM, codes_BKT: Tensor, silence_KS: Tensor) -> Tensor:
    """All rows, int64 [B, R, T], of a user who says ``codes_BKT`` to a silent system, whose codes of silence are repeated."""
    B, _, T = codes_BKT.shape
    rows = torch.full((B, model.layout.n_rows, T), model.config.existing_text_padding_id, device=codes_BKT.device)
    rows[:, model.layout.system_rows] = silence_KS[:, torch.arange(T, device=rows.device) % silence_KS.shape[1]]
    rows[:, model.layout.user_rows] = codes_BKT
    return rows


@torch.no_grad()
def embed_as_sounds(model: DuplexLM, codec: MimiCodec, seed: int = 0) -> None:
    """Start each codebook's input embedding from the codec's own vectors under a random rotation: codes that sound alike
    begin alike, instead of each being met as a stranger. Scale and spread stay those of the model's initialisation."""
    generator = torch.Generator().manual_seed(seed)
    vectors = codebook_vectors(codec)
    for row, embedding in enumerate(model.emb):
        sounds = vectors[row % len(vectors)]
        sounds = (sounds - sounds.mean(0)) / sounds.std()
        turn = torch.randn(sounds.shape[1], embedding.weight.shape[1], generator=generator) / math.sqrt(sounds.shape[1])
        card = len(sounds)
        embedding.weight[:card] = (sounds @ turn) * embedding.weight[:card].std()


def codebook_vectors(codec: MimiCodec) -> list[Tensor]:
    """What each code of each codebook adds to the codec's latent: [cardinality, dimension] a codebook."""
    found = []
    for branch in (codec.mimi.quantizer.rvq_first, codec.mimi.quantizer.rvq_rest):
        projection = branch.output_proj.weight[:, :, 0]  # a convolution of one step
        found += [layer._codebook.embedding @ projection.T for layer in branch.vq.layers]
    return found[: codec.n_codebooks]
