"""Best path of a CTC network → text (Graves et al., "Connectionist Temporal Classification", ICML
2006, with greedy decoding)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLANK = 0


def decode(
    indices: NDArray[np.int64], probabilities: NDArray[np.float32], alphabet: Sequence[str]
) -> tuple[str, float]:
    """Greedy decoding: repeats collapse, then blanks go.

    Args:
        indices: (T,) the likeliest class of each time step, 0 is the blank.
        probabilities: (T,) its probability, 0…1.
        alphabet: the text of each class; the blank's is never used.

    Returns:
        The text and the mean probability of its characters, both levels rounded to 5 digits as
        RapidOCR does; ("", 0.0) when there are none.
    """
    kept = indices != BLANK
    kept[1:] &= indices[1:] != indices[:-1]
    if not kept.any():
        return "", 0.0
    text = "".join(alphabet[index] for index in indices[kept])
    confidences = [round(confidence, 5) for confidence in probabilities[kept].tolist()]
    return text, float(np.mean(confidences).round(5))


def is_text(text: str, score: float, min_score: float) -> bool:
    """Whether a decoded line is worth answering: not blank, and at least `min_score` sure."""
    return bool(text.strip()) and score >= min_score


def complete_alphabet(characters: Sequence[str], classes: int | None) -> tuple[str, ...]:
    """The text of every class of a PP-OCR recogniser.

    Args:
        characters: the dictionary as PP-OCR ships it: without the blank, with or without the
            space, or already complete.
        classes: how many classes the graph has; None if it does not say, then the usual
            blank + dictionary + space is meant.

    Raises:
        ValueError: the dictionary belongs to another graph.
    """
    missing = 2 if classes is None else classes - len(characters)
    if missing not in (0, 1, 2):
        raise ValueError(f"{len(characters)} characters for a graph of {classes} classes")
    return ("",) * (missing > 0) + tuple(characters) + (" ",) * (missing > 1)
