#!/usr/bin/env bash
# Chains stages 1 to 5 for one or several traits, with the commands a person would type.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: ./run_pipeline.sh [--causal] [--human] [--open] [--gemma-scope-2 | --model MODEL] [--config FILE]
                         [--sae-release WHERE] [TRAIT ...]

Runs stages 1 to 5 on s0_dataset_generation/expanded_data/TRAIT.csv (default: dishonesty).

  --gemma-scope-2      the embedded model with Google's 40 SAEs of it from the hub (1.7 GB, fetched once)
  --model MODEL        hub id or folder of another model, e.g. google/gemma-2-2b
                       (default: the embedded Gemma 3 270M with its own small SAEs)
  --config FILE        configurations JSON of the model's SAEs (default for google/gemma-2-2b: all 135)
  --sae-release WHERE  hub repository or folder the configurations' paths are relative to
  --causal             also the effect of every feature on the likelihood (one backward pass), and steering with
                       the ten best (embedded default, two cores: about half an hour a trait)
  --human              also what features and probes are worth on sentences that people wrote (ETHICS, out of the
                       package sae-probes of the package registry)
  --open               open the study page in the browser at the end
  -h, --help           this text

Stage 1 goes on where it was stopped; the later stages are done again, in seconds each.
Stops at the first failure, with that stage's message.
Ends with s5_classifier_training/study.html: one page of all traits that have results.
USAGE
}

model="" config="" release="" causal="" human="" scope_2="" page=() traits=()
while (($#)); do
    case "$1" in
        --model | --config | --sae-release)
            [[ $# -ge 2 ]] || { echo "error: $1 needs a value; see ./run_pipeline.sh --help" >&2; exit 2; }
            case "$1" in --model) model="$2" ;; --config) config="$2" ;; --sae-release) release="$2" ;; esac
            shift 2
            ;;
        --causal) causal=1; shift ;;
        --human) human=1; shift ;;
        --open) page=(--open); shift ;;
        --gemma-scope-2) scope_2=1; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) echo "error: unknown option $1; see ./run_pipeline.sh --help" >&2; exit 2 ;;
        *) traits+=("$1"); shift ;;
    esac
