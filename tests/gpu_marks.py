"""What every module of tests/gpu is marked with."""

import pytest
import torch

GPU_MARKS = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # torch warns of the machine it finds, such as of TF32 being off
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no CUDA device (cuda.is_available())"
    ),
]
