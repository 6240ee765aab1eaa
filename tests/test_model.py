"""MEON and its ablations."""

import copy
import itertools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from meon_ext import reference
from meon_ext.errors import WeightsError
from meon_ext.model import MEON, MEONOutput
from meon_ext.modules import Backend, ConvGDNPool, LinearGDN, Parametrization, project_gdn_
from meon_ext.weights_io import DMOS_MAPPING, RELEASE_CLASSES, read_weights, resolve_weights, write_weights

BACKENDS = ["reference", "fused"]
PARAMETRIZATIONS = ["projected", "reparam"]
TASKS = ["fusion", "multitask", "single"]
ACTIVATIONS = [
    {"activation": "gdn"},
    {"activation": "gdn", "width": 2},
    {"activation": "relu"},
    {"activation": "relu", "width": 2},
    {"activation": "relu", "width": 2, "batch_norm": True},
]
VARIANTS = [{"task": task, **rest} for task, rest in itertools.product(TASKS, ACTIVATIONS)]
COMPILES_FUNCTION = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def crops(count: int, seed: int = 0) -> Tensor:
    """Random fields with the brightness and contrast of photographs, smooth enough to have structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 20, 20, generator=generator) * 200
    fine = torch.rand(count, 3, 256, 256, generator=generator) * 55
    return torch.nn.functional.interpolate(coarse, 256, mode="bilinear") + fine


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def assert_as_accurate(fast: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The float32 result is off the float64 one by no more than a small multiple of what plain PyTorch's is."""
    unit = torch.finfo(torch.float32).eps * exact.abs().max()
    assert (fast - exact).abs().max() <= 4 * (plain - exact).abs().max() + unit


def test_parameter_counts_of_the_paper() -> None:
    model = MEON(5, backend="reference")
    assert model.parameter_count() == 149_906
    assert model.parameter_count(symmetric_once=True) == 106_478
    assert MEON(5, backend="reference", parametrization="reparam").parameter_count(True) == 106_478


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variants_forward_and_backward(variant: dict[str, object]) -> None:
    model = MEON(4, **variant, backend="reference")
    running = ("running_mean", "running_var")
    expected = {n: s for n, s in model.architecture.expected_tensors().items() if not n.endswith(running)}
    assert model.parameter_count() == sum(int(np.prod(shape)) for shape in expected.values())
    assert {n: tuple(t.shape) for n, t in model.effective_tensors().items() if not n.endswith(running)} == expected

    output = model(crops(3))
    assert isinstance(output, MEONOutput)
    assert output.quality.shape == (3,)
    loss = output.quality.square().sum()
    if variant["task"] == "single":
        assert (output.logits, output.probabilities, output.class_scores, model.classes) == (None, None, None, ())
    else:
        assert output.logits is not None
        assert output.probabilities is not None
        assert output.logits.shape == output.probabilities.shape == (3, 4)
        assert torch.equal(output.probabilities, output.logits.softmax(dim=1))
        loss = loss + output.logits.square().sum()
    if variant["task"] == "fusion":
        assert output.class_scores is not None
        assert torch.equal(output.quality, (output.class_scores * output.probabilities).sum(dim=1))
    else:
        assert output.class_scores is None
    loss.backward()
    # What is added before batch normalisation is subtracted again.
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, ConvGDNPool | LinearGDN)]
    without_effect = {f"{name}.bias" for name, layer in layers if layer.batch_norm is not None}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name in without_effect, name


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_untrained_outputs_are_of_order_one(variant: dict[str, object]) -> None:
    model = MEON(4, **variant, backend="reference")
    output = model(crops(4))
    for values in (output.quality, output.logits):
        if values is not None:
            # Neither saturated nor dead: different crops differ, and no softmax starts out certain.
            assert values.abs().max() < 12
            assert (values.max(dim=0).values - values.min(dim=0).values > 1e-4).all()


def test_filters_of_stage_1_ignore_brightness() -> None:
    model = MEON(backend="reference")
    weight = model.effective_tensors()["stages.0.weight"]
    # Each sum is that of 75 rounded values.
    assert (
        weight.sum(dim=(1, 2, 3)).abs() <= 75 * torch.finfo(torch.float32).eps * weight.abs().amax(dim=(1, 2, 3))
    ).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_model_is_the_forward_pass_of_its_effective_parameters(
    backend: Backend, parametrization: Parametrization
) -> None:
    model = MEON(5, backend=backend, parametrization=parametrization).double()
    x = crops(2).double()
    expected = reference.meon_forward(model.effective_tensors(), x)
    # Between what float64 rounds off in six layers of sums of hundreds of terms and what one float32 step would (1e-7).
    for value, other in zip(model(x), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)


