"""What the endpoints share: the cluster, and the names under which its model is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from preble import PrebleCluster
from preble.serve.errors import HttpError


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster behind HTTP. Without `names` a request may name any model; `created` is in Unix seconds.

    Parsers are named as in `preble.serve.parsers`, or "auto".
    """

    cluster: PrebleCluster
    names: tuple[str, ...] = ()
    tool_parser: str | None = "auto"
    reasoning_parser: str | None = "auto"
    created: int = 0

    @property
    def listed(self) -> Sequence[str]:
        """The names of the model, the first of which is the usual one, and those of the adapters of its workers."""
        cluster = self.cluster
        told = next((info.model for info in cluster.engines().values() if cluster.forwards), "")
        own = Path(cluster.model).name if cluster.model is not None else told or cluster.backend
        return [*(self.names or (own,)), *self.adapters]

    @property
    def adapters(self) -> list[str]:
        """The LoRA adapters that every worker has."""
        infos = list(self.cluster.engines().values())
        known = [info.adapters for info in infos if info.adapters]
        return [] if not known else sorted(set(known[0]).intersection(*map(set, known)))

    @property
    def takes_schemas(self) -> bool:
        """Whether every worker's engine can be held to a JSON schema."""
        return all("json_schema" in info.structures for info in self.cluster.engines().values())

    def named(self, model: str) -> tuple[str, str]:
        """Return the name to answer with and the LoRA adapter, "" for none. Raises HttpError 404 for another model."""
        if not model:
            return self.listed[0], ""
        if model in self.adapters:
            return model, model
        if self.names and model not in self.names:
            known = ", ".join(self.listed)
            raise HttpError(404, f"there is no model {model!r}, but {known}", code="model_not_found", param="model")
        return model, ""
