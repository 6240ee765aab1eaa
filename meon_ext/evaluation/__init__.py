"""Evaluating a model on a data set: predictions, their agreement with human scores, and tests that need no scores.

Importing this imports neither torch nor SciPy; SciPy follows when something is computed.
"""

from meon_ext.evaluation._agreement import Agreement, Evaluation, SplitSummary, TypeSummary, evaluate
from meon_ext.evaluation._predictions import Prediction, ScoreFile, predict
from meon_ext.evaluation._waterloo import WaterlooResult, discriminable_pairs, waterloo_identity, waterloo_tests

__all__ = [
    "Agreement",
    "Evaluation",
    "Prediction",
    "ScoreFile",
    "SplitSummary",
    "TypeSummary",
    "WaterlooResult",
    "discriminable_pairs",
    "evaluate",
    "predict",
    "waterloo_identity",
    "waterloo_tests",
]
