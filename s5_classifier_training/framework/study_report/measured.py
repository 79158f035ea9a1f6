"""A measured value with its interval."""

from dataclasses import dataclass

from study_report.wording import is_number, number


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval; None where it was not measured."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, row: dict, column: str) -> "Measured":
        return cls(*(row.get(f"{column}{end}") for end in ("", "_low", "_high")))

    @property
    def ends(self) -> tuple[float | None, float | None, float | None]:
        return self.value, self.low, self.high

    @property
    def is_known(self) -> bool:
        return is_number(self.value)

    @property
    def words(self) -> str:
        if not self.is_known:
            return ""
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"
