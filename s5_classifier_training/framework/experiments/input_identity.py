"""Whether two datasets have the same inputs: columns that mean the same, of the same model."""

from experiments.experiment_dataset import GENERATE, Dataset
from twins_s5.ranking_folder import IDENTIFYING

FINGERPRINT = "model_fingerprint"  # of the weights; this and the next are compared where both are known
WEIGHTS = "encoder_sha256"  # of a feature's SAE
NAMES = {"inputs": "inputs from", "model": "model", "model_revision": "model revision"}
NAMES |= {FINGERPRINT: FINGERPRINT, "layers": "layers", "pool": "pooling"}


def require_same_inputs(
    new: Dataset, metadata: dict, n_inputs: int, whose: str, leading: bool = False
) -> None:
    """Raise ValueError unless `new` has the inputs of the dataset with `metadata`, of which a model uses the
    first `n_inputs`.

    `whose` names that dataset in errors. Where inputs are features, or `leading`, `new` may have more.
    """
    found, expected = _identity(new.metadata), _identity(metadata)
    for key, title in NAMES.items():
        known = key != FINGERPRINT or None not in (found[key], expected[key])
        if known and found[key] != expected[key]:
            raise _mismatch(new, f"{title} {found[key]}", f"{whose} {expected[key]}")
    features = metadata.get("features") or []
    _require_same_features(new, features[:n_inputs], whose)
    n_found = new.X.shape[1]
    if n_found < n_inputs or (n_found > n_inputs and not (features or leading)):
        raise _mismatch(new, f"{n_found} inputs", f"{whose} {n_inputs}")


def _identity(metadata: dict) -> dict[str, object]:
    source = metadata["source"]
    return {
        "inputs": metadata["strategy"].partition("-to-")[0],  # embedding, hidden or features
        "model": source["model"],
        "model_revision": source.get("model_revision"),
        FINGERPRINT: source.get(FINGERPRINT),
        "layers": metadata.get("layers"),
        "pool": metadata.get("pool"),
    }


def _require_same_features(new: Dataset, expected: list[dict], whose: str) -> None:
    """The same features in the same places, of SAEs with the same weights where both datasets know them."""
    found = new.metadata.get("features") or []
    for place, (ours, theirs) in enumerate(zip(found, expected), start=1):
        if any(ours[key] != theirs[key] for key in IDENTIFYING):
            raise _mismatch(new, f"{_feature(ours)} as input {place}", f"{whose} {_feature(theirs)}")
        hashes = [feature.get(WEIGHTS) for feature in (ours, theirs)]
        if None not in hashes and hashes[0] != hashes[1]:
            raise _mismatch(
                new,
                f"{_feature(ours)} of an SAE with the {WEIGHTS} {hashes[0][:9]}…",
                f"{whose} of one with {hashes[1][:9]}…",
            )


def _feature(feature: dict) -> str:
    return f"feature {feature['feature_id']} of layer {feature['layer']}, L0 {feature['average_l0']}"


def _mismatch(new: Dataset, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{new.path} has {found}, {expected}: these are other inputs; {GENERATE} for the new sentences with "
        "the same model, SAEs and options"
    )
