"""Of each feature without a Neuronpedia page, the feature with one that writes in the nearest direction.

Nearness is the cosine of two rows of `W_dec`, the directions that both add to the same residual stream. A
nearest feature always exists, so its cosine is part of the finding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from autoencoders.configurations import Configurations, SaeEntry
from autoencoders.feature_places import FeaturePlace, by_sae
from autoencoders.sae_source import SaeSource
from twins_s1.progress import progress

NEURONPEDIA = "https://www.neuronpedia.org"


@dataclass(frozen=True)
class Neighbour:
    """A feature without a page, and the nearest of its layer that has one."""

    place: FeaturePlace
    nearest: FeaturePlace
    cosine: float
    neuronpedia_url: str  # of the nearest


@dataclass(frozen=True)
class SearchPlan:
    """Which features are compared with which SAEs."""

    pageless: dict[SaeEntry, list[FeaturePlace]]
    canonical: dict[int, list[SaeEntry]]  # layer -> its SAEs with pages
    layers_without_pages: list[int]  # on which features were asked for, in vain


def plan_search(places: Sequence[FeaturePlace], configurations: Configurations) -> SearchPlan:
    """Sort out which features need a neighbour; ValueError for one of an SAE that is not configured."""
    entries = {(entry.layer, entry.average_l0): entry for entry in configurations.saes}
    unknown = next((place for place in places if place.sae not in entries), None)
    if unknown is not None:
        raise ValueError(
            f"{configurations.file} has no SAE of layer {unknown.layer} with L0 {unknown.average_l0}, which "
            "--features names: give the configurations that the features were found with as --config"
        )
    pageless = {
        entries[sae]: group for sae, group in by_sae(list(places)).items() if not entries[sae].neuronpedia_id
    }
    layers = {entry.layer for entry in pageless}
    of_layer = {
        layer: [entry for entry in configurations.on_layers([layer]) if entry.neuronpedia_id]
        for layer in layers
    }
    return SearchPlan(
        pageless={entry: group for entry, group in pageless.items() if of_layer[entry.layer]},
        canonical={layer: saes for layer, saes in of_layer.items() if saes},
        layers_without_pages=sorted(layer for layer, saes in of_layer.items() if not saes),
    )


def find_neighbours(plan: SearchPlan, saes: SaeSource) -> list[Neighbour]:
    """The nearest feature with a page of each planned feature, layer by layer; each decoder is read once.

    Raises:
        FileNotFoundError: a decoder cannot be had.
        ValueError: one is damaged, of another model, or lacks a feature asked for.
    """
    wanted = [*plan.pageless, *(entry for layer in plan.canonical.values() for entry in layer)]
    saes.require(wanted, "decoders")
    found: list[Neighbour] = []
    with progress(len(wanted), "SAE", "decoders") as bar:
        for layer in sorted(plan.canonical):
            asked = {entry: group for entry, group in plan.pageless.items() if entry.layer == layer}
            directions = []
            for entry, group in asked.items():
                directions.append(feature_directions(saes, entry, group))
                bar.update()
            places = [place for group in asked.values() for place in group]
            found += nearest_of_layer(places, torch.cat(directions), plan.canonical[layer], saes, bar.update)
    return found


def feature_directions(saes: SaeSource, entry: SaeEntry, places: list[FeaturePlace]) -> torch.Tensor:
    """Unit decoder rows [k, d_model] of these features of one SAE."""
    w_dec = saes.read_decoder(entry, None)  # [d_sae, d_model]
    beyond = next((place for place in places if place.feature_id >= len(w_dec)), None)
    if beyond is not None:
        raise ValueError(
            f"feature {beyond.feature_id} of layer {beyond.layer}, L0 {beyond.average_l0} does not exist: "
            f"{entry.path} has the features 0 to {len(w_dec) - 1}"
        )
    return unit_rows(w_dec[[place.feature_id for place in places]])


def nearest_of_layer(
    places: list[FeaturePlace],
    directions: torch.Tensor,
    canonical: list[SaeEntry],
    saes: SaeSource,
    step: Callable[[], object],
) -> list[Neighbour]:
    """The neighbours of `places`, whose unit rows are `directions` [k, d_model]; `step` follows each SAE."""
    cosines, ids = [], []
    for entry in canonical:
        w_dec = saes.read_decoder(entry, directions.shape[1])
        largest = (directions @ unit_rows(w_dec).T).max(dim=1)  # [k] values and indices
        cosines.append(largest.values)
        ids.append(largest.indices)
        step()
    best = torch.stack(cosines).max(dim=0)  # [k] over the SAEs
    nearest_ids = torch.stack(ids).gather(0, best.indices[None])[0]
    found = []
    for place, sae, feature_id, cosine in zip(
        places, best.indices.tolist(), nearest_ids.tolist(), best.values.tolist()
    ):
        entry = canonical[sae]
        nearest = FeaturePlace(entry.layer, entry.average_l0, feature_id)
        url = f"{NEURONPEDIA}/{entry.neuronpedia_id}/{feature_id}"
        found.append(Neighbour(place, nearest, cosine, url))
    return found


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1; a row of zeros, which writes nothing, stays one and is near to none."""
    return torch.nn.functional.normalize(rows, dim=1)
