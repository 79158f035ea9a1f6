"""Surface cues: habits of wording that could give a label away, counted by label and tested."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from audit.label_tests import adjusted, counts_by_label, independence_p, rounded


@dataclass(frozen=True)
class Cue:
    """`pattern` is searched in the sentence, whatever the case; a sentence has the cue or not."""

    name: str
    meaning: str
    pattern: str


def any_word(*alternatives: str) -> str:
    """A pattern for one of the alternatives, `|` between them, as whole words."""
    return rf"\b({'|'.join(alternatives)})\b"


CUES = (
    Cue(
        "softener",
        "a word that weakens what is said",
        any_word(
            "a bit|a little|slightly|somewhat|rather|tend(s|ed)? to|sort of|kind of|fairly|quite|almost",
            "nearly|barely|hardly|mostly|maybe|perhaps|probably|usually|sometimes",
        ),
    ),
    Cue(
        "procedure",
        "a word of offices, courses and rules",
        any_word(
            "rotas?|lists?|queues?|polic(y|ies)|trainings?|rules?|forms?|committees?|councils?|meetings?",
            "minutes|reports?|procedures?|inspectors?|inspections?|hearings?|leaflets?|courses?|posters?",
            "registers?|schedules?|workshops?|guidelines?|boards?|notices?|sessions?|applications?|laws?",
            "courts?|judges?",
        ),
    ),
    Cue(
        "trailing_clause",
        "two to seven last words after a comma or `and`",
        r"(,|\band\b)\s*(\S+\s+){1,6}\S+[.!?”\"']*$",
    ),
    Cue(
        "numeral",
        "a digit, or a number as a word from two on",
        r"\d|"
        + any_word(
            "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen",
            "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety",
            "hundred|thousand|million|half|dozen|twice",
        ),
    ),
    Cue(
        "animal_or_food",
        "an animal, something to eat or drink, or a meal",
        any_word(
            "dogs?|cats?|goats?|hens?|chickens?|horses?|ponys?|pony|cows?|sheep|lambs?|pigs?|birds?|ducks?",
            "geese|goose|rabbits?|hamsters?|fish|puppy|puppies|kittens?|donkeys?|bees?|mice|mouse|rats?",
            "soup|bread|rice|tea|coffee|cakes?|pies?|eggs?|milk|cheese|beans?|potatoe?s?|tomatoe?s?|onions?",
            "apples?|bananas?|oranges?|lunch|dinner|breakfast|supper|sandwich(es)?|biscuits?|chips|pizza",
            "noodles|curry|meat|sugar|salt|jam|chocolate|sweets|beer|wine|stew|food|meals?",
        ),
    ),
    Cue("quotation_mark", "double quotation marks, or a single one that opens", r"[\"“”]|(?<!\w)'(?=\w)"),
    Cue(
        "modal",
        "a modal verb, also contracted",
        any_word("can|could|will|would|shall|should|may|might|must|cannot")
        + r"|\b(can|could|wo|would|should|must)n['’]?t\b|['’](ll|d)\b",
    ),
    Cue(
        "negation",
        "a word that denies, also contracted, also without its apostrophe",
        any_word("not|no|never|none|nobody|nothing|nor|neither|without|nowhere|cannot")
        + r"|n['’]t\b|"
        + any_word("dont|didnt|cant|wont|isnt|wasnt|doesnt"),
    ),
    Cue(
        "past_tense",
        "a word in -ed, or one of the common irregular forms",
        any_word(
            r"\w{2,}ed|was|were|had|did|didn['’]?t|wasn['’]?t|weren['’]?t|hadn['’]?t|told|said|went|came|took",
            "gave|got|made|saw|kept|left|let|ran|sat|stood|held|found|knew|thought|felt|brought|bought|sold",
            "sent|put|read|wrote|spoke|broke|threw|hit|cut|shut|lost|met|paid|stole|hid|lay|led|rode|rang|rose",
            "drove|flew|fell|forgot|woke|wore|won|began|became|built|caught|chose|drew|drank|ate|fought|grew",
            "heard|hurt|swore|taught|tore|understood|slept|spent|shook|swam",
        ),
    ),
    Cue(
        "first_person",
        "I, we and their forms, also contracted, also without the apostrophe",
        any_word(
            "i|me|my|mine|myself|we|us|our|ours|ourselves|i['’](m|ve|d|ll)|we['’](re|ve|d|ll)|im|ive|ill"
        ),
    ),
)


def presence(cue: Cue, sentences: Sequence[str]) -> np.ndarray:
    """Which sentences have the cue, bool [n]."""
    search = re.compile(cue.pattern, re.IGNORECASE).search
    return np.array([search(sentence) is not None for sentence in sentences], dtype=bool)


def cue_table(sentences: Sequence[str], labels: np.ndarray) -> list[dict]:
    """Of each cue the sentences of each label that have it, and whether the labels differ in it.

    `p` is that of Pearson's chi-squared test of the label x cue table, `p_adjusted` Holm's over the cues.
    """
    totals = counts_by_label(np.ones(len(labels), dtype=bool), labels)
    counts = [counts_by_label(presence(cue, sentences), labels) for cue in CUES]
    p_values = [independence_p(np.array([with_cue, totals - with_cue])) for with_cue in counts]
    return [
        {
            "cue": cue.name,
            "meaning": cue.meaning,
            "sentences": with_cue.tolist(),
            "p": rounded(p),
            "p_adjusted": rounded(p_holm),
        }
        for cue, with_cue, p, p_holm in zip(CUES, counts, p_values, adjusted(p_values))
    ]
