import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

from immich_ml_cn.models.ocr.ctc import complete_alphabet, decode, is_text

CHARACTERS = ["中", "文", "a", "b"]
ALPHABET = complete_alphabet(CHARACTERS, 6)


def test_repeats_collapse_unless_a_blank_is_between() -> None:
    indices = np.array([0, 1, 1, 0, 1, 2, 2, 5, 0])
    confidences = np.array([1, 0.9, 0.1, 1, 0.8, 0.7, 0.1, 0.6, 1], np.float32)
    assert decode(indices, confidences, ALPHABET) == ("中中文 ", 0.75)


def test_only_blanks_are_no_text() -> None:
    assert decode(np.zeros(5, np.int64), np.ones(5, np.float32), ALPHABET) == ("", 0.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1, width=32)), min_size=1))
@settings(deadline=None)
def test_text_and_score_are_rapidocrs(steps: list[tuple[int, float]]) -> None:
    indices = np.array([index for index, _ in steps])
    confidences = np.array([confidence for _, confidence in steps], np.float32)
    reference = CTCLabelDecode(character=list(CHARACTERS))
    [(text, score)], _ = reference.decode(indices[None], confidences[None], remove_duplicate=True)
    assert decode(indices, confidences, ALPHABET) == (text, score)


@pytest.mark.parametrize(
    ("characters", "classes", "alphabet"),
    [
        (["a", "b"], 4, ("", "a", "b", " ")),
        (["a", "b"], None, ("", "a", "b", " ")),
        (["a", " "], 3, ("", "a", " ")),
        (["blank", "a", " "], 3, ("blank", "a", " ")),
    ],
)
def test_the_alphabet_is_completed(characters: list[str], classes: int | None, alphabet: tuple[str, ...]) -> None:
    assert complete_alphabet(characters, classes) == alphabet


@pytest.mark.parametrize("classes", [1, 5])
def test_another_graphs_alphabet_is_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"2 characters for a graph of {classes} classes"):
        complete_alphabet(["a", "b"], classes)


@pytest.mark.parametrize(("text", "score", "wanted"), [("a", 0.9, True), ("a", 0.89, False), (" ", 1.0, False)])
def test_is_text(text: str, score: float, wanted: bool) -> None:
    assert is_text(text, score, 0.9) is wanted
