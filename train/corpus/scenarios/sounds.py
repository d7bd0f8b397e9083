"""Sounds heard and sounds made: what is not speech is part of a conversation, too."""

from __future__ import annotations

from train.corpus.exchange import SOUNDS, Exchange, scenario, wordings
from train.corpus.scenarios.numbers import NUMBERS

NAMED = {"bell": "that was a bell.", "tone": "that was a tone.", "noise": "that was noise.", "bird": "that was a bird."}
SCALE = "do, re, mi, fa, so, la, ti, do."
WORDINGS = {
    "sound-form": wordings(
        "what was that?; what was that sound?; did you hear that?; what do you hear?; can you name that sound?; "
        "which sound was that?; what did you hear?; tell me what that was; what kind of sound was that?; "
        "do you know that sound?; what was that noise i made?"
    ),
    "scale-form": wordings(
        "play a scale; can you play a scale?; sing a scale; please play a scale; could you sing a scale?; "
        "i want to hear a scale; sing a scale, please"
    ),
    "beep-form": wordings(
        "make {x}; please make {x}; can you make {x}?; i want to hear {x}; give me {x}; could you make {x}?; "
        "let me hear {x}; {x}, please"
    ),
}


@scenario(1.2)
def name_sound(rng, pick):
    """A sound is heard, and named."""
    sound = rng.choice(SOUNDS)
    form = pick("sound-form", WORDINGS["sound-form"])
    return [Exchange(form, NAMED[sound], sound=sound)]


@scenario(1.0)
def make_sound(rng, pick):
    """Beeps or a scale on request; the text row says what is played."""
    if rng.random() < 0.35:
        form = pick("scale-form", WORDINGS["scale-form"])
        return [Exchange(form, SCALE, True, system_mark="scale")]
    count = rng.randint(1, 4)
    what = "one beep" if count == 1 else f"{NUMBERS[count]} beeps"
    form = pick("beep-form", WORDINGS["beep-form"])
    return [Exchange(form.format(x=what), ", ".join(["beep"] * count) + ".", system_mark="beep")]
