#!/usr/bin/env bash
# Takes what run_pipeline.sh found for a trait to any text: where does it light up, and what does the probe say?
set -euo pipefail
shopt -s extglob

usage() {
    cat <<'USAGE'
usage: ./trace_text.sh TRAIT FILE

Runs FILE through the embedded model, draws in it the features that ./run_pipeline.sh TRAIT ranked first, and lets
the probe that it trained on the first layers (d3_hidden_to_concept) judge every sentence.

  TRAIT  a trait that ./run_pipeline.sh was run for, such as aggression
  FILE   a .txt with one sentence a line, or a CSV with a column `sentence`

The same FILE again replaces what was made of it before. Stops at the first failure, with that stage's message.
USAGE
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    -*) echo "error: unknown option $1; see ./trace_text.sh --help" >&2; exit 2 ;;
esac
[[ $# -eq 2 ]] || { echo "error: expected TRAIT and FILE; see ./trace_text.sh --help" >&2; exit 2; }
trait="$1"
[[ -f "$2" ]] || { echo "error: no file $2; give a .txt with one sentence a line, or a CSV" >&2; exit 2; }
# The stages are run from their own folders, so a path given from here is made absolute.
text="$(realpath "$2")"

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
experiment="d3_hidden_to_concept"
results="s2_find_top_features/results/${trait}_results"
example="s4_classifier_data_prep/generated_datasets/${trait}_h0-5_to_concept.npz"
# The newest version that was frozen for the trait: of v0_TRAIT and v5_TRAIT the second.
version="$(cd "$root/s5_classifier_training/$experiment" && printf '%s\n' v+([0-9])_"$trait" | sort -V | tail -n 1)"

for made in "$results/run.json" "$example" "s5_classifier_training/$experiment/$version/version.json"; do
    [[ -f "$root/$made" ]] || { echo "error: no $made; run ./run_pipeline.sh $trait first" >&2; exit 2; }
done
command -v uv >/dev/null || { echo "error: uv is not installed: pip install uv" >&2; exit 2; }

# run STAGE COMMAND...: print the command as a person would type it, then run it in the stage's folder.
run() {
    local stage="$1"
    shift
    printf '\n$ cd %s && uv run python %s\n' "$stage" "$*"
    (cd "$root/$stage" && uv run python "$@")
}

name="$(basename "$text")"
name="text_${name%.*}"
features="../s1_compute_all_features/${name}_features"
dataset="../s4_classifier_data_prep/generated_datasets/${name}_like_$trait.npz"

run s1_compute_all_features extract_sae_features.py --demo --input "$text" --output "./${name}_features" \
    --overwrite --discard-residual-stream
run s3_feature_activation_graphs visualize_activations.py --frozen --s2-results "../$results" --s1-data "$features" \
    --output "./plots/${name}_$trait" --top-n 10
run s4_classifier_data_prep generate_datasets.py --like "../$example" --input "$features" \
    --output "generated_datasets/$(basename "$dataset")"
run s5_classifier_training framework/predict.py "$experiment" "$version" --dataset "$dataset"

cat <<WHERE

page        s3_feature_activation_graphs/plots/${name}_$trait/trajectories.html
sentences   s3_feature_activation_graphs/plots/${name}_$trait/
WHERE
