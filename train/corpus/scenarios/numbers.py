"""Sums, differences, counting forwards and backwards, days and months."""

from __future__ import annotations

from train.corpus.exchange import Exchange, scenario

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()


@scenario(3.0)
def addition(rng, pick):
    """Sums of one to ten."""
    a, b = pick("sum", [(a, b) for a in range(1, 11) for b in range(1, 11)])
    form = pick("sum-form", ("{a} plus {b}", "what is {a} plus {b}?", "how much is {a} plus {b}?", "{a} plus {b} equals",
                             "tell me, what is {a} plus {b}?"))
    a_, b_, c_ = NUMBERS[a], NUMBERS[b], NUMBERS[a + b]
    return [Exchange(form.format(a=a_, b=b_), f"{a_} plus {b_} is {c_}.")]


@scenario(1.0)
def subtraction(rng, pick):
    """Differences below ten."""
    a, b = pick("difference", [(a, b) for a in range(2, 11) for b in range(1, a)])
    form = pick("difference-form", ("{a} minus {b}", "what is {a} minus {b}?"))
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
    form = pick("count-form", ("count from {a} to {b}", "please count from {a} to {b}", "can you count from {a} to {b}?",
                               "count to {b}"))
    a = 1 if "{a}" not in form else a
    start = rng.choice([n for n in (1, 2, 3, 5, 10) if n != a])
    instead = Exchange(f"no, start at {NUMBERS[start]}", counted(start, min(20, start + 7)), True)
    return [Exchange(form.format(a=NUMBERS[a], b=NUMBERS[b]), counted(a, b), True, correction=instead)]


@scenario(0.7)
def count_down(rng, pick):
    """Counting backwards."""
    a = rng.randint(5, 10)
    form = pick("down-form", ("count down from {a}", "count backwards from {a}", "please count down from {a}"))
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
    form = pick("day-form", ("today is {d}", "what day comes after {d}?", "today is {d}, what is tomorrow?"))
    return [Exchange(form.format(d=DAYS[i]), f"tomorrow is {DAYS[(i + 1) % 7]}." if "today" in form
                     else f"after {DAYS[i]} comes {DAYS[(i + 1) % 7]}.")]


@scenario(0.8)
def next_month(rng, pick):
    """The month after a month."""
    i = rng.randrange(12)
    form = pick("month-form", ("what month comes after {m}?", "which month follows {m}?", "what comes after {m}?"))
    return [Exchange(form.format(m=MONTHS[i]), f"after {MONTHS[i]} comes {MONTHS[(i + 1) % 12]}.")]


@scenario(0.3)
def name_all(rng, pick):
    """The days of the week, or the months of the year: long answers."""
    what, row = rng.choice((("days of the week", DAYS), ("months of the year", MONTHS)))
    form = pick("all-form", ("tell me the {x}", "what are the {x}?", "please say the {x}"))
    return [Exchange(form.format(x=what), ", ".join(row) + ".", True)]
