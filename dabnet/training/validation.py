"""Scoring the network on the validation split, and showing what it sees."""

from __future__ import annotations

import torch
from PIL import Image

from dabnet.data.dataset import Dataset, Uint8Array, evenly_spaced
from dabnet.data.memory import read_ahead
from dabnet.data.transforms import resize_image, resize_label
from dabnet.evaluation import confusion_per_image
from dabnet.metrics import Counts
from dabnet.pictures import overlay, panel
from dabnet.training.learner import Learner

SAMPLES = 3
SAMPLE_WIDTH = 480


class Validator:
    """Validates the kept weights of a learner at the images' own size."""

    def __init__(self, learner: Learner, val_set: Dataset) -> None:
        self.learner, self.val_set = learner, val_set

    def confusion(self) -> Counts:
        """Return the confusion matrix of the split, int64 (K, K); each process scores a share."""
        processes, classes = self.learner.processes, len(self.val_set.labels.classes)
        self.learner.align()
        self.learner.segmenter.eval()
        items = read_ahead(self.val_set, processes.share(len(self.val_set)))
        per_image = confusion_per_image(self._segment, items, classes)
        matrix = torch.from_numpy(per_image.sum(0)).to(self.learner.device)
        result: Counts = processes.sum_(matrix).cpu().numpy()
        return result

    def samples(self) -> Image.Image:
        """Return some images with their truth and what the network sees, a row each."""
        pictures = []
        for index in evenly_spaced(len(self.val_set), SAMPLES):
            item = self.val_set[index]
            height, width = item.label.shape
            shrink = min(1.0, SAMPLE_WIDTH / width)
            size = (round(height * shrink), round(width * shrink))
            image = resize_image(item.image, size)
            pictures.append((item.name, image))
            for caption, mask in (("truth", item.label), ("prediction", self._segment(item.image))):
                shown = overlay(image, resize_label(mask, size), self.val_set.labels)
                pictures.append((caption, shown))
        return panel(pictures, columns=3)

    @torch.inference_mode()
    def _segment(self, image: Uint8Array) -> Uint8Array:
        # A copy: arrays that Pillow gives are read-only, which tensors cannot be.
        mask = self.learner.segmenter(torch.tensor(image[None], device=self.learner.device))
        array: Uint8Array = mask[0].cpu().numpy()
        return array
