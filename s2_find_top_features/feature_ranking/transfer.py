"""The ranked features on sentences from elsewhere: do they tell label 3 from label 0 there, as they are?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from feature_statistics.confirmation import confirm_features
from twins_s2.feature_folder import FeatureFolder

from .other_runs import pooled_in_other
from .ranking_options import RankingOptions

TRANSFER_COLUMNS = ("auroc", "auroc_low", "auroc_high", "tpr", "fpr", "p")


def transfer_columns(
    table: pd.DataFrame, features: FeatureFolder, transfers: Sequence[FeatureFolder], options: RankingOptions
) -> pd.DataFrame:
    """`transfer_<name>_…` of each row of `table` (numbered from 0) on each of the other runs.

    Thresholds and directions are those of this run's discovery sentences. Intervals resample the other run's
    groups, p is Holm-adjusted over the rows. Raises ValueError if another run lacks an SAE of a feature.
    """
    tables = [pd.DataFrame(index=table.index)]
    for other in transfers:
        pooled = pooled_in_other(table, features, other, options.pool, "--transfer")
        pair = np.isin(other.labels, (0, 3))
        sizes = confirm_features(
            pooled[pair],
            other.labels[pair],
            other.groups[pair],
            table["threshold"].to_numpy(),
            np.sign(table["spearman_corr"].to_numpy()),
            n_permutations=options.permutations,
            n_bootstrap=options.bootstrap,
            seed=options.seed,
        )
        tables.append(sizes[list(TRANSFER_COLUMNS)].add_prefix(f"transfer_{other.trait}_"))
    return pd.concat(tables, axis=1)
