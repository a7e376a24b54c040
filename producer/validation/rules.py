"""How an operating point is chosen, as a user writes it; light, so that a wrong one is refused at once."""

from __future__ import annotations


def parse_rule(rule: str) -> tuple[str, float]:
    """Return a rule's name and the value that it wants, 0 for ``youden``.

    Raises
    ------
    ValueError
        It is none.
    """
    name, sign, text = rule.partition("=")
    if name == "youden" and not sign:
        return name, 0.0
    wanted = float(text) if name in ("sensitivity", "specificity", "ppv") else float("nan")
    if not 0 < wanted < 1:
        raise ValueError(rule)
    return name, wanted
