"""Weights files: what a MEON network is made of, and reading and writing its numbers. NumPy only, no torch.

A weights file is one safetensors file. Its tensors are the *effective* parameters (beta and gamma as GDN uses them, in
whichever form they were trained), so that any implementation can read them; its metadata say what the outputs mean.
Files come from anywhere, so everything in one is checked before use, and everything wrong with one is a WeightsError.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from meon_ext.errors import WeightsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CROP_SIZE",
    "INPUT_RANGE",
    "RELEASE_CLASSES",
    "Architecture",
    "QualityMapping",
    "StageShape",
    "WeightsFile",
    "check_weights",
    "read_weights",
    "resolve_weights",
    "untrained_weights",
    "write_weights",
]

CROP_SIZE = 256
INPUT_RANGE = "RGB 0..255"
# The order of the outputs of the network that the authors released.
RELEASE_CLASSES = ("jpeg2000", "jpeg", "white_noise", "gaussian_blur", "pristine")

WEIGHTS_FOLDER = Path(__file__).resolve().parent / "weights"
DEFAULT_NAME = "meon"
SUFFIX = ".safetensors"
# The largest variant is under 1 MiB a hundred classes; more than this is not a MEON and not worth reading into memory.
MAX_FILE_BYTES = 64 * 1024 * 1024
# Of the header, that of the shipped weights is 5 to 19 KB. An entry of 57 bytes takes 2 KB once it is parsed.
MAX_HEADER_BYTES = 1024 * 1024
MAX_LABEL_LENGTH = 64

FORMAT = "meon_ext"
FORMAT_VERSION = "1"
_RELEASE_OUTPUT = "DMOS, 0 best"
_OWN_KEYS = frozenset({"format", "format_version", "classes", "input", "architecture", "score", "words"})
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
# Below the smallest normal number a processor that flushes denormals divides by zero where a channel's input is zero.
_MIN_BETA = float(np.finfo(np.float32).tiny)


class StageShape(NamedTuple):
    """One convolution stage: ``kernel x kernel`` cross-correlation, activation, 2 x 2 max-pool."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int


# The one table of MEON's layers (Ma et al., TIP 2018); everything in Python that needs a shape takes it from here.
_STAGES = (
    StageShape(3, 8, kernel=5, stride=2, padding=2),
    StageShape(8, 16, kernel=5, stride=2, padding=2),
    StageShape(16, 32, kernel=5, stride=2, padding=2),
    StageShape(32, 64, kernel=3, stride=1, padding=0),
)
_TYPE_HIDDEN = 128
_QUALITY_HIDDEN = 256


