"""Decoding pictures ahead of the one being scored, in order and within a bound on memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from meon_ext.errors import MeonError
from meon_ext.images import LoadedImage, PendingImage

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")
Outcome: TypeAlias = "LoadedImage | MeonError"

# A decoded pixel takes 3 bytes, and up to 4 more inside Pillow while it is decoded: about half a GB in flight.
PIXELS_AHEAD = 64_000_000


def decode_ahead(images: Iterable[T], open_image: Callable[[T], PendingImage], ahead: int) -> Iterator[Outcome]:
    """Yield each image decoded, or the MeonError it met, in order; up to ``ahead`` are decoded in threads meanwhile.

    No more than PIXELS_AHEAD pixels are in flight, save that one image always may be. ``images`` is read, and
    ``open_image`` called, in the consumer's thread.
    """
    executor: ThreadPoolExecutor | None = None
    waiting: deque[_Job] = deque()
    in_flight = 0
    try:
        for image in images:
            job = _Job(image, open_image)
            waiting.append(job)
            in_flight += job.pixels
            while len(waiting) > max(ahead, 1) or (len(waiting) > 1 and in_flight > PIXELS_AHEAD):
                in_flight -= waiting[0].pixels
                yield waiting.popleft().outcome()
            if ahead <= 0:
                yield waiting.popleft().outcome()
            elif len(waiting) > 1:  # the first one is decoded here: a single picture does not pay for threads
                if executor is None:
                    from concurrent.futures import ThreadPoolExecutor

                    executor = ThreadPoolExecutor(ahead, thread_name_prefix="meon-decode")
                job.start(executor)
        while waiting:
            yield waiting.popleft().outcome()
    finally:
        for job in waiting:
            job.abandon()
        if executor is not None:
            executor.shutdown(wait=False)


class _Job:
    """One image on its way."""

    def __init__(self, image: T, open_image: Callable[[T], PendingImage]) -> None:
        self._pending: PendingImage | None = None
        self._error: MeonError | None = None
        self._future: Future[Outcome] | None = None
        try:
            self._pending = open_image(image)
        except MeonError as error:
            self._error = error
        self.pixels = self._pending.pixels if self._pending is not None else 0

    def start(self, executor: ThreadPoolExecutor) -> None:
        self._future = executor.submit(self._decode)

    def outcome(self) -> Outcome:
        return self._decode() if self._future is None else self._future.result()

    def abandon(self) -> None:
        # Closing the file under a running decoder would not be safe; that one closes it itself when it is done.
        if self._pending is not None and (self._future is None or self._future.cancel()):
            self._pending.close()

    def _decode(self) -> Outcome:
        if self._pending is None:
            return cast(MeonError, self._error)
        try:
            return self._pending.decode()
        except MeonError as error:
            return error
