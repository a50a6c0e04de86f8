"""A model's own tokenizer, which tokenizes long texts in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preble.errors import InvalidRequestError, ModelError
from preble.model_files.byte_level import bytes_of
from preble.text.added_tokens import add_tokens
from preble.text.converted import convert_tokenizer
from preble.text.gguf import build_tokenizer

if TYPE_CHECKING:
    import tokenizers

MAX_CHARACTERS = 16 << 20
"""Longest text that is tokenized, four characters for each token that one sequence may have."""

INLINE_CHARACTERS = 2000
"""Texts up to this length are tokenized on the event loop, which takes half a millisecond."""

MEDIUM_CHARACTERS, _SECONDS_BETWEEN = 8000, 0.01
"""One text up to this length is tokenized on the event loop in so many seconds.

It takes a few milliseconds, and where cores are busy it takes longer to wake a thread, and then the loop again. But
many such texts at once would stop the loop.
"""


class Tokenizer:
    """Text to token ids and back, with the Rust library. Safe to use from several threads at once."""

    def __init__(self, rust: tokenizers.Tokenizer) -> None:
        from tokenizers.decoders import ByteLevel

        # A tokenizer.json may ask for padding or truncation, which belong to training.
        rust.no_padding()
        rust.no_truncation()
        self._rust = rust
        added = rust.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}
        self._bytes: dict[int, bytes] = {}
        self.byte_level = isinstance(rust.decoder, ByteLevel)
        self._next_medium = 0.0

    @classmethod
    def load(cls, model_path: str | Path) -> Tokenizer | None:
        """Read tokenizer.json of a Hugging Face folder, or a GGUF file; None if the folder has no tokenizer.

        Tokens that only tokenizer_config.json or added_tokens.json name are added, as transformers adds them. Other
        tokenizers, such as a tokenizer.model, are converted by transformers. Raises ModelError if a file cannot be read
        or is malformed, or if the packages for its conversion are not installed.
        """
        if Path(model_path).is_file():
            return cls(build_tokenizer(Path(model_path)))
        file = Path(model_path) / "tokenizer.json"
        if not file.exists():
            converted = convert_tokenizer(file.parent)
            return None if converted is None else cls(converted)
        import tokenizers

        try:
            rust = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{file} is not a tokenizer: {error}") from None
        add_tokens(rust, file.parent)
        return cls(rust)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of `text`; `add_special_tokens=False` where a chat template has put them in already.

        Raises InvalidRequestError (field "prompt") if it is longer than `MAX_CHARACTERS` or is not Unicode text.
        """
        if not isinstance(text, str):
            raise InvalidRequestError(f"must be text, not {type(text).__name__}", field="prompt")
        if len(text) > MAX_CHARACTERS:
            raise InvalidRequestError(f"{len(text)} characters, at most {MAX_CHARACTERS}", field="prompt")
        try:
            # The library releases the GIL only for batches; "fast" leaves out character offsets, which nobody reads.
            return list(self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except TypeError:
            raise InvalidRequestError("holds a lone surrogate, which no tokenizer can read", field="prompt") from None

    async def encode_async(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Do what `encode` does, in a thread if the text is long; the library releases the GIL there."""
        now = asyncio.get_running_loop().time()
        if not isinstance(text, str) or len(text) <= INLINE_CHARACTERS or self._inline(len(text), now):
            return self.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.encode, text, add_special_tokens=add_special_tokens)

    def _inline(self, characters: int, now: float) -> bool:
        """Return whether a longer text may be tokenized on the event loop at the time `now`."""
        if characters > MEDIUM_CHARACTERS or now < self._next_medium:
            return False
        self._next_medium = now + _SECONDS_BETWEEN
        return True

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`. Unknown ids add nothing; malformed UTF-8 becomes replacement characters."""
        try:
            return str(self._rust.decode(ids, skip_special_tokens=skip_special_tokens))
        except OverflowError:  # no id of any vocabulary: negative, or beyond 32 bits
            known = [id for id in ids if 0 <= id < 1 << 32]
            return str(self._rust.decode(known, skip_special_tokens=skip_special_tokens))

    def is_special(self, id: int) -> bool:
        """Return whether `id` is a control token, such as the end of a turn."""
        return id in self._special

    def begins_twice(self, ids: Sequence[int]) -> bool:
        """Return whether `ids` begin with one control token twice, where `encode` puts it in front of a text."""
        return len(ids) > 1 and ids[0] == ids[1] and self.is_special(ids[0]) and self.encode("")[:1] == [ids[0]]

    def special_tokens(self) -> dict[str, int]:
        """Return the control tokens and their ids."""
        return {token: id for id, token in self._special.items()}

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that one id stands for, where `byte_level` is true; none for an unknown id."""
        known = self._bytes.get(id)
        if known is not None:
            return known
        token = self._rust.id_to_token(id)
        if token is None:
            return b""
        return self._bytes.setdefault(id, bytes_of(token))
