"""Keys of prompts in a tree such that prompts of different namespaces share no prefix: their first tokens differ."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from preble.tokens import TOKEN_BYTES

_LOWEST = -(1 << 31)


def cache_salt(namespace: str, tenant: str) -> str:
    """Return one string for a namespace (a model, a LoRA adapter) and a tenant; different pairs get different strings.

    Empty for neither. Engines know it as `cache_salt`: requests whose salts differ share no cached prefix.
    """
    return f"{len(namespace)}:{namespace}{tenant}" if namespace or tenant else ""


class Namespaces:
    """Translates prompts with a cache salt to keys of a tree, and back.

    The key of a prompt without a salt is the prompt itself. With a salt, the first token is replaced by a negative
    number, which no token is, that stands for the pair of salt and first token. Depths, lengths and blocks stay as they
    are.

    `in_use` is asked whether the tree, or a prompt on its way there, has a given packed first token. Numbers that are
    not in use are forgotten, so there are at most about twice as many as in use. Every method is O(1), apart from
    `in_use`.
    """

    def __init__(self, in_use: Callable[[bytes], bool]) -> None:
        self._in_use = in_use
        self._number_of: dict[tuple[str, bytes], bytes] = {}
        self._meaning_of: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()
        self._last = 0

    def __len__(self) -> int:
        return len(self._number_of)

    def key(self, salt: str, tokens: bytes) -> bytes:
        """Return the key of a prompt of at least one token, packed. Its first token must not be negative."""
        if not salt:
            return tokens
        meaning = salt, tokens[:TOKEN_BYTES]
        number = self._number_of.get(meaning) or self._give(meaning)
        return number + tokens[TOKEN_BYTES:]

    def known(self, salt: str, tokens: bytes) -> bytes | None:
        """Return the key of a prompt if it has one already; None if not, since then nobody holds any of it."""
        if not salt or not tokens:
            return tokens
        number = self._number_of.get((salt, tokens[:TOKEN_BYTES]))
        return None if number is None else number + tokens[TOKEN_BYTES:]

    def prompt(self, key: bytes) -> tuple[str, bytes]:
        """Return the salt and the packed prompt of a key. Raises KeyError for a number that was forgotten."""
        if not negative(key):
            return "", key
        salt, first = self._meaning_of[key[:TOKEN_BYTES]]
        return salt, first + key[TOKEN_BYTES:]

    def check(self) -> None:
        """Raise AssertionError unless numbers and meanings are each other's inverse, and numbers are no tokens."""
        assert self._number_of == {meaning: number for number, meaning in self._meaning_of.items()}, "not inverse"
        assert all(map(negative, self._meaning_of)), "a number that could be a token"
        assert all(salt and not negative(first) for salt, first in self._number_of), "a meaning without a salt"

    def _give(self, meaning: tuple[str, bytes]) -> bytes:
        # Two looked at for each one given: the table cannot grow beyond twice what is in use, and nothing ever pauses.
        for _ in range(min(2, len(self._meaning_of))):
            self._look_at_oldest()
        number = self._next()
        self._number_of[meaning] = number
        self._meaning_of[number] = meaning
        return number

    def _look_at_oldest(self) -> None:
        number, meaning = self._meaning_of.popitem(last=False)
        if self._in_use(number):
            self._meaning_of[number] = meaning
        else:
            del self._number_of[meaning]

    def _next(self) -> bytes:
        # Not the lowest free one: policies may remember a number for longer than the tree does.
        while True:
            self._last = self._last - 1 if self._last > _LOWEST else -1
            number = self._last.to_bytes(TOKEN_BYTES, "little", signed=True)
            if number not in self._meaning_of:
                return number


def negative(tokens: bytes) -> bool:
    """Whether the first of the packed `tokens`, if there is one, is negative."""
    return len(tokens) >= TOKEN_BYTES and tokens[TOKEN_BYTES - 1] > 127
