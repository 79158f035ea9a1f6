"""The commands that make a missing part, as run_pipeline.sh types them."""

DATASETS = {  # experiment: the dataset of stage 4 that run_pipeline.sh trains it on
    "d1_embedding_to_feature": "embedding_to_feature",
    "d2_hidden_to_feature": "hidden_to_feature",
    "d3_hidden_to_concept": "h0-5_to_concept",
    "d4_features_to_concept": "features_to_concept",
}


def in_stage(stage: str, command: str) -> str:
    return f"cd {stage} && uv run python {command}"


def extract(name: str) -> str:
    return in_stage(
        "s1_compute_all_features", f"extract_sae_features.py --input SENTENCES.csv --output ./{name}_features"
    )


def steer(name: str) -> str:
    return in_stage(
        "s1_compute_all_features",
        f"steer_features.py --features ../s2_find_top_features/results/{name}_results/ranked_features.csv "
        f"--input ./{name}_features --output ./{name}_steering",
    )


def analyze(name: str) -> str:
    return in_stage(
        "s2_find_top_features",
        f"analyze_features.py --input ../s1_compute_all_features/{name}_features "
        f"--output ./results/{name}_results",
    )


def draw(name: str) -> str:
    return in_stage(
        "s3_feature_activation_graphs",
        f"visualize_activations.py --s2-results ../s2_find_top_features/results/{name}_results "
        f"--s1-data ../s1_compute_all_features/{name}_features --output ./plots/{name} --top-n 10",
    )


def train(name: str, experiment: str) -> str:
    trained_on = dataset(f"{name}_{DATASETS.get(experiment, experiment)}")
    return in_stage("s5_classifier_training", f"framework/train.py {experiment} --dataset {trained_on}")


def emerge(*names: str) -> str:
    """One run of several traits also gives intervals for the differences of their onsets."""
    datasets = " ".join(dataset(f"{name}_all_layers_to_concept") for name in names)
    output = names[0] if len(names) == 1 else "all"
    return in_stage(
        "s5_classifier_training", f"framework/emergence.py {datasets} --output emergence/{output}"
    )


def dataset(stem: str) -> str:
    return f"../s4_classifier_data_prep/generated_datasets/{stem}.npz"