@dataclass(frozen=True)
class Architecture:
    """Which MEON: the paper's network is ``Architecture()``, the rest are its ablations.

    num_classes: distortion types C, at least 2; 0 for ``task="single"``, which has no type head.
    activation: "gdn", or "relu" in its place everywhere.
    task: "fusion" (the paper: quality = sum_i p_i s_i), "multitask" (a type head and a quality head of one output
        over the same stages), or "single" (a quality head of one output alone).
    width: 1, or 2 for twice the channels in every convolution stage.
    batch_norm: batch normalisation before each activation; with "relu" only.

    Raises ValueError for any other value.
    """

    num_classes: int = 5
    activation: str = "gdn"
    task: str = "fusion"
    width: int = 1
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.activation not in ("gdn", "relu"):
            raise ValueError(f"activation must be 'gdn' or 'relu', got {self.activation!r}")
        if self.task not in ("fusion", "multitask", "single"):
            raise ValueError(f"task must be 'fusion', 'multitask' or 'single', got {self.task!r}")
        if type(self.width) is not int or self.width not in (1, 2):
            raise ValueError(f"width must be 1 or 2, got {self.width!r}")
        if type(self.batch_norm) is not bool:
            raise ValueError(f"batch_norm must be true or false, got {self.batch_norm!r}")
        if self.batch_norm and self.activation != "relu":
            raise ValueError("batch_norm needs activation 'relu': GDN normalises already")
        if type(self.num_classes) is not int:
            raise ValueError(f"num_classes must be an integer, got {self.num_classes!r}")
        if self.task == "single" and self.num_classes != 0:
            raise ValueError(f"task 'single' has no type head, so num_classes must be 0, got {self.num_classes}")
        if self.task != "single" and self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")

    @property
    def stages(self) -> tuple[StageShape, ...]:
        """The four convolution stages, first to last."""
        first, *rest = _STAGES
        return (
            first._replace(out_channels=first.out_channels * self.width),
            *(
                s._replace(in_channels=s.in_channels * self.width, out_channels=s.out_channels * self.width)
                for s in rest
            ),
        )

    @property
    def heads(self) -> dict[str, tuple[int, int, int]]:
        """The fully connected heads: name -> (features in, hidden, outputs)."""
        features = self.stages[-1].out_channels
        heads = {}
        if self.task != "single":
            heads["type_head"] = (features, _TYPE_HIDDEN, self.num_classes)
        heads["quality_head"] = (features, _QUALITY_HIDDEN, self.num_classes if self.task == "fusion" else 1)
        return heads

    def expected_tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a weights file and its shape, in the order of the network.

        Convolutions are (out, in, kernel, kernel), fully connected layers (out, in), gamma (output channel, input
        channel), the rest one number a channel.
        """
        shapes: dict[str, tuple[int, ...]] = {}

        def layer(name: str, weight: tuple[int, ...], activated: bool) -> None:
            channels = weight[0]
            shapes[f"{name}.weight"] = weight
            shapes[f"{name}.bias"] = (channels,)
            if activated and self.activation == "gdn":
                shapes[f"{name}.beta"] = (channels,)
                shapes[f"{name}.gamma"] = (channels, channels)
            if activated and self.batch_norm:
                for statistic in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{name}.batch_norm.{statistic}"] = (channels,)

        for i, s in enumerate(self.stages):
            layer(f"stages.{i}", (s.out_channels, s.in_channels, s.kernel, s.kernel), activated=True)
        for name, (features, hidden, outputs) in self.heads.items():
            layer(f"{name}.0", (hidden, features), activated=True)
            layer(f"{name}.1", (outputs, hidden), activated=False)
        return shapes

    def to_json(self) -> dict[str, object]:
        """The fields as an object that ``json.dumps`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Architecture:
        """The inverse of ``to_json``. Raises ValueError for missing, unknown or impossible entries."""
        names = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError(f"an architecture is an object with exactly the entries {sorted(names)}")
        return cls(**value)


def _finite_tuple(what: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"{what} must be a list of numbers, got {values!r:.80}")
    numbers = []
    for value in values:
        try:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except OverflowError:  # an integer past the largest float
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{what} must hold finite numbers, got {value!r:.80}")
        numbers.append(number)
    return tuple(numbers)


@dataclass(frozen=True)
class QualityMapping:
    """From the network's own scale to quality, 0 (worst) to 100 (best): piecewise linear, constant past its ends.

    raw: the network's values at the knots, strictly ascending, at least two.
    quality: the quality at each knot, within 0..100, monotone, not all equal.

    Raises ValueError when they are anything else.
    """

    raw: tuple[float, ...]
    quality: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", _finite_tuple("raw", self.raw))
        object.__setattr__(self, "quality", _finite_tuple("quality", self.quality))
        if len(self.raw) != len(self.quality) or len(self.raw) < 2:
            raise ValueError(
                f"a quality mapping needs as many raw as quality values and at least 2, "
                f"got {len(self.raw)} and {len(self.quality)}"
            )
        if any(a >= b for a, b in zip(self.raw, self.raw[1:], strict=False)):
            raise ValueError("the raw values of a quality mapping must be strictly ascending")
        if min(self.quality) < 0 or max(self.quality) > 100:
            raise ValueError("the quality values of a quality mapping must lie within 0..100")
        if self.quality[0] == self.quality[-1] or list(self.quality) != sorted(
            self.quality, reverse=self.lower_is_better
        ):
            raise ValueError("the quality values of a quality mapping must rise or fall throughout")

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller raw value is a better picture, as with DMOS."""
        return self.quality[0] > self.quality[-1]

    @overload
    def __call__(self, raw: float) -> float: ...
    @overload
    def __call__(self, raw: NDArray[np.floating]) -> NDArray[np.float64]: ...
    def __call__(self, raw: float | NDArray[np.floating]) -> float | NDArray[np.float64]:
        """Quality of a raw value, or of each of an array of them (same shape, float64). NaN stays NaN."""
        quality = np.interp(raw, self.raw, self.quality)
        return quality if np.ndim(quality) else float(quality)

    def to_json(self) -> dict[str, object]:
        """The knots as an object that ``json.dumps`` takes."""
        return {"raw": list(self.raw), "quality": list(self.quality)}

    @classmethod
    def from_json(cls, value: object) -> QualityMapping:
        """The inverse of ``to_json``. Raises ValueError for anything that is not such an object."""
        if not isinstance(value, dict) or set(value) != {"raw", "quality"}:
            raise ValueError("a quality mapping is an object with the entries 'raw' and 'quality'")
        return cls(value["raw"], value["quality"])


IDENTITY_MAPPING = QualityMapping((0.0, 100.0), (0.0, 100.0))
DMOS_MAPPING = QualityMapping((0.0, 100.0), (100.0, 0.0))


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    tensors: effective parameters, float32 and C-contiguous, named and shaped as
        ``architecture.expected_tensors()`` says.
    classes: the distortion types in the order of the network's outputs; empty for ``task="single"``.
    mapping: from raw scores to quality.
    score_name: what the raw score is, e.g. "DMOS".
    input: the range of the network's input, always "RGB 0..255".
    name, path, sha256: the file's name without its suffix, its path, and the hash of its bytes in hexadecimal; empty
        where the weights came from no file.
    words: for people: a word and the lowest quality that it is for, best first, the last for 0 and more; may be empty.
    metadata: further entries of the file's metadata, kept as they are.
    """

    tensors: dict[str, NDArray[np.float32]]
    classes: tuple[str, ...]
    architecture: Architecture = field(default_factory=Architecture)
    mapping: QualityMapping = IDENTITY_MAPPING
    score_name: str = "quality"
    input: str = INPUT_RANGE
    name: str = ""
    path: str = ""
    sha256: str = ""
    words: tuple[tuple[str, float], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller raw score is a better picture."""
        return self.mapping.lower_is_better

    def word(self, quality: float) -> str | None:
        """The word for a quality of 0 to 100, e.g. "good"; None where these weights have no words."""
        return next((word for word, lowest in self.words if quality >= lowest), None)


def resolve_weights(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The weights file meant by a path, by the name of weights that ship with the package, or by None: the default.

    Raises WeightsError when there is no such file.
    """
    if name_or_path is None:
        name_or_path = DEFAULT_NAME
    path = Path(name_or_path)
    named = isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*", name_or_path) is not None
    if named and not path.name.endswith(SUFFIX):
        shipped = WEIGHTS_FOLDER / f"{name_or_path}{SUFFIX}"
        if os.path.isfile(shipped):  # noqa: PTH113 - unlike Path's, False for a name too long for the file system
            return shipped
        if name_or_path == DEFAULT_NAME:
            raise WeightsError(
                f"{shipped}: the default weights are missing from this installation of meon_ext; install it again, or "
                "name a weights file, on the command line with --model FILE"
            )
    if os.path.exists(path):  # noqa: PTH110 - as above
        return path
    names = ", ".join(sorted(p.name.removesuffix(SUFFIX) for p in WEIGHTS_FOLDER.glob(f"*{SUFFIX}"))) or "none"
    raise WeightsError(
        f"{path}: no such weights file, and no weights of that name ship with meon_ext (those are: {names})"
    )


def read_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """Read and check a weights file. Reads the form that ``write_weights`` writes and that of the authors' release.

    Raises WeightsError, naming the file, the entry and the remedy, for everything that is wrong with it.
    """
    data = _read_bytes(path)
    tensors, metadata = _parse(path, data)
    if "format" in metadata or metadata.get("output") != _RELEASE_OUTPUT:
        described = _describe(path, metadata)
    else:
        described = _describe_release(path, metadata, tensors)
    weights = replace(
        described,
        tensors=tensors,
        name=Path(path).name.removesuffix(SUFFIX),
        path=os.fspath(path),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    check_weights(weights, os.fspath(path))
    # The file's own order is by name; give the network's.
    return replace(weights, tensors={name: tensors[name] for name in weights.architecture.expected_tensors()})


def write_weights(path: str | os.PathLike[str], weights: WeightsFile) -> str:
    """Check weights and write them; returns the SHA-256 of the file. The same weights always give the same bytes.

    The file appears whole or not at all: it is written beside its place and then renamed.
    Raises WeightsError when the weights do not fit together or the file cannot be written.
    """
    from safetensors.numpy import save

    from meon_ext._files import write_whole

    check_weights(weights, os.fspath(path))
    clash = sorted(_OWN_KEYS & set(weights.metadata))
    if clash:
        raise WeightsError(f"{path}: metadata {clash} belong to the format; name the further metadata differently")
    metadata = {
        **weights.metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "classes": json.dumps(weights.classes),
        "input": weights.input,
        "architecture": json.dumps(weights.architecture.to_json()),
        "score": json.dumps(
            {
                "name": weights.score_name,
                "lower_is_better": weights.lower_is_better,
                "mapping": weights.mapping.to_json(),
            }
        ),
    }
    if weights.words:
        metadata["words"] = json.dumps(dict(weights.words))
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in weights.tensors.items()}
    data = _with_sorted_metadata(path, save(tensors, metadata=metadata))
    try:
        write_whole(path, data)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    return hashlib.sha256(data).hexdigest()


def check_weights(weights: WeightsFile, source: str) -> None:
    """Raise WeightsError, beginning with ``source``, unless the parts of ``weights`` are sound and fit together."""
    try:
        _check(weights)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from None


def untrained_weights() -> WeightsFile:
    """The paper's network with random weights, always the same: for tests and benchmarks. Made without torch.

    Weights are normal of variance 1 / fan-in, and the first stage's also divided by the scale of raw pixels, so that
    every layer sees values of about 1; biases are 0, beta 1, gamma 0.1 on its diagonal.
    """
    random = np.random.default_rng(0)
    architecture = Architecture(num_classes=len(RELEASE_CLASSES))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in architecture.expected_tensors().items():
        kind = name.rsplit(".", 1)[1]
        if kind == "weight":
            scale = np.prod(shape[1:]) ** -0.5 / (128 if name.startswith("stages.0.") else 1)
            tensors[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        elif kind == "gamma":
            tensors[name] = 0.1 * np.eye(shape[0], dtype=np.float32)
        else:
            tensors[name] = np.full(shape, 1 if kind == "beta" else 0, np.float32)
    return WeightsFile(
        tensors,
        RELEASE_CLASSES,
        architecture,
        mapping=QualityMapping((-3.0, 3.0), (0.0, 100.0)),
        score_name="untrained",
        name="untrained",
    )


# What follows raises ValueError saying what is wrong; the public functions add the file's name.


def _check(weights: WeightsFile) -> None:
    if weights.input != INPUT_RANGE:
        raise ValueError(
            f"input is {weights.input!r}, but this version feeds {INPUT_RANGE!r} only; convert the weights"
        )
    _check_label("score name", weights.score_name)
    for name in weights.classes:
        _check_label("class name", name)
    if len(set(weights.classes)) != len(weights.classes):
        raise ValueError(f"classes {weights.classes!r:.200} has a name twice; give each class its own")
    if len(weights.classes) != weights.architecture.num_classes:
        raise ValueError(
            f"classes names {len(weights.classes)} outputs of a network that has {weights.architecture.num_classes}; "
            "name each output once"
        )
    _check_words(weights.words)
    expected = weights.architecture.expected_tensors()
    for name in weights.tensors:
        if name not in expected:
            raise ValueError(f"tensor {name!r:.80} is no part of this network; remove it or correct 'architecture'")
    for name, shape in expected.items():
        if name not in weights.tensors:
            raise ValueError(f"tensor {name!r} is missing; the file is incomplete or for another network")
        _check_tensor(name, weights.tensors[name], shape)


def _check_words(words: tuple[tuple[str, float], ...]) -> None:
    for word, _ in words:
        _check_label("word", word)
    lowest = [value for _, value in words]
    if words and not (lowest[-1] == 0 and all(a > b for a, b in itertools.pairwise(lowest))):
        raise ValueError(f"words {words!r:.200} must go down to 0, best first; put them in order")


def _check_label(what: str, label: object) -> None:
    # Labels are printed to terminals and tables: no control characters, nothing that fills a screen.
    if not isinstance(label, str) or not label.strip() or not label.isprintable() or len(label) > MAX_LABEL_LENGTH:
        raise ValueError(f"{what} {label!r:.80} must be 1 to {MAX_LABEL_LENGTH} printable characters; rename it")


def _check_tensor(name: str, tensor: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"tensor {name!r} has shape {list(tensor.shape)}, not {list(shape)}; correct 'architecture'")
    if tensor.dtype != np.float32:
        raise ValueError(f"tensor {name!r} is {tensor.dtype}; convert it to float32")
    if not np.isfinite(tensor).all():
        raise ValueError(f"tensor {name!r} has NaN or infinite values (as float32); train or convert it again")
    kind = name.rpartition(".")[2]
    if kind == "beta" and (tensor < _MIN_BETA).any():
        raise ValueError(
            f"tensor {name!r} has values below {_MIN_BETA:.3g}, with which GDN divides zero by zero on zero input; "
            "raise them, as training does, to 1e-6"
        )
    if kind in ("gamma", "running_var") and (tensor < 0).any():
        raise ValueError(f"tensor {name!r} has negative values, of which a square root is taken; raise them to 0")


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        # Asked before opening, since opening a pipe waits and reading a device may never end.
        if Path(path).exists() and not Path(path).is_file():
            raise WeightsError(f"{path}: is no regular file; name a weights file")
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        if isinstance(error, WeightsError):
            raise
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise WeightsError(f"{path}: cannot be read ({reason}); name a weights file") from error
    if len(data) > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path}: is over {MAX_FILE_BYTES // 2**20} MiB, too large for MEON weights; name another file"
        )
    return data


def _parse(path: str | os.PathLike[str], data: bytes) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    from safetensors import SafetensorError, deserialize

    if struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0] > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: is no safetensors file, or its header is over {MAX_HEADER_BYTES // 2**20} MiB, too large for "
            "MEON weights; name another file"
        )
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"{path}: is no safetensors file or damaged ({error}); get it again") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name!r:.80} is of type {entry['dtype']}, not one of {', '.join(_DTYPES)}; convert it"
            )
        try:
            values = np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except ValueError as error:  # without elements a shape may have more axes, or longer ones, than NumPy knows
            raise WeightsError(f"{path}: tensor {name!r:.80} has an impossible shape ({error}); remove it") from error
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite and is refused later
            tensors[name] = np.array(values, dtype=np.float32, order="C")
    return tensors, _header(data).get("__metadata__") or {}  # the library takes null for none


def _header(data: bytes) -> dict[str, dict[str, str]]:
    """The header of safetensors bytes that the library has accepted: it leaves metadata out of what it returns."""
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
    return header


def _with_sorted_metadata(path: str | os.PathLike[str], data: bytes) -> bytes:
    """The library writes metadata in an order that changes from run to run; hashes of files should not."""
    (length,) = struct.unpack_from("<Q", data)
    header = _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    if len(text) > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: the metadata are over {MAX_HEADER_BYTES // 2**20} MiB, which nobody could read; leave some out"
        )
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _describe(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> WeightsFile:
    """What the metadata that ``write_weights`` wrote say."""
    found = metadata.get("format")
    if found != FORMAT:
        raise WeightsError(
            f"{path}: metadata entry 'format' is {found!r:.80}, not {FORMAT!r}; name a MEON weights file"
        )
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: metadata entry 'format_version' is {version!r:.80}, this version reads {FORMAT_VERSION!r}; "
            "upgrade meon_ext or write the file again"
        )
    score = _json_entry(path, metadata, "score")
    if not isinstance(score, dict) or set(score) != {"name", "lower_is_better", "mapping"}:
        raise WeightsError(f"{path}: metadata entry 'score' must hold name, lower_is_better and mapping; correct it")
    try:
        architecture = Architecture.from_json(_json_entry(path, metadata, "architecture"))
    except ValueError as error:
        raise _entry_error(path, "architecture", error) from error
    try:
        mapping = QualityMapping.from_json(score["mapping"])
        if score["lower_is_better"] is not mapping.lower_is_better:
            raise ValueError("lower_is_better contradicts the mapping")
        _check_label("score name", score["name"])
    except ValueError as error:
        raise _entry_error(path, "score", error) from error
    return WeightsFile(
        tensors={},
        classes=_classes(path, metadata),
        architecture=architecture,
        mapping=mapping,
        score_name=score["name"],
        input=metadata.get("input", ""),
        words=_words(path, metadata),
        metadata={key: value for key, value in metadata.items() if key not in _OWN_KEYS},
    )


def _describe_release(
    path: str | os.PathLike[str], metadata: Mapping[str, str], tensors: dict[str, NDArray[np.float32]]
) -> WeightsFile:
    """The authors' release says no more than classes, input and output; it is always the paper's network."""
    classes = _classes(path, metadata)
    try:
        architecture = Architecture(num_classes=len(classes))
    except ValueError as error:
        raise _entry_error(path, "classes", error) from error
    return WeightsFile(
        tensors=tensors,
        classes=classes,
        architecture=architecture,
        mapping=DMOS_MAPPING,
        score_name="DMOS",
        input=metadata.get("input", ""),
        metadata={key: value for key, value in metadata.items() if key not in _OWN_KEYS | {"output"}},
    )


def _classes(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> tuple[str, ...]:
    classes = _json_entry(path, metadata, "classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: metadata entry 'classes' must be a list of names; correct it")
    return tuple(classes)


def _words(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    if "words" not in metadata:
        return ()
    words = _json_entry(path, metadata, "words")
    sound = isinstance(words, dict) and all(type(v) in (int, float) and 0 <= v <= 100 for v in words.values())
    if not isinstance(words, dict) or not sound:
        raise WeightsError(f"{path}: metadata entry 'words' must hold a quality, 0 to 100, for each word; correct it")
    return tuple((word, float(value)) for word, value in words.items())


def _json_entry(path: str | os.PathLike[str], metadata: Mapping[str, str], key: str) -> object:
    if key not in metadata:
        raise WeightsError(f"{path}: metadata entry {key!r} is missing; name a MEON weights file")
    try:
        value: object = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise _entry_error(path, key, error) from error
    return value


def _entry_error(path: str | os.PathLike[str], key: str, error: Exception) -> WeightsError:
    return WeightsError(f"{path}: metadata entry {key!r}: {error}; correct it or get the file again")
