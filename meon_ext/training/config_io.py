"""Reading configurations from TOML or JSON, changing them on the command line, saving them with the run."""

from __future__ import annotations

import importlib
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from meon_ext.errors import ConfigError
from meon_ext.training.config import StepConfig, TrainConfig

__all__ = ["config_from_mapping", "load_config", "override", "save_config"]

MAX_CONFIG_BYTES = 1 << 20
C = TypeVar("C")


def load_config(path: str | Path) -> dict[str, Any]:
    """The content of a TOML or JSON file (by its suffix), unchecked: ``config_from_mapping`` checks it.

    Raises ConfigError when it cannot be read or is neither.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); name a configuration file") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: is over {MAX_CONFIG_BYTES} bytes, too large for a configuration; name another file")
    try:
        text = data.decode()
        if path.suffix == ".json":
            content = json.loads(text)
        elif path.suffix == ".toml":
            content = _parse_toml(text, path)
        else:
            raise ConfigError(f"{path}: a configuration file ends in .toml or .json; rename it")
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: is no {path.suffix[1:].upper()} ({error}); correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold an object of settings; correct it")
    return content


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        content: dict[str, Any] = importlib.import_module(name).loads(text)
    except ModuleNotFoundError:
        raise ConfigError(f'{path}: Python 3.10 reads TOML with: pip install "meon_ext[train]"') from None
    return content


def save_config(config: TrainConfig) -> str:
    """The configuration as JSON text that ``load_config`` and ``config_from_mapping`` read back to an equal one."""
    return json.dumps(asdict(config), indent=2) + "\n"


def config_from_mapping(settings: Mapping[str, Any], source: str = "configuration") -> TrainConfig:
    """A checked configuration; what is not set has its default.

    source: what messages begin with. Raises ConfigError for unknown keys (with what is allowed), wrong types and
    impossible values.
    """
    try:
        return _build(TrainConfig, settings, "")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def override(settings: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """Settings with one of them changed: ``assignment`` is ``key=value``, e.g. ``joint.epochs=20``.

    The value is read as JSON, and as text where it is none. Raises ConfigError for something else.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{assignment!r:.80} is no key=value, such as joint.epochs=20")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    changed = dict(settings)
    place = changed
    *path, last = key.split(".")
    for part in path:
        inner = place.get(part, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{assignment!r:.80}: {part!r} holds no further settings")
        place[part] = place = dict(inner)
    place[last] = value
    return changed


def _build(kind: type[C], settings: object, where: str) -> C:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where or 'it'} must be a table of settings, got {settings!r:.80}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(names))
    if unknown:
        here = f" of {where}" if where else ""
        raise ConfigError(f"unknown setting {unknown[0]!r:.80}{here}; known are {', '.join(names)}")
    values = {
        name: _convert(hints[name], value, f"{where}.{name}" if where else name) for name, value in settings.items()
    }
    try:
        return kind(**values)
    except ConfigError as error:
        # The steps share a class that does not know which of them it is.
        raise ConfigError(f"in {where}: {error}" if issubclass(kind, StepConfig) else str(error)) from None


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r:.80}")
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be {_KINDS[hint]}, got {value!r:.80}")
    if hint is float and not abs(typing.cast(float, value)) < float("inf"):
        raise ConfigError(f"{where} must be a finite number, got {value!r}")
    return value


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _convert_tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(f"{where} must be a list, got {value!r:.80}")
    variable = isinstance(arguments[-1], types.EllipsisType)
    if not variable and len(value) != len(arguments):
        raise ConfigError(f"{where} must have {len(arguments)} entries, got {len(value)}")
    hints = [arguments[0]] * len(value) if variable else arguments
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))
