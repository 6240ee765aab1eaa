"""Weights files: what goes in comes out, and whatever is wrong with one is a WeightsError."""

import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from meon_ext import weights_io
from meon_ext.errors import WeightsError
from meon_ext.weights_io import (
    DMOS_MAPPING,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    RELEASE_CLASSES,
    Architecture,
    QualityMapping,
    WeightsFile,
    read_weights,
    resolve_weights,
    write_weights,
)

ARCHITECTURES = [
    Architecture(),
    Architecture(num_classes=2, task="multitask", width=2),
    Architecture(num_classes=0, task="single", activation="relu"),
    Architecture(num_classes=7, activation="relu", width=2, batch_norm=True),
]


def make_weights(architecture: Architecture | None = None, **changes: Any) -> WeightsFile:
    architecture = architecture or Architecture()
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.uniform(0.5, 1, shape).astype(np.float32)
        for name, shape in architecture.expected_tensors().items()
    }
    fields: dict[str, Any] = {
        "tensors": tensors,
        "classes": tuple(f"type {i}" for i in range(architecture.num_classes)),
        "architecture": architecture,
        "mapping": QualityMapping((-1.5, 0.25, 7.0), (90.0, 40.0, 40.0)),
        "score_name": "DMOS",
        "metadata": {"trained_on": "nothing", "note": "\u00e9\u0416"},
    }
    return WeightsFile(**{**fields, **changes})


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header


def metadata_of(path: Path) -> dict[str, str]:
    metadata: dict[str, str] = header_of(path)["__metadata__"]
    return metadata


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "valid.safetensors"
    write_weights(path, make_weights())
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_round_trip(architecture: Architecture, tmp_path: Path) -> None:
    weights = make_weights(architecture)
    path = tmp_path / "a name.safetensors"
    digest = write_weights(path, weights)
    read = read_weights(path)
    assert list(read.tensors) == list(architecture.expected_tensors())
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)
        assert read.tensors[name].dtype == np.float32
        assert read.tensors[name].flags.c_contiguous
        assert read.tensors[name].flags.writeable
    assert (read.name, read.path, read.sha256) == ("a name", os.fspath(path), digest)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.lower_is_better
    assert dataclasses.replace(read, tensors={}, name="", path="", sha256="") == dataclasses.replace(
        weights, tensors={}
    )
    assert list(tmp_path.iterdir()) == [path]


def test_words_come_back(tmp_path: Path) -> None:
    words = (("good", 62.5), ("bad", 0.0))
    write_weights(tmp_path / "a.safetensors", make_weights(words=words))
    assert read_weights(tmp_path / "a.safetensors").words == words
    assert json.loads(metadata_of(tmp_path / "a.safetensors")["words"]) == dict(words)


def test_metadata_are_as_documented(valid: Path) -> None:
    metadata = metadata_of(valid)
    assert (metadata["format"], metadata["format_version"], metadata["input"]) == ("meon_ext", "1", "RGB 0..255")
    assert json.loads(metadata["classes"]) == [f"type {i}" for i in range(5)]
    assert json.loads(metadata["architecture"]) == {
        "num_classes": 5,
        "activation": "gdn",
        "task": "fusion",
        "width": 1,
        "batch_norm": False,
    }
    assert json.loads(metadata["score"]) == {
        "name": "DMOS",
        "lower_is_better": True,
        "mapping": {"raw": [-1.5, 0.25, 7.0], "quality": [90.0, 40.0, 40.0]},
    }


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, valid: Path) -> None:
    weights = make_weights()
    backwards = dataclasses.replace(weights, tensors=dict(reversed(weights.tensors.items())))
    assert len({write_weights(tmp_path / "w.safetensors", w) for w in (weights, backwards) for _ in range(8)}) == 1
    assert (tmp_path / "w.safetensors").read_bytes() == valid.read_bytes()


def test_writing_replaces_the_whole_file_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WeightsError, match="No space left"):
        write_weights(path, make_weights())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with path.open("rb") as reader:  # who reads the old file goes on reading the old file
        write_weights(path, make_weights())
        assert reader.read() == b"old"
    assert read_weights(path).score_name == "DMOS"
    with pytest.raises(WeightsError, match="cannot be written"):
        write_weights(tmp_path / "absent" / "w.safetensors", make_weights())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types_are_converted(dtype: type[np.floating[Any]], tmp_path: Path, valid: Path) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in make_weights().tensors.items()}
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(tensors, metadata=metadata_of(valid)))
    for name, tensor in read_weights(path).tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, tensors[name].astype(np.float32))