done
((${#traits[@]})) || traits=(dishonesty)
if [[ -n "$scope_2" && -n "$model$config" ]]; then
    echo "error: --gemma-scope-2 names model and SAEs: leave out --model and --config" >&2
    exit 2
fi

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# The stages are run from their own folders, so a path given from here is made absolute.
absolute() { if [[ -e "$1" ]]; then realpath "$1"; else printf '%s' "$1"; fi; }
# The embedded default has six SAEs, all encoded at once: no reason to keep the float32 residual stream.
sources=(--demo) extraction=(--discard-residual-stream) tag=""
if [[ -n "$model" ]]; then
    sources=(--model "$(absolute "$model")") extraction=() tag="_$(basename "$model")"
elif [[ -n "$scope_2" ]]; then
    # Fetching takes long and may be stopped: what the next run needs to go on is kept.
    sources+=(--config gemma_scope_2_270m_16k_configurations.json) extraction=() tag="_gemma-scope-2"
elif [[ -n "$config" ]]; then
    tag="_$(basename "$config" .json)"
fi
[[ -z "$config" ]] || sources+=(--config "$(absolute "$config")")
[[ -z "$release" ]] || sources+=(--sae-release "$(absolute "$release")")
[[ -z "$causal" ]] || extraction+=(--gradients)

command -v uv >/dev/null || { echo "error: uv is not installed: pip install uv" >&2; exit 2; }
for trait in "${traits[@]}"; do
    if [[ ! -f "$root/s0_dataset_generation/expanded_data/$trait.csv" ]]; then
        echo "error: no s0_dataset_generation/expanded_data/$trait.csv; there are:" \
            "$(cd "$root/s0_dataset_generation/expanded_data" && echo *.csv | sed 's/\.csv//g')" >&2
        exit 2
    fi
done

# run STAGE COMMAND...: print the command as a person would type it, then run it in the stage's folder.
run() { run_with "" "$@"; }
run_with() {
    local group="$1" stage="$2"
    shift 2
    printf '\n$ cd %s && uv run %spython %s\n' "$stage" "${group:+--group $group }" "$*"
    (cd "$root/$stage" && uv run ${group:+--group "$group"} python "$@")
}

# like DATASET: the inputs of the trait's dataset, of people's sentences.
like() {
    run s4_classifier_data_prep generate_datasets.py --like "generated_datasets/${name}_$1.npz" --input "$people" \
        --output "generated_datasets/${name}_human_$1.npz"
}

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
for trait in "${traits[@]}"; do
    metrics=() transfer=()
    name="$trait$tag"
    features="../s1_compute_all_features/${name}_features"
    results="../s2_find_top_features/results/${name}_results"
    datasets="../s4_classifier_data_prep/generated_datasets"

    run s1_compute_all_features extract_sae_features.py \
        --input "../s0_dataset_generation/expanded_data/$trait.csv" --output "./${name}_features" "${sources[@]}" \
        ${extraction[@]+"${extraction[@]}"}
    if [[ -n "$human" ]]; then
        people="../s1_compute_all_features/${name}_human_features"
        transfer=(--transfer "$people")
        run_with ethics s0_dataset_generation import_hendrycks.py --trait "$trait" --from-package --test-set-only --overwrite
        run s1_compute_all_features extract_sae_features.py --input "../s0_dataset_generation/human_data/$trait.csv" \
            --output "./${name}_human_features" "${sources[@]}"
    fi
    run s2_find_top_features analyze_features.py --input "$features" --output "./results/${name}_results" \
        ${transfer[@]+"${transfer[@]}"}
    if [[ -n "$causal" ]]; then
        # The ranked features, or where none passed the filters, the nearest misses.
        ranking="$root/s2_find_top_features/results/${name}_results/ranked_features.csv"
        [[ "$(wc -l <"$ranking")" -gt 1 ]] || ranking="$(dirname "$ranking")/discovery_ranking.csv"
        run s1_compute_all_features steer_features.py --features "$(realpath --relative-to "$root/s1_compute_all_features" "$ranking")" \
            --input "./${name}_features" --output "./${name}_steering" "${sources[@]}"
        run s3_feature_activation_graphs visualize_steering.py \
            --steering "../s1_compute_all_features/${name}_steering" --output "./plots/${name}_steering"
    fi
    run s3_feature_activation_graphs visualize_activations.py \
        --s2-results "$results" --s1-data "$features" --output "./plots/$name" --top-n 10

    run s4_classifier_data_prep generate_datasets.py --strategy embedding-to-feature --pool mean \
        --s2-results "$results" --input "$features" --output "generated_datasets/${name}_embedding_to_feature.npz"
    run s4_classifier_data_prep generate_datasets.py --strategy hidden-to-feature --pool mean \
        --s2-results "$results" --input "$features" --output "generated_datasets/${name}_hidden_to_feature.npz"
    run s4_classifier_data_prep generate_datasets.py --strategy hidden-to-concept --layers 0-5 \
        --input "$features" --output "generated_datasets/${name}_h0-5_to_concept.npz"
    run s4_classifier_data_prep generate_datasets.py --strategy features-to-concept --k 16 \
        --s2-results "$results" --input "$features" --output "generated_datasets/${name}_features_to_concept.npz"
    run s4_classifier_data_prep generate_datasets.py --strategy hidden-to-concept --layers all --pool mean \
        --input "$features" --output "generated_datasets/${name}_all_layers_to_concept.npz"

    for pair in d1_embedding_to_feature:embedding_to_feature d2_hidden_to_feature:hidden_to_feature \
        d3_hidden_to_concept:h0-5_to_concept d4_features_to_concept:features_to_concept; do
        experiment="${pair%%:*}"
        # Trained and frozen in one step; a new version only where the results differ from the newest of that name.
        version="$(tr '[:upper:].' '[:lower:]-' <<<"$name")"
        run s5_classifier_training framework/train.py "$experiment" --dataset "$datasets/${name}_${pair##*:}.npz" \
            --freeze "$version" | tee "$log"
        metrics+=("$(printf '%-24s %s' "$experiment" "$(tail -n 1 "$log")")")
        if [[ -n "$human" && "$experiment" == *_to_concept ]]; then
            like "${pair##*:}"
            run s5_classifier_training framework/predict.py "$experiment" working \
                --dataset "$datasets/${name}_human_${pair##*:}.npz" | tee "$log"
            metrics+=("$(printf '%-24s %s' "  of people" "$(grep '^on .* new sentences' "$log")")")
        fi
    done
    if [[ -n "$human" ]]; then
        like all_layers_to_concept
        transfer=(--transfer "$datasets/${name}_human_all_layers_to_concept.npz")
    fi
    run s5_classifier_training framework/emergence.py "$datasets/${name}_all_layers_to_concept.npz" \
        --s2-results "$results" --output "emergence/$name" ${transfer[@]+"${transfer[@]}"}

    printf '\n== %s ==\n' "$name"
    (cd "$root/s2_find_top_features" && uv run python analyze_features.py --output "./results/${name}_results" --display-only --display-top 5)
    printf '%s\n' "${metrics[@]}"
    cat <<WHERE
report    s2_find_top_features/results/${name}_results/report.html
plots     s3_feature_activation_graphs/plots/$name/
${causal:+steering  s3_feature_activation_graphs/plots/${name}_steering/continuations.html
}emergence s5_classifier_training/emergence/$name/
results   s5_classifier_training/d*/working/results.json
WHERE
done
run s5_classifier_training framework/study_page.py ${page[@]+"${page[@]}"}
