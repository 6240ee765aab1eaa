"""What a model says of the pictures of a data set, kept in a file row by row so that a later run goes on from there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from meon_ext.datasets import Dataset, DatasetError, Record
from meon_ext.datasets._tables import number, read_table
from meon_ext.errors import MeonError

if TYPE_CHECKING:
    from meon_ext.scoring import Score, Scorer
    from meon_ext.weights_io import WeightsFile

_COLUMNS = ("path", "content", "quality", "raw", "distortion", "probabilities", "full_reference")
# What a file of ours begins with; of another nothing is touched.
_HEAD = re.compile(rb"(?:# [^\n]*\n)*" + re.escape(",".join(_COLUMNS).encode()) + rb"\n")
_HEAD_BYTES = 1 << 16
_CONTENT = re.compile(r"\d+-[0-9a-f]{8}", re.ASCII)
_END_BYTES = 1 << 16  # of a picture's file, at each end, that its content is told by
_AHEAD = 4  # pictures decoded in threads while one is scored


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    quality: 0 (worst) to 100 (best). raw: on the network's own scale. distortion, probabilities: as in ``Score``.
    full_reference: what full-reference metrics say of it, by name, where they were asked.
    """

    quality: float
    raw: float = math.nan
    distortion: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    full_reference: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, score: Score, full_reference: Mapping[str, float] | None = None) -> Prediction:
        """The part of a Score that an evaluation needs."""
        return cls(score.quality, score.raw, score.distortion, score.probabilities, full_reference or {})


class ScoreFile:
    """A CSV file of predictions, one row for each picture, each written as soon as it is known.

    path: the file; one that is there is gone on with. Comments before its header say which model made it, at which
        stride and pool. A row is taken only for a picture whose content is as it was then; see ``content_of``.
    identity: what those comments say; see ``identity_of``.

    Raises MeonError where the file is none of these, was made in another way, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str]) -> None:
        self.path = Path(path)
        self._rows: dict[str, tuple[str, Prediction]] = {}
        head = "".join(f"# {key}: {value}\n" for key, value in identity.items()) + ",".join(_COLUMNS) + "\n"
        try:
            if self.path.exists() and not self.path.is_file():
                raise self._unusable("is no regular file")
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror})") from error
        try:
            with self.path.open("rb") as file:
                begin = file.read(_HEAD_BYTES)
            if head.encode().startswith(begin):  # nothing, or all that there was time for
                os.truncate(self.path, 0)
                self._write(head)
            elif _HEAD.match(begin):
                self._cut_last_line()
                self._read(identity)
            else:
                raise self._unusable("is not a file of scores that this program wrote")
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def identity_of(scorer: Scorer) -> dict[str, str]:
        """What two runs must share for their rows to stand in one file."""
        return {
            "model": scorer.weights.name,
            "sha256": scorer.weights.sha256 or _hash(scorer.weights),
            "stride": str(scorer.stride),
            "pool": scorer.pool,
        }

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str, content: str) -> Prediction | None:
        """The prediction for a picture of that content, None if there is none."""
        found = self._rows.get(key)
        return found[1] if found is not None and found[0] == content else None

    def add(self, key: str, content: str, prediction: Prediction) -> None:
        """Write a row."""
        self._rows[key] = (content, prediction)
        self._line(
            (
                key,
                content,
                repr(float(prediction.quality)),
                repr(float(prediction.raw)),
                prediction.distortion or "",
                json.dumps(dict(prediction.probabilities)),
                json.dumps(dict(prediction.full_reference)),
            )
        )

    def _cut_last_line(self) -> None:
        """Drop a line that was being written when an earlier run was killed."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)

    def _read(self, identity: Mapping[str, str]) -> None:
        try:
            table = read_table(self.path)
        except DatasetError as error:
            raise MeonError(f"{error}; name another file for the scores") from error
        if table.columns != _COLUMNS:
            raise self._unusable("is not a file of scores that this program wrote")
        said = dict(comment.split(": ", 1) for comment in table.comments if ": " in comment)
        for key, value in identity.items():
            if key != "model" and said.get(key) != value:  # the file of weights may have been renamed
                raise self._unusable(f"was made with {key} {said.get(key)}, this run has {value}")
        for row in table.rows:
            prediction = _parsed(row.values)
            if prediction is None:
                raise self._unusable(f"line {row.number} is damaged")
            self._rows[row.values["path"]] = (row.values["content"], prediction)

    def _line(self, values: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._write(text.getvalue())

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror})") from error

    def _unusable(self, why: str) -> MeonError:
        return MeonError(f"{self.path}: {why}; name another file for the scores")


def _hash(weights: WeightsFile) -> str:
    """Of weights that came from no file."""
    digest = hashlib.sha256(repr((weights.classes, weights.architecture, weights.mapping)).encode())
    for name, tensor in sorted(weights.tensors.items()):
        digest.update(f"{name} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _parsed(values: Mapping[str, str]) -> Prediction | None:
    quality, raw = number(values["quality"]), number(values["raw"])
    try:
        probabilities, full_reference = json.loads(values["probabilities"]), json.loads(values["full_reference"])
    except ValueError:
        return None
    if quality is None or raw is None or not _CONTENT.fullmatch(values["content"]):
        return None
    if not (_is_numbers(probabilities) and _is_numbers(full_reference)):
        return None
    return Prediction(quality, raw, values["distortion"] or None, probabilities, full_reference)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) in (int, float) and math.isfinite(v) for v in value.values())


def predict(
    scorer: Scorer,
    dataset: Dataset,
    file: ScoreFile | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction | MeonError]:
    """Score every picture of a data set, in order; a picture that cannot be scored gives its error.

    file: rows that stand in it are not computed again, and new ones are added to it. on_progress: called with the
        number of pictures that are done, at the start and after each.
    """
    results: list[Prediction | MeonError | None] = [None] * len(dataset)
    todo: list[tuple[int, str, str]] = []
    for place, record in enumerate(dataset.records):
        key, content = key_of(dataset, record), ""
        if file is not None:
            content = content_of(record.path)
            results[place] = file.get(key, content)
        if results[place] is None:
            todo.append((place, key, content))
    done = len(dataset) - len(todo)
    on_progress(done)
    paths = (dataset.records[place].path for place, _, _ in todo)
    outcomes = scorer.score_many(paths, on_error="return", ahead=_AHEAD)
    for (place, key, content), outcome in zip(todo, outcomes, strict=True):
        result = outcome if isinstance(outcome, MeonError) else Prediction.of(outcome)
        if file is not None and isinstance(result, Prediction):
            file.add(key, content, result)
        results[place] = result
        done += 1
        on_progress(done)
    return [result for result in results if result is not None]


def key_of(dataset: Dataset, record: Record) -> str:
    """A picture's name in a file of scores: its path below the set's folder, so that the set may be moved."""
    path = record.path
    if path.is_relative_to(dataset.root):
        path = path.relative_to(dataset.root)
    # The file is UTF-8, of lines, and blanks at either end of a value are lost in it.
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path.as_posix())
    inner = name.strip(" ")
    before, after = len(name) - len(name.lstrip(" ")), len(name) - len(name.rstrip(" "))
    return "\\x20" * before + inner + "\\x20" * after


def content_of(path: Path) -> str:
    """What tells a picture's file from another of its name: its size in bytes and a checksum of both ends, since
    uncompressed pictures of one size have files of one size. Of a file that cannot be read, that it cannot."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            checksum = zlib.crc32(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            checksum = zlib.crc32(file.read(_END_BYTES), checksum)
    except OSError:
        return "unreadable"
    return f"{size}-{checksum:08x}"
