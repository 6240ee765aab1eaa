"""Derivatives of the ops: opcheck, numerical first, second and third ones, and which gradients are computed at all."""

from collections.abc import Iterator

import pytest
import torch
from ops_cases import (
    CROP,
    CROP_CASE,
    NAMES,
    TIMES_PLAIN,
    Call,
    ConvCase,
    Function,
    call,
    fresh_generator,
    gdn_inputs,
    leaves,
    opcheck,
    run,
    same_bits,
    threads,
)
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from meon_ext import ops, reference

OPS = torch.ops.meon_ext
# A beta of 1 or more, and pixels of 0 to 3: GDN bends over a distance of about sqrt(beta), which a numerical
# derivative has to resolve.
SMALL = ConvCase(2, 2, 7, 6, 3, (3, 2), (2, 1), (1, 0), beta_floor=1)
SIZE, STRIDE = 4, 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def small_call(name: str, generator: torch.Generator) -> Call:
    """Few float64 leaves, for numerical derivatives. No two elements of a pool window are so close that a step of 1e-6
    could exchange them: where the largest two are equal, there is no derivative."""
    if name == "gdn":
        return Call(ops.gdn, reference.gdn, gdn_inputs((2, 3, 2, 3), generator, torch.float64, beta_floor=1))
    if name == "extract_crops":
        return Call(
            lambda image: ops.extract_crops(image, SIZE, STRIDE),
            lambda image: reference.extract_crops(image, SIZE, STRIDE),
            leaves([torch.randn(6, 8, 2, generator=generator, dtype=torch.float64)]),
        )
    while True:
        inputs = SMALL.inputs(generator, torch.float64)
        if name == "crop_conv_gdn_pool":
            image = torch.randint(0, 4, (11, 10, 2), generator=generator, dtype=torch.uint8)
            boxes = torch.tensor([[0, 0, 6, 7], [4, 4, 10, 11], [2, 3, 8, 10]])
            inputs[0] = reference.gather_crops(image, boxes, dtype=torch.float64)
        y = ops.conv_gdn_pool(*inputs, SMALL.stride, SMALL.padding, 1)
        largest = y.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).topk(2).values
        if bool((largest[..., 0] - largest[..., 1] > 1e-3).all()):
            break
    if name == "conv_gdn_pool":
        return Call(SMALL.function(ops), SMALL.function(reference), inputs)
    return Call(
        lambda *rest: ops.crop_conv_gdn_pool(image, boxes, *rest, *SMALL.options),
        lambda *rest: reference.crop_conv_gdn_pool(image, boxes, *rest, *SMALL.options),
        inputs[1:],
    )


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivative(name: str) -> None:
    c = small_call(name, fresh_generator())
    assert gradcheck(c.function, c.inputs)
    assert gradgradcheck(c.function, c.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_third_derivative(name: str) -> None:
    """The second derivative of the first."""
    generator = fresh_generator()
    c = small_call(name, generator)
    grad = torch.randn(c.function(*c.inputs).shape, generator=generator, dtype=torch.float64).requires_grad_()

    def first(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(c.function(*inputs), inputs, grad, create_graph=True)

    assert gradgradcheck(first, [grad, *c.inputs])


@pytest.mark.parametrize("name", NAMES)
def test_second_derivative_of_float32(name: str) -> None:
    """Double backward keeps the dtype, and is as close to float64 as plain PyTorch's."""
    generator = fresh_generator()
    c = small_call(name, generator)
    inputs = leaves(c.inputs, torch.float32)
    grad = torch.randn(c.function(*inputs).shape, generator=generator)
    vectors = [torch.randn(t.shape, generator=generator) for t in inputs]
    got = second_order(c.function, inputs, grad, vectors)
    plain = second_order(c.reference, inputs, grad, vectors)
    doubles = leaves(inputs, torch.float64)
    want = second_order(c.reference, doubles, grad.double(), [v.double() for v in vectors])
    for a, p, b in zip(got, plain, want, strict=True):
        assert a.dtype == torch.float32
        ulp = torch.finfo(torch.float32).eps * float(b.abs().max())
        assert float((a - b).abs().max()) <= TIMES_PLAIN * float((p - b).abs().max()) + ulp


def second_order(function: Function, inputs: list[Tensor], grad: Tensor, vectors: list[Tensor]) -> list[Tensor]:
    """Of sum(gradients * vectors), with respect to the gradient of the output and to the inputs."""
    grad = grad.clone().requires_grad_()
    first = torch.autograd.grad(function(*inputs), inputs, grad, create_graph=True)
    total = torch.stack([(f * v).sum() for f, v in zip(first, vectors, strict=True)]).sum()
    wanted = [grad, *inputs] if len(inputs) > 1 else [grad]  # extract_crops is linear: nothing else is left
    return list(torch.autograd.grad(total, wanted))


@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool", "crop_conv_gdn_pool"])
def test_second_derivative_under_autocast_is_of_float32(name: str) -> None:
    generator = fresh_generator()
    c = small_call(name, generator)
    inputs = leaves(c.inputs, torch.float32)
    grad = torch.randn(c.function(*inputs).shape, generator=generator)
    vectors = [torch.randn(t.shape, generator=generator) for t in inputs]
    want = second_order(c.function, inputs, grad, vectors)
    with torch.autocast("cpu", torch.bfloat16):
        got = second_order(c.function, inputs, grad, vectors)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # functorch's own
@pytest.mark.parametrize("name", NAMES)
def test_forward_mode(name: str) -> None:
    """Through torch.func and through dual numbers, in which the inputs may require a gradient as well."""
    generator = fresh_generator()
    c = small_call(name, generator)
    inputs = [t.detach() for t in c.inputs]
    tangents = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
    _, want = torch.func.jvp(c.reference, tuple(inputs), tuple(tangents))
    _, got = torch.func.jvp(c.function, tuple(inputs), tuple(tangents))
    assert torch.equal(got, want) and bool(want.any())
    for primals in (inputs, c.inputs):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, v) for t, v in zip(primals, tangents, strict=True)]
            assert torch.equal(forward_ad.unpack_dual(c.function(*duals)).tangent, want)
            # One input alone, and none: then it is the op again.
            first = c.function(duals[0], *primals[1:])
            assert forward_ad.unpack_dual(first).tangent is not None
            assert forward_ad.unpack_dual(c.function(*primals)).tangent is None


