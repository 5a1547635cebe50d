"""What ranks talk through."""

from .communicator import Communicator, Distributed, simulate

__all__ = ["Communicator", "Distributed", "simulate"]
