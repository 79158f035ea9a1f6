"""Models: our own estimators, the models that a configuration can name, and their files.

The estimators have a name here too, because model files of version 0.1.0 call them `models.OrdinalLogistic`.
"""

from models.estimators import (
    DiffMeansClassifier,
    DiffMeansRegressor,
    MLPClassifier,
    MLPRegressor,
    OrdinalLogistic,
)

OWN_TYPES = (DiffMeansClassifier, DiffMeansRegressor, OrdinalLogistic, MLPClassifier, MLPRegressor)
