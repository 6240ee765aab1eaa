"""Synthetic distortions of photographs: all types of TID2013 and KADID-10k, WebP and AVIF, at five levels each.

``TYPES`` describes them, ``distort`` makes them; docs/distortions.md has the whole table. Pictures are uint8
``(H, W, 3)`` RGB arrays of any size. Importing this imports NumPy only, SciPy and Pillow where a type needs them.
"""

from meon_ext.distortions._registry import CLASSIC, LEVELS, TYPES, DistortionType, available, distort

__all__ = ["CLASSIC", "LEVELS", "TYPES", "DistortionType", "available", "distort"]
