"""Fitted models on disk, without pickle."""

from pathlib import Path

from twins_s5.provenance import sha256_of

from models import OWN_TYPES

# Parts of our models that skops leaves to its caller's judgement, because scikit-learn does not export them.
SKLEARN_INTERNALS = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.tree._tree.Tree",
)
TRUSTED = sorted(
    {f"{module}.{kind.__name__}" for kind in OWN_TYPES for module in (kind.__module__, "models")}
    | set(SKLEARN_INTERNALS)
)


def save_model(fitted: object, path: Path) -> None:
    """Write a fitted model."""
    import skops.io  # imports every scikit-learn module, seconds that only a written or read model is worth

    skops.io.dump(fitted, path)


def load_model(path: Path, sha256: str) -> object:
    """Load a model file written by `save_model`.

    Raises ValueError if the bytes are not those recorded, or if the file names a type that is neither
    scikit-learn's nor one of this stage's.
    """
    import skops.io

    if sha256_of(path) != sha256:
        raise ValueError(f"{path} is not the file that was recorded with these results; train again")
    foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
    if foreign:
        raise ValueError(f"{path} holds types that are not trusted: {', '.join(foreign)}; do not open it")
    return skops.io.load(path, trusted=TRUSTED)
