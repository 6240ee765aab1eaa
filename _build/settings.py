"""The environment variables that steer the build; what they cannot mean is refused before anything is downloaded."""

from __future__ import annotations

import os


def choice(name: str, *allowed: str) -> str:
    """The value of a variable; the first of those allowed where it is not set, or empty."""
    value = os.environ.get(name) or allowed[0]
    if value not in allowed:
        # Taking it for the default would be found out much later.
        raise SystemExit(f"{name} is {value!r}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def cuda() -> str:
    return choice("MEON_CUDA", "auto", "on", "off")


def torch_wanted() -> bool:
    return choice("MEON_TORCH", "auto", "off") == "auto"


def jobs() -> list[str]:
    """CMake's arguments for MAX_JOBS."""
    value = os.environ.get("MAX_JOBS")
    if not value:
        return []
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise SystemExit(f"MAX_JOBS is {value!r}; it must be a whole number from 1 on: of files compiled at once")
    return ["-j", value]


def check() -> None:
    """Raises SystemExit for the first that is wrong."""
    if (cuda(), torch_wanted()) == ("on", False):
        raise SystemExit("MEON_CUDA=on asks for a part of the torch ops, which MEON_TORCH=off leaves out; unset one of them")
    jobs()
