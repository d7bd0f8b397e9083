"""A frozen language model that reads an encoder's codes, so that the encoder can learn to be understood by it.

The codes of a small codec keep a part of the words only, and which part decides what a dialogue model can hear. Here the model
itself says which: a head on its temporal output names the user's words (as `train.listening` does beside the model's own
training), and the gradient of that goes back through the codes into the encoder.

A code is a choice, which has no gradient. Forward, the model gets the embedding of the nearest entry, exactly as it will when it
is used; backward, that of a softmax over the distances to all entries (straight through, as in van den Oord et al.,
arXiv:1711.00937, but towards the embeddings that the model reads instead of towards the codebook's vectors).

Shapes: B sounds, D width of the latent, T frames, K codebooks, V entries of a codebook, M width of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duplex.errors import ConfigError
from duplex.model.lm import DuplexLM
from train.listening import Listener, beside_silence


def nearest_and_soft(latent_BDT: Tensor, branch: nn.Module, tables: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Residual quantisation with fixed codebooks, one table [V, M] for each of the branch's codebooks.

    Returns codes int64 [B, K, T]; for every codebook a term [B, T, M] that is zero and has the gradient of the softly chosen row
    of its table; and how far the latents lie from their entries, as a share of their size.
    """
    rest_BTE = branch.input_proj(latent_BDT).transpose(1, 2)
    size = rest_BTE.detach().square().mean()
    codes, terms = [], []
    for layer, table in zip(branch.vq.layers, tables, strict=False):
        book_VE = layer._codebook.embedding
        squares = rest_BTE.square().sum(-1, keepdim=True) + book_VE.square().sum(-1)
        distance_BTV = (squares - 2 * rest_BTE @ book_VE.T).clamp(min=0)
        chosen_BT = distance_BTV.argmin(-1)
        # As soft as the entries lie apart: entries at twice the usual distance hardly count.
        width = distance_BTV.detach().amin(-1).mean().clamp(min=1e-8)
        soft_BTM = torch.softmax(-distance_BTV / width, -1) @ table
        codes.append(chosen_BT)
        terms.append(soft_BTM - soft_BTM.detach())
        rest_BTE = rest_BTE - book_VE[chosen_BT]
    return torch.stack(codes, 1), terms, rest_BTE.square().mean() / size


class Reader(nn.Module):
    """A frozen model and the head that names the words it hears.

    ``silence_KT``: the system's codes while nobody speaks, int64 [K, T]. ConfigError where the model reads another number of the
    user's codebooks than the codec has, or of other sizes.
    """

    def __init__(self, model: DuplexLM, silence_KT: Tensor, cardinality: int):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        if silence_KT.shape[0] != model.layout.n_user or cardinality != model.config.card:
            raise ConfigError(f"the model reads {model.layout.n_user} codebooks of {model.config.card} entries, the codec has "
                              f"{silence_KT.shape[0]} of {cardinality}; take a codec and a model of one folder")
        self.listener = Listener(self.model)
        self.register_buffer("silence", silence_KT)

    def train(self, mode: bool = True) -> Reader:
        """The model stays as it is when it is used."""
        super().train(mode)
        self.model.eval()
        return self

    def tables(self) -> list[Tensor]:
        """The embeddings [V, M] of the user's codebooks."""
        model = self.model
        first = model.layout.user_rows.start - model.layout.audio_rows.start
        return [model.emb[first + k].weight[: model.config.card] for k in range(model.layout.n_user)]

    def loss(self, codes_BKT: Tensor, terms: list[Tensor], heard_BT: Tensor) -> Tensor:
        """Cross-entropy of the words in nats, of the user's codes beside a silent system; `nearest_and_soft` has the terms."""
        model, (B, _, T) = self.model, codes_BKT.shape
        rows = beside_silence(model, codes_BKT, self.silence)
        initial_K = model.initial_tokens(rows.device)
        delayed_BKT = model.pattern.apply(rows, initial_K)[..., :T]
        given_BKT = torch.cat([initial_K[None, :, None].expand(B, -1, 1), delayed_BKT[..., :-1]], -1)
        x_BTM = model.embed(given_BKT)
        for term, delay in zip(terms, model.config.delays[model.layout.user_rows], strict=True):
            late = delay + 1  # the input of a step is what the step before it brought
            x_BTM = x_BTM + nn.functional.pad(term, (0, 0, late, 0))[:, :T]
        model.out_norm(model.transformer(x_BTM))  # whose output the listener keeps
        return self.listener.loss(heard_BT)
