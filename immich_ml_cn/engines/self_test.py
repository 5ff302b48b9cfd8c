"""The self-test: a device counts only once it has computed something right."""

from collections.abc import Callable
from typing import Final

import numpy as np

from immich_ml_cn.messages import said_by, tr

from .engine import LoadError
from .session import Session

DOUBLING: Final = bytes.fromhex(  # y = x + x, float32 (n,); opset 13
    "08083a370a0e0a01780a017812017922034164641201745a100a0178120b0a09080112050a0312016e"
    "62100a0179120b0a09080112050a0312016e42040a00100d"
)


def fault(open_session: Callable[[bytes], Session]) -> str | None:
    """Why sessions that are opened like this cannot be used; None when one computed right."""
    try:
        (doubled,) = open_session(DOUBLING).run({"x": np.array([1.5], dtype=np.float32)})
    except LoadError as error:
        return said_by(error)
    except Exception as error:
        return tr("the self-test failed: {reason}", reason=error)
    if doubled.tolist() != [3.0]:
        return tr("the self-test computed {found} instead of [3.0]", found=doubled.tolist())
    return None
