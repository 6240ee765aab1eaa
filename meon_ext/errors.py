"""The exceptions that meon_ext raises on purpose; everything else is a defect."""


class MeonError(Exception):
    """Base of all errors raised by meon_ext on purpose."""


class ImageError(MeonError, ValueError):
    """An image cannot be read or scored. The message names the file or argument and the remedy."""


class WeightsError(MeonError, ValueError):
    """A weights file or checkpoint does not fit. The message names the file, the entry and the remedy."""


class ConfigError(MeonError, ValueError):
    """A training configuration does not make sense. The message names the setting and what is allowed."""


class TrainingError(MeonError, RuntimeError):
    """A training run cannot begin, go on or be resumed. The message names the file or number and the remedy."""


class DatasetError(MeonError, ValueError):
    """A data set is not as it should be. The message lists all that is missing or odd, and says what to do."""


class NativeError(MeonError, ImportError):
    """A native library of meon_ext is missing or cannot be loaded. The message names the remedy."""


class DistortionError(MeonError, ValueError):
    """A distortion's type, level or seed is not one there is. The message names the argument and the remedy."""
