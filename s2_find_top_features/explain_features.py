"""Have a language model explain ranked features, and score each explanation on sentences held out.

The model sees the sentences in which a feature fires most, with the firing tokens marked, and near misses.
Then, given only its explanation, it says of sentences that took no part in ranking whether the feature fires.
"""

import argparse
import sys
from pathlib import Path

from feature_explanations.answer_journal import open_journal
from feature_explanations.chat_endpoint import (
    ChatEndpoint,
    EndpointError,
    EndpointSettings,
    endpoint_settings,
)
from feature_explanations.cost_estimate import Prices, estimate, prices_of
from feature_explanations.explanation_files import EXPLANATIONS, write_explanations
from feature_explanations.explanation_run import ExplanationPlan, explain_all, plan_explanations
from feature_explanations.shown_sentences import SentenceCounts
from ranking_results.feature_notes import add_notes
from twins_s2.option_types import natural_int, positive_int, real_number
from twins_s2.provenance import library_versions, plain_arguments

DEFAULT_MODEL = "gpt-5.6-terra"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, required=True, help="feature folder of s1 that was ranked")
    files.add_argument("--results", type=Path, required=True, help="results folder of analyze_features.py")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--top-n", type=positive_int, default=10, help="ranked features, best first")
    shown.add_argument("--examples", type=positive_int, default=20, help="strongest sentences of a feature")
    shown.add_argument("--near-misses", type=natural_int, default=10, help="silent sentences of like words")
    shown.add_argument(
        "--test-sentences",
        type=positive_int,
        default=20,
        help="held-out sentences that fire, and that do not",
    )
    shown.add_argument("--seed", type=natural_int, default=0, help="of the tested sentences and the interval")
    endpoint = parser.add_argument_group("endpoint", "The key is read from OPENAI_API_KEY or from .env.")
    endpoint.add_argument("--model", default=DEFAULT_MODEL, help="model that explains and judges")
    endpoint.add_argument(
        "--base-url",
        help="URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1; else OPENAI_BASE_URL, then "
        "OpenAI's own",
    )
    endpoint.add_argument("--concurrency", type=positive_int, default=8, help="features asked about at once")
    endpoint.add_argument(
        "--max-retries", type=natural_int, default=6, help="of a failed request, and of an unusable answer"
    )
    endpoint.add_argument(
        "--timeout", type=real_number(0.001), default=120.0, help="seconds to wait for one answer"
    )
    for option, tokens in (("--price-in", "input"), ("--price-out", "output")):
        endpoint.add_argument(
            option, type=real_number(0), help=f"price of a million {tokens} tokens, to show the cost"
        )
    endpoint.add_argument(
        "--dry-run", action="store_true", help="print questions and an estimate, ask nothing"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return explain(args)
    except (ValueError, OSError, EndpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; every answer so far is kept, the same command continues", file=sys.stderr)
        return 130


def explain(args: argparse.Namespace) -> int:
    """Explain and score, or estimate; the exit status."""
    prices = prices_of(args.price_in, args.price_out)
    counts = SentenceCounts(args.examples, args.near_misses, args.test_sentences)
    plan = plan_explanations(args.input, args.results, args.top_n, counts, args.seed)
    print(
        f"{plan.features.trait}: {len(plan.evidence)} ranked features to explain; left out, because "
        f"explained on Neuronpedia: {plan.n_explained_elsewhere}"
    )
    if args.dry_run or not plan.evidence:
        print(estimate(plan, prices) if plan.evidence else f"nothing to do; open {report_of(args)}")
        return 0
    settings = endpoint_settings(args.base_url, args.model, args.concurrency, args.max_retries, args.timeout)
    entries = ask_and_write(args, plan, settings, prices)
    add_notes(args.results)
    n_explained, n_scored = (sum(bool(entry[part]) for entry in entries) for part in ("explanation", "score"))
    unanswered = [entry for entry in entries if entry["unanswered"]]
    for entry in unanswered:
        place = f"layer {entry['layer']}, L0 {entry['average_l0']}, feature {entry['feature_id']}"
        print(f"note: {place}: {entry['problem']}", file=sys.stderr)
    print(
        f"wrote {args.results / EXPLANATIONS}: {n_explained} of {len(entries)} features explained, "
        f"{n_scored} scored; open {report_of(args)}"
    )
    return 1 if unanswered else 0


def report_of(args: argparse.Namespace) -> Path:
    return args.results / "report.html"


def ask_and_write(
    args: argparse.Namespace, plan: ExplanationPlan, settings: EndpointSettings, prices: Prices | None
) -> list[dict]:
    """Ask about all features, write explanations.json and print what was asked for it."""
    with open_journal(args.results) as journal:
        n_before = len(journal.answers)
        endpoint = ChatEndpoint(settings, journal)
        try:
            entries = explain_all(plan, endpoint)
        finally:
            endpoint.close()
    n_new, n_used = len(journal.answers) - n_before, len(endpoint.used)
    tokens_in, tokens_out = endpoint.tokens()
    cost = None if prices is None else prices.cost(tokens_in, tokens_out)
    usage = {"answers": n_used, "tokens_in": tokens_in, "tokens_out": tokens_out, "cost": cost}
    arguments = plain_arguments(args) | {"base_url": settings.url}
    libraries = library_versions("openai", "numpy", "scikit-learn")
    provenance = {"arguments": arguments, "usage": usage, "libraries": libraries}
    write_explanations(args.results, entries, settings.model, provenance)
    said = "" if cost is None else f", cost {cost:.4f}"
    print(
        f"{n_new} answers of the endpoint, {n_used - n_new} from the journal; tokens {tokens_in:,} in, "
        f"{tokens_out:,} out{said}"
    )
    return entries


if __name__ == "__main__":
    sys.exit(main())
