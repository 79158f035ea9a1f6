"""The units of a steering run, each finished once its file is there: nulls, finalists, continuations."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from autoencoders.configurations import SaeEntry
from autoencoders.feature_places import FeaturePlace, by_sae
from autoencoders.sae_source import SaeSource
from finite_steering.continuations import DECODINGS, Place, write_continuations
from finite_steering.directions import Direction, finalist_direction, null_directions
from finite_steering.dose_response import Probe, dose_rows, respond, slope_row
from finite_steering.finalists import activity
from finite_steering.measured_text import MeasuredText
from finite_steering.recorded_text import RecordedText
from finite_steering.side_effects import NeutralText, ablation_rows, neutral_rows
from finite_steering.steering_plan import SteeringOptions
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from twins_s1.atomic_files import write_json
from twins_s1.feature_folder import find_sae, read_sae_activations
from twins_s1.progress import progress

MOST_ROWS = 256  # continuations that are written side by side


@dataclass(frozen=True)
class Steering:
    """Model, SAEs and texts of a run."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    saes: SaeSource
    entries: dict[tuple[int, int], SaeEntry]
    d_model: int
    text: MeasuredText
    options: SteeringOptions


def steer_all(steering: Steering, finalists: list[FeaturePlace], scratch: Path) -> list[dict]:
    """Measure what `scratch` lacks; return the content of all units, SAE by SAE, nulls first."""
    layers = sorted({place.layer for place in finalists})

    @cache
    def recorded() -> RecordedText:
        return RecordedText.of(steering.model, steering.text, layers)

    @lru_cache(1)
    def at_layer(layer: int) -> tuple[Probe, NeutralText | None]:
        """The texts at one layer, for all its SAEs."""
        return recorded().probe(layer), recorded().neutral_text(layer)

    groups = by_sae(finalists)
    total = sum(2 * steering.options.n_nulls + 2 * len(group) for group in groups.values())
    units: list[dict] = []
    places: list[Place] = []
    with progress(total, "step", "steering") as bar:
        for sae, group in groups.items():
            units_of_sae, directions = steer_sae(steering, sae, group, scratch, at_layer, bar)
            units += units_of_sae
            places += [Place(sae[0], direction) for direction in directions]
        unsteered, *texts = written(steering, [None, *places], scratch, bar)
    of_finalists = (unit for unit in units if "feature" in unit)
    for unit, own in zip(of_finalists, texts, strict=True):
        unit["continuations"] = by_dose([*unsteered, *own], unit["feature"], steering.options.writing.prompts)
    return units


def written(steering: Steering, places: list[Place | None], scratch: Path, bar: tqdm) -> list[list[dict]]:
    """The continuations of each of the places, several places at a time."""
    options = steering.options
    rows = len(options.writing.prompts) * len(options.alphas) * len(DECODINGS)  # of a place
    at_once = max(1, MOST_ROWS // rows)
    texts: list[list[dict]] = []
    for start in range(0, len(places), at_once):
        group = places[start : start + at_once]

        def write(group: list[Place | None] = group) -> list[list[dict]]:
            return write_continuations(
                steering.model, steering.tokenizer, group, options.alphas, options.writing
            )

        texts += kept(scratch / f"continuations_{start}.json", write)
        bar.update(sum(place is not None for place in group))
    return texts


def by_dose(texts: list[dict], feature: dict, prompts: tuple[str, ...]) -> list[dict]:
    """A finalist's continuations in order, those of the unsteered model among them."""

    def order(text: dict) -> tuple:
        return prompts.index(text["prompt"]), text["alpha"], DECODINGS.index(text["decoding"])

    return [{"feature_id": feature["feature_id"]} | text for text in sorted(texts, key=order)]


def steer_sae(
    steering: Steering,
    sae: tuple[int, int],
    finalists: list[FeaturePlace],
    scratch: Path,
    at_layer: Callable[[int], tuple[Probe, NeutralText | None]],
    bar: tqdm,
) -> tuple[list[dict], list[Direction]]:
    """The units of one SAE, its null directions, then each finalist; and the finalists' directions."""
    layer, average_l0 = sae
    options, folder = steering.options, steering.text.folder
    activations = read_sae_activations(folder, find_sae(folder, layer, average_l0))
    seen = activity(activations)
    w_dec = steering.saes.read_decoder(steering.entries[sae], steering.d_model)
    directions = [finalist_direction(place, seen, w_dec) for place in finalists]

    def measure_nulls() -> dict:
        probe, _ = at_layer(layer)
        unit = new_unit(layer, average_l0)
        responses = []
        for direction in null_directions(directions, seen, w_dec, options.n_nulls, options.seed):
            responses.append(response := respond(probe, direction, options.alphas))
            unit["doses"] += [naming(direction) | row for row in dose_rows(probe, response)]
            unit["slopes"].append(naming(direction) | slope_row(probe, response))
            bar.update()
        strongest = max(responses, key=lambda response: max(map(response.departure, response.changes)))
        return unit | {"vocabulary_error": probe.vocabulary_error(strongest)}

    def measure_finalist(direction: Direction) -> dict:
        probe, neutral = at_layer(layer)
        unit = new_unit(layer, average_l0)
        unit["feature"] = {
            "feature_id": direction.feature_id,
            "largest_activation": float(seen.largest[direction.feature_id]),
        }
        response = respond(probe, direction, options.alphas)
        unit["vocabulary_error"] = probe.vocabulary_error(response)
        rows = dose_rows(probe, response)
        rows += ablation_rows(probe, direction, measured_activations, w_dec)
        if neutral is not None:
            rows += neutral_rows(neutral, direction, options.alphas)
        unit["doses"] = [naming(direction) | row for row in rows]
        unit["slopes"] = [naming(direction) | slope_row(probe, response)]
        return unit

    offsets = folder.sentence_offsets
    rows = [row for i in steering.text.sentences.index for row in range(offsets[i], offsets[i + 1])]
    measured_activations = activations[rows]  # CSR [tokens of the measured sentences, d_sae]
    name = f"layer_{layer}_l0_{average_l0}"
    nulls = scratch / f"{name}_nulls.json"
    bar.update(2 * options.n_nulls * nulls.is_file())  # measured by an earlier start
    units = [kept(nulls, measure_nulls)]
    for direction in directions:
        file = scratch / f"{name}_feature_{direction.feature_id}.json"
        units.append(kept(file, lambda direction=direction: measure_finalist(direction)))
        bar.update()
    return units, directions


def new_unit(layer: int, average_l0: int) -> dict:
    return {"layer": layer, "average_l0": average_l0, "doses": [], "slopes": [], "continuations": []}


def naming(direction: Direction) -> dict:
    return {
        "feature_id": direction.feature_id,
        "kind": direction.kind,
        "null_index": direction.null_index,
    }


def kept(file: Path, measure: Callable[[], dict | list]) -> dict | list:
    """Return what `file` holds, measuring it first where it is not there."""
    if not file.is_file():
        write_json(file, measure())
    return json.loads(file.read_text(encoding="utf-8"))
