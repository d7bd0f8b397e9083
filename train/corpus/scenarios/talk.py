"""Greetings, thanks, goodbyes, who the system is, and what people say to break in or to nod along."""

from __future__ import annotations

from train.corpus.exchange import Exchange, Picker, scenario, wordings

BACKCHANNELS = ("mhm", "yeah", "uh huh", "right", "okay")
FILLERS = ("um", "uh")  # in a pause of a speaker who goes on
GOODBYE = (("goodbye", "bye", "bye bye", "see you later", "bye for now", "see you soon", "good night", "goodbye duplex"),
           "goodbye, talk to you soon.")
STOP = (("stop", "stop please", "okay stop", "wait, stop", "please stop", "stop it", "stop now", "that is enough",
         "okay, that is enough", "please be quiet"), "okay.")
WORDINGS = {
    "greet": wordings(
        "hello; hi; hi there; good morning; hello world; hey; hello there; good evening; good afternoon; hello duplex; "
        "hi duplex; good day"
    ),
    "how": wordings(
        "how are you?; how are you today?; how is it going?; are you well?; how do you do?; how are you doing?; "
        "how do you feel?; how have you been?"
    ),
    "who": wordings(
        "who are you?; what is your name?; what can you do?; what are you?; tell me who you are; who am i talking to?; "
        "do you have a name?; tell me about yourself; what are you called?"
    ),
    "thanks": wordings(
        "thank you; thanks; thank you very much; thanks a lot; many thanks; thank you so much; okay, thank you"
    ),
}


@scenario(1.5)
def greeting(rng, pick):
    """Hello, and an offer to help."""
    return [Exchange(pick("greet", WORDINGS["greet"]),
                     "hello, how can i help you?")]


@scenario(0.6)
def how_are_you(rng, pick):
    """A question of politeness."""
    return [Exchange(pick("how", WORDINGS["how"]),
                     "i am fine, thank you.")]


@scenario(1.0)
def who(rng, pick):
    """Who the system is."""
    return [Exchange(pick("who", WORDINGS["who"]),
                     "i am duplex. i can count, add numbers and tell stories.", True)]


@scenario(0.7)
def thanks(rng, pick):
    """Thanks."""
    return [Exchange(pick("thanks", WORDINGS["thanks"]), "you are welcome.")]


def goodbye(pick: Picker) -> Exchange:
    """The closing exchange of a dialogue."""
    return Exchange(pick("bye", GOODBYE[0]), GOODBYE[1])


def stop(pick: Picker) -> Exchange:
    """A plain barge-in."""
    return Exchange(pick("stop", STOP[0]), STOP[1])
