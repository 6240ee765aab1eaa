"""meon_ext._core.Network: the C++ core without torch (which is here for its oracle alone)."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ops_cases import fresh_generator, rms, threads

from meon_ext import _core, reference

Tensors = dict[str, NDArray[np.float32]]
Result = tuple[NDArray[np.float32], NDArray[np.float32]]
ISAS = [str(name) for name in _core.build_info()["instruction_sets_usable"]]  # type: ignore[attr-defined]

# (Cout, Cin, kernel) of the stages and (hidden) of the heads, written out once more.
STAGES = ((8, 3, 5), (16, 8, 5), (32, 16, 5), (64, 32, 3))
HEADS = {"type_head": 128, "quality_head": 256}

# A network's error is the sum of some thousand roundings that travel through four normalisations: its worst case says
# nothing. Its root mean square over 20 crops was 0.5 to 1.9 times plain PyTorch's in 240 networks.
TIMES_PLAIN = 4.0


def random_tensors(generator: torch.Generator, classes: int = 5) -> Tensors:
    """A network whose every layer has outputs of about 1, with asymmetric gamma of which a fifth is 0."""
    tensors: dict[str, torch.Tensor] = {}

    def layer(name: str, shape: tuple[int, ...], gdn: bool = True) -> None:
        channels = shape[0]
        weight = torch.randn(shape, generator=generator)
        tensors[f"{name}.weight"] = weight / weight[0].numel() ** 0.5
        tensors[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        if gdn:
            tensors[f"{name}.beta"] = 0.1 + 0.1 * torch.rand(channels, generator=generator)
            gamma = torch.rand(channels, channels, generator=generator) - 0.2
            tensors[f"{name}.gamma"] = gamma.clamp(min=0) / channels**0.5

    for i, (out, in_channels, kernel) in enumerate(STAGES):
        layer(f"stages.{i}", (out, in_channels, kernel, kernel))
    for head, hidden in HEADS.items():
        layer(f"{head}.0", (hidden, 64))
        layer(f"{head}.1", (classes, hidden), gdn=False)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def random_image(generator: torch.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Patches of all sizes, so that the crops differ in more than their noise."""
    image = torch.zeros(1, 3, height, width)
    for cell in (150, 40, 7, 1):
        noise = torch.rand(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        image += torch.nn.functional.interpolate(noise, scale_factor=cell)[..., :height, :width] / 4
    return np.ascontiguousarray((image[0].permute(1, 2, 0) * 255).byte().numpy())


def same(got: Result, want: Result) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


# --- Network: what goes in ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network(tensors: Tensors) -> _core.Network:
    return _core.Network(tensors)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return random_image(torch.Generator().manual_seed(1), 400, 421)


@pytest.fixture(scope="module")
def boxes() -> NDArray[np.int64]:
    """Two lattices along each axis: the last row and column are off the first."""
    return _core.crop_grid(400, 421, 256, 64)


def test_missing_tensors(tensors: Tensors) -> None:
    for name in tensors:
        with pytest.raises(ValueError, match="missing") as raised:
            _core.Network({key: value for key, value in tensors.items() if key != name})
        assert f"'{name}'" in str(raised.value)


@pytest.mark.parametrize("extra", ["stages.4.weight", "", "stages.0.Weight"])
def test_extra_tensors(tensors: Tensors, extra: str) -> None:
    with pytest.raises(ValueError, match=f"uses {len(tensors)} tensors but {len(tensors) + 1}"):
        _core.Network({**tensors, extra: np.zeros(3, np.float32)})


def test_misshapen_tensors(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        wrong = [tensor[..., None], tensor[..., :-1], tensor[:0], tensor.ravel()[:1].reshape(())]
        if name != "type_head.1.weight":  # whose first size tells the number of classes
            wrong.append(tensor[:-1])
        for replacement in wrong:
            with pytest.raises(ValueError, match="has shape") as raised:
                _core.Network({**tensors, name: replacement})
            assert f"'{name}'" in str(raised.value)
    with pytest.raises(ValueError, match=r"'stages.1.gamma' has shape \(16, 15\); it must be \(16, 16\)"):
        _core.Network({**tensors, "stages.1.gamma": tensors["stages.1.gamma"][:, :-1]})


def test_heads_disagree_on_the_classes(tensors: Tensors) -> None:
    with pytest.raises(ValueError, match=r"'type_head.1.bias' has shape \(5\); it must be \(4\)"):
        _core.Network({**tensors, "type_head.1.weight": tensors["type_head.1.weight"][:-1]})


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda t: t.astype(np.float64), "float64"),
        (lambda t: t.astype(np.float16), "float16"),
        (lambda t: t.astype(">f4"), ">f4"),
        (lambda t: t.tolist(), "NumPy array"),
        (lambda t: torch.from_numpy(t), "NumPy array"),
        (lambda t: None, "NumPy array"),
    ],
)
def test_tensors_of_another_type(tensors: Tensors, convert: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(TypeError, match=r"'quality_head\.0\.beta'") as raised:
        _core.Network({**tensors, "quality_head.0.beta": convert(tensors["quality_head.0.beta"])})
    assert words in str(raised.value) and "float32" in str(raised.value)


def test_not_a_dict(tensors: Tensors) -> None:
    with pytest.raises(TypeError):
        _core.Network(list(tensors.items()))  # type: ignore[arg-type]


def test_tensors_are_copied(
    tensors: Tensors, network: _core.Network, image: NDArray[np.uint8], boxes: NDArray[np.int64]
) -> None:
    """In any memory order, read-only or not aligned; what becomes of them afterwards does not matter."""
    fortran = {name: np.array(tensor, order="F") for name, tensor in tensors.items()}
    other = _core.Network(fortran)
    for tensor in fortran.values():
        tensor.fill(np.nan)
    want = network.forward_crops(image, boxes)
    same(other.forward_crops(image, boxes), want)
    shifted = {name: unaligned(tensor) for name, tensor in tensors.items()}
    same(_core.Network(shifted).forward_crops(image, boxes), want)


def unaligned(array: NDArray[Any]) -> NDArray[Any]:
    """The same, read-only, one byte past an aligned address."""
    copy = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    assert not copy.flags.aligned and not copy.flags.writeable
    return copy


@pytest.mark.parametrize(
    ("arguments", "exception", "words"),
    [
        ({"image": [[[0]]]}, TypeError, ["image", "NumPy array", "uint8"]),
        ({"image": np.zeros((400, 421, 3), np.float32)}, TypeError, ["image", "float32", "uint8"]),
        ({"image": np.zeros((400, 421, 3), np.int8)}, TypeError, ["image", "int8"]),
        ({"image": np.zeros((400, 421), np.uint8)}, ValueError, ["image", "(400, 421)", "(H, W, 3)"]),
        ({"image": np.zeros((400, 421, 4), np.uint8)}, ValueError, ["image", "(400, 421, 4)", "(H, W, 3)"]),
        ({"image": np.zeros((1, 400, 421, 3), np.uint8)}, ValueError, ["image", "(1, 400, 421, 3)"]),
        ({"image": np.zeros((0, 0, 3), np.uint8)}, ValueError, ["boxes[0]", "0 x 0"]),
        ({"image": np.array(7, np.uint8)}, ValueError, ["image", "()"]),
        ({"boxes": [[0, 0, 256, 256]]}, TypeError, ["boxes", "NumPy array", "int64"]),
        ({"boxes": np.array([[0, 0, 256, 256]], np.int32)}, TypeError, ["boxes", "int32", "int64"]),
        ({"boxes": np.array([[0, 0, 256, 256]], ">i8")}, TypeError, ["boxes", ">i8"]),
        ({"boxes": np.array([0, 0, 256, 256])}, ValueError, ["boxes", "(4)", "(K, 4)"]),
        ({"boxes": np.zeros((2, 3), np.int64)}, ValueError, ["boxes", "(2, 3)", "(K, 4)"]),
        ({"boxes": np.array([[0, 0, 256, 255]])}, ValueError, ["boxes[0]", "256 x 256"]),
        ({"boxes": np.array([[0, 0, 256, 256], [1, 1, 258, 257]])}, ValueError, ["boxes[1]", "256 x 256"]),
        ({"boxes": np.array([[-1, 0, 255, 256]])}, ValueError, ["boxes[0]", "421 x 400"]),
        ({"boxes": np.array([[0, -1, 256, 255]])}, ValueError, ["boxes[0]", "421 x 400"]),
        ({"boxes": np.array([[166, 0, 422, 256]])}, ValueError, ["boxes[0]", "421 x 400"]),
        ({"boxes": np.array([[0, 145, 256, 401]])}, ValueError, ["boxes[0]", "421 x 400"]),
        ({"boxes": np.array([[256, 256, 0, 0]])}, ValueError, ["boxes[0]"]),
        ({"boxes": np.array([[2**62, 0, 2**62 + 256, 256]])}, ValueError, ["boxes[0]"]),
        ({"boxes": np.array([[-(2**63), 0, -(2**63) + 256, 256]])}, ValueError, ["boxes[0]"]),
        ({"threads": -1}, ValueError, ["threads", "-1"]),
        ({"threads": 1.5}, TypeError, []),
    ],
)
def test_forward_errors(
    network: _core.Network,
    image: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    arguments: dict[str, Any],
    exception: type[Exception],
    words: list[str],
) -> None:
    with pytest.raises(exception) as raised:
        network.forward_crops(**{"image": image, "boxes": boxes, **arguments})
    assert not [word for word in words if word not in str(raised.value)], str(raised.value)


# --- Network: what comes out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("classes", [1, 5, 20])
def test_agrees_with_float64(monkeypatch: pytest.MonkeyPatch, isa: str, classes: int) -> None:
    monkeypatch.setenv("MEON_ISA", isa)
    generator = fresh_generator()
    tensors = random_tensors(generator, classes)
    network = _core.Network(tensors)
    assert network.num_classes == classes
    image = random_image(generator, 700, 900)
    boxes = _core.crop_grid(700, 900, 256, 170)
    assert len(boxes) == 20
    raw, probabilities = network.forward_crops(image, boxes)
    assert raw.shape == (20,) and probabilities.shape == (20, classes)

    crops = reference.gather_crops(torch.from_numpy(image), torch.from_numpy(boxes))
    singles = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    doubles = {name: tensor.double() for name, tensor in singles.items()}
    with threads(1):
        plain_raw, _, plain_probabilities, _ = reference.meon_forward(singles, crops)
        want_raw, _, want_probabilities, class_scores = reference.meon_forward(doubles, crops.double())
    # The last operations alone round this much, even where plain PyTorch happens to be right.
    eps = float(np.finfo(np.float32).eps)
    floor = eps * rms((want_probabilities * class_scores.abs()).sum(1))
    error = rms(torch.from_numpy(raw) - want_raw)
    assert error <= TIMES_PLAIN * rms(plain_raw - want_raw) + floor
    error = rms(torch.from_numpy(probabilities) - want_probabilities)
    assert error <= TIMES_PLAIN * rms(plain_probabilities - want_probabilities) + eps * rms(want_probabilities)
    # Each of the C is rounded once when it is divided by the sum, and C - 1 times in the sum.
    np.testing.assert_allclose(probabilities.sum(1, dtype=np.float64), 1, rtol=0, atol=classes * eps)


def test_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch, tensors: Tensors) -> None:
    monkeypatch.setenv("MEON_ISA", "mmx")
    with pytest.raises(ValueError, match="MEON_ISA is 'mmx'"):
        _core.Network(tensors)


