"""What a training run is told. No torch here, so that wrong configurations are answered at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from meon_ext.errors import ConfigError
from meon_ext.weights_io import CROP_SIZE

__all__ = [
    "DataConfig",
    "NetworkConfig",
    "SplitConfig",
    "StepConfig",
    "SynthesisConfig",
    "TrainConfig",
    "with_split_seed",
]


def _require(condition: bool, name: str, wanted: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {wanted}, got {value!r:.80}")


@dataclass(frozen=True)
class DataConfig:
    """One data set of pictures with human (or teacher's) scores.

    name, root: as for ``meon_ext.datasets.load_dataset``.
    repeat: how often an epoch goes through it, to balance sets of different sizes.
    scale: the least and the greatest score that count, in place of its own scale's ends; scores beyond are taken for
        them. People seldom give the best mark even to a flawless photograph, so that beside pictures whose best score
        is pristine the best of a set should not be far from the end of its scale.
    damage: of each photograph to learn from whose distortion is not known, further copies are made as ``synthesis``
        says, with this share of its types, drawn at random for each, at all levels. Their score is the photograph's,
        as quality, less the share that the teacher takes from a pristine one for the same damage. So a set of
        photographs as cameras make them shows what damage does to those too. 0 makes none.
    clean: this share of the photographs to learn from whose distortion is not known, those with the best scores, is
        taught as of type pristine, so that a camera's own noise and softness are not taken for damage. spoiled: this
        share of them, those with the worst scores, is taught as of any other type: which, the network's likeness to
        damage made here decides. Their scores stay.
    """

    name: str = "folder"
    root: str = ""
    repeat: int = 1
    scale: tuple[float, ...] = ()
    damage: float = 0.0
    clean: float = 0.0
    spoiled: float = 0.0

    def __post_init__(self) -> None:
        _require(bool(self.root), "data.root", "a folder or file", self.root)
        _require(self.repeat >= 1, "data.repeat", "at least 1", self.repeat)
        ordered = not self.scale or (len(self.scale) == 2 and self.scale[0] < self.scale[1])
        _require(ordered, "data.scale", "two scores, the lower first, or empty", self.scale)
        _require(0 <= self.damage <= 1, "data.damage", "within 0 and 1", self.damage)
        _require(0 <= self.clean <= 1, "data.clean", "within 0 and 1", self.clean)
        _require(0 <= self.spoiled <= 1 - self.clean, "data.spoiled", "within 0 and 1 - data.clean", self.spoiled)


@dataclass(frozen=True)
class SynthesisConfig:
    """Distorted pictures made from pristine ones, in the workers that load them.

    pristine: clean photographs: files, and folders with all below them.
    extra: further ones, to learn from alone: none of their scenes is held out, whatever the split. extra_share: which
        share of the types each of these has, drawn at random for each, and which share of the pristine cuts; where
        they are many it bounds the cost.
    types: names from ``meon_ext.distortions.TYPES``; "all" takes those that this Pillow can make. Pristine pictures
        are a further class.
    rare: types that leave a picture natural, which are learned from rarely: of each photograph to learn from, each of
        these is left out but for a share of rare_share, drawn at random. Then what looks natural is less often taken
        for damage. Validation and test have them all.
    levels: which of the levels 1 to 5.
    side: a picture is cut to at most this side before it is distorted (pixels, at random, at least 256), which bounds
        the cost and the cache; 0 takes pictures whole.
    scale: least and greatest factor by which a picture is resampled first, at random; between them, photographs show
        more kinds of detail. It never makes a side smaller than 256. (1, 1) leaves them as they are.
    jitter: by how much at most a picture's level is off, at random, 0 to 0.5; then damage of every strength occurs,
        from level 0.5 to 5, and a level stands for the strengths around it.
    variants: how many cuts and scales there are of each picture, type and level. pristine_repeat: how many
        times as many there are of the picture without distortion; the number of levels makes it as frequent as a type.
    coded: this share of the pictures without distortion is coded as JPEG at a quality of 86 to 98, where hardly anybody
        sees it, as nearly all photographs are that come from a camera; they remain pristine.
    scores: a CSV with the columns image, distortion, level and score (0 to 100, higher is better), a teacher's word on
        the quality of each picture after the distortion; image is the file's name or its path below the folder. Without
        it the quality is 100 - 16 * level, 100 for pristine: a stand-in that knows no difference between types.
    joint: whether step 2 sees these pictures too. Where there is no data set it always does.
    repeat: as for a data set, in step 2. seed: of cuts, scales and noise; apart from that of the run, so that runs of
        different seeds share the pictures.
    """

    pristine: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    extra_share: float = 1.0
    types: tuple[str, ...] = ("jpeg2000", "jpeg", "white_noise", "gaussian_blur")
    rare: tuple[str, ...] = ()
    rare_share: float = 0.2
    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    side: int = 384
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    variants: int = 1
    pristine_repeat: int = 1
    coded: float = 0.0
    scores: str = ""
    joint: bool = False
    repeat: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.types), "synthesis.types", "at least one type", self.types)
        _require(len(set(self.types)) == len(self.types), "synthesis.types", "without repetition", self.types)
        allowed = set(self.levels) <= {1, 2, 3, 4, 5} and len(set(self.levels)) == len(self.levels)
        _require(allowed and bool(self.levels), "synthesis.levels", "distinct levels from 1 to 5", self.levels)
        _require(not self.extra or bool(self.pristine), "synthesis.pristine", "given beside synthesis.extra", ())
        _require(0 < self.extra_share <= 1, "synthesis.extra_share", "over 0 and at most 1", self.extra_share)
        of_types = self.types == ("all",) or set(self.rare) <= set(self.types)
        _require(of_types, "synthesis.rare", "some of synthesis.types", self.rare)
        _require(0 <= self.rare_share <= 1, "synthesis.rare_share", "within 0 and 1", self.rare_share)
        _require(self.side == 0 or self.side >= CROP_SIZE, "synthesis.side", f"0 or at least {CROP_SIZE}", self.side)
        low, high = self.scale
        _require(0.1 <= low <= high <= 4, "synthesis.scale", "two factors in order, within 0.1 to 4", self.scale)
        _require(0 <= self.jitter <= 0.5, "synthesis.jitter", "within 0 and 0.5", self.jitter)
        _require(self.variants >= 1, "synthesis.variants", "at least 1", self.variants)
        _require(self.pristine_repeat >= 1, "synthesis.pristine_repeat", "at least 1", self.pristine_repeat)
        _require(0 <= self.coded <= 1, "synthesis.coded", "within 0 and 1", self.coded)
        _require(self.repeat >= 1, "synthesis.repeat", "at least 1", self.repeat)
        _require(self.seed >= 0, "synthesis.seed", "at least 0", self.seed)


@dataclass(frozen=True)
class SplitConfig:
    """How contents are shared out: training, validation (chooses the best epoch and calibrates), test (only reported).

    seed: which of the random splits. test may be 0: then nothing is held out beyond validation.
    """

    training: float = 0.7
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        fair = self.training > 0 and self.validation > 0 and self.test >= 0 and abs(sum(self.fractions) - 1) < 1e-9
        _require(fair, "split", "fractions (training, validation over 0) that add up to 1", self.fractions)

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Of training, validation and test."""
        return self.training, self.validation, self.test


@dataclass(frozen=True)
class NetworkConfig:
    """Which MEON, as for ``meon_ext.MEON``."""

    task: Literal["fusion", "multitask", "single"] = "fusion"
    activation: Literal["gdn", "relu"] = "gdn"
    width: Literal[1, 2] = 1
    batch_norm: bool = False
    parametrization: Literal["projected", "reparam"] = "projected"

    def __post_init__(self) -> None:
        plain = not self.batch_norm or self.activation == "relu"
        _require(plain, "network.batch_norm", "false with activation 'gdn'", self.batch_norm)


@dataclass(frozen=True)
class StepConfig:
    """How one of the two training steps is optimised.

    optimizer: "adam" or "soap" (``soap.Soap``), which takes half as long again for an update and needs several times
        fewer of them.
    epochs: passes over the training pictures, one crop of each; 0 leaves the step out. batch_size: crops of one update,
        over all processes together. crops: how many crops an epoch takes of each picture.
    learning_rate: at its highest; ``warmup`` epochs (a fraction is allowed) rise to it linearly, then ``schedule``
        falls along half a cosine to a hundredth of it ("cosine"), by a tenth after 60 % and 85 % ("steps"), or not
        ("constant").
    weight_decay: as AdamW has it, on weights of convolutions and linear layers only.
    clip: the greatest norm of the gradient; 0 for no limit.
    keep: the network of the epoch that validation finds "best", or that of the "last", when the learning rate has
        fallen: the better choice where validation pictures are so few that epochs differ by chance.
    """

    optimizer: Literal["adam", "soap"] = "adam"
    epochs: int = 10
    batch_size: int = 40
    crops: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "epochs", "at least 0", self.epochs)
        _require(self.batch_size >= 2, "batch_size", "at least 2", self.batch_size)
        _require(self.crops >= 1, "crops", "at least 1", self.crops)
        _require(0 < self.learning_rate < 1, "learning_rate", "within 0 and 1", self.learning_rate)
        _require(self.warmup >= 0, "warmup", "at least 0", self.warmup)
        _require(0 <= self.weight_decay < 1, "weight_decay", "within 0 and 1", self.weight_decay)
        _require(self.clip >= 0, "clip", "at least 0", self.clip)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    data, synthesis, split, network: see their classes. classes: the distortion types the network tells apart, in the
        order of its outputs; empty takes those that occur, in the order of ``meon_ext.distortions.TYPES``, then
        pristine. Pictures of another or unknown type train the quality alone.
    pretraining: step 1, on types. by_level: it tells apart types x levels, which Zhang et al. (DB-CNN, IEEE TCSVT 2020)
        pre-train on; the levels are merged again for step 2. pretrained: a checkpoint of step 1 (``pretrained`` of
        another run) to begin step 2 with; step 1 is left out. Or one of step 2 with the same types, to go on from, or
        with ``joint.epochs`` 0 to be calibrated and tested as it is.
    joint: step 2. type_weight: lambda of ``L1 + lambda * cross-entropy``; the L1 loss is in standard deviations of
        the training scores. rank_weight: of the loss on pairs of levels, see ``losses.ranking``; rank_margin: its
        margin, in the same unit. ema: decay of the running average of weights that is validated and kept; 0 for none.
    flip: mirror half of the crops. turn: also turn half of them upside down, and exchange rows and columns of half of
        them: of each crop there are then eight views.
    validation_crops: of a picture at most, in validation and test. validation_pictures: at most, after each epoch;
        calibration and test take all.
    seed: of weights and order. deterministic: refuse operations whose result may change from run to run.
    device: "auto" (the first GPU, else the CPU), "cpu" or "cuda[:N]". amp: bfloat16 autocast. threads: of a process on
        the CPU, 0 for torch's choice. workers: processes that load pictures, 0 for none.
    cache, cache_gib: folder of decoded and distorted pictures (empty: ``meon_ext`` in the user's cache folder), and its
        limit; 0 GiB keeps nothing.
    checkpoint_steps: updates between checkpoints, beside the one after each epoch. tensorboard: write its event files
        where it is installed.
    """

    data: tuple[DataConfig, ...] = ()
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    classes: tuple[str, ...] = ()
    pretraining: StepConfig = field(default_factory=StepConfig)
    by_level: bool = True
    pretrained: str = ""
    joint: StepConfig = field(default_factory=StepConfig)
    type_weight: float = 1.0
    rank_weight: float = 0.0
    rank_margin: float = 0.1
    ema: float = 0.0
    flip: bool = True
    turn: bool = False
    validation_crops: int = 16
    validation_pictures: int = 2000
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    amp: bool = False
    threads: int = 0
    workers: int = 0
    cache: str = ""
    cache_gib: float = 16.0
    checkpoint_steps: int = 500
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _require(bool(self.data or self.synthesis.pristine), "data", "given, or synthesis.pristine", self.data)
        damaged = [data for data in self.data if data.damage]
        made = bool(self.synthesis.pristine) and self.synthesis.joint
        _require(made or not damaged, "data.damage", "0 without synthesis.pristine and synthesis.joint", damaged)
        _require(len(set(self.classes)) == len(self.classes), "classes", "without repetition", self.classes)
        _require(len(self.classes) != 1, "classes", "at least two", self.classes)
        _require(self.joint.epochs > 0 or self.pretraining.epochs > 0, "epochs", "over 0 in a step", 0)
        for name in ("type_weight", "rank_weight", "rank_margin", "cache_gib"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        _require(self.rank_weight == 0 or self.joint.batch_size % 2 == 0, "joint.batch_size", "even, for pairs", 0)
        _require(0 <= self.ema < 1, "ema", "at least 0 and under 1", self.ema)
        for name in ("validation_crops", "validation_pictures", "checkpoint_steps"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("seed", "threads", "workers"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))


def with_split_seed(config: TrainConfig, seed: int) -> TrainConfig:
    """The same run on another of the random splits, with weights and order drawn anew."""
    return replace(config, seed=seed, split=replace(config.split, seed=seed))
