"""Whether a feature folder holds the very features that were chosen on other sentences."""

from collections.abc import Iterable
from pathlib import Path

from .feature_folder import FeatureFolder, find_sae


def require_same_origin(features: FeatureFolder, source: dict, saes: Iterable[dict], chosen_in: Path) -> None:
    """Raise ValueError unless `features` was made with the model of `source` and with `saes`.

    Both are what the file or folder `chosen_in` says of the feature folder behind it: `model` and
    `model_fingerprint`, and of the SAEs that matter `layer`, `average_l0` and `encoder_sha256`.
    """
    for key in ("model", "model_fingerprint"):
        there, here = source.get(key), features.run.get(key)
        if there != here and (key == "model" or (there and here)):
            raise ValueError(
                f"{chosen_in} belongs to the {key} {there!r}, {features.folder} was made with {here!r}: "
                "features and probes hold for one model only; run s1 on these sentences with that model"
            )
    for sae in saes:
        place = f"layer {sae['layer']}, L0 {sae['average_l0']}"
        there = sae.get("encoder_sha256")
        here = find_sae(features, sae["layer"], sae["average_l0"]).get("encoder_sha256")
        if there is None or here is None:
            silent = chosen_in if there is None else features.folder
            raise ValueError(
                f"{silent} has no encoder_sha256 of the SAE of {place}, so nothing says whether the features "
                "are the same; make it again with this version"
            )
        if there != here:
            raise ValueError(
                f"{chosen_in} was made with another SAE of {place} than {features.folder} (encoder_sha256 "
                f"{there[:9]}… and {here[:9]}…), so the same numbers are other features; run s1 on these "
                "sentences with that SAE"
            )
