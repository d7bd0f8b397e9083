"""Ordering in a café: an order, revisions, the order read back, and asked for again."""

from __future__ import annotations

from dataclasses import replace

from train.corpus.exchange import Exchange, scenario, wordings
from train.corpus.scenarios.facts import a
from train.corpus.scenarios.memory import LATER
from train.corpus.scenarios.numbers import NUMBERS

DRINKS = ("coffee", "tea", "juice", "water")
FOOD = ("sandwich", "cake", "salad")
PLURALS = {"sandwich": "sandwiches", "coffee": "coffees", "tea": "teas", "juice": "juices", "water": "waters",
           "cake": "cakes", "salad": "salads"}
WORDINGS = {
    "order-form": wordings(
        "i would like {x}, please; can i have {x}?; {x}, please; i will have {x}; could i have {x}, please?; i want {x}; "
        "{x} for me, please; can i get {x}?; i would like to order {x}; give me {x}, please; hello, i would like {x}"
    ),
    "revise-form": wordings(
        "actually, make it {n}; make that {n}; sorry, i want {n}; no, {n} please; make it {n}, please; i mean {n}; "
        "wait, make it {n}; sorry, make that {n}; actually, {n} please; oh, make it {n}"
    ),
    "order-yes": wordings(
        "yes, thank you; yes, that is right; that is all; yes; that is right; yes, that is all; yes please; "
        "that is everything; yes, that is correct; that is correct, thank you"
    ),
    "order-ask": wordings(
        "what did i order?; can you repeat my order?; what was my order?; tell me my order; could you repeat my order?; "
        "what have i ordered?; can you tell me what i ordered?; please repeat my order"
    ),
}


def amount(count: int, item: str) -> str:
    """"two teas"."""
    return f"one {item}" if count == 1 else f"{NUMBERS[count]} {PLURALS[item]}"


@scenario(1.6)
def cafe(rng, pick):
    """An order with a revision and a second item; the system reads it back."""
    talk, ask = ordered(rng, pick)
    if rng.random() < 0.4:
        question = ask()
        draw = rng.random()
        talk.append(replace(question, wait=LATER if draw < 0.3 else 10.0) if draw < 0.6 else question)
    return talk


@scenario(0.0)
def order_recall_late(rng, pick):
    """An order that is asked for after at least half a minute of other talk; in dialogues whose recipe gives it a weight."""
    talk, ask = ordered(rng, pick)
    return [*talk, replace(ask(), wait=LATER)]


def ordered(rng, pick):
    """The exchanges of an order, and a function that draws the question for it."""
    drink, count, food = pick("order", [(d, n, f) for d in DRINKS for n in (1, 2, 3) for f in FOOD])
    form = pick("order-form", WORDINGS["order-form"])
    talk = [Exchange(form.format(x=a(drink)), f"one {drink}. anything else?")]
    if count > 1:
        revise = pick("revise-form", WORDINGS["revise-form"])
        talk.append(Exchange(revise.format(n=NUMBERS[count]), f"okay, {amount(count, drink)}. anything else?"))
    talk.append(Exchange(f"and {a(food)}", f"{amount(count, drink)} and one {food}. is that right?"))
    if rng.random() < 0.3:
        other = rng.choice([f for f in FOOD if f != food])
        talk.append(Exchange(f"no, {a(other)} instead of {a(food)}",
                             f"okay, {amount(count, drink)} and one {other}. is that right?"))
        food = other
    yes = pick("order-yes", WORDINGS["order-yes"])
    talk.append(Exchange(yes, "thank you, coming right up."))
    return talk, lambda: Exchange(pick("order-ask", WORDINGS["order-ask"]), f"{amount(count, drink)} and one {food}.")
