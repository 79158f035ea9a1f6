"""Explains ranked features and scores the explanations, as one run."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from feature_statistics.sentence_split import DISCOVERY
from neuronpedia_pages.page_address import FeaturePage
from neuronpedia_pages.page_cache import read_cache
from twins_s2.feature_folder import FeatureFolder, open_feature_folder
from twins_s2.progress import progress
from twins_s2.ranking_folder import open_rankings, read_ranking

from .chat_endpoint import ChatEndpoint, UnansweredError
from .detection_score import detection_score
from .explanation_prompts import detection_messages, explanation_messages, parse_detections, parse_explanation
from .shown_sentences import Evidence, FeaturePlace, SentenceCounts, gather_evidence

TESTED_AT_ONCE = 10  # sentences in a question


@dataclass(frozen=True)
class ExplanationPlan:
    """The features to explain, each with its sentences."""

    features: FeatureFolder
    evidence: list[Evidence]
    n_explained_elsewhere: int  # ranked features left out because Neuronpedia has explanations of them
    seed: int

    def batches(self, evidence: Evidence) -> list[list[str]]:
        """The tested sentences of one feature, question by question."""
        sentences = self.features.sentences["sentence"].iloc[evidence.tested].tolist()
        return [sentences[i : i + TESTED_AT_ONCE] for i in range(0, len(sentences), TESTED_AT_ONCE)]


def plan_explanations(
    features_folder: Path, results: Path, top_n: int, counts: SentenceCounts, seed: int
) -> ExplanationPlan:
    """Choose features and sentences. Raises ValueError or FileNotFoundError for folders that do not fit."""
    features = open_feature_folder(features_folder)
    ranking = open_rankings(results, features)
    ranked = read_ranking(results, "ranked_features.csv").head(top_n)
    known = {
        key
        for key, page in ((read_cache(results) or {}).get("features") or {}).items()
        if page["explanations"]
    }
    places: list[FeaturePlace] = []
    for row in ranked.itertuples():
        url = row.neuronpedia_url
        if not isinstance(url, str) or FeaturePage.of_url(url).key not in known:
            places.append((int(row.layer), int(row.average_l0), int(row.feature_id)))
    is_discovery = ranking.part == DISCOVERY
    evidence = gather_evidence(features, is_discovery, places, ranking.pool, counts, seed)
    return ExplanationPlan(features, evidence, len(ranked) - len(places), seed)


def explain_all(plan: ExplanationPlan, endpoint: ChatEndpoint) -> list[dict]:
    """An entry of explanations.json for each feature, in order; several are asked about at a time."""
    with (
        progress(len(plan.evidence), "feature", "explaining") as bar,
        ThreadPoolExecutor(endpoint.settings.concurrency) as pool,
    ):
        try:
            entries = []
            for entry in pool.map(partial(explain_feature, plan, endpoint), plan.evidence):
                entries.append(entry)
                bar.update()
            return entries
        except BaseException:
            endpoint.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def explain_feature(plan: ExplanationPlan, endpoint: ChatEndpoint, evidence: Evidence) -> dict:
    """Explanation and score of one feature; `problem` says why one of them is missing."""
    layer, average_l0, feature_id = evidence.place
    entry = {
        "layer": layer,
        "average_l0": average_l0,
        "feature_id": feature_id,
        "model": endpoint.settings.model,
        "n_strongest": len(evidence.strongest),
        "n_near_misses": len(evidence.near_misses),
        "explanation": None,
        "score": None,
        "problem": None,
        "unanswered": False,
        "tested": [],
    }
    try:
        if not evidence.strongest:
            return entry | {"problem": "it fires in no discovery sentence"}
        entry["explanation"] = endpoint.ask(explanation_messages(evidence), parse_explanation)
        entry["problem"] = untestable(evidence)
        if entry["problem"] is None:
            entry |= scored(plan, endpoint, evidence, entry["explanation"])
    except UnansweredError as error:
        entry |= {"problem": str(error), "unanswered": True}
    return entry


def untestable(evidence: Evidence) -> str | None:
    """Why no sentences can test an explanation of the feature, if so."""
    if not len(evidence.tested):
        return "no sentences were held out"
    if evidence.fires.all():
        return "the feature fires in every held-out sentence"
    return None if evidence.fires.any() else "the feature fires in no held-out sentence"


def scored(plan: ExplanationPlan, endpoint: ChatEndpoint, evidence: Evidence, explanation: str) -> dict:
    """The judgements of the tested sentences, and what they amount to."""
    judged: list[bool] = []
    for sentences in plan.batches(evidence):
        parse = partial(parse_detections, n_sentences=len(sentences))
        judged += endpoint.ask(detection_messages(explanation, sentences), parse)
    groups = plan.features.groups[evidence.tested]
    score = detection_score(evidence.fires, np.array(judged), groups, plan.seed)
    tested = zip(evidence.tested.tolist(), evidence.fires.tolist(), judged)
    return {
        "score": dataclasses.asdict(score),
        "tested": [{"sentence_index": i, "fires": fires, "judged": said} for i, fires, said in tested],
    }
