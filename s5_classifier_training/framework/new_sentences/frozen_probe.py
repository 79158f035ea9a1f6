"""A trained version as it stands: its model, and the sentences that it was trained and tested on."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_config import ExperimentConfig, parse_config
from experiments.experiment_dataset import Dataset
from experiments.experiment_folder import TRAIN, only_user, read_record, verified_files
from experiments.input_identity import require_same_inputs
from experiments.versions import find_version
from measures.predictions import Prediction, predict
from models.model_files import load_model
from sklearn.base import BaseEstimator

PROBABILITY = "p_"  # begins the columns of predictions.csv with a class's probability


@dataclass(frozen=True)
class FrozenProbe:
    """One trained state of an experiment, never fitted again."""

    folder: Path  # `v{N}_{name}` or `working`
    config: ExperimentConfig
    results: dict
    model: BaseEstimator
    rows: pd.DataFrame  # predictions.csv

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def task(self) -> str:
        return self.config.task

    @property
    def classes(self) -> np.ndarray:
        return np.array(self.results["classes"] or [], np.int64)  # [K], none of a regression

    @property
    def metadata(self) -> dict:
        """What stage 4 says of the dataset that it was trained on."""
        return self.results["dataset"]["metadata"]

    def part(self, name: str) -> pd.DataFrame:
        """The rows of `train` or `test`."""
        return self.rows[self.rows["part"] == name]

    def test_prediction(self) -> Prediction:
        """What the model said of the test rows."""
        test = self.part("test")
        probabilities = test[[f"{PROBABILITY}{label}" for label in self.classes]].to_numpy()
        return Prediction(test["y_pred"].to_numpy(), probabilities if len(self.classes) else None)

    def predict(self, new: Dataset) -> Prediction:
        """Predictions for new sentences; ValueError where their inputs are not those of the training."""
        n_inputs = self.results["n_inputs"]
        leading = self.config.first_inputs is not None
        require_same_inputs(new, self.metadata, n_inputs, f"{self.title} was trained on", leading)
        return predict(self.model, new.X[:, :n_inputs].astype(np.float64), self.task)


def load_probe(experiment: Path, name: str) -> FrozenProbe:
    """Read the version called `v1` or `v1_svm`, or `working`, whose files are as they were written."""
    is_working = name == "working"
    folder = experiment / "working" if is_working else find_version(experiment, name)
    with only_user(experiment) if is_working else nullcontext():
        files = verified_files(folder, "run.json" if is_working else "version.json")
        results = read_record(folder / "results.json", TRAIN)
        return FrozenProbe(
            folder=folder,
            config=parse_config(results["config"], str(folder / "results.json")),
            results=results,
            model=load_model(folder / "model.skops", files["model.skops"]),
            rows=pd.read_csv(
                folder / "predictions.csv",
                dtype={"sentence": str, "difficulty": str, "register": str},
                keep_default_na=False,
            ),
        )
