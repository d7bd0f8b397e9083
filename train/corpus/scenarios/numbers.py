"""Sums, differences, counting forwards and backwards, days and months."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario, wordings

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
WORDINGS = {
    "sum-form": wordings(
        "{a} plus {b}; what is {a} plus {b}?; how much is {a} plus {b}?; {a} plus {b} equals; "
        "tell me, what is {a} plus {b}?; can you add {a} and {b}?; add {a} and {b}; what do {a} and {b} make?; "
        "what is the sum of {a} and {b}?; please add {a} and {b}; do you know what {a} plus {b} is?; "
        "could you tell me {a} plus {b}?; i want to know {a} plus {b}; {a} plus {b} is; please tell me {a} plus {b}; "
        "{a} plus {b}, how much is that?; so what is {a} plus {b}?"
    ),
    "difference-form": wordings(
        "{a} minus {b}; what is {a} minus {b}?; how much is {a} minus {b}?; {a} minus {b} equals; "
        "tell me, what is {a} minus {b}?; take {b} from {a}; what is {a} take away {b}?; please subtract {b} from {a}; "
        "{a} minus {b}, how much is that?; can you tell me {a} minus {b}?; {a} minus {b} is"
    ),
    "count-form": wordings(
        "count from {a} to {b}; please count from {a} to {b}; can you count from {a} to {b}?; count to {b}; "
        "count for me from {a} to {b}; start at {a} and count to {b}; i want you to count from {a} to {b}; "
        "could you count from {a} to {b}, please?; please count to {b}; can you count to {b}?; count up to {b}; "
        "count all the numbers from {a} to {b}; let me hear you count from {a} to {b}"
    ),
    "down-form": wordings(
        "count down from {a}; count backwards from {a}; please count down from {a}; can you count down from {a}?; "
        "count down, starting at {a}; start at {a} and count backwards; please count backwards from {a}; "
        "could you count backwards from {a}?; do a countdown from {a}; i want you to count down from {a}"
    ),
    "day-form": wordings(
        "today is {d}; what day comes after {d}?; today is {d}, what is tomorrow?; what is the day after {d}?; "
        "which day follows {d}?; if today is {d}, what is tomorrow?; tell me the day after {d}; "
        "which day comes after {d}?; what day follows {d}?; do you know the day after {d}?"
    ),
    "month-form": wordings(
        "what month comes after {m}?; which month follows {m}?; what comes after {m}?; which month comes after {m}?; "
        "what is the month after {m}?; tell me the month after {m}; what month follows {m}?; "
        "do you know the month after {m}?; what is the next month after {m}?"
    ),
    "all-form": wordings(
        "tell me the {x}; what are the {x}?; please say the {x}; say the {x}; name the {x}; can you tell me the {x}?; "
        "can you name the {x}?; do you know the {x}?; list the {x}, please; i want to hear the {x}"
    ),
}


@scenario(3.0)
def addition(rng, pick):
    """Sums of one to ten."""
    a, b = pick("sum", [(a, b) for a in range(1, 11) for b in range(1, 11)])
    form = pick("sum-form", WORDINGS["sum-form"])
    a_, b_, c_ = NUMBERS[a], NUMBERS[b], NUMBERS[a + b]
    return [Exchange(form.format(a=a_, b=b_), f"{a_} plus {b_} is {c_}.")]


@scenario(1.0)
def subtraction(rng, pick):
    """Differences below ten."""
    a, b = pick("difference", [(a, b) for a in range(2, 11) for b in range(1, a)])
    form = pick("difference-form", WORDINGS["difference-form"])
    a_, b_, c_ = NUMBERS[a], NUMBERS[b], NUMBERS[a - b]
    return [Exchange(form.format(a=a_, b=b_), f"{a_} minus {b_} is {c_}.")]


def counted(a: int, b: int) -> str:
    """The numbers from a to b as a sentence."""
    return ", ".join(NUMBERS[a : b + 1]) + "."


@scenario(2.0)
def counting(rng, pick):
    """Counting from a to b: long, so that it can be interrupted, and corrected."""
    a = rng.randint(1, 6)
    b = min(20, a + rng.randint(5, 14))
    form = pick("count-form", WORDINGS["count-form"])
    a = 1 if "{a}" not in form else a
    start = rng.choice([n for n in (1, 2, 3, 5, 10) if n != a])
    instead = Exchange(f"no, start at {NUMBERS[start]}", counted(start, min(20, start + 7)), True)
    return [Exchange(form.format(a=NUMBERS[a], b=NUMBERS[b]), counted(a, b), True, correction=instead)]


@scenario(0.7)
def count_down(rng, pick):
    """Counting backwards."""
    a = rng.randint(5, 10)
    form = pick("down-form", WORDINGS["down-form"])
    return [Exchange(form.format(a=NUMBERS[a]), ", ".join(NUMBERS[a:0:-1]) + ".", True)]


@scenario(1.5)
def go_on_counting(rng, pick):
    """The user starts a row of numbers, the system goes on."""
    a = rng.randint(1, 8)
    n = rng.choice((3, 3, 4))
    user = ", ".join(NUMBERS[a : a + n])
    return [Exchange(user, ", ".join(NUMBERS[a + n : min(21, a + n + 7)]) + ".", True)]


@scenario(1.0)
def next_day(rng, pick):
    """The day after a day."""
    i = rng.randrange(7)
    form = pick("day-form", WORDINGS["day-form"])
    return [Exchange(form.format(d=DAYS[i]), f"tomorrow is {DAYS[(i + 1) % 7]}." if "today" in form
                     else f"after {DAYS[i]} comes {DAYS[(i + 1) % 7]}.")]


@scenario(0.8)
def next_month(rng, pick):
    """The month after a month."""
    i = rng.randrange(12)
    form = pick("month-form", WORDINGS["month-form"])
    return [Exchange(form.format(m=MONTHS[i]), f"after {MONTHS[i]} comes {MONTHS[(i + 1) % 12]}.")]


@scenario(0.3)
def name_all(rng, pick):
    """The days of the week, or the months of the year: long answers."""
    what, row = rng.choice((("days of the week", DAYS), ("months of the year", MONTHS)))
    form = pick("all-form", WORDINGS["all-form"])
    return [Exchange(form.format(x=what), ", ".join(row) + ".", True)]
