"""Short phrases in French and Spanish, each in a voice of its language."""

from __future__ import annotations

from train.corpus.exchange import LANGUAGES, Exchange, scenario, wordings

NAMES = {"fr": "french", "es": "spanish"}
WORDS = {
    "hello": {"fr": "bonjour.", "es": "hola."},
    "thank you": {"fr": "merci.", "es": "gracias."},
    "good evening": {"fr": "bonsoir.", "es": "buenas noches."},
    "goodbye": {"fr": "au revoir.", "es": "adiós."},
    "please": {"fr": "je vous prie.", "es": "por favor."},
}
TALK = {
    "fr": {"bonjour": "bonjour, comment allez vous?", "merci beaucoup": "je vous en prie.", "au revoir": "au revoir, à bientôt.",
           "comment ça va?": "ça va bien, merci."},
    "es": {"hola": "hola, cómo está?", "muchas gracias": "de nada.", "adiós": "adiós, hasta pronto.",
           "qué tal?": "muy bien, gracias."},
}
WORDINGS = {
    "translate-form": wordings(
        "how do you say {w} in {l}?; say {w} in {l}; what is {w} in {l}?; tell me {w} in {l}; "
        "how does one say {w} in {l}?; can you say {w} in {l}?; what is the {l} word for {w}?; {w} in {l}, please; "
        "do you know {w} in {l}?; please say {w} in {l}"
    ),
}


@scenario(0.8)
def translate(rng, pick):
    """How a phrase is said in another language; the question is in English."""
    word, language = pick("translate", [(w, x) for w in WORDS for x in LANGUAGES])
    form = pick("translate-form", WORDINGS["translate-form"])
    return [Exchange(form.format(w=word, l=NAMES[language]), WORDS[word][language], system_mark=language)]


@scenario(0.8)
def foreign(rng, pick):
    """The user says something in another language and is answered in it."""
    language = rng.choice(LANGUAGES)
    said = rng.choice(list(TALK[language]))
    return [Exchange(said, TALK[language][said], user_mark=language, system_mark=language)]
