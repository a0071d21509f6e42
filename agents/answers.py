"""What a probe found out: one number, what it is of, and whether less of it is better."""

from dataclasses import dataclass

SHOWN = {
    "rollout": ("cosine_error",),
    "retrieval": ("mrr",),
    "nuisance": ("spread_ratio", "r2"),
    "dependence": ("share",),
}
LESS_IS_BETTER = {("rollout", "latent"), ("nuisance", "spread"), ("nuisance", "look")}


@dataclass(frozen=True)
class Answer:
    """One number: how well `target` is read from `source`, `horizon` decisions apart."""

    question: str
    target: str
    source: str
    role: str  # ours, floor or ceiling
    head: str
    horizon: int
    metric: str
    value: float

    @property
    def shown(self) -> bool:
        """Whether this is the metric of its question that pictures and curves show; of most, R2."""
        return self.metric in SHOWN.get(self.question, ("r2",))

    @property
    def less_is_better(self) -> bool:
        """Whether a good model has little of what is shown."""
        return (self.question, self.target) in LESS_IS_BETTER
