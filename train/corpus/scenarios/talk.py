"""Greetings, thanks, goodbyes, who the system is, and what people say to break in or to nod along."""

from __future__ import annotations

from train.corpus.exchange import Exchange, Picker, scenario

BACKCHANNELS = ("mhm", "yeah", "uh huh", "right", "okay")
FILLERS = ("um", "uh")  # in a pause of a speaker who goes on
GOODBYE = (("goodbye", "bye", "bye bye", "see you later"), "goodbye, talk to you soon.")
STOP = (("stop", "stop please", "okay stop", "wait, stop", "please stop"), "okay.")


@scenario(1.5)
def greeting(rng, pick):
    """Hello, and an offer to help."""
    return [Exchange(pick("greet", ("hello", "hi", "hi there", "good morning", "hello world", "hey", "hello there")),
                     "hello, how can i help you?")]


@scenario(0.6)
def how_are_you(rng, pick):
    """A question of politeness."""
    return [Exchange(pick("how", ("how are you?", "how are you today?", "how is it going?", "are you well?")),
                     "i am fine, thank you.")]


@scenario(1.0)
def who(rng, pick):
    """Who the system is."""
    return [Exchange(pick("who", ("who are you?", "what is your name?", "what can you do?", "what are you?")),
                     "i am duplex. i can count, add numbers and tell stories.", True)]


@scenario(0.7)
def thanks(rng, pick):
    """Thanks."""
    return [Exchange(pick("thanks", ("thank you", "thanks", "thank you very much")), "you are welcome.")]


def goodbye(pick: Picker) -> Exchange:
    """The closing exchange of a dialogue."""
    return Exchange(pick("bye", GOODBYE[0]), GOODBYE[1])


def stop(pick: Picker) -> Exchange:
    """A plain barge-in."""
    return Exchange(pick("stop", STOP[0]), STOP[1])
