"""From the TensorFlow 1 checkpoint that MEON's authors released to a weights file.

TensorFlow's own reader reads it, so this needs ``pip install meon_ext[convert]``; nothing else in meon_ext does.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meon_ext.errors import MeonError, WeightsError
from meon_ext.weights_io import DMOS_MAPPING, RELEASE_CLASSES, Architecture, WeightsFile, check_weights

__all__ = ["convert_checkpoint", "convert_variables"]

# The scopes of the release's graph, for each layer of ours.
_SCOPES = {
    "stages.0": "conv1",
    "stages.1": "conv2",
    "stages.2": "conv3",
    "stages.3": "conv4",
    "type_head.0": "subtask1/fc1",
    "type_head.1": "subtask1/fc2",
    "quality_head.0": "subtask2/fc1",
    "quality_head.1": "subtask2/fc2",
}
_VARIABLES = {
    "weight": "weights",
    "bias": "biases",
    "beta": "gdn_x/reparam_beta",
    "gamma": "gdn_x/reparam_gamma",
}
# The largest network of 100 classes has none of more; a checkpoint may hold any model, of any size.
_MAX_ELEMENTS = 1_000_000
# The release keeps r = sqrt(v + 2^-36) and computes v = max(r, sqrt(v_min + 2^-36))^2 - 2^-36.
_PEDESTAL = 2.0**-36
_MINIMUM = {"beta": 1e-6, "gamma": 0.0}


def convert_checkpoint(path: str | os.PathLike[str], *, classes: Sequence[str] = RELEASE_CLASSES) -> WeightsFile:
    """Read a MEON checkpoint of TensorFlow 1.

    path: the checkpoint's prefix, or any of its files (PREFIX.index, PREFIX.meta, PREFIX.data-00000-of-00001).
    classes: the distortion types in the order of the outputs; a checkpoint does not name them.

    Returns weights whose raw score is DMOS, 0 best; ``meon_ext.weights_io.write_weights`` writes them to a file.
    Raises WeightsError for a missing or damaged checkpoint and for one of another network, MeonError when TensorFlow is
    not installed.
    """
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", os.fspath(path))
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError(f"{path}: no such checkpoint ({prefix}.index is missing); give PREFIX where PREFIX.index is")
    return convert_variables(_read_variables(prefix), classes=classes, source=os.fspath(path))


def convert_variables(
    variables: Mapping[str, NDArray[np.floating[Any]]], *, classes: Sequence[str] = RELEASE_CLASSES, source: str
) -> WeightsFile:
    """The same from the checkpoint's variables by name; others, such as an optimiser's, are left out.

    TensorFlow keeps convolutions as (height, width, in, out) and gamma as (in, out): both are turned round.
    Messages of errors begin with ``source``.
    """
    tensors = {}
    try:
        architecture = Architecture(num_classes=len(classes))
    except ValueError as error:
        raise WeightsError(f"{source}: {error}; name the classes of the network") from error
    for name, shape in architecture.expected_tensors().items():
        layer, _, entry = name.rpartition(".")
        variable = f"{_SCOPES[layer]}/{_VARIABLES[entry]}"
        if variable not in variables:
            raise WeightsError(f"{source}: variable {variable!r} is missing; give a checkpoint of MEON")
        stored = np.asarray(variables[variable])
        if stored.dtype.kind != "f":
            raise WeightsError(f"{source}: variable {variable!r} is of type {stored.dtype}; give a checkpoint of MEON")
        stored = stored.astype(np.float64)
        value = stored
        if entry == "weight":
            # Fully connected layers are 1 x 1 convolutions there.
            kernel = shape[2:] or (1, 1)
            value = stored.transpose(3, 2, 0, 1) if stored.ndim == 4 else stored
            expected = (*kernel, shape[1], shape[0])
        elif entry == "gamma":
            value = stored.T
            expected = shape
        else:
            expected = shape
        if stored.shape != expected:
            raise WeightsError(
                f"{source}: variable {variable!r} has shape {list(stored.shape)}, not {list(expected)}; "
                f"give a checkpoint of MEON with {len(classes)} classes"
            )
        if entry in _MINIMUM:
            value = np.maximum(value, np.sqrt(_MINIMUM[entry] + _PEDESTAL)) ** 2 - _PEDESTAL
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
            tensors[name] = np.ascontiguousarray(value.reshape(shape), dtype=np.float32)
    weights = WeightsFile(tensors, tuple(classes), architecture, mapping=DMOS_MAPPING, score_name="DMOS")
    check_weights(weights, source)
    return weights


def _read_variables(prefix: str) -> dict[str, NDArray[np.floating[Any]]]:
    # Leaves out most of its start-up messages, which are about the processor and not the checkpoint.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MeonError(
            "reading a TensorFlow checkpoint needs TensorFlow; install it with: pip install 'meon_ext[convert]'"
        ) from error
    wanted = {f"{scope}/{variable}" for scope in _SCOPES.values() for variable in _VARIABLES.values()}
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = {n: s for n, s in reader.get_variable_to_shape_map().items() if n in wanted}
        if all(math.prod(shape) <= _MAX_ELEMENTS for shape in shapes.values()):
            return {name: reader.get_tensor(name) for name in shapes}
    except Exception as error:  # the reader turns its failures into exceptions of many kinds, IndexError among them
        raise WeightsError(f"{prefix}: is no TensorFlow checkpoint or damaged ({error}); get it again") from error
    large = next(name for name, shape in shapes.items() if math.prod(shape) > _MAX_ELEMENTS)
    raise WeightsError(f"{prefix}: variable {large!r} has shape {list(shapes[large])}; give a checkpoint of MEON")
