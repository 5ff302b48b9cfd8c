import pytest
from ocr_session import recognizer

from immich_ml_cn.models.ocr.widths import in_one_width, usual_classes


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("编号ＡＢC１２3", "编号ABC123"),
        ("编号ＡＢＣ１２３", "编号ＡＢＣ１２３"),  # full-width throughout
        ("编号ABC123", "编号ABC123"),
        ("电话：021－555", "电话：021-555"),  # the colon after an ideograph is right
        ("12：30—14：00", "12:30—14:00"),
        ("价格￥32.00（含税）", "价格¥32.00（含税）"),
        ("１２：３０", "１２：３０"),
        ("共2件，3元", "共2件，3元"),
        ("京A・81211", "京A·81211"),
        ("カメラ・レンズ", "カメラ・レンズ"),
        ("ｶﾒﾗとカメラ", "カメラとカメラ"),
        ("ｶﾞｿﾘﾝガ", "ガソリンガ"),
        ("ｶﾒﾗ", "ｶﾒﾗ"),
        ("カメラＡ１", "カメラＡ１"),
        ("", ""),
        ("★", "★"),
    ],
)
def test_a_line_comes_out_in_one_width(read: str, expected: str) -> None:
    assert in_one_width(read) == expected
    assert in_one_width(expected) == expected


def test_classes_of_both_widths_have_the_same_usual_one() -> None:
    assert usual_classes(["", "Ａ", "A", "中", "ｶ", "カ", "：", "Ｂ"]).tolist() == [0, 2, 2, 3, 5, 5, 6, 7]


def test_the_bundled_recogniser_has_its_letters_and_digits_in_both_widths() -> None:
    alphabet = recognizer().alphabet
    usual = usual_classes(alphabet)
    for full, half in zip("０９ＡＺａｚ：（", "09AZaz:(", strict=True):
        assert usual[alphabet.index(full)] == usual[alphabet.index(half)] == alphabet.index(half)
    changed = usual != range(len(alphabet))
    assert 100 < changed.sum() < 200