@pytest.mark.parametrize("name", NAMES)
def test_second_derivative_where_one_input_is_frozen(name: str) -> None:
    """A gradient penalty in training: x has no gradient of its own, the parameters have."""
    c = small_call(name, fresh_generator())
    frozen = [c.inputs[0].detach(), *c.inputs[1:]]
    if len(frozen) == 1:
        assert not c.function(*frozen).requires_grad
        return
    results = []
    for function in (c.function, c.reference):
        first = torch.autograd.grad(function(*frozen).square().sum(), frozen[1:], create_graph=True)
        results.append(torch.autograd.grad(torch.stack([f.square().sum() for f in first]).sum(), frozen[1:]))
    for a, b in zip(*results, strict=True):
        # In float64 this is 450 000 roundings, more than both together make; a term left out would be far more.
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_retained_graph(name: str) -> None:
    c = call(name, fresh_generator())
    y = c.function(*c.inputs)
    wanted = [t for t in c.inputs if t.requires_grad]
    first = torch.autograd.grad(y.sum(), wanted, retain_graph=True)
    same_bits(name, torch.autograd.grad(y.sum(), wanted), first)


@pytest.mark.parametrize("name", NAMES)
def test_expanded_gradient(name: str) -> None:
    """y.sum() sends back one element with all strides 0."""
    c = call(name, fresh_generator())
    wanted = [t for t in c.inputs if t.requires_grad]
    _, *want = run(c.function, c.inputs)
    same_bits(name, torch.autograd.grad(c.function(*c.inputs).sum(), wanted), want)


# --- opcheck ------------------------------------------------------------------------------------------------------


def opcheck_cases(generator: torch.Generator) -> dict[str, tuple[object, tuple[object, ...]]]:
    def random(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    flat, planes = gdn_inputs((5, 3), generator), gdn_inputs((2, 3, 4, 5), generator)
    last = [planes[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_(), *planes[1:]]
    cases: dict[str, tuple[object, tuple[object, ...]]] = {}
    for name, inputs in {"flat": flat, "planes": planes, "channels_last": last}.items():
        cases[f"gdn {name}"] = OPS.gdn.default, tuple(inputs)
        cases[f"gdn_backward {name}"] = OPS.gdn_backward.default, (random(inputs[0].shape), *inputs)

    conv = (*SMALL.inputs(generator), *map(list, SMALL.options[:2]), SMALL.pool)
    grad = random(OPS.conv_gdn_pool(*conv).shape)
    cases["conv_gdn_pool"] = OPS.conv_gdn_pool.default, conv
    for input_grad in (True, False):
        arguments = (grad, *conv, input_grad)
        cases[f"conv_gdn_pool_backward {input_grad}"] = OPS.conv_gdn_pool_backward.default, arguments

    c = call("crop_conv_gdn_pool", generator)
    boxes, image, *parameters = c.inputs
    stride, padding, pool = CROP_CASE.options
    crops = (image, boxes, *parameters, [CROP, CROP], list(stride), list(padding), pool)
    grad = random(c.function(*c.inputs).shape)
    cases["crop_conv_gdn_pool"] = OPS.crop_conv_gdn_pool.default, crops
    cases["crop_conv_gdn_pool_backward"] = OPS.crop_conv_gdn_pool_backward.default, (grad, *crops)

    floating = torch.randn(7, 9, 2, generator=generator).requires_grad_()
    cases["extract_crops of floats"] = OPS.extract_crops.default, (floating, SIZE, STRIDE, False)
    for double_out in (False, True):
        arguments = (image[:7, :9], SIZE, STRIDE, double_out)
        cases[f"extract_crops of bytes {double_out}"] = OPS.extract_crops.default, arguments
    grad = random(OPS.extract_crops(floating, SIZE, STRIDE, False).shape)
    cases["extract_crops_backward"] = OPS.extract_crops_backward.default, (grad, 7, 9, STRIDE)
    return cases


@pytest.mark.parametrize("case", list(opcheck_cases(torch.Generator())))
def test_opcheck(case: str) -> None:
    opcheck(*opcheck_cases(fresh_generator())[case])
