"""How a command ends: a status, and at most one line about an error."""

import sys
from collections.abc import Callable

from endpoint.llm_client import EndpointError


def exit_status(run: Callable[[], int]) -> int:
    """The status of `run`; an error that names its remedy becomes one line on stderr and status 2."""
    try:
        return run()
    except (ValueError, OSError, EndpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; every answer so far is in the journal, the same command continues", file=sys.stderr
        )
        return 130
