"""One value per row from a `.npy` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evertrain.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_npy(path: Path) -> NDArray[np.generic]:
    """Return the numbers or texts of a `.npy` file, shape (n,); one of shape (n, 1) is flattened.

    Mapped into memory, so that a header that promises more than the file holds is refused, not believed; pickled
    objects cannot be mapped, so that nothing in the file is ever run (numpy.lib.format, "NEP 1").

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    import numpy as np

    try:
        found: NDArray[np.generic] = np.array(np.lib.format.open_memmap(path, mode="r"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", source=str(path)) from None
    except Exception as error:  # noqa: BLE001 - a damaged header ends in errors of Python's own tokenizer, and more
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{path.name} is no .npy file of numbers or texts: {reason}; numpy.save writes one", source=str(path)
        ) from None
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or found.dtype.kind not in "biufUS":
        raise DataError(
            f"{path.name} holds {found.dtype} of shape {found.shape}; one number or text per row is needed, shape (n,)",
            source=str(path),
        )
    return found
