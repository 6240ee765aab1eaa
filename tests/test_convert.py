"""The released TensorFlow 1 checkpoint as a weights file."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meon_ext.convert import convert_checkpoint, convert_variables
from meon_ext.errors import MeonError, WeightsError
from meon_ext.weights_io import RELEASE_CLASSES, Architecture, read_weights, write_weights

# TensorFlow's own import warns of many things.
FROM_TENSORFLOW = pytest.mark.filterwarnings("ignore")

Variables = dict[str, NDArray[Any]]


@pytest.fixture
def variables() -> Variables:
    """Random variables named and shaped as the release's, gamma asymmetric."""
    generator = np.random.default_rng(0)
    found: Variables = {}

    def layer(scope: str, height: int, width: int, inputs: int, outputs: int, activated: bool = True) -> None:
        found[f"{scope}/weights"] = generator.normal(size=(height, width, inputs, outputs)).astype(np.float32)
        found[f"{scope}/biases"] = generator.normal(size=outputs).astype(np.float32)
        if activated:
            found[f"{scope}/gdn_x/reparam_beta"] = generator.uniform(0, 2, outputs).astype(np.float32)
            found[f"{scope}/gdn_x/reparam_gamma"] = generator.uniform(-1, 2, (outputs, outputs)).astype(np.float32)

    for scope, shape in {
        "conv1": (5, 5, 3, 8),
        "conv2": (5, 5, 8, 16),
        "conv3": (5, 5, 16, 32),
        "conv4": (3, 3, 32, 64),
        "subtask1/fc1": (1, 1, 64, 128),
        "subtask2/fc1": (1, 1, 64, 256),
    }.items():
        layer(scope, *shape)
    layer("subtask1/fc2", 1, 1, 128, 5, activated=False)
    layer("subtask2/fc2", 1, 1, 256, 5, activated=False)
    found["global_step"] = np.array(7)
    found["conv1/weights/Adam"] = found["conv1/weights"]
    return found


def test_axes_are_turned_round(variables: Variables) -> None:
    tensors = convert_variables(variables, source="here").tensors
    assert {name: tensor.shape for name, tensor in tensors.items()} == Architecture().expected_tensors()
    conv, dense = variables["conv2/weights"], variables["subtask2/fc1/weights"]
    gamma = variables["subtask1/fc1/gdn_x/reparam_gamma"]
    generator = np.random.default_rng(1)
    for _ in range(50):
        y, x, i, o = (generator.integers(n) for n in conv.shape)
        assert tensors["stages.1.weight"][o, i, y, x] == conv[y, x, i, o]
        i, o = generator.integers(64), generator.integers(256)
        assert tensors["quality_head.0.weight"][o, i] == dense[0, 0, i, o]
        i, o = generator.integers(128, size=2)
        # In float64 and rounded once, as sqrt and the square lose digits beside 2^-36 otherwise.
        root = max(float(gamma[i, o]), 2.0**-18)
        assert tensors["type_head.0.gamma"][o, i] == np.float32(root**2 - 2.0**-36)
    np.testing.assert_array_equal(tensors["type_head.1.bias"], variables["subtask1/fc2/biases"])


def test_lower_bounds(variables: Variables) -> None:
    variables["conv3/gdn_x/reparam_beta"][:3] = [-5, 0, 3]
    variables["conv3/gdn_x/reparam_gamma"][0, :3] = [-5, 0, 3]
    tensors = convert_variables(variables, source="here").tensors
    # 2^-36 is 1.5e-5 of the least beta, so adding and subtracting it leaves that exact in float32.
    assert tensors["stages.2.beta"][:3].tolist() == [np.float32(1e-6), np.float32(1e-6), 9]
    assert tensors["stages.2.gamma"][:3, 0].tolist() == [0, 0, 9]