def release_metadata() -> dict[str, str]:
    return {"classes": json.dumps(RELEASE_CLASSES), "input": "RGB 0..255", "output": "DMOS, 0 best"}


def test_the_form_of_the_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "release.safetensors"
    path.write_bytes(save(make_weights().tensors, metadata=release_metadata()))
    weights = read_weights(path)
    assert (weights.classes, weights.architecture) == (RELEASE_CLASSES, Architecture(5))
    assert (weights.mapping, weights.score_name, weights.lower_is_better) == (DMOS_MAPPING, "DMOS", True)
    assert weights.mapping(np.array([-3.0, 0.0, 25.0, 100.0, 130.0])).tolist() == [100, 100, 75, 0, 0]


Change = Callable[[dict[str, np.ndarray[Any, Any]], dict[str, str]], object]


def edit_json(key: str, **changes: object) -> Change:
    return lambda _, metadata: metadata.update({key: json.dumps({**json.loads(metadata[key]), **changes})})


def fill(name: str, value: float) -> Change:
    def change(tensors: dict[str, np.ndarray[Any, Any]], _: dict[str, str]) -> None:
        tensors[name].flat[-1] = value

    return change


def put(name: str, value: np.ndarray[Any, Any]) -> Change:
    return lambda tensors, _: tensors.update({name: value})


