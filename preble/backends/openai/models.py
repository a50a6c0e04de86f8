"""The models that a server lists at `/v1/models`, in the forms that servers give that list."""

from __future__ import annotations

from typing import Any

import msgspec

from preble.backends.openai.explanation import explanation, parsed_json
from preble.errors import ConfigurationError, EngineError

PATH = "/v1/models"

_CONTEXT = ("max_model_len", "context_length", "context_window", "loaded_context_length")
_LONGEST = 1 << 31
_SHOWN = 200  # characters of a list that is not understood


class ModelCard(msgspec.Struct, frozen=True):
    """One model of a server. `context` is what the server says of its context, as it says it; None if it does not.

    `adapter` is True for a LoRA adapter, which servers list beside its base model. `root` is where the server has the
    model from, such as a folder; None if it does not say.
    """

    id: str
    owned_by: str = ""
    context: Any = None
    adapter: bool = False
    root: str | None = None

    @property
    def context_limit(self) -> int | None:
        """The context in tokens, None if the server does not tell it. Raises EngineError if that is no size."""
        if self.context is None:
            return None
        try:
            size = msgspec.convert(self.context, int, strict=False)
        except msgspec.ValidationError:
            size = 0
        if not 0 < size <= _LONGEST:
            raise EngineError(f"{PATH} tells that the context of {self.id!r} is {str(self.context)[:_SHOWN]}")
        return size


def model_cards(body: bytes, url: str) -> list[ModelCard]:
    """Return the models in a response of the server at `url`. Raises ConfigurationError if it is not such a list."""
    document = parsed_json(body)
    if isinstance(document, dict):
        document = _first(document, ("data", "models"))
    if not isinstance(document, list):
        raise ConfigurationError(f"{url}{PATH} is no list of models: {explanation(body).text[:_SHOWN]}")
    return [card for entry in document if (card := _card(entry)) is not None]


def chosen(cards: list[ModelCard], wanted: str | None, url: str) -> ModelCard:
    """Return the card of the model `wanted`, or else of the first that is no adapter. Raises ConfigurationError."""
    if not cards:
        raise ConfigurationError(f"{url}{PATH} lists no model")
    fitting = [card for card in cards if card.id == wanted or (wanted is None and not card.adapter)]
    if not fitting:
        names = ", ".join(card.id for card in cards[:10])
        raise ConfigurationError(f"served_model: {url} has no {wanted!r}, it has: {names}")
    return fitting[0]


def _card(entry: Any) -> ModelCard | None:
    if isinstance(entry, str):
        return ModelCard(entry)
    name = _first(entry, ("id", "model", "name")) if isinstance(entry, dict) else None
    if not isinstance(name, str):
        return None
    meta = entry.get("meta")  # llama.cpp's
    context = _first({**(meta if isinstance(meta, dict) else {}), **entry}, (*_CONTEXT, "n_ctx"))
    root = entry.get("root")
    return ModelCard(
        name,
        str(entry.get("owned_by") or ""),
        context,
        adapter=bool(entry.get("parent")),
        root=root if isinstance(root, str) else None,
    )


def _first(entry: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)
