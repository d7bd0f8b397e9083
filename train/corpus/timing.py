"""Word times from what the engines know: phone durations, grouped into words.

Every engine's own clock is a little early or late against the audible speech; `trimmed` ends overlaps that such a
correction leaves between neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from duplex.text import Word


def grouped(symbols: Iterable[tuple[str, float]], words: Sequence[str], start_lead: float = 0.0,
            end_lead: float = 0.0) -> tuple[Word, ...]:
    """Times of ``words`` from (symbol, seconds) in order; a space ends a word. () where the counts differ.

    ``start_lead``, ``end_lead``: seconds by which the symbols' starts and ends come late (they are taken off).
    """
    spans: list[tuple[float, float]] = []
    clock, current = 0.0, None
    for symbol, seconds in symbols:
        if symbol == " ":
            if current:
                spans.append(current)
            current = None
        elif symbol.isalpha() or (symbol and symbol in "ˈˌː"):
            current = (current[0] if current else clock, clock + seconds)
        clock += seconds
    if current:
        spans.append(current)
    if len(spans) != len(words):
        return ()
    return trimmed(Word(w, max(0.0, a - start_lead), max(0.02, b - end_lead)) for w, (a, b) in zip(words, spans, strict=True))


def trimmed(words: Iterable[Word]) -> tuple[Word, ...]:
    """The words in order, each ending where the next begins at the latest."""
    row = list(words)
    for n in range(len(row) - 1):
        row[n] = Word(row[n].text, row[n].start, max(row[n].start, min(row[n].end, row[n + 1].start)))
    return tuple(row)


def matched(phones: Sequence[tuple[str, float, float]], lexicon: Sequence[Sequence[str]],
            words: Sequence[str]) -> tuple[Word, ...]:
    """Times of words from (phone, start, end) without word marks, given how each word is spoken alone.

    The two rows of phones are aligned at the least edit distance; a phone between two words' goes to the earlier one.
    () where a word is left without phones.
    """
    expected = [(p, n) for n, row in enumerate(lexicon) for p in row]
    rows, columns = len(phones) + 1, len(expected) + 1
    cost = [[r + c if r * c == 0 else 0 for c in range(columns)] for r in range(rows)]
    for r in range(1, rows):
        for c in range(1, columns):
            differ = phones[r - 1][0] != expected[c - 1][0]
            cost[r][c] = min(cost[r - 1][c - 1] + differ, cost[r - 1][c] + 1, cost[r][c - 1] + 1)
    owner: list[int | None] = [None] * len(phones)
    r, c = rows - 1, columns - 1
    while r and c:
        differ = phones[r - 1][0] != expected[c - 1][0]
        if cost[r][c] == cost[r - 1][c - 1] + differ:
            owner[r - 1] = expected[c - 1][1]
            r, c = r - 1, c - 1
        elif cost[r][c] == cost[r - 1][c] + 1:
            r -= 1
        else:
            c -= 1
    last = 0
    spans: dict[int, tuple[float, float]] = {}
    for n, (_, start, end) in zip(owner, phones, strict=True):
        last = last if n is None else n
        spans[last] = (spans.get(last, (start, end))[0], end)
    if len(spans) != len(words):
        return ()
    return tuple(Word(w, *spans[n]) for n, w in enumerate(words))
