"""What a run starts from: random weights, or those of another checkpoint, of any classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dabnet.checkpoint import Checkpoint, load_weights
from dabnet.data.labels import LabelSet
from dabnet.errors import ArtifactError, InputError
from dabnet.models import MOST_CLASSES, network_named
from dabnet.preprocessing import Preprocessing
from dabnet.training.spec import TrainingSpec
from dabnet.training.stages import ENCODER
from dabnet.weights import add_counters, shapes, varying_sides


@dataclass(frozen=True, slots=True)
class Start:
    """The network at the start of a run.

    Attributes:
        state: its tensors by name, float32; those that are missing are drawn.
        dilations: of the network; none: the published ones.
        preprocessing: of an image before the network; None: that of a new run.
        activation_ranges: as of ``Checkpoint``: of a run in int8.
        trained_on: as of ``Checkpoint``.
        note: a line that says what is drawn; "" if there is nothing to say.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    dilations: tuple[int, ...] = ()
    preprocessing: Preprocessing | None = None
    activation_ranges: dict[str, float] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Start:
        """Go on with all of a checkpoint."""
        return cls(
            checkpoint.state,
            checkpoint.dilations,
            checkpoint.preprocessing,
            checkpoint.activation_ranges,
            checkpoint.trained_on,
        )


RANDOM = Start()


def new_start(spec: TrainingSpec, labels: LabelSet) -> Start:
    """Return the start of a new run in float: random, or with the weights of another checkpoint.

    Of a checkpoint of ours its dilations and preprocessing are taken as well. Tensors that depend
    on the classes are drawn where these differ; those of a file that does not name its classes are
    taken where their number is the same.

    Args:
        labels: classes of the run.

    Raises:
        DabnetError: the file is no checkpoint of the network, or has other dilations.
    """
    path = spec.init or spec.encoder
    if path is None:
        return Start(dilations=spec.dilations)
    found = load_weights(path, spec.model)
    names: tuple[str, ...] | None = None
    before, dilations, preprocessing = None, spec.dilations, None
    trained_on: tuple[str, ...] = ()
    if isinstance(found, Checkpoint):
        if spec.init and found.recipe.get("stage") == "encoder":
            raise InputError(
                f"--init {path}, of which the encoder alone is trained",
                "a trained network",
                "train its decoder with: --stage decoder --encoder",
            )
        names, before = found.labels.classes, len(found.labels.classes)
        dilations = _agreed_dilations(found.dilations, spec, path)
        preprocessing, trained_on = found.preprocessing, found.trained_on
    else:
        before = found.outputs

    state = {name: x.float() if x.is_floating_point() else x for name, x in found.state.items()}
    add_counters(spec.model, state)
    if spec.encoder:
        state = {name: tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    outputs = _outputs(spec)
    _check_tensors(state, outputs, spec, path)
    if before == len(labels.classes) and names in (None, labels.classes):
        return Start(state, dilations, preprocessing, trained_on=trained_on)
    kept = {name: tensor for name, tensor in state.items() if name not in outputs}
    note = _drawn_note(sorted(outputs), len(labels.classes), before)
    return Start(kept, dilations, preprocessing, trained_on=trained_on, note=note)


def _outputs(spec: TrainingSpec) -> set[str]:
    """Names of the tensors that depend on the number of classes: of an encoder, those in it."""
    names = {name for name, _ in varying_sides(spec.model, MOST_CLASSES - 1, MOST_CLASSES)}
    return {name for name in names if not spec.encoder or name.startswith(ENCODER)}


def _drawn_note(names: list[str], classes: int, before: int | None) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    had = f"; it had {'others' if before == classes else before}" if before else ""
    return f"the classifier ({names[0]}{more}) is drawn anew for {classes} classes{had}"


def _check_tensors(
    state: dict[str, Tensor], outputs: set[str], spec: TrainingSpec, path: Path
) -> None:
    """Raise unless ``state`` is that of the network, or of its encoder, but for the outputs."""
    expected = {
        name: shape
        for name, shape in shapes(spec.model, 2).items()
        if name not in outputs and (not spec.encoder or name.startswith(ENCODER))
    }
    wrong = [f"{name} is missing" for name in expected.keys() - state.keys()]
    wrong += [
        f"{name} is {list(state[name].shape)} and not {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    wrong += [f"{name} is not in it" for name in state.keys() - expected.keys() - outputs]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ArtifactError(
            f"{str(path)!r} is no {spec.model} checkpoint: {min(wrong)}{more}",
            f"the tensors of {spec.model}",
        )


def _agreed_dilations(own: tuple[int, ...], spec: TrainingSpec, path: Path) -> tuple[int, ...]:
    """Return those of the checkpoint; ``--dilations`` may name the same."""
    checked = network_named(spec.model).checked_dilations
    if spec.dilations and checked(spec.dilations) != checked(own):
        asked, trained = (",".join(map(str, values)) for values in (spec.dilations, checked(own)))
        raise InputError(
            f"--dilations {asked}, but {str(path)!r} was trained with {trained}",
            "the dilations of the checkpoint",
            "leave --dilations out",
        )
    return own
