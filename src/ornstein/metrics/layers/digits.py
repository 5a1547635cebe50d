"""A small convolutional classifier of 8x8 digits, its weights shipped: the judge of generated digits.

Data: the Optical Recognition of Handwritten Digits set of E. Alpaydin and C. Kaynak (1998), the 1797 images that
scikit-learn carries, as value / 8 - 1 in [-1, 1]. Images whose index is a multiple of 5 are the test split and were
never trained on; `train` makes the shipped weights in seconds on a CPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError

__all__ = ["DigitsClassifier", "classifier", "predict", "test_accuracy", "train"]

WEIGHTS = Path(__file__).with_name("digits_classifier.safetensors")


class DigitsClassifier(nn.Module):
    """Three 3x3 convolutions (16, 32, 32 channels; the second halves the size), 48 features, 10 logits. 39 k params."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1),
                                    nn.Conv2d(32, 32, 3, padding=1)])  # fmt: skip
        self.neck, self.head = nn.Linear(512, 48), nn.Linear(48, 10)

    def maps(self, x: Tensor) -> list[Tensor]:
        """x [N, 1, 8, 8] in [-1, 1] -> maps [N, 16, 8, 8], [N, 32, 4, 4], [N, 32, 4, 4]."""
        if x.shape[1:] != (1, 8, 8):
            raise OrnsteinError(f"the digits classifier cannot see images of {list(x.shape[1:])}",
                                "Give [N, 1, 8, 8]: average other sizes down first.")  # fmt: skip
        maps = []
        for conv in self.convs:
            x = F.relu(conv(x))
            maps.append(x)
        return maps

    def pooled(self, x: Tensor) -> Tensor:
        """x [N, 1, 8, 8] -> features [N, 48]."""
        return F.relu(self.neck(self.maps(x)[-1].flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 1, 8, 8] -> logits [N, 10]."""
        return self.head(self.pooled(x))


@cache
@torch.inference_mode(False)  # what is kept must serve gradients later, whoever asks first
def classifier(device: str = "cpu") -> DigitsClassifier:
    """The shipped classifier, in evaluation mode, on `device`. It is shared: do not train it."""
    net = DigitsClassifier()
    with safe_open(WEIGHTS, "pt") as file:
        net.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
    return net.eval().requires_grad_(False).to(device)


def test_accuracy() -> float:
    """Accuracy on the 360 test digits, as recorded beside the weights when they were trained."""
    with safe_open(WEIGHTS, "pt") as file:
        return float(file.metadata()["test_accuracy"])


test_accuracy.__test__ = False  # a name for readers, not a test


def predict(images: Tensor) -> Tensor:
    """Classes [N] of images [N, 1, 8, 8] in [-1, 1]."""
    with torch.inference_mode():
        return classifier(str(images.device))(images.detach().float()).argmax(1).clone()


def train(epochs: int = 60, seed: int = 0) -> tuple[DigitsClassifier, float]:
    """Train on scikit-learn's digits (index % 5 != 0), shifted by at most one pixel; the net and its test accuracy."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)
    test = torch.arange(len(x)) % 5 == 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitsClassifier()
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        train_x, train_y = x[~test], y[~test]
        for _ in range(epochs):
            for rows in torch.randperm(len(train_x)).split(64):
                dy, dx = torch.randint(0, 3, (2,)).tolist()
                moved = F.pad(train_x[rows], (1, 1, 1, 1), value=-1.0)[:, :, dy : dy + 8, dx : dx + 8]
                batch = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, moved, train_x[rows])
                loss = F.cross_entropy(net(batch), train_y[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        return net, (net(x[test]).argmax(1) == y[test]).double().mean().item()