def meta(**changes: str) -> Change:
    return lambda _, metadata: metadata.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, _: tensors.pop("stages.2.gamma"), r"tensor 'stages\.2\.gamma' is missing"),
        (put("stages.4.bias", np.zeros(3, np.float32)), r"tensor 'stages\.4\.bias' is no part"),
        (put("stages.0.bias", np.zeros(9, np.float32)), r"'stages\.0\.bias' has shape \[9\], not \[8\]"),
        (put("stages.0.bias", np.zeros((8, 1), np.float32)), r"'stages\.0\.bias' has shape"),
        (put("stages.0.bias", np.zeros(8, np.int32)), r"'stages\.0\.bias' is of type I32"),
        (put("stages.0.bias", np.full(8, 1e300)), r"'stages\.0\.bias' has NaN or infinite"),
        (fill("quality_head.1.weight", np.nan), r"'quality_head\.1\.weight' has NaN or infinite"),
        (fill("quality_head.1.weight", -np.inf), r"'quality_head\.1\.weight' has NaN or infinite"),
        (fill("type_head.0.gamma", -1e-9), r"'type_head\.0\.gamma' has negative"),
        (fill("type_head.0.beta", -1e-3), r"'type_head\.0\.beta' has values below"),
        (fill("type_head.0.beta", 0.0), r"'type_head\.0\.beta' has values below"),
        (fill("type_head.0.beta", 1e-40), r"'type_head\.0\.beta' has values below"),
        (meta(format="pt"), "'format' is 'pt'"),
        (lambda _, metadata: metadata.pop("format"), "'format' is None"),
        (lambda _, metadata: metadata.clear(), "'format' is None"),
        (meta(format_version="2"), "'format_version' is '2'"),
        (meta(input="BGR 0..1"), "input is 'BGR 0..1'"),
        (lambda _, metadata: metadata.pop("input"), "input is ''"),
        (lambda _, metadata: metadata.pop("classes"), "'classes' is missing"),
        (meta(classes="[1, 2, 3, 4, 5]"), "'classes' must be a list of names"),
        (meta(classes='{"a": 1}'), "'classes' must be a list of names"),
        (meta(classes="[" * 100_000), "'classes'"),
        (meta(classes='["a", "b", "c", "d"]'), "classes names 4 outputs of a network that has 5"),
        (meta(classes='["a", "b", "c", "d", "a"]'), "has a name twice"),
        (meta(classes='["a", "b", "c", "d", " "]'), "class name"),
        (meta(classes='["a", "b", "c", "d", "\\u001b[31m"]'), "printable"),
        (meta(classes=json.dumps(["a", "b", "c", "d", "x" * 65])), "1 to 64"),
        (meta(architecture="{}"), "'architecture'"),
        (edit_json("architecture", depth=4), "'architecture'"),
        (edit_json("architecture", width=3), "'architecture': width"),
        (edit_json("architecture", width=True), "'architecture': width"),
        (edit_json("architecture", width=2), r"'stages\.0\.weight' has shape \[8, 3, 5, 5\], not \[16, 3, 5, 5\]"),
        (edit_json("architecture", num_classes=5.0), "'architecture': num_classes"),
        (edit_json("architecture", num_classes=10**400), "outputs of a network"),
        (edit_json("architecture", activation=["gdn"]), "'architecture': activation"),
        (edit_json("architecture", batch_norm=1), "'architecture': batch_norm"),
        (edit_json("architecture", batch_norm=True), "'architecture': batch_norm"),
        (edit_json("architecture", task="single"), "'architecture': task 'single'"),
        (meta(architecture='{"num_classes": ' + "9" * 5000 + "}"), "'architecture'"),
        (meta(words="[]"), "'words' must hold a quality"),
        (meta(words='{"good": "60", "bad": 0}'), "'words' must hold a quality"),
        (meta(words='{"good": 101, "bad": 0}'), "'words' must hold a quality"),
        (meta(words='{"good": NaN, "bad": 0}'), "'words' must hold a quality"),
        (meta(words=json.dumps({"good": 10**400, "bad": 0})), "'words' must hold a quality"),
        (meta(words='{"good": true, "bad": 0}'), "'words' must hold a quality"),
        (meta(words='{"bad": 0, "good": 60}'), "words .* must go down to 0"),
        (meta(words='{"good": 60, "fair": 60, "bad": 0}'), "words .* must go down to 0"),
        (meta(words='{"good": 60}'), "words .* must go down to 0"),
        (meta(words='{"\\u001b[31m": 60, "bad": 0}'), "printable"),
        (meta(score="null"), "'score' must hold"),
        (edit_json("score", more=1), "'score' must hold"),
        (edit_json("score", name=7), "'score': score name"),
        (edit_json("score", lower_is_better=False), "'score': lower_is_better contradicts"),
        (edit_json("score", lower_is_better=1), "'score': lower_is_better contradicts"),
        (edit_json("score", mapping=[]), "'score': a quality mapping is"),
        (edit_json("score", mapping={"raw": [0, 1e999], "quality": [1, 0]}), "'score': raw must hold finite"),
        (edit_json("score", mapping={"raw": [0, 10**400], "quality": [1, 0]}), "'score': raw must hold finite"),
        (edit_json("score", mapping={"raw": "01", "quality": [1, 0]}), "'score': raw must be a list"),
    ],
)
def test_what_is_wrong_is_named(change: Change, message: str, tmp_path: Path, valid: Path) -> None:
    tensors, metadata = dict(make_weights().tensors), metadata_of(valid)
    change(tensors, metadata)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(save(tensors, metadata=metadata))
    with pytest.raises(WeightsError, match=rf"bad\.safetensors: .*{message}"):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (meta(classes='["a", "b"]'), "has shape"),
        (meta(classes='["a"]'), "num_classes"),
        (meta(output="MOS, 100 best"), "'format' is None"),
        (meta(input="0..1"), "input"),
        (fill("stages.0.beta", 0.0), r"'stages\.0\.beta'"),
    ],
)
def test_a_release_file_is_checked_as_well(change: Change, message: str, tmp_path: Path) -> None:
    tensors, metadata = dict(make_weights().tensors), release_metadata()
    change(tensors, metadata)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(save(tensors, metadata=metadata))
    with pytest.raises(WeightsError, match=rf"bad\.safetensors: .*{message}"):
        read_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, "classes names 2"),
        ({"input": "0..1"}, "input"),
        ({"score_name": ""}, "score name"),
        ({"metadata": {"format": "mine"}}, "belong to the format"),
        ({"metadata": {"note": "x" * MAX_HEADER_BYTES}}, "metadata are over 1 MiB"),
        ({"tensors": {}}, "missing"),
        ({"tensors": {n: t.astype(np.float64) for n, t in make_weights().tensors.items()}}, "float64"),
    ],
)
def test_wrong_weights_are_not_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"w\.safetensors: .*{message}"):
        write_weights(tmp_path / "w.safetensors", make_weights(**changes))
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for path, message in (
        (tmp_path / "absent", "cannot be read"),
        (tmp_path, "no regular file"),
        (fifo, "no regular file"),
        (Path(os.devnull), "no regular file"),
        (Path("a\0b"), "cannot be read"),
        (large, "64 MiB"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("empty", [0, 2**62], "'empty' has an impossible shape"),
        ("empty", [0] + [1] * 100, "'empty' has an impossible shape"),
        ("empty", [0], "'empty' is no part of this network"),
        ("__metadata__", None, "'format' is None"),
    ],
)
def test_headers_that_safetensors_accepts(entry: str, value: Any, message: str, tmp_path: Path, valid: Path) -> None:
    """A tensor without elements may have any shape, and null is as good as no metadata."""
    header, data = header_of(valid), b"".join(t.tobytes() for _, t in sorted(make_weights().tensors.items()))
    header[entry] = value
    if entry != "__metadata__":
        header[entry] = {"dtype": "F32", "shape": value, "data_offsets": [len(data), len(data)]}
    text = json.dumps(header).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(WeightsError, match=rf"bad\.safetensors: .*{message}"):
        read_weights(path)