@pytest.mark.parametrize("isa", ISAS)
def test_threads_split_order_and_neighbours(
    monkeypatch: pytest.MonkeyPatch,
    tensors: Tensors,
    image: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    isa: str,
) -> None:
    """To the bit the same: with any threads, crop by crop, in parts, in another order, and where a box comes twice."""
    monkeypatch.setenv("MEON_ISA", isa)
    network = _core.Network(tensors)
    want = network.forward_crops(image, boxes, threads=1)
    for count in (2, 3, 5, 100, 0):
        same(network.forward_crops(image, boxes, threads=count), want)
    parts = [network.forward_crops(image, boxes[k : k + 1]) for k in range(len(boxes))]
    same((np.concatenate([raw for raw, _ in parts]), np.concatenate([p for _, p in parts])), want)
    order = np.random.default_rng(0).permutation(len(boxes))
    chosen = np.concatenate((order[:7], order[3:9], order[-2:]))
    same(network.forward_crops(image, boxes[chosen], threads=2), (want[0][chosen], want[1][chosen]))


def test_scattered_boxes_of_a_wide_image(network: _core.Network) -> None:
    """Wider than one strip of the network's working memory; offsets on no common lattice."""
    generator = fresh_generator()
    image = random_image(generator, 300, 3700)
    x = torch.randint(0, 3700 - 255, (12,), generator=generator).numpy()
    y = torch.randint(0, 300 - 255, (12,), generator=generator).numpy()
    scattered = np.stack((x, y, x + 256, y + 256), axis=1)
    for boxes in (scattered, _core.crop_grid(300, 3700, 256, 230)):
        want = network.forward_crops(image, boxes, threads=1)
        same(network.forward_crops(image, boxes, threads=3), want)
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            alone = np.ascontiguousarray(image[y0:y1, x0:x1])
            raw, probabilities = network.forward_crops(alone, np.array([[0, 0, 256, 256]]))
            same((raw, probabilities), (want[0][k : k + 1], want[1][k : k + 1]))


