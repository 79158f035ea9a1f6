"""The sentences that the benchmarks of stage 1 run on."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import full_scale_inputs


def test_traits_alternate_and_none_is_lost_where_they_differ_in_number():
    own = full_scale_inputs.project_sentences()
    files = sorted((full_scale_inputs.ROOT / "s0_dataset_generation/expanded_data").glob("*.csv"))
    tables = [set(full_scale_inputs.pd.read_csv(file)["sentence"]) for file in files]
    assert set(own) == set.union(*tables)
    assert [next(i for i, table in enumerate(tables) if s in table) for s in own[:10]] == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("n", [8, 12_000])
def test_as_many_different_sentences_as_are_wanted(n):
    assert len(set(full_scale_inputs.make_sentences(n))) == n
