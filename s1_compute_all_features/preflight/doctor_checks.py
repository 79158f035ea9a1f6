"""All checks in their order, what each needs, and how they are run one after the other."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from preflight.computation_checks import (
    check_batches,
    check_bos,
    check_embeddings,
    check_explained_variance,
    check_hidden_states,
    check_l0,
    check_model,
    check_sae_batches,
)
from preflight.examination import Examination, Result
from preflight.machine_checks import (
    check_device,
    check_disk,
    check_libraries,
    check_memory,
    check_output,
)
from preflight.source_checks import (
    check_blocks,
    check_model_access,
    check_planned_saes,
    check_sae_access,
    check_sae_file,
)
from twins_s1.progress import progress


@dataclass(frozen=True)
class Check:
    """A function that returns result and detail; what it raises is a failure with its remedy."""

    name: str
    run: Callable[[Examination], tuple[Result, str]]
    needs: tuple[str, ...] = ()  # checks without which this one has nothing to look at


CHECKS = (
    Check("libraries", check_libraries),
    Check("device", check_device),
    Check("output folder", check_output),
    Check("model access", check_model_access),
    Check("block list", check_blocks, ("model access",)),
    Check("planned SAEs", check_planned_saes, ("model access",)),
    Check("SAE access", check_sae_access),
    Check("memory", check_memory, ("device", "model access")),
    Check("disk space", check_disk, ("model access", "SAE access")),
    Check("model", check_model, ("block list", "planned SAEs", "memory", "disk space")),
    Check("BOS", check_bos, ("model",)),
    Check("embedding scale", check_embeddings, ("model",)),
    Check("hidden states", check_hidden_states, ("model",)),
    Check("batch against single", check_batches, ("model",)),
    Check("SAE file", check_sae_file, ("planned SAEs", "SAE access", "disk space")),
    Check("SAE, batch against single", check_sae_batches, ("model", "SAE file")),
    Check("SAE, mean L0", check_l0, ("model", "SAE file")),
    Check("SAE, explained variance", check_explained_variance, ("model", "SAE file")),
)


def examine(exam: Examination) -> Iterator[tuple[str, Result, str]]:
    """Run every check whose needs are met; yield name, result and detail of each as it is known."""
    results: dict[str, Result] = {}
    for check in CHECKS:
        missing = [name for name in check.needs if results[name] in (Result.FAILED, Result.NOT_CHECKED)]
        if missing:
            result, detail = Result.NOT_CHECKED, f"needs {missing[0]}"
        else:
            with progress(1, "check", check.name, shown=not sys.stderr.isatty()):  # for logs: it may fetch
                result, detail = run_check(check, exam)
        results[check.name] = result
        yield check.name, result, detail


def run_check(check: Check, exam: Examination) -> tuple[Result, str]:
    try:
        return check.run(exam)
    except (ValueError, OSError, ImportError) as error:
        return Result.FAILED, " ".join(str(error).split())
    except RuntimeError as error:  # PyTorch's: out of memory, no kernel for this dtype
        remedy = "try --device cpu, --dtype float32 or a smaller --batch-tokens"
        return Result.FAILED, f"{' '.join(str(error).split())}: {remedy}"
