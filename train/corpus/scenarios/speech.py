"""Talk about talk: repeating, spelling, asking again, how the user sounds, and listening to a long report."""

from __future__ import annotations

from train.corpus.exchange import MUMBLED, STYLES, Exchange, scenario, wordings
from train.corpus.scenarios.facts import FACTS
from train.corpus.scenarios.numbers import DAYS

THINGS = "apple house river garden window bottle mountain letter orange table".split()
LOOKS = "red green little golden heavy silver quiet yellow".split()
SPELL = "cat dog sun tree book fish door milk hand ship".split()
MANNERS = {"fast": "you speak fast.", "slow": "you speak slowly.", "high": "your voice is high.",
           "low": "your voice is low.", "loud": "you speak loudly.", "quiet": "you speak quietly."}
AGAIN = "sorry, could you say that again?"
REPORTS = {
    "today i got up early and went to the market, and then i met an old friend, and we had coffee together, and after that "
    "we walked along the river until it was dark": "that sounds like a good day.",
    "so yesterday i wanted to bake a cake, but there was no sugar, so i went to the shop, and the shop was closed, and "
    "in the end i had bread and butter": "that was bad luck.",
    "i have a new job, and the office is far away, so i take the train every morning, and i read a book, and sometimes i "
    "fall asleep": "i hope you like it.",
    "we bought a small house near the sea, and the roof was broken, so we worked all summer, and now it is dry and warm "
    "and we are happy": "that sounds wonderful.",
}
SYSTEM_BACKCHANNELS = ("mhm.", "i see.", "right.")
WORDINGS = {
    "repeat-form": wordings(
        "say {x}; repeat after me, {x}; please say {x}; repeat {x}; can you say {x}?; please repeat {x}; "
        "say it after me, {x}; could you say {x}?; say the words {x}; i want you to say {x}"
    ),
    "spell-form": wordings(
        "spell {w}; how do you spell {w}?; please spell {w}; can you spell {w}?; spell the word {w}; "
        "could you spell {w}?; tell me how to spell {w}; what are the letters of {w}?; how is {w} spelled?; "
        "{w}, spell it please; i want you to spell {w}"
    ),
    "manner-form": wordings(
        "how do i sound?; how am i speaking?; what is my voice like?; how does my voice sound?; what do i sound like?; "
        "tell me how i sound; describe my voice; can you hear how i speak?; what can you say about my voice?"
    ),
    "letters-form": wordings(
        "what does {l} spell?; which word is {l}?; what word is {l}?; {l}, what word is that?; read this word, {l}"
    ),
}


@scenario(1.0)
def repeat(rng, pick):
    """Repeat two words."""
    look, thing = pick("repeat", [(x, y) for x in LOOKS for y in THINGS])
    form = pick("repeat-form", WORDINGS["repeat-form"])
    return [Exchange(form.format(x=f"{look} {thing}"), f"{look} {thing}.")]


@scenario(0.8)
def spelling(rng, pick):
    """Letters of a word, or a word from its letters."""
    word = rng.choice(SPELL)
    letters = ", ".join(word.upper())
    if rng.random() < 0.3:
        form = pick("letters-form", WORDINGS["letters-form"])
        return [Exchange(form.format(l=letters), f"{word}.")]
    form = pick("spell-form", WORDINGS["spell-form"])
    return [Exchange(form.format(w=word), f"{letters}.")]


@scenario(0.8)
def clarification(rng, pick):
    """Something nobody can understand, and the same again in clear words."""
    options = list(FACTS)[:6] + [f"what day comes after {d}?" for d in DAYS[:3]]
    question = rng.choice(options)
    answer = FACTS.get(question) or f"after {DAYS[options.index(question) - 6]} comes {DAYS[options.index(question) - 5]}."
    return [Exchange(question, AGAIN, user_mark=MUMBLED), Exchange(question, answer)]


@scenario(1.2)
def manner(rng, pick):
    """How the user's voice sounds; only the sound tells."""
    style = rng.choice(STYLES)
    form = pick("manner-form", WORDINGS["manner-form"])
    return [Exchange(form, MANNERS[style], user_mark=style)]


@scenario(0.6)
def report(rng, pick):
    """A long report, to which the system listens."""
    text = rng.choice(list(REPORTS))
    return [Exchange(text, REPORTS[text], long_turn=True)]
