"""Agents that plan and act on a world model's belief: training, evaluation, plots and checks."""

__version__ = "0.1.0"
