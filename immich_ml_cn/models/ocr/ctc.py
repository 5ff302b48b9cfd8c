"""Best path of a CTC network → text (Graves et al., "Connectionist Temporal Classification", ICML
2006, with greedy decoding)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .widths import in_one_width

BLANK = 0


def decode(
    indices: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    alphabet: Sequence[str],
    usual: NDArray[np.int64],
) -> tuple[str, float]:
    """Greedy decoding: repeats collapse, then blanks go.

    The full-width and the half-width form of a character are one reading: where they are the two likeliest classes,
    their probabilities are added, one after the other they are a repeat, and a line comes out in one of the two widths.

    Args:
        indices: (T, 2) the two likeliest classes of each time step, 0 is the blank; or (T, 1) the likeliest only.
        probabilities: (T, 2) their probabilities, 0…1; or (T, 1).
        alphabet: the text of each class; the blank's is never used.
        usual: (C,) per class the one of its character's usual width, see `widths.usual_classes`.

    Returns:
        The text and the mean probability of its characters, both levels rounded to 5 digits as
        RapidOCR does; ("", 0.0) when there are none.
    """
    readings = usual[indices]
    best = readings[:, 0]
    kept = best != BLANK
    kept[1:] &= best[1:] != best[:-1]
    if not kept.any():
        return "", 0.0
    text = "".join(alphabet[index] for index in indices[kept, 0])
    likelihoods = np.where(readings == best[:, None], probabilities, 0).sum(axis=1)
    confidences = [round(min(likelihood, 1.0), 5) for likelihood in likelihoods[kept].tolist()]
    return in_one_width(text), float(np.mean(confidences).round(5))


def is_text(text: str, score: float, min_score: float) -> bool:
    """Whether a decoded line is worth answering: at least `min_score` sure, and with a letter, digit or ideograph.

    Symbols alone (``★``, ``○``, ``——``) are mostly ornaments, or no text at all.
    """
    return score >= min_score and any(character.isalnum() for character in text)


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
