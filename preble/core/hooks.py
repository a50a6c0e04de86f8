"""The hooks of a policy: what it may hear of its decisions besides being asked for them."""

from __future__ import annotations

from difflib import get_close_matches

from preble.core.copies import Copy
from preble.core.fleet import Fleet
from preble.core.policy import Policy
from preble.core.request import Request
from preble.errors import ConfigurationError, nearest
from preble.tree import RadixTree


class PolicyHooks:
    """The methods that a policy may have besides `place`. It inherits nothing; each that it lacks does nothing.

    A hook is called after the scheduler's own books are up to date. It must not change the fleet or the request.

    `relieves` is a flag: where it is true, `Scheduler.rebalance` proposes to move requests that wait too long.
    """

    relieves: bool = False

    def attached(self, fleet: Fleet) -> None:
        """The scheduler has taken the policy. Called once, at the start; `fleet` is the one of all later calls."""

    def placed(self, request: Request, now: float) -> None:
        """The request was placed on `request.slot`, by the policy or by the caller of `submit`."""

    def computed(self, request: Request, now: float) -> None:
        """The prefill of the request is done."""

    def finished(self, request: Request, output: bytes, now: float) -> None:
        """The request left its worker, however it ended. `output` is packed int32, empty if there was none."""

    def evicted(self, slot: int, tokens: bytes, keep: int, now: float) -> None:
        """The worker no longer holds the prefix `tokens` (packed int32) beyond its first `keep` tokens.

        It reported so, or it is estimated, or it came out when a request started. No tokens: the whole cache is empty.
        """

    def copies(self, tree: RadixTree, now: float) -> list[Copy]:
        """Return prefixes that other workers should compute in the background. `tree` must not be changed."""
        return []

    def worker_added(self, slot: int, now: float) -> None:
        """A worker took the slot, with an empty cache."""

    def worker_removed(self, slot: int, now: float) -> None:
        """The worker of the slot is gone, with all that it held. Its requests have `finished` before."""

    def check(self) -> None:
        """Raise AssertionError if the policy's own state is broken. For tests: `Scheduler.check` calls it."""

    @property
    def hears_evictions(self) -> bool:
        """Whether the policy has `evicted`. If not, nobody needs the tokens of what was evicted."""
        return "evicted" in vars(self)


def _public_methods(kind: type) -> list[str]:
    """The names of its public methods. A class that is kept as an attribute is callable too, but no method."""
    public = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    return [name for name, value in public.items() if callable(value) and not isinstance(value, type)]


_HOOKS = _public_methods(PolicyHooks)
_DECLARED = ["place", *_HOOKS]


def bind_hooks(policy: Policy) -> PolicyHooks:
    """Return the hooks of `policy`, with empty ones for those that it lacks.

    Raises ConfigurationError if it has no `place`, if a hook is no method, or if it has a public method that is neither
    `place` nor a hook: such a name is taken to be misspelt.
    """
    if isinstance(policy, type):
        raise ConfigurationError(f"policy: {policy.__name__} is a class: pass an object, {policy.__name__}()")
    kind = type(policy).__name__
    if not callable(getattr(policy, "place", None)):
        raise ConfigurationError(f"policy: {kind} has no method place(query, fleet, now)")
    for name in _public_methods(type(policy)):
        if name not in _DECLARED:
            what = f"policy: {kind}.{name} is no hook{nearest(name, _DECLARED)}"
            raise ConfigurationError(f"{what} (The names of methods that are no hooks begin with an underscore.)")
    for name in {*dir(type(policy)), *getattr(policy, "__dict__", {})}:
        if name != "relieves" and get_close_matches(name, ["relieves"], cutoff=0.8):
            raise ConfigurationError(f"policy: {kind}.{name} is no flag, did you mean 'relieves'?")
    hooks = PolicyHooks()
    hooks.relieves = bool(getattr(policy, "relieves", False))
    for name in _HOOKS:
        if (hook := getattr(policy, name, None)) is not None:
            if not callable(hook):
                raise ConfigurationError(f"policy: {kind}.{name} must be a method, it is a hook of policies")
            setattr(hooks, name, hook)
    return hooks