def test_earlier_calls_do_not_matter(tensors: Tensors, image: NDArray[np.uint8], boxes: NDArray[np.int64]) -> None:
    network = _core.Network(tensors)
    want = network.forward_crops(image, boxes)
    network.forward_crops(255 - image, boxes[::-1])
    same(network.forward_crops(image, boxes), want)


@pytest.mark.parametrize("layout", ["sliced", "transposed", "flipped", "read-only"])
def test_layouts(network: _core.Network, image: NDArray[np.uint8], boxes: NDArray[np.int64], layout: str) -> None:
    views = {
        "sliced": (np.repeat(image, 2, axis=1)[:, ::2], np.repeat(boxes, 3, axis=0)[::3]),
        "transposed": (np.asfortranarray(image), np.asfortranarray(boxes)),
        "flipped": (image[::-1, ::-1].copy()[::-1, ::-1], boxes[::-1].copy()[::-1]),
        "read-only": (np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape), unaligned(boxes)),
    }
    view, spread = views[layout]
    assert layout == "read-only" or not (view.flags.c_contiguous or spread.flags.c_contiguous)
    same(network.forward_crops(view, spread), network.forward_crops(image, boxes))


def test_no_boxes(network: _core.Network, image: NDArray[np.uint8]) -> None:
    for any_image in (image, np.zeros((0, 0, 3), np.uint8)):
        raw, probabilities = network.forward_crops(any_image, np.empty((0, 4), np.int64), threads=2)
        assert raw.shape == (0,) and probabilities.shape == (0, 5)
        assert raw.dtype == probabilities.dtype == np.float32


