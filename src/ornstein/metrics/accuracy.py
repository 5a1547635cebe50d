"""Class accuracy of generated digits: how often a fixed classifier sees the class that was asked for.

Of the form of the classification accuracy score: Suman Ravuri, Oriol Vinyals, "Classification accuracy score for
conditional generative models", 2019, arXiv:1905.10887 (there a classifier is trained on generated images and tried on
real ones; here one trained on real digits reads the generated). The interval is exact: C. J. Clopper, E. S. Pearson,
"The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.

    accuracy = (1 / N) sum_i [ argmax classifier(x_i) = y_i ],   P(X >= hits | low) = P(X <= hits | high) = 2.5%

It says whether digits are legible as asked, and nothing about variety: one perfect digit a class, repeated, scores 1.
The floor is the classifier's accuracy on held-out real digits. Cost: one pass of a network of 39 k parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.digits import predict, test_accuracy
from .layers.measure import Measure, check_images, proportion

__all__ = ["Accuracy"]

CLASSES = 10


@dataclass(frozen=True)
class Accuracy:
    """Share of generated 8x8 digits that the shipped classifier reads as their label."""

    level: float = 0.95  # of the interval

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise OrnsteinError(f"accuracy has level={self.level}", "Give a share between 0 and 1, such as 0.95.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """generated [N, 1, 8, 8] in [-1, 1]; reference: the labels [N] asked for, integers 0..9."""
        check_images(generated, "generated", least=1)
        if reference.shape != generated.shape[:1]:
            raise OrnsteinError(f"labels {list(reference.shape)} do not fit {len(generated)} generated images",
                                "Give one integer label for each image.")  # fmt: skip
        if reference.is_floating_point() or reference.min() < 0 or reference.max() >= CLASSES:
            raise OrnsteinError("labels are not integers from 0 to 9", "Give the digit that was asked for.")
        hits = (predict(generated) == reference.to(generated.device)).sum().item()
        low, high = proportion(hits, len(generated), self.level)
        return Measure(hits / len(generated), low, high, len(generated), "accuracy", "", "higher", "digits",
                       test_accuracy())  # fmt: skip
