"""The loop body: 80 ms of the user's sound in, 80 ms of the system's sound out, with text, words and events.

Everything that converses drives this one class: offline simulation, the microphone, the server, the benchmarks
and the tests. They differ in their clocks and audio ends alone. A session never waits, reads no time and feeds
the model every frame whatever happens, because a skipped frame would shift the model's sense of time.

Alignment. Step i takes user frame i and gives system frame i. The model speaks with an acoustic delay of d frames
(d = 1 for Moshi: arXiv:2410.00037, section 3.4.3): system frame i is the model's frame i - d, so the first d
frames are silent, and user frame i is its frame i - 1. With d = 1 the two sides therefore lie beside each other as
the two channels of a training dialogue do. Words and events are timed by the frames in which their sound comes
out: frame i spans i * 0.08 s to (i + 1) * 0.08 s on both sides. A live listener hears system frame i one frame
later than that, since it is made when user frame i is complete.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from duplex.audio import pad_to_frames
from duplex.checkpoint import LoadedModel
from duplex.codec import CodecStream
from duplex.config import SamplingConfig
from duplex.conversation import Conversation, SessionFrame, bias_of
from duplex.engine import FrameOut, StreamState
from duplex.errors import CheckpointError, ConfigError, InputError
from duplex.playout import Piece
from duplex.policy import DEFAULT_POLICY, HeardLog, PolicyConfig, Steering
from duplex.safefile import iterate_tensors, read_header
from duplex.streams import StreamLayout
from duplex.text import Word
from duplex.turns import DEFAULT_TURNS, Event, TurnConfig
from duplex.units import FRAME_SAMPLES, frames_to_samples, samples_to_frames
from duplex.vad import DEFAULT_VAD, VadConfig

PROMPT_GAP_FRAMES = 6
"""Silence after each part of a prompt, half a second."""
_SESSION = "duplex_session"  # the entry in the metadata of a stored session


@dataclass(frozen=True)
class Prompt:
    """What the model lives through before time zero; the user is silent meanwhile and nothing of it is heard."""

    text: str | None = None
    """Persona or situation: its tokens are forced into the text row, one per frame, while the system is silent."""
    audio: np.ndarray | None = None
    """Voice: float32 [S] at 24 kHz that the system is made to have said, with PAD in the text row."""


class Session:
    """One conversation. A value: `clone` gives an independent copy that continues from the same moment.

    `sampling` None takes what the model recommends; `policy` says what happens when the user barges in.
    InputError for an unusable prompt, ConfigError for a model whose parts do not converse.
    The same seed, prompt and frames give the same frames bit for bit, on one machine with one number of threads.
    """

    def __init__(self, model: LoadedModel, sampling: SamplingConfig | None = None, seed: int = 0,
                 prompt: Prompt | None = None, turns: TurnConfig = DEFAULT_TURNS, vad: VadConfig = DEFAULT_VAD,
                 policy: PolicyConfig = DEFAULT_POLICY):
        self.layout = StreamLayout.from_config(model.config)
        _check_fit(model, self.layout)
        self.delay = model.config.max_delay
        """Frames that are silent at first: the acoustic delay."""
        self._model = model
        self._engine = model.engine(sampling)
        self._state: StreamState = self._engine.init_state(1, seed)
        self._codec: CodecStream = model.codec.stream(1)
        self._talk = Conversation(model.tokenizer, self.layout, self.delay, turns, vad, policy)
        self._silent_K: torch.Tensor | None = None  # the codes of silence, when they are first needed
        if prompt is not None:
            self._live_through(prompt)

    @property
    def index(self) -> int:
        """Number of the frame that comes next."""
        return self._talk.index

    @property
    def heard(self) -> HeardLog:
        """What of the system's sound did not reach the user."""
        return self._talk.heard

    def step(self, pcm: np.ndarray) -> SessionFrame:
        """Takes the user's next frame, float32 [1920] at 24 kHz, and gives the system's.

        Raises InputError for another type, shape or for samples that are NaN or infinite; the session is then as
        it was before.
        """
        _check_samples("a user frame", pcm, FRAME_SAMPLES)
        user_codes, out, system_pcm = self._advance(pcm, listen=True)
        return self._talk.say(out.tokens[0].cpu().numpy(), int(out.text_now[0]), user_codes, pcm, system_pcm)

    def not_heard(self, pieces: tuple[Piece, ...], truncated: bool = False) -> None:
        """The playback reports sound that it flushed or dropped; the tags of the pieces are the numbers of the frames.

        `truncated` makes an event of it, for a cut that the policy did not order.
        """
        self._talk.not_heard(pieces, truncated)

    def finish(self) -> tuple[tuple[Word, ...], tuple[Event, ...]]:
        """Ends the conversation: the word and the events that are still open. Call it once, after the last step."""
        return self._talk.finish()

    def clone(self) -> Session:
        """An independent session that continues from this moment; the weights are shared."""
        twin = copy.copy(self)
        twin._state, twin._codec = self._state.clone(), self._codec.clone()
        twin._talk = self._talk.clone()
        return twin

    def save(self, path: str | Path) -> None:
        """Writes the whole state to a safetensors file, from which `load` continues; it appears when it is complete."""
        path = Path(path)
        tensors = {**_prefixed("engine", self._state.to_dict()), **_prefixed("codec", self._codec.to_dict())}
        values = {"sampling": asdict(self._engine.sampling), **self._talk.to_dict()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary,
                      {_SESSION: json.dumps(values)})
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: cannot be written ({reason}); check the folder") from None
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, model: LoadedModel, path: str | Path) -> Session:
        """The session that `save` wrote, on the same model. Raises CheckpointError when the file is not of that kind."""
        header = read_header(path)
        if _SESSION not in header.metadata:
            raise CheckpointError(f"{path}: not a stored session; give a file that Session.save wrote")
        tensors = dict(iterate_tensors(header))
        try:
            values = json.loads(header.metadata[_SESSION])
            session = cls(model, SamplingConfig(**values["sampling"]))
            session._load_state(_unprefixed("engine", tensors))
            session._codec.load_dict(_unprefixed("codec", tensors))
            session._talk = Conversation.from_dict(values, model.tokenizer, session.layout, session.delay)
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path}: stored from a session of another model or version; use that one") from None
        return session

    def _load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replaces the engine's state after checking it against the shapes of this model's; InputError."""
        expected = {name: (value.shape, value.dtype) for name, value in self._state.to_dict().items()}
        if {name: (value.shape, value.dtype) for name, value in tensors.items()} != expected:
            raise InputError("the stored state is that of another model; use the model it was stored with")
        device = self._engine.device
        self._state = StreamState.from_dict({name: value.to(device) for name, value in tensors.items()})

    def _advance(self, pcm: np.ndarray, forced_text: torch.Tensor | None = None, forced_system: torch.Tensor | None = None,
                 listen: bool = False) -> tuple[np.ndarray, FrameOut, np.ndarray]:
        """One frame through codec, model and codec; gives the user's codes [n_user], tokens and sound [1920].

        With `listen` the policy hears the user's frame and steers the model's step.
        """
        pcm_11S = torch.from_numpy(pcm)[None, None].to(self._engine.device)
        user_codes = self._codec.encode_frame(pcm_11S)[:, : self.layout.n_user]
        heard = user_codes[0].cpu().numpy()
        steering = self._talk.hear(pcm, heard) if listen else Steering()
        tokenizer = self._model.tokenizer
        if steering.silent_codes:
            forced_system = self._silence()
        self._state, out = self._engine.step(
            self._state, user_codes, forced_text=forced_text, forced_system=forced_system,
            text_bias=bias_of([steering], tokenizer.vocab_size, tokenizer.pad_id, tokenizer.epad_id))
        if bool(out.ready[0]):
            decoded = self._codec.decode_frame(out.tokens[:, self.layout.system_rows])
            system_pcm = decoded[0, 0].float().cpu().numpy()
        else:
            system_pcm = np.zeros(FRAME_SAMPLES, dtype=np.float32)
        return heard, out, system_pcm

    def _silence(self) -> torch.Tensor:
        """The codes of a silent frame [1, n_system]."""
        if self._silent_K is None:
            self._silent_K = silent_codes(self._model, self._engine.device)
        return self._silent_K[None]

    def _live_through(self, prompt: Prompt) -> None:
        """Forces the frames of the prompt; the user is silent."""
        silence = np.zeros(FRAME_SAMPLES, dtype=np.float32)
        for token, codes_K in prompt_frames(self._model, prompt):
            self._advance(silence, torch.tensor([token], device=self._engine.device), codes_K[None])


def prompt_frames(model: LoadedModel, prompt: Prompt | None) -> list[tuple[int, torch.Tensor]]:
    """Text token and system codes [n_system] of each frame of a prompt: voice first, each part followed by a gap of silence.

    Raises InputError for audio that cannot be used.
    """
    tokenizer, text = model.tokenizer, []
    if prompt is None:
        return []
    voice = np.zeros(0, dtype=np.float32)
    if prompt.audio is not None:
        _check_samples("the prompt audio", prompt.audio)
        voice = pad_to_frames(prompt.audio)
        text += [tokenizer.pad_id] * (samples_to_frames(len(voice)) + PROMPT_GAP_FRAMES)
    if prompt.text is not None:
        text += tokenizer.encode(prompt.text) + [tokenizer.pad_id] * PROMPT_GAP_FRAMES
    if not text:
        return []
    system_pcm = np.pad(voice, (0, frames_to_samples(len(text)) - len(voice)))
    device = model.lm.text_linear.weight.device
    codes_KT = model.codec.encode(torch.from_numpy(system_pcm)[None, None].to(device))[0]
    return [(token, codes_KT[:, frame]) for frame, token in enumerate(text)]


def silent_codes(model: LoadedModel, device: torch.device) -> torch.Tensor:
    """The codes that the model's codec gives a silence that lasts, int64 [n_system]."""
    return model.codec.encode(torch.zeros(1, 1, frames_to_samples(8), device=device))[0, :, -1]


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _check_samples(what: str, pcm: object, length: int | None = None) -> None:
    """Raises InputError unless `pcm` is a finite float32 numpy array [length] (None: of any length)."""
    fits = isinstance(pcm, np.ndarray) and pcm.dtype == np.float32 and pcm.ndim == 1
    if not fits or length not in (None, len(pcm)):
        found = f"{pcm.dtype} {list(pcm.shape)}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise InputError(f"{what} is {found}; give a numpy array float32 [{length or 'samples'}] at 24 kHz")
    if not np.isfinite(pcm).all():
        raise InputError(f"{what} holds NaN or infinite samples; replace them with silence")


def _check_fit(model: LoadedModel, layout: StreamLayout) -> None:
    """Raises ConfigError unless language model, codec and tokenizer belong together and converse."""
    config, codec, tokenizer, where = model.config, model.codec, model.tokenizer, model.folder
    if not layout.n_system or not layout.n_user:
        raise ConfigError(f"{where}: the model has {layout.n_system} system and {layout.n_user} user codebooks; "
                          "a conversation needs both")
    if codec.n_codebooks != layout.n_system or layout.n_user > layout.n_system:
        raise ConfigError(f"{where}: the codec gives {codec.n_codebooks} codebooks, but the model speaks "
                          f"{layout.n_system} and hears {layout.n_user}; use the codec of this model")
    if codec.cardinality != config.card:
        raise ConfigError(f"{where}: the codec has {codec.cardinality} codes per codebook, but the model "
                          f"{config.card}; use the codec of this model")
    if tokenizer.vocab_size != config.text_card:
        raise ConfigError(f"{where}: the tokenizer has {tokenizer.vocab_size} pieces, but the model "
                          f"{config.text_card}; use the tokenizer of this model")
