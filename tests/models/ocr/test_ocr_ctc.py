import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

from immich_ml_cn.models.ocr.ctc import complete_alphabet, decode, is_text
from immich_ml_cn.models.ocr.widths import usual_classes

CHARACTERS = ["中", "文", "a", "b"]
ALPHABET = complete_alphabet(CHARACTERS, 6)
USUAL = usual_classes(ALPHABET)

WIDE_ALPHABET = complete_alphabet(["编", "号", "A", "Ａ", "1", "１", "：", ":"], 10)
A, FULL_A, ONE, FULL_ONE = (WIDE_ALPHABET.index(character) for character in "AＡ1１")


def test_repeats_collapse_unless_a_blank_is_between() -> None:
    indices = np.array([0, 1, 1, 0, 1, 2, 2, 5, 0])
    confidences = np.array([1, 0.9, 0.1, 1, 0.8, 0.7, 0.1, 0.6, 1], np.float32)
    assert decode(indices[:, None], confidences[:, None], ALPHABET, USUAL) == ("中中文 ", 0.75)


def test_only_blanks_are_no_text() -> None:
    assert decode(np.zeros((5, 2), np.int64), np.ones((5, 2), np.float32), ALPHABET, USUAL) == ("", 0.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1, width=32)), min_size=1))
@settings(deadline=None)
def test_text_and_score_are_rapidocrs(steps: list[tuple[int, float]]) -> None:
    indices = np.array([index for index, _ in steps])
    confidences = np.array([confidence for _, confidence in steps], np.float32)
    reference = CTCLabelDecode(character=list(CHARACTERS))
    [(text, score)], _ = reference.decode(indices[None], confidences[None], remove_duplicate=True)
    assert decode(indices[:, None], confidences[:, None], ALPHABET, USUAL) == (text, score)


def decode_wide(steps: list[tuple[int, float, int, float]]) -> tuple[str, float]:
    """Of each time step the likeliest class and its probability, and the next likely and its."""
    indices = np.array([(first, second) for first, _, second, _ in steps])
    probabilities = np.array([(first, second) for _, first, _, second in steps], np.float32)
    return decode(indices, probabilities, WIDE_ALPHABET, usual_classes(WIDE_ALPHABET))


def test_both_widths_of_a_character_count_together() -> None:
    assert decode_wide([(1, 0.9, 2, 0.1), (FULL_A, 0.5, A, 0.4), (0, 1, 1, 0), (ONE, 0.6, FULL_ONE, 0.3)]) == (
        "编A1",
        0.9,
    )


def test_another_character_does_not_count() -> None:
    assert decode_wide([(A, 0.5, ONE, 0.4)]) == ("A", 0.5)


def test_the_other_width_of_a_character_is_a_repeat() -> None:
    assert decode_wide([(FULL_A, 0.6, A, 0.4), (A, 0.6, FULL_A, 0.4)]) == ("Ａ", 1.0)
    assert decode_wide([(FULL_A, 0.6, A, 0.4), (0, 1, 1, 0), (A, 0.6, FULL_A, 0.4)]) == ("AA", 1.0)


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


@pytest.mark.parametrize(
    ("text", "score", "wanted"),
    [
        *(("a", 0.9, True), ("a", 0.89, False), (" ", 1.0, False), ("", 1.0, False)),
        *((text, 0.99, True) for text in ("7", "中", "①", "★ 5", "é", "ア", "한", "-1")),
        *((text, 0.99, False) for text in ("★", "——", "○", "¥", "...", "、", "★☆★")),
    ],
)
def test_is_text(text: str, score: float, wanted: bool) -> None:
    assert is_text(text, score, 0.9) is wanted
