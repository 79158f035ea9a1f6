"""Finds the layer at which a trait emerges: probes per layer, against text alone and shuffled labels."""

import argparse
import sys
import time
from pathlib import Path

from emergence_curves.emergence_results import (
    caveats,
    curve_table,
    describe,
    read_rungs,
    study_content,
)
from emergence_curves.emergence_study import StudyDesign, load_stacked, study_trait
from emergence_curves.layer_probes import PROBES, Strengths
from emergence_curves.readout_curves import METRICS
from emergence_curves.transfer_curves import load_others, study_transfer
from experiments.experiment_folder import LIBRARIES, STAGE, results_replaced
from figures.emergence_figures import draw_trait, draw_traits
from models.fitting import warnings_as_lines
from threadpoolctl import threadpool_limits
from twins_s5.atomic_files import write_json
from twins_s5.option_types import natural_int, positive_int, real_number, whole_number
from twins_s5.provenance import library_versions, plain_arguments

POSITIVE = real_number(1e-6)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    files = parser.add_argument_group("files")
    files.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        help="NPZ files of stage 4 with stacked layers, one per trait (--layers all)",
    )
    files.add_argument(
        "--s2-results",
        nargs="*",
        type=Path,
        default=[],
        help="stage 2 result folders, in any order: adds the best single feature of every SAE to the figures",
    )
    files.add_argument(
        "--transfer",
        nargs="*",
        type=Path,
        default=[],
        metavar="NPZ",
        help="the same layers of other, labelled sentences, one file per dataset in the same order: adds the "
        "curve of the same probes on these",
    )
    files.add_argument(
        "--output", type=Path, default=STAGE / "emergence", help="folder to write (default: emergence)"
    )
    design = parser.add_argument_group("design")
    design.add_argument(
        "--probes",
        nargs="+",
        choices=PROBES,
        default=list(PROBES),
        help="probes; the first one leads the figures",
    )
    design.add_argument(
        "--metric", choices=METRICS, default="kappa", help="metric of the figures and the summary"
    )
    design.add_argument(
        "--folds", type=whole_number(2), default=5, help="folds of each cross-validation (default: 5)"
    )
    design.add_argument(
        "--repeats", type=positive_int, default=5, help="cross-validations with new folds (default: 5)"
    )
    design.add_argument(
        "--bootstrap", type=whole_number(100), default=2000, help="resamples of the groups (default: 2000)"
    )
    design.add_argument(
        "--permutations", type=whole_number(2), default=20, help="shuffled label sets (default: 20)"
    )
    design.add_argument(
        "--seed", type=natural_int, default=0, help="seed of folds, resamples and shuffles (default: 0)"
    )
    strength = parser.add_argument_group(
        "regularisation, for rows of length about 1, the same at every layer"
    )
    strength.add_argument(
        "--logistic-c", type=POSITIVE, default=Strengths.logistic_c, help="C of the logistic probe"
    )
    strength.add_argument(
        "--ridge-lambda", type=POSITIVE, default=Strengths.ridge_lambda, help="penalty of the ridge probe"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--jobs", type=positive_int, default=2, help="layers computed at the same time (default: 2)"
    )
    return parser


def chosen_design(args: argparse.Namespace) -> StudyDesign:
    return StudyDesign(
        probes=tuple(args.probes),
        folds=args.folds,
        repeats=args.repeats,
        bootstrap=args.bootstrap,
        permutations=args.permutations,
        seed=args.seed,
        strengths=Strengths(args.logistic_c, args.ridge_lambda),
        jobs=args.jobs,
    )


def study(args: argparse.Namespace) -> None:
    """Study every dataset, and replace the results in the output folder."""
    started = time.monotonic()
    datasets = [load_stacked(path, args.folds) for path in args.datasets]
    traits = [dataset.trait for dataset in datasets]
    if len(set(traits)) < len(traits):
        raise ValueError(f"two datasets are of one trait ({', '.join(traits)}); give one per trait")
    others = load_others(args.transfer, datasets)
    rungs = read_rungs(args.s2_results, datasets)
    design, lead = chosen_design(args), args.probes[0]
    # The jobs are the parallelism, and results do not depend on the machine.
    with threadpool_limits(1), warnings_as_lines():
        studies = {dataset.trait: study_trait(dataset, design) for dataset in datasets}
        transfers = {own.trait: study_transfer(own, other, design) for own, other in others}
    content = study_content(studies, transfers, lead, args.metric)
    record = {
        "arguments": plain_arguments(args),
        "seed": args.seed,
        "libraries": library_versions(*LIBRARIES),
        "inputs": {
            str(dataset.path): dataset.sha256
            for dataset in (*datasets, *(other.dataset for _, other in others))
        },
        "seconds": round(time.monotonic() - started, 2),
    }
    with results_replaced(args.output, record) as fresh:
        write_json(fresh / "emergence.json", content)
        curve_table(content).to_csv(fresh / "emergence.csv", index=False)
        for trait, entry in content["traits"].items():
            draw_trait(fresh / f"{trait}.png", trait, entry, content, rungs.get(trait))
        if len(traits) > 1:
            draw_traits(fresh / "all_traits.png", content)
    for caveat in caveats(content):
        print(f"warning: {caveat}", file=sys.stderr)
    for trait, entry in content["traits"].items():
        print("\n".join(describe(trait, entry, lead, args.metric)))
    n_figures = len(traits) + (len(traits) > 1)
    print(f"wrote {args.output}: emergence.json, emergence.csv and {n_figures} figures")


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        study(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