def test_a_header_of_a_million_tensors_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would take 40 times its size."""
    entries = {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(MAX_HEADER_BYTES // 50)}
    text = json.dumps(entries).encode()
    path = tmp_path / "large.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    monkeypatch.setattr("safetensors.deserialize", lambda data: pytest.fail("parsed"))
    with pytest.raises(WeightsError, match=r"large\.safetensors: .*header is over 1 MiB"):
        read_weights(path)


FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_any(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        weights = read_weights(path)
    except WeightsError as error:
        assert str(path) in str(error)
    else:
        weights_io.check_weights(weights, "read")


@FUZZ
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject, tmp_path: Path, valid: Path) -> None:
    """A valid file with some bytes overwritten, inserted or cut off; mostly in the header, where it matters."""
    damaged = bytearray(valid.read_bytes())
    header = 8 + struct.unpack_from("<Q", damaged)[0]
    position = st.one_of(st.integers(0, header - 1), st.integers(0, 7), st.integers(0, len(damaged) - 1))
    kind = data.draw(st.sampled_from(["overwrite", "insert", "cut", "truncate"]))
    for at, patch in data.draw(
        st.lists(st.tuples(position, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
    ):
        if kind == "overwrite":
            damaged[at : at + len(patch)] = patch
        elif kind == "insert":
            damaged[at:at] = patch
        elif kind == "cut":
            del damaged[at : at + len(patch)]
        else:
            del damaged[at:]
    read_any(tmp_path / "w.safetensors", bytes(damaged))


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    read_any(tmp_path / "w.safetensors", data)
    read_any(tmp_path / "w.safetensors", struct.pack("<Q", len(data)) + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=10,
)


@FUZZ
@given(
    key=st.sampled_from(["classes", "architecture", "score", "format", "format_version", "input"]),
    entry=st.sampled_from([None, "num_classes", "width", "batch_norm", "task", "name", "lower_is_better", "mapping"]),
    value=JSON | st.fixed_dictionaries({"raw": st.lists(st.floats()), "quality": st.lists(st.floats())}),
)
def test_any_metadata_are_read_or_refused(
    key: str, entry: str | None, value: object, tmp_path: Path, valid: Path
) -> None:
    """Valid JSON of the wrong kind, in place of an entry or of one of its parts."""
    metadata = metadata_of(valid)
    if entry is not None and key in ("architecture", "score"):
        value = {**json.loads(metadata[key]), entry: value}
    metadata[key] = json.dumps(value)
    read_any(tmp_path / "w.safetensors", save(make_weights().tensors, metadata=metadata))


def test_resolve_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(weights_io, "WEIGHTS_FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    for name in (None, "meon"):
        with pytest.raises(WeightsError, match=r"meon\.safetensors: the default weights are missing.*--model FILE"):
            resolve_weights(name)
    with pytest.raises(WeightsError, match=r"other: .*ship with meon_ext \(those are: none\)"):
        resolve_weights("other")
    (folder / "meon.safetensors").touch()
    (folder / "other.safetensors").touch()
    assert resolve_weights() == resolve_weights("meon") == folder / "meon.safetensors"
    assert resolve_weights("other") == folder / "other.safetensors"
    with pytest.raises(WeightsError, match=r"those are: meon, other"):
        resolve_weights("third")
    local = tmp_path / "third"
    local.touch()
    assert resolve_weights("third") == Path("third")
    assert resolve_weights(local) == local
    # A name means what ships, whatever lies in the working directory; a Path is always a path.
    (tmp_path / "other").touch()
    assert resolve_weights("other") == folder / "other.safetensors"
    assert resolve_weights(Path("other")) == Path("other")
    for absent in ("../shipped/absent.safetensors", "x" * 5000, "a\0b"):
        with pytest.raises(WeightsError, match="no such weights file"):
            resolve_weights(absent)


def test_quality_mapping() -> None:
    rising = QualityMapping((1, 2, 4), (0, 50, 100))
    assert not rising.lower_is_better
    assert [rising(v) for v in (-9.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0)] == [0, 0, 25, 50, 75, 100, 100]
    assert isinstance(rising(1.5), float)
    assert isinstance(rising(np.float32(1.5)), float)
    values = rising(np.array([[1.5, 3.0]], dtype=np.float32))
    assert values.dtype == np.float64
    assert values.tolist() == [[25, 75]]
    assert np.isnan(rising(np.nan))
    falling = QualityMapping((0, 1, 2), (80, 80, 20))
    assert falling.lower_is_better
    assert falling(1.5) == 50
    assert QualityMapping.from_json(json.loads(json.dumps(falling.to_json()))) == falling


@pytest.mark.parametrize(
    ("raw", "quality", "message"),
    [
        ((0,), (1,), "at least 2"),
        ((0, 1), (1, 2, 3), "got 2 and 3"),
        ((0, 0), (1, 2), "ascending"),
        ((1, 0), (1, 2), "ascending"),
        ((0, 1, 2), (1, 3, 2), "rise or fall"),
        ((0, 1, 2), (3, 1, 2), "rise or fall"),
        ((0, 1), (1, 1), "rise or fall"),
        ((0, 1), (-1, 1), "0..100"),
        ((0, 1), (1, 101), "0..100"),
        ((0, np.inf), (1, 2), "finite"),
        ((0, 1), (1, np.nan), "finite"),
        ((0, True), (1, 2), "finite"),
        ((0, "1"), (1, 2), "finite"),
        (5, (1, 2), "list of numbers"),
    ],
)
def test_quality_mapping_refuses(raw: Any, quality: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityMapping(raw, quality)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 100)), min_size=2), st.booleans())
def test_quality_mapping_is_monotone(knots: list[tuple[float, float]], falling: bool) -> None:
    raw = sorted({r for r, _ in knots})
    quality = sorted((q for _, q in knots[: len(raw)]), reverse=falling)
    if len(raw) < 2 or quality[0] == quality[-1]:
        return
    mapping = QualityMapping(tuple(raw), tuple(quality))
    assert mapping.lower_is_better == falling
    mapped = mapping(np.linspace(raw[0] - 1, raw[-1] + 1, 500))
    assert mapped[0] == quality[0]
    assert mapped[-1] == quality[-1]
    steps = np.diff(mapped) * (-1 if falling else 1)
    # Interpolation rounds: 100 is the largest quality.
    assert (steps >= -4 * 100 * np.finfo(np.float64).eps).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_architecture_round_trip(architecture: Architecture) -> None:
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_layer_table() -> None:
    shapes = Architecture().expected_tensors()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 149_906
    assert shapes["stages.0.weight"] == (8, 3, 5, 5)
    assert shapes["stages.3.weight"] == (64, 32, 3, 3)
    assert shapes["type_head.0.weight"] == (128, 64)
    assert shapes["quality_head.0.gamma"] == (256, 256)
    assert shapes["quality_head.1.weight"] == (5, 256)
    doubled = Architecture(activation="relu", width=2, batch_norm=True).expected_tensors()
    assert doubled["stages.0.weight"] == (16, 3, 5, 5)
    assert doubled["stages.1.weight"] == (32, 16, 5, 5)
    assert doubled["type_head.0.batch_norm.running_var"] == (128,)
    assert not any(name.endswith(("beta", "gamma")) for name in doubled)
    assert Architecture(5, task="multitask").expected_tensors()["quality_head.1.weight"] == (1, 256)
    assert not any(name.startswith("type") for name in Architecture(0, task="single").expected_tensors())


def test_importing_and_reading_needs_no_torch(valid: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from meon_ext.weights_io import read_weights\n"
        "assert 'safetensors' not in sys.modules\n"
        "print(read_weights(sys.argv[1]).score_name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, valid], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert (done.returncode, done.stdout) == (0, "DMOS\n"), done.stderr
