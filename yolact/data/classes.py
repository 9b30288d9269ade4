"""Matches class names of models and data, which tools and people write differently."""

from collections import Counter
from collections.abc import Iterable


def folded(name: str) -> str:
    """A class name without case, blanks, hyphens and underscores."""
    return "".join(character for character in name.casefold() if not character.isspace() and character not in "-_")


def partners(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Maps each name to its partner among `others`. Names without a partner are left out.

    The partner is the same name. If there is none, it is the name that differs only in case, blanks, hyphens and
    underscores, provided that exactly one does.
    """
    names, others = list(dict.fromkeys(names)), list(dict.fromkeys(others))
    same = set(names) & set(others)
    left, right = ([name for name in group if name not in same] for group in (names, others))
    often = Counter(map(folded, left))
    candidates = Counter(map(folded, right))
    by_fold = {folded(name): name for name in right if candidates[folded(name)] == 1}
    pairs = {name: by_fold[folded(name)] for name in left if often[folded(name)] == 1 and folded(name) in by_fold}
    return {name: name if name in same else pairs[name] for name in names if name in same or name in pairs}
