"""Puts a time limit on every call: some SDKs have none, and a call that hangs must not stop the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from passel.fleet.machine import Listing, Order, Price, Provider, ProviderError, UncertainError

T = TypeVar("T")
_LIMIT_S = 120.0


class BoundedProvider:
    """A provider whose calls end in time, one way or the other."""

    def __init__(self, inner: Provider, limit_s: float = _LIMIT_S) -> None:
        self._inner = inner
        self._limit_s = limit_s
        self.name = inner.name

    def create(self, order: Order) -> str:
        """See `Provider`."""
        return self._within("create a machine", lambda: self._inner.create(order))

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """See `Provider`."""
        return self._within("list machines", lambda: self._inner.list(fleet, regions))

    def destroy(self, machine_id: str, region: str) -> None:
        """See `Provider`."""
        self._within("destroy a machine", lambda: self._inner.destroy(machine_id, region))

    def price(self, size: str, region: str) -> Price | None:
        """See `Provider`."""
        return self._within("tell a price", lambda: self._inner.price(size, region))

    def _within(self, doing: str, call: Callable[[], T]) -> T:
        attempt = _Attempt(call)
        attempt.start()
        attempt.join(self._limit_s)
        if attempt.is_alive():
            raise UncertainError(f"{self.name} did not {doing} within {self._limit_s:.0f} s", todo="it is tried again")
        return attempt.outcome()


class _Attempt(threading.Thread, Generic[T]):
    """One call in a thread of its own, which may be left behind."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: list[T] = []
        self._error: ProviderError | None = None

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except ProviderError as error:
            self._error = error

    def outcome(self) -> T:
        """The call's result or its error. A bug in the call was printed by the thread; here it is an unclear answer."""
        if self._error is not None:
            raise self._error
        if not self._result:
            raise UncertainError("A call to a cloud ended with an unexpected error", todo="see the log and report it")
        return self._result[0]