def test_large_logits(tensors: Tensors, image: NDArray[np.uint8], boxes: NDArray[np.int64]) -> None:
    """The exponentials of softmax would overflow if the largest logit were not taken off first."""
    network = _core.Network({**tensors, "type_head.1.weight": tensors["type_head.1.weight"] * np.float32(1e6)})
    raw, probabilities = network.forward_crops(image, boxes)
    assert np.isfinite(raw).all() and (probabilities.max(axis=1) == 1).all()


def test_nan_weights_are_seen(tensors: Tensors, image: NDArray[np.uint8], boxes: NDArray[np.int64]) -> None:
    """A broken network does not score: NaN passes through every max-pool and both heads."""
    for name in ("stages.0.bias", "stages.2.gamma", "stages.3.weight", "quality_head.0.beta"):
        broken = {**tensors, name: np.full_like(tensors[name], np.nan)}
        raw, _ = _core.Network(broken).forward_crops(image, boxes)
        assert np.isnan(raw).all(), name


# --- processes and threads ----------------------------------------------------------------------------------------


def test_several_python_threads_at_once(
    network: _core.Network, image: NDArray[np.uint8], boxes: NDArray[np.int64]
) -> None:
    images = [image, 255 - image, image[::-1].copy(), image // 2]
    want = [network.forward_crops(each, boxes, threads=1) for each in images]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(network.forward_crops, images[i % 4], boxes, 1 + i % 3) for i in range(16)]
        for i, job in enumerate(jobs):
            same(job.result(), want[i % 4])


FORKED = """
import os, sys
import numpy as np
from meon_ext import _core

assert "torch" not in sys.modules
tensors = dict(np.load(sys.argv[1]))
image, boxes = tensors.pop("image"), tensors.pop("boxes")
network = _core.Network(tensors)
want = network.forward_crops(image, boxes, threads=3)  # threads run before the fork
child = os.fork()
if child == 0:
    got = network.forward_crops(image, boxes, threads=3)
    anew = _core.Network(tensors).forward_crops(image, boxes, threads=2)
    equal = all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(want, got, anew))
    os._exit(0 if equal else 1)
_, status = os.waitpid(child, 0)
again = network.forward_crops(image, boxes, threads=3)
assert all(np.array_equal(a, b) for a, b in zip(want, again))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_and_no_torch(
    tmp_path: Any, tensors: Tensors, image: NDArray[np.uint8], boxes: NDArray[np.int64]
) -> None:
    """A DataLoader's workers: threads in a child of a process that has had threads. Without importing torch."""
    path = tmp_path / "inputs.npz"
    np.savez(path, image=image, boxes=boxes, **tensors)  # type: ignore[arg-type]
    # Not run from the checkout, whose folder meon_ext would hide the installed package.
    command = [sys.executable, "-c", FORKED, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
