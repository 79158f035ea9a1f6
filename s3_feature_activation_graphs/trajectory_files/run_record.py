"""`run.json`: from what the figures of a folder were drawn; it stands only beside complete ones."""

import time
from dataclasses import asdict
from pathlib import Path

from drawing_inputs.drawn_run import DrawnRun
from twins_s3.atomic_files import write_json
from twins_s3.provenance import library_versions

FORMAT_VERSION = 1


def open_output(output: Path) -> None:
    """Make the folder and remove the run.json of earlier figures, which are about to be replaced."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file, expected a folder; give another --output")
    output.mkdir(parents=True, exist_ok=True)
    (output / "run.json").unlink(missing_ok=True)


def write_run_record(run: DrawnRun, arguments: dict[str, object], output: Path, started: float) -> None:
    """Write run.json; `started` is when the run began, by `time.perf_counter`."""
    record = {
        "format_version": FORMAT_VERSION,
        "arguments": arguments,
        "seed": arguments["seed"],
        "inputs_sha256": run.inputs_sha256,
        "features": [asdict(feature) for feature in run.features],
        "libraries": library_versions("matplotlib", "numpy", "pandas", "scikit-learn", "scipy"),
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_json(output / "run.json", record)
