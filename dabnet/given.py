"""What a user says of a file that does not say it itself: a public checkpoint, a foreign ONNX file.

It knows no framework: two ONNX files are compared on machines without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from dabnet.data.labels import LabelSet, read_labels
from dabnet.data.registry import label_set
from dabnet.data.splits import OWN_DATA
from dabnet.errors import InputError
from dabnet.preprocessing import Preprocessing, Triple

VOID = ("first", "last")


@dataclass(frozen=True, slots=True)
class Given:
    """Each field is the option of its name.

    Attributes:
        dataset: whose classes and published preprocessing it has.
        model: name of its network; None: the one whose tensors it has.
        classes: a file of its classes (``dabnet.data.labels.read_labels``).
        void: ``first`` or ``last``: it has one output more, which stands for no class and is
            dropped.
        dilations: of its network; none: the published ones.
        mean, scale: its preprocessing, ``(image - mean) * scale``, image 0…255.
    """

    dataset: str | None = None
    model: str | None = None
    classes: Path | None = None
    void: str | None = None
    dilations: tuple[int, ...] = ()
    mean: Triple | None = None
    scale: Triple | None = None

    def named(self) -> Iterator[str]:
        """Names of the options that were given, such as ``--void``."""
        return (f"--{item.name}" for item in fields(self) if getattr(self, item.name))

    def labels(self) -> LabelSet | None:
        """Its classes; None if nothing was said of them.

        Raises:
            InputError: the data set is unknown, the file cannot be read, or both were given.
        """
        if self.classes is not None:
            if self.dataset not in (None, OWN_DATA):
                given = f"--dataset {self.dataset} and --classes {str(self.classes)!r}"
                raise InputError(given, "one of them")
            return read_labels(self.classes)
        return label_set(self.dataset) if self.dataset else None

    @property
    def labels_from(self) -> str:
        """Name of the data set for records; "" if nothing was said of the classes."""
        return OWN_DATA if self.classes is not None else self.dataset or ""

    def preprocessing(self) -> Preprocessing | None:
        """What ``--mean`` and ``--scale`` say; None without them."""
        if self.scale and not self.mean:
            raise InputError("--scale without --mean", "both, of (image - mean) * scale")
        if self.scale and 0 in self.scale:
            raise InputError(f"--scale {','.join(map(str, self.scale))}", "factors other than 0")
        return Preprocessing(self.mean, self.scale or (1.0, 1.0, 1.0)) if self.mean else None
