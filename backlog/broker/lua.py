"""Lua scripts with named and typed parameters, so that no script counts positions.

The form is that of chrisguidry/docket's ``_lua.py``: a script says what its keys and arguments are called, finds each
one under its name as a local variable of the right type, and is called with the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: The Redis server's clock in ms since 1970, as ``now``. No other clock counts.
_NOW: Final = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)"

_DECODE: Final = {int: "tonumber(ARGV[{}])", float: "tonumber(ARGV[{}])", str: "ARGV[{}]"}


@dataclass(frozen=True)
class LuaScript:
    """One script and its parameters.

    Parameters
    ----------
    body
        Lua. Sees each key and argument under its name, and ``now``.
    keys
        Names of the keys.
    arguments
        Names of the arguments and their types: ``int``, ``float`` or ``str``.
    rest
        Name of a list of further arguments, of any length; empty for none. The script sees where it begins in
        ``ARGV``, as ``NAME_start``.
    """

    body: str
    keys: Sequence[str]
    arguments: Mapping[str, type] = field(default_factory=dict)
    rest: str = ""

    @property
    def text(self) -> str:
        """The whole script."""
        lines = [_NOW]
        lines += [f"local {name} = KEYS[{place}]" for place, name in enumerate(self.keys, 1)]
        lines += [
            f"local {name} = " + _DECODE[kind].format(place)
            for place, (name, kind) in enumerate(self.arguments.items(), 1)
        ]
        if self.rest:
            lines.append(f"local {self.rest}_start = {len(self.arguments) + 1}")
        return "\n".join([*lines, self.body])

    def bind(self, values: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """Return the keys and the arguments of a call in their order.

        Raises
        ------
        TypeError
            A parameter is missing or unknown, or has another type than the script says.
        """
        expected = {*self.keys, *self.arguments, *filter(None, [self.rest])}
        if expected != set(values):
            raise TypeError(f"this script takes {sorted(expected)}, not {sorted(values)}")
        for name, kind in self.arguments.items():
            if not isinstance(values[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}: {values[name]!r}")
        more: Iterable[Any] = values[self.rest] if self.rest else ()
        return [values[name] for name in self.keys], [*(values[name] for name in self.arguments), *more]
