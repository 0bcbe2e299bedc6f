"""What a student learns from a teacher: settings that `distill` and pruning's own fine-tuning share."""

from typing import Self

from pydantic import Field, model_validator

from headway.core.config import Config


class TeachingConfig(Config):
    """What a student learns from the teacher, beside the task's own loss."""

    temperature: float = Field(
        4, gt=0, le=1000, description="Both models' logits are divided by it: more of what comes second shows."
    )
    weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the teacher's logits in the loss, the rest being the task's; 0: no logits.",
    )
    features: dict[str, str] = Field(
        {},
        description="`{layer of the teacher: layer of the student}`, whose output is to give it, linearly projected.",
    )
    feature_weight: float = Field(
        1, gt=0, description="Factor of each feature's squared error, which is a share of the teacher's mean square."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.weight == 0 and not self.features:
            raise ValueError("`weight: 0` without `features` leaves nothing to be learned from the teacher")
        return self
