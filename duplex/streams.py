"""Which row of `codes[B, K, T]` is what: text first, then the system's codebooks, then the user's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from duplex.config import LMConfig
from duplex.errors import InputError

ZERO_TOKEN = -1
"""Input that is embedded to zero and never a target: "nothing is known here"."""

UNGENERATED = -2
"""Output that does not exist yet."""


@dataclass(frozen=True)
class StreamLayout:
    """Row numbers of one model. All code that needs a row takes it from here."""

    n_system: int
    """Codebooks of the system's voice."""
    n_user: int
    """Codebooks of the user's voice."""

    @classmethod
    def from_config(cls, config: LMConfig) -> StreamLayout:
        return cls(n_system=config.n_q - config.user_rows, n_user=config.user_rows)

    @property
    def text_row(self) -> int:
        return 0

    @property
    def system_rows(self) -> slice:
        return slice(1, 1 + self.n_system)

    @property
    def user_rows(self) -> slice:
        return slice(1 + self.n_system, 1 + self.n_system + self.n_user)

    @property
    def audio_rows(self) -> slice:
        return slice(1, self.n_rows)

    @property
    def n_rows(self) -> int:
        return 1 + self.n_system + self.n_user

    def swap(self, codes: Tensor) -> Tensor:
        """`codes[..., K, T]` with the two voices exchanged; the text row stays. Raises InputError if they
        differ.
        """
        if self.n_system != self.n_user:
            raise InputError(f"cannot swap {self.n_system} system with {self.n_user} user codebooks")
        swapped = codes.clone()
        swapped[..., self.system_rows, :] = codes[..., self.user_rows, :]
        swapped[..., self.user_rows, :] = codes[..., self.system_rows, :]
        return swapped
