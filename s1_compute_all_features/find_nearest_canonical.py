"""Name, for features whose SAE has no Neuronpedia page, the nearest feature of the same layer that has one.

Compares decoder directions only: neither model nor sentences are needed, and of SAEs on the hub only the
decoders are fetched.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

from autoencoders.configurations import read_configurations
from autoencoders.feature_places import read_feature_places
from autoencoders.nearest_canonical import Neighbour, find_neighbours, plan_search
from autoencoders.sae_source import SaeSource
from hub.failures import network_forbidden
from twins_s1.atomic_files import write_text

STAGE = Path(__file__).resolve().parent
COLUMNS = (
    *("layer", "average_l0", "feature_id"),
    *("nearest_average_l0", "nearest_feature_id", "cosine", "neuronpedia_url"),
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--features",
        type=Path,
        required=True,
        help="CSV with layer,average_l0,feature_id: s2's ranking",
    )
    parser.add_argument("--output", type=Path, help="CSV to write (default: nearest_canonical.csv beside it)")
    parser.add_argument(
        "--config",
        type=Path,
        default=STAGE / "gemma_scope_16k_configurations.json",
        help="configurations JSON of the SAEs (default: Gemma Scope's 135)",
    )
    parser.add_argument(
        "--sae-release",
        help="hub repository, sae-lens release or local folder that the paths are relative to",
    )
    parser.add_argument("--sae-revision", help="branch, tag or commit of the SAE repository (default: main)")
    parser.add_argument(
        "--local-files-only", action="store_true", help="use the local Hugging Face cache, never the network"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with network_forbidden(args.local_files_only):
            print(find(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was fetched is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


def find(args: argparse.Namespace) -> str:
    """Write the table; return the closing line."""
    output = args.output or args.features.with_name("nearest_canonical.csv")
    configurations = read_configurations(args.config)
    places = read_feature_places(args.features)
    plan = plan_search(places, configurations)
    neighbours: list[Neighbour] = []
    if plan.pageless:
        saes = SaeSource.of(configurations, args.sae_release, args.sae_revision, args.local_files_only)
        neighbours = sorted(find_neighbours(plan, saes), key=lambda found: places.index(found.place))
    write_text(output, as_csv(neighbours))
    without = f"; no SAE has a page on layer {', '.join(map(str, plan.layers_without_pages))}"
    return (
        f"wrote {output}: the nearest feature with a page of {len(neighbours)} of {len(places)} features"
        f"{without if plan.layers_without_pages else ''}; s2's analyze_features.py shows them in report.html"
    )


def as_csv(neighbours: list[Neighbour]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for found in neighbours:
        nearest = found.nearest.average_l0, found.nearest.feature_id
        place = found.place.layer, found.place.average_l0, found.place.feature_id
        writer.writerow([*place, *nearest, f"{found.cosine:.4f}", found.neuronpedia_url])
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
