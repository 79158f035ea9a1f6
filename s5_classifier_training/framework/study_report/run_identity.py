"""Which sentences and model a file of results belongs to, and what is said of a missing part."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunIdentity:
    """Results belong together where they come from the same sentences through the same model."""

    input_sha256: str | None
    model: str | None

    @classmethod
    def of(cls, source: dict) -> "RunIdentity":
        return cls(source.get("input_sha256"), source.get("model"))


@dataclass(frozen=True)
class Missing:
    """A part that the page cannot show: what, why, and the command that makes it."""

    what: str
    why: str
    remedy: str