def test_fused_is_as_accurate_as_plain_pytorch() -> None:
    exact = MEON(5, backend="reference").double()
    plain = copy.deepcopy(exact).float()
    fast = copy.deepcopy(plain)
    fast.set_backend("fused")
    x = crops(4)
    results = []
    for model in (fast, plain, exact):
        output = model(x.to(next(model.parameters()).dtype))
        loss = output.quality.sum() + torch.nn.functional.cross_entropy(output.logits, torch.arange(4))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((output.quality, output.logits, *gradients))
    for values in zip(*results, strict=True):
        assert_as_accurate(*values)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_forward_crops_equals_forward_of_the_crops(variant: dict[str, object], backend: Backend) -> None:
    model = MEON(3, **variant, backend=backend).eval()
    image = torch.randint(0, 256, (300, 400, 3), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 256, 256], [144, 44, 400, 300], [17, 3, 273, 259]])
    expected = model(reference.gather_crops(image, boxes))
    for value, other in zip(model.forward_crops(image, boxes), expected, strict=True):
        assert value is other is None or torch.equal(value, other)
    assert model.forward_crops(image, boxes[:0]).quality.shape == (0,)
    with pytest.raises(ValueError, match="256"):
        model.forward_crops(image, boxes + torch.tensor([0, 0, 1, 0]))
    with pytest.raises(ValueError, match=r"must be \(N, 3, 256, 256\)"):
        model(torch.zeros(1, 3, 256, 255))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_few_steps_learn_the_types_of_a_few_crops(parametrization: Parametrization, backend: Backend) -> None:
    model = MEON(2, backend=backend, parametrization=parametrization)
    x = crops(4)
    x[2:] = torch.nn.functional.avg_pool2d(x[2:], 5, 1, 2)  # two as they are, two blurred
    types = torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.Adam(model.pretraining_parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(x).logits, types)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        project_gdn_(model)
    assert losses[-1] < losses[0] / 2
    tensors = model.effective_tensors()
    assert all((t >= 0).all() for n, t in tensors.items() if n.endswith("gamma"))
    assert all((t >= 0.99e-6).all() for n, t in tensors.items() if n.endswith("beta"))


def test_pretraining_leaves_the_quality_head_alone() -> None:
    model = MEON(backend="reference")
    chosen = {id(parameter) for parameter in model.pretraining_parameters()}
    left = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) not in chosen}
    assert left == {"quality_head"}
    with pytest.raises(ValueError, match="single"):
        MEON(task="single", backend="reference").pretraining_parameters()


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_save_and_load(variant: dict[str, object], parametrization: Parametrization, tmp_path: Path) -> None:
    names, words = ("blur", "noise", "none"), (("good", 50.0), ("bad", 0.0))
    model = MEON(
        3, **variant, backend="reference", parametrization=parametrization, classes=names, mapping=DMOS_MAPPING,
        score_name="DMOS", words=words,
    )  # fmt: skip
    if variant.get("batch_norm"):
        model(crops(4))  # so that the running statistics are not their initial values
    model.eval()
    path = tmp_path / "model.safetensors"
    digest = model.save_pretrained(path, {"trained_on": "nothing"})
    file = read_weights(path)
    assert (file.sha256, file.name, file.metadata) == (digest, "model", {"trained_on": "nothing"})
    assert file.classes == (() if variant["task"] == "single" else names)
    loaded = MEON.from_pretrained(path, backend="reference")
    assert not loaded.training
    assert (loaded.architecture, loaded.classes) == (model.architecture, model.classes)
    assert (loaded.mapping, loaded.score_name, loaded.words) == (DMOS_MAPPING, "DMOS", words)
    for name, tensor in model.effective_tensors().items():
        assert torch.equal(loaded.effective_tensors()[name], tensor), name
    x = crops(2)
    for value, other in zip(loaded(x), model(x), strict=True):
        assert value is other is None or torch.equal(value, other)
    again = tmp_path / "again.safetensors"
    assert loaded.save_pretrained(again, {"trained_on": "nothing"}) == digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_torch_s_defaults_do_not_change_weights_that_are_read(backend: Backend, dtype: torch.dtype) -> None:
    """In half precision the scores would be others."""
    x = crops(2)
    with torch.no_grad():
        expected = MEON.from_pretrained(backend=backend)(x).quality
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")
        try:
            model = MEON.from_pretrained(backend=backend)
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
        assert torch.equal(model(x).quality, expected)


def test_reading_weights_draws_no_random_numbers() -> None:
    """Else a run that looks at its model on the way goes on differently."""
    state = torch.get_rng_state()
    MEON.from_pretrained(backend="reference")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_weights_keep_their_words(tmp_path: Path) -> None:
    MEON.from_pretrained(backend="reference").save_pretrained(tmp_path / "m.safetensors")
    assert read_weights(tmp_path / "m.safetensors").words == read_weights(resolve_weights()).words != ()


def test_reparam_loads_to_rounding(tmp_path: Path) -> None:
    MEON(backend="reference").save_pretrained(tmp_path / "m.safetensors")
    exact = MEON.from_pretrained(tmp_path / "m.safetensors", backend="reference")
    loaded = MEON.from_pretrained(tmp_path / "m.safetensors", backend="reference", parametrization="reparam")
    eps = torch.finfo(torch.float32).eps
    for name, tensor in exact.effective_tensors().items():
        # r is rounded once, which its square doubles; the square and the difference are rounded once each.
        assert ((loaded.effective_tensors()[name] - tensor).abs() <= 3 * eps * (tensor.abs() + 2.0**-36)).all(), name


