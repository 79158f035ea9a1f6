"""What the study found, in a few sentences."""

from itertools import groupby

from study_report.feature_findings import PLACE
from study_report.follow_matrix import FollowMatrix
from study_report.measured import Measured
from study_report.trait_card import TraitCard
from study_report.wording import counted, listed, ranges

Transfer = tuple[TraitCard, str, Measured, Measured]  # trait, other sentences, held out, there


def summary(cards: list[TraitCard], matrix: FollowMatrix | None, transfers: list[Transfer]) -> list[str]:
    """Sentences about the traits of one model; nothing is said of what is missing."""
    said = [
        confirmed_words(cards),
        unconfirmed_words(cards),
        *steering_words(cards),
        *(matrix_words(matrix) if matrix is not None else []),
        onset_words(cards),
        *transfer_words(transfers),
    ]
    return [sentence for sentence in said if sentence]


def facts(cards: list[TraitCard]) -> str:
    """What went in, and when the last command finished."""
    studies = [card.study for card in cards]
    sizes = [
        study.findings.run["features_run"]["n_sentences"] for study in studies if study.findings is not None
    ]
    saes = [sae for study in studies if study.features is not None for sae in study.features.run["saes"]]
    different = {(sae["layer"], sae["average_l0"]) for sae in saes}
    layers = sorted({layer for layer, _ in different})
    finished = max((run.finished for card in cards for run in card.runs), default="")
    said = [
        f"{min(sizes):,} to {max(sizes):,} sentences a trait" if len(set(sizes)) > 1 else "",
        f"{counted(sizes[0], 'sentence')} a trait" if len(set(sizes)) == 1 else "",
        f"{counted(len(different), 'SAE')} at layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"
        if saes
        else "",
        f"last result of {finished} UTC" if finished else "",
    ]
    return "; ".join(filter(None, said))


def count_of(card: TraitCard, count: str) -> int:
    return (card.study.findings.run["summary"].get(count) or 0) if card.study.findings is not None else 0


def confirmed_words(cards: list[TraitCard]) -> str:
    found = [
        f"{counted(count_of(card, 'n_confirmed'), 'feature')} of {card.study.name} "
        f"(the first: AUROC {card.rows[0].auroc.words})"
        for card in cards
        if count_of(card, "n_confirmed")
    ]
    return f"Confirmed on held-out sentences: {listed(found)}." if found else ""


def unconfirmed_words(cards: list[TraitCard]) -> str:
    held_out = [
        card for card in cards if card.study.findings is not None and card.study.findings.has_held_out
    ]
    names = [card.study.name for card in held_out if not count_of(card, "n_confirmed")]
    return f"No feature passed the filters and was confirmed: {listed(names)}." if names else ""


def steering_words(cards: list[TraitCard]) -> list[str]:
    found = [(card.study.name, card.study.findings) for card in cards if card.study.findings is not None]
    counts = [
        (name, findings.run["summary"])
        for name, findings in found
        if findings.has_effects and findings.has_held_out and len(findings.ranked)
    ]
    return [
        f"Ranked features of {name} that steer, on held-out sentences: {summary['n_steers']} of "
        f"{summary['n_ranked']}; that follow and steer: {summary['n_both']}."
        for name, summary in counts
    ]


def matrix_words(matrix: FollowMatrix) -> list[str]:
    """First features that several traits share, or that follow other labels too."""
    said = []
    for place, group in groupby(
        sorted(matrix.matched, key=lambda pair: _place(pair[0][1])), key=lambda pair: _place(pair[0][1])
    ):
        pairs = list(group)
        names = [study.name for (study, _), _ in pairs]
        followed = [study.name for (study, _), cell in zip(matrix.columns, pairs[0][1]) if cell.direction > 0]
        others = [name for name in followed if name not in names]
        layer, average_l0, feature_id = place
        if len(names) > 1:
            also = f"; it also follows {listed(others)}" if others else ""
            said.append(
                f"The first feature of {listed(names)} is the same one: layer {layer}, L0 {average_l0}, "
                f"feature {feature_id}{also}."
            )
        elif others:
            said.append(f"The first feature of {names[0]} also follows {listed(others)}.")
    return said


def _place(feature: dict) -> tuple[int, ...]:
    return tuple(int(feature[key]) for key in PLACE)


def onset_words(cards: list[TraitCard]) -> str:
    onsets = [
        (card.study.emergence.figures["onset"], card.study.name)
        for card in cards
        if card.study.emergence is not None
    ]
    layers = sorted({layer for layer, _ in onsets if layer is not None})
    said = [
        f"layer {layer:g} ({listed([name for onset, name in onsets if onset == layer])})" for layer in layers
    ]
    none = [name for onset, name in onsets if onset is None]
    found = [f"Onset: {', '.join(said)}"] if said else []
    return f"{'; '.join(found + ([f'no onset: {listed(none)}'] if none else []))}." if onsets else ""


def transfer_words(transfers: list[Transfer]) -> list[str]:
    return [
        f"On {name}, the first feature of {card.study.name} reaches AUROC {there.words}"
        f"{f', on our held-out sentences {own.words}' if own.is_known else ''}."
        for card, name, own, there in transfers
    ]
