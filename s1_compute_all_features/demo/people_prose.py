"""English prose that people wrote, out of the data sets that the package sae-probes brings along."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

# Data sets of sae-probes that are English prose: no code, no arithmetic, no lists of names, and none from
# which a task of yardstick_tasks.txt or judgements of a trait were drawn (headlines, tweets, ETHICS).
PROSE = (
    "44_phys_tf", "45_context_ans", "46_context_type", "47_reasoning_tf", "55_open_qa",
    "56_wikidatasex_or_gender", "57_wikidatais_alive", "58_wikidatapolitical_party",
    "59_wikidata_occupation_isjournalist", "60_wikidata_occupation_isathlete",
    "61_wikidata_occupation_isactor", "62_wikidata_occupation_ispolitician",
    "63_wikidata_occupation_issinger", "64_wikidata_occupation_isresearcher", "65_high-school",
    "66_living-room", "67_social-security", "68_credit-card", "69_blood-pressure", "71_social-media",
    "72_gene-expression", "73_control-group", "74_magnetic-field", "75_cell-lines", "76_trial-court",
    "78_north-america", "79_human-rights", "80_side-effects", "81_public-health", "82_federal-government",
    "83_third-party", "84_clinical-trials", "85_mental-health", "86_social_iqa", "88_glue_mnli",
    "89_glue_mrpc", "90_glue_qnli", "91_glue_qqp", "93_glue_stsb", "94_ai_gen", "97_news_class",
    "98_cancer_cat", "99_sci_cat", "100_news_fake", "101_disease_class", "103_it_tick",
    "110_aimade_humangpt3", "111_yelp_data", "157_amazon_5star",
)  # fmt: skip
WORDS_A_DATA_SET = 150_000  # so that no long one drowns the others
PASSAGE_WORDS = 90
# Words that a twelfth of any English running text consists of; elsewhere, and in tables and code, far fewer.
COMMON_WORDS = frozenset(
    (
        "the", "of", "and", "to", "in", "is", "was", "that", "for", "it", "with", "as", "on", "be", "are",
        "at", "by", "this", "have", "from", "or", "had", "not", "but", "what", "you", "i", "he", "she",
        "they", "we", "his", "her",
    )
)  # fmt: skip


def prose(_: Path) -> Iterator[str]:
    """PyPI sae-probes: texts of the data sets of `PROSE`, no sentence twice, none of the yardstick's."""
    folder = sae_probes_data()
    tasks = (Path(__file__).parent / "yardstick_tasks.txt").read_text(encoding="utf-8").splitlines()
    seen = {key(s) for task in tasks for text in prompts(folder, task) for s in sentences(text)}
    for name in PROSE:
        texts = prompts(folder, name)
        words = 0
        for index in np.random.default_rng(0).permutation(len(texts)):
            fresh = []
            for sentence in sentences(texts[index]):
                if key(sentence) not in seen:
                    seen.add(key(sentence))
                    fresh.append(sentence)
            for passage in sentence_passages(fresh):
                if is_english(passage):
                    words += len(passage.split())
                    yield passage
            if words >= WORDS_A_DATA_SET:
                break


def sae_probes_data() -> Path:
    """Return the folder of the package's data sets; only its files are read, it is not imported."""
    spec = importlib.util.find_spec("sae_probes")
    if spec is None or importlib.util.find_spec("zstandard") is None:
        raise FileNotFoundError("the package sae-probes is not installed: run with `uv run --group ethics`")
    return Path(spec.submodule_search_locations[0]) / "data" / "cleaned_data"


def prompts(folder: Path, name: str) -> list[str]:
    table = pd.read_csv(folder / f"{name}.csv.zst", usecols=["prompt"], dtype=str, keep_default_na=False)
    return table["prompt"].drop_duplicates().tolist()


def sentences(text: str) -> list[str]:
    """Cut at sentence ends and line ends; white space becomes single spaces."""
    parts = re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+|\s*\n\s*", text.replace("<br />", "\n"))
    return [" ".join(part.split()) for part in parts if part.strip()]


def key(sentence: str) -> str:
    """Letters and digits in lower case: what makes two sentences the same."""
    return re.sub(r"\W+", "", sentence).lower()


def sentence_passages(parts: list[str]) -> Iterator[str]:
    """Join whole sentences to passages of `PASSAGE_WORDS` words or a little more; the last may be shorter."""
    held: list[str] = []
    for part in parts:
        held += part.split()
        if len(held) >= PASSAGE_WORDS:
            yield " ".join(held[: 4 * PASSAGE_WORDS])  # e-texts without a full stop end somewhere
            held = []
    if held:
        yield " ".join(held)


def is_english(passage: str) -> bool:
    words = [word.strip(".,;:!?\"'()").lower() for word in passage.split()]
    return len(words) >= 6 and sum(word in COMMON_WORDS for word in words) >= len(words) / 12