def test_loading_is_strict() -> None:
    model = MEON(backend="reference")
    tensors = {name: tensor.detach() for name, tensor in model.effective_tensors().items()}
    with pytest.raises(ValueError, match=r"stages\.1\.gamma"):
        model.load_effective_({name: t for name, t in tensors.items() if name != "stages.1.gamma"})
    with pytest.raises(ValueError, match="more"):
        model.load_effective_({**tensors, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"type_head\.1\.bias"):
        model.load_effective_({**tensors, "type_head.1.bias": torch.zeros(4)})
    weights = model.to_weights()
    weights.tensors["stages.0.beta"][3] = 0
    with pytest.raises(WeightsError, match=r"weights: tensor 'stages\.0\.beta'"):
        MEON.from_weights(weights, backend="reference")


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    model = MEON(backend="reference")
    with torch.no_grad():
        model.get_parameter("stages.0.gdn.gamma").fill_(-1)
    with pytest.raises(WeightsError, match=r"stages\.0\.gamma.*negative"):
        model.save_pretrained(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"width": 3}, "width"),
        ({"activation": "tanh"}, "activation"),
        ({"task": "both"}, "task"),
        ({"batch_norm": True}, "batch_norm"),
        ({"classes": ("a", "b")}, "2 class names"),
        ({"backend": "quick"}, "backend"),
        ({"parametrization": "free"}, "parametrization"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEON(**{"backend": "reference", **arguments})


def test_seeds() -> None:
    def flat(model: MEON) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def seeded_model(seed: int) -> MEON:
        torch.manual_seed(seed)
        return MEON(backend="reference")

    model = seeded_model(1)
    assert torch.equal(flat(model), flat(seeded_model(1)))
    assert not torch.equal(flat(model), flat(seeded_model(2)))
    model.reset_parameters(torch.Generator().manual_seed(3))
    drawn = flat(model)
    torch.manual_seed(3)
    model.reset_parameters()
    assert torch.equal(flat(model), drawn)


def test_copies_and_pickles() -> None:
    model = MEON(backend="reference")
    x = crops(1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x).quality, model(x).quality)
        assert twin.classes == model.classes


@COMPILES_FUNCTION
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("task", TASKS)
def test_compiles_in_one_piece(task: str, parametrization: Parametrization, backend: Backend) -> None:
    model = MEON(3, task=task, parametrization=parametrization, backend=backend)
    x = crops(2)
    expected = model(x)
    torch.compiler.reset()  # else each case counts as a recompilation of the one before
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert isinstance(compiled, MEONOutput)
    for value, other in zip(compiled, expected, strict=True):
        assert value is other is None or torch.equal(value, other)
    losses = [sum(value.square().sum() for value in output if value is not None) for output in (compiled, expected)]
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", TASKS)
def test_exports_with_any_number_of_crops(task: str, backend: Backend) -> None:
    model = MEON(3, task=task, backend=backend).eval()
    shapes = ({0: torch.export.Dim("crops")},)
    exported = torch.export.export(model, (crops(2),), dynamic_shapes=shapes).module()
    x = crops(5, seed=1)
    for value, other in zip(exported(x), model(x), strict=True):
        assert value is other is None or torch.equal(value, other)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_released_weights_give_the_released_scores(
    shared_data: Path, backend: Backend, parametrization: Parametrization
) -> None:
    release = shared_data / "meon_release"
    model = MEON.from_pretrained(release / "meon_release.safetensors", backend=backend, parametrization=parametrization)
    assert (model.classes, model.score_name, model.mapping.lower_is_better) == (RELEASE_CLASSES, "DMOS", True)
    expected = json.loads((release / "expected.json").read_text())
    for name in ("demo_1.png", "demo_3.png"):
        with Image.open(release / name) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGB")))
        with torch.no_grad():
            output = model(reference.extract_crops(image))
        votes = output.logits.argmax(dim=1).bincount(minlength=5)
        # The file gives five decimals; float32 adds about 4e-5 a crop.
        assert output.quality.mean().item() == pytest.approx(expected[name]["dmos"], abs=1e-3)
        assert model.classes[int(votes.argmax())] == expected[name]["label"]


def test_released_weights_in_the_oracle(shared_data: Path) -> None:
    weights = read_weights(shared_data / "meon_release" / "meon_release.safetensors")
    x = crops(2).double()
    tensors = {name: torch.from_numpy(tensor).double() for name, tensor in weights.tensors.items()}
    model = MEON.from_weights(weights, backend="reference").double()
    for value, other in zip(model(x), reference.meon_forward(tensors, x), strict=True):
        assert torch.equal(value, other)


def test_released_weights_written_again(shared_data: Path, tmp_path: Path) -> None:
    weights = read_weights(shared_data / "meon_release" / "meon_release.safetensors")
    write_weights(tmp_path / "copy.safetensors", weights)
    copied = read_weights(tmp_path / "copy.safetensors")
    assert (copied.classes, copied.mapping, copied.score_name) == (weights.classes, weights.mapping, "DMOS")
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(copied.tensors[name], tensor)
