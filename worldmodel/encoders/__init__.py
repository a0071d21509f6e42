"""Encoders: observations to latents, one latent per position; each ends in its normaliser."""

from .conv import ConvEncoder
from .linear import LinearEncoder
from .mlp import MLPEncoder
from .resnet import ResNet18Encoder
from .table import TableEncoder

Encoder = MLPEncoder | ConvEncoder | ResNet18Encoder | LinearEncoder | TableEncoder
ENCODERS: dict[str, type[Encoder]] = {
    "mlp": MLPEncoder,
    "conv": ConvEncoder,
    "resnet18": ResNet18Encoder,
    "linear": LinearEncoder,
    "table": TableEncoder,
}

__all__ = [
    "ENCODERS",
    "ConvEncoder",
    "Encoder",
    "LinearEncoder",
    "MLPEncoder",
    "ResNet18Encoder",
    "TableEncoder",
]