def test_result_is_a_weights_file(variables: Variables, tmp_path: Path) -> None:
    weights = convert_variables(variables, source="here")
    assert (weights.classes, weights.score_name, weights.lower_is_better) == (RELEASE_CLASSES, "DMOS", True)
    write_weights(tmp_path / "w.safetensors", weights)
    read = read_weights(tmp_path / "w.safetensors")
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_wrong_variables_are_named(variables: Variables) -> None:
    def refuses(message: str, changes: Variables, without: str = "", **arguments: Any) -> None:
        changed = {name: value for name, value in {**variables, **changes}.items() if name != without}
        with pytest.raises(WeightsError, match=f"here: .*{message}"):
            convert_variables(changed, source="here", **arguments)

    refuses("'conv4/biases' is missing", {}, without="conv4/biases")
    refuses(r"'conv4/biases' has shape \[3\], not \[64\]", {"conv4/biases": np.zeros(3, np.float32)})
    refuses(r"'conv1/weights' has shape", {"conv1/weights": np.zeros((8, 3, 5, 5), np.float32)})
    refuses(r"'conv1/weights' has shape \[600\]", {"conv1/weights": np.zeros(600, np.float32)})
    refuses("'conv1/biases' is of type", {"conv1/biases": np.array([b"a"] * 8, dtype=object)})
    refuses("'stages.0.bias' has NaN", {"conv1/biases": np.full(8, np.nan, np.float32)})
    refuses("'stages.0.gamma' has NaN", {"conv1/gdn_x/reparam_gamma": np.full((8, 8), 1e30, np.float32)})
    refuses(r"'subtask1/fc2/weights' has shape .* with 4 classes", {}, classes=RELEASE_CLASSES[:4])
    refuses("num_classes", {}, classes=())
    refuses("name twice", {}, classes=("a",) * 5)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"MEON-0\.index is missing"):
        convert_checkpoint(tmp_path / "MEON-0.data-00000-of-00001")


def test_without_tensorflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "MEON-0.index").touch()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MeonError, match=r"meon_ext\[convert\]"):
        convert_checkpoint(tmp_path / "MEON-0")


class Checkpoint:
    """What TensorFlow's reader gives, of arrays that need not be there."""

    def __init__(self, variables: Variables, shapes: dict[str, list[int]]) -> None:
        self.variables, self.shapes = variables, shapes

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.variables.items()} | self.shapes

    def get_tensor(self, name: str) -> NDArray[Any]:
        return self.variables[name]  # fails for one that need not be read


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"bert/embeddings": [30_000, 1_000_000], "conv1/weights/Adam_1": [10**12]}, None),
        ({"conv1/weights": [5, 5, 3, 10**12]}, r"variable 'conv1/weights' has shape \[5, 5, 3, 1000000000000\]"),
    ],
)
def test_only_the_network_s_variables_are_read_and_only_if_small(
    shapes: dict[str, list[int]], message: str | None, variables: Variables, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "MEON-0.index").touch()
    del variables["conv1/weights/Adam"]
    if message:
        del variables["conv1/weights"]
    reader = Checkpoint(variables, shapes)
    train = SimpleNamespace(load_checkpoint=lambda prefix: reader)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(train=train))
    if message is None:
        assert list(convert_checkpoint(tmp_path / "MEON-0").tensors) == list(Architecture().expected_tensors())
    else:
        with pytest.raises(WeightsError, match=message):
            convert_checkpoint(tmp_path / "MEON-0")


@pytest.fixture
def release(shared_data: Path) -> Path:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'meon_ext[convert]'")
    return shared_data / "meon_release"


@FROM_TENSORFLOW
@pytest.mark.parametrize("suffix", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_the_released_checkpoint(release: Path, suffix: str) -> None:
    weights = convert_checkpoint(f"{release / 'MEON-0'}{suffix}")
    expected = read_weights(release / "meon_release.safetensors")
    assert (weights.classes, weights.mapping) == (expected.classes, expected.mapping)
    assert list(weights.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(weights.tensors[name], tensor)


@FROM_TENSORFLOW
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_refused(release: Path, suffix: str, damage: str, tmp_path: Path) -> None:
    for each in (".index", ".data-00000-of-00001"):
        shutil.copyfile(f"{release / 'MEON-0'}{each}", tmp_path / f"MEON-0{each}")
    path = tmp_path / f"MEON-0{suffix}"
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(WeightsError, match="MEON-0"):
        convert_checkpoint(tmp_path / "MEON-0")
