"""Immich's wire format: every rule of its entries, and the exact JSON of its answers."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immich_ml_cn.api.immich import answer_body, parse_entries, read_tasks, write_body
from immich_ml_cn.errors import BadRequest, InferenceFailed, InvalidEntries
from immich_ml_cn.models.results import Answer, EmbeddedFaces, Faces, ReadText, TextBoxes
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, FaceTask, OcrTask, Tasks


def read(entries: Any) -> Tasks:
    return read_text(json.dumps(entries))


def read_text(entries: str | None) -> Tasks:
    return read_tasks(parse_entries(entries))


def write_answer(answer: Answer) -> bytes:
    """The response body of a request that is not forwarded."""
    return write_body(answer_body(answer))


# --- what Immich's server sends ---


def test_clip_visual_as_sent() -> None:
    assert read({"clip": {"visual": {"modelName": "ViT-B-32__openai"}}}) == Tasks(visual=ClipVisual("ViT-B-32__openai"))


@pytest.mark.parametrize("language", ["zh-CN", "zh-Hans", "en", "en-null", None])
def test_clip_textual_as_sent(language: str | None) -> None:
    entry = {"modelName": "m", "options": {} if language is None else {"language": language}}
    tasks = read({"clip": {"textual": entry}})
    assert tasks == Tasks(textual=ClipTextual("m", language))
    assert not tasks.need_image


def test_faces_as_sent() -> None:
    detection = {"modelName": "buffalo_l", "options": {"minScore": 0.55}}
    tasks = read({"facial-recognition": {"detection": detection, "recognition": {"modelName": "buffalo_l"}}})
    assert tasks == Tasks(faces=FaceTask("buffalo_l", "buffalo_l", 0.55))
    assert tasks.need_image


def test_ocr_as_sent() -> None:
    detection = {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.4, "maxResolution": 1024}}
    recognition = {"modelName": "EN__PP-OCRv5_mobile", "options": {"minScore": 0.8}}
    tasks = read({"ocr": {"detection": detection, "recognition": recognition}})
    assert tasks == Tasks(ocr=OcrTask("PP-OCRv5_mobile", "EN__PP-OCRv5_mobile", 0.4, 1024, 0.8))


# --- what is allowed besides ---


def test_the_defaults_are_immichs() -> None:
    both = {"detection": {"modelName": "a"}, "recognition": {"modelName": "b"}}
    tasks = read({"facial-recognition": both, "ocr": both})
    assert tasks.faces == FaceTask("a", "b", 0.7)
    assert tasks.ocr == OcrTask("a", "b", 0.5, 736, 0.9)


def test_all_tasks_in_one_request_in_any_order() -> None:
    entries = {
        "ocr": {"recognition": {"modelName": "r"}, "detection": {"modelName": "d"}},
        "facial-recognition": {"recognition": {"modelName": "r"}, "detection": {"modelName": "d"}},
        "clip": {"textual": {"modelName": "t"}, "visual": {"modelName": "v"}},
    }
    tasks = read(entries)
    assert tasks == Tasks(ClipVisual("v"), ClipTextual("t"), FaceTask("d", "r"), OcrTask("d", "r"))
    assert tasks == read(dict(reversed(entries.items())))


def test_detection_alone() -> None:
    tasks = read({"ocr": {"detection": {"modelName": "d"}}, "facial-recognition": {"detection": {"modelName": "d"}}})
    assert tasks.ocr is not None
    assert tasks.ocr.recognition is None
    assert tasks.faces is not None
    assert tasks.faces.recognition is None


def test_unknown_options_are_ignored() -> None:
    """An older service ignores an option that a newer server adds; constructor names were a 500 in Immich 2."""
    options = {"minScore": 0.6, "scoreMode": "slow", "ttl": 1, "model_name": "x", "new": {"a": [1]}, "language": 3}
    tasks = read({"facial-recognition": {"detection": {"modelName": "d", "options": options}}})
    assert tasks.faces == FaceTask("d", None, 0.6)
    assert read({"clip": {"visual": {"modelName": "v", "options": {"minScore": "x"}}}}).visual == ClipVisual("v")


def test_of_duplicate_keys_the_last_one_wins() -> None:
    assert read_text('{"clip":{"visual":{"modelName":"a","modelName":"b"}}}').visual == ClipVisual("b")
    assert read_text('{"clip":{"visual":1},"clip":{"visual":{"modelName":"c"}}}').visual == ClipVisual("c")


def test_an_empty_task_beside_another_counts_for_nothing() -> None:
    assert read({"clip": {}, "ocr": {"detection": {"modelName": "d"}}}) == Tasks(ocr=OcrTask("d", None))


@pytest.mark.parametrize(("value", "expected"), [(736.0, 736), (1, 1), (4096, 4096), (1e300, 1 << 20)])
def test_a_whole_resolution_in_any_notation(value: float, expected: int) -> None:
    tasks = read({"ocr": {"detection": {"modelName": "d", "options": {"maxResolution": value}}}})
    assert tasks.ocr is not None
    assert tasks.ocr.max_resolution == expected
    assert isinstance(tasks.ocr.max_resolution, int)


@pytest.mark.parametrize("value", [0, 1, -1, 0.5, 7])
def test_any_finite_score(value: float) -> None:
    tasks = read({"facial-recognition": {"detection": {"modelName": "d", "options": {"minScore": value}}}})
    assert tasks.faces is not None
    assert tasks.faces.min_score == value


# --- what is refused ---

ENTRY = {"modelName": "m"}


@pytest.mark.parametrize("text", [None, ""])
def test_missing_entries(text: str | None) -> None:
    with pytest.raises(InvalidEntries, match=r"^Field required: `entries`$"):
        read_text(text)


@pytest.mark.parametrize("entries", [{}, {"clip": {}}, {"clip": {}, "ocr": {}, "facial-recognition": {}}])
def test_no_task(entries: Any) -> None:
    with pytest.raises(InvalidEntries, match=r"^No model task requested\.$"):
        read(entries)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "not valid JSON"),
        (" ", "not valid JSON"),
        ("{", "not valid JSON"),
        ("{'clip': 1}", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('"\\ud800"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "`entries` must be an object"),
        ("null", "`entries` must be an object"),
        ("1", "`entries` must be an object"),
        ('"a"', "`entries` must be an object"),
    ],
)
def test_entries_that_are_no_json_object(text: str, why: str) -> None:
    with pytest.raises(InvalidEntries, match=r"^Invalid request format\. .*" + why):
        read_text(text)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"search": {}}, "Unknown task 'search'; known are clip, facial-recognition, ocr"),
        ({"": {}}, "Unknown task ''"),
        ({"x" * 1000: {}}, "Unknown task 'x{40}…';"),
        ({"clip": None}, "task clip must be an object"),
        ({"clip": []}, "task clip must be an object"),
        ({"clip": "visual"}, "task clip must be an object"),
        ({"clip": {"detection": ENTRY}}, "Unknown type 'detection' of task clip; known are visual, textual"),
        ({"ocr": {"visual": ENTRY}}, "Unknown type 'visual' of task ocr; known are detection, recognition"),
        ({"clip": {"visual": None}}, "clip.visual must be an object"),
        ({"clip": {"visual": "m"}}, "clip.visual must be an object"),
        ({"clip": {"visual": []}}, "clip.visual must be an object"),
        ({"clip": {"visual": {}}}, "clip.visual needs a `modelName`"),
        ({"clip": {"visual": {"modelName": None}}}, "clip.visual needs a `modelName`"),
        ({"clip": {"visual": {"modelName": 1}}}, "clip.visual needs a `modelName`"),
        ({"clip": {"visual": {"modelName": ""}}}, "clip.visual needs a `modelName`"),
        ({"clip": {"visual": {**ENTRY, "modelType": 1}}}, "Unknown key 'modelType' in clip.visual"),
        ({"clip": {"visual": {**ENTRY, "options": None}}}, "clip.visual.options must be an object"),
        ({"clip": {"visual": {**ENTRY, "options": []}}}, "clip.visual.options must be an object"),
        (
            {"clip": {"textual": {**ENTRY, "options": {"language": 1}}}},
            "clip.textual.options.language must be a string",
        ),
    ],
)
def test_malformed_entries(entries: Any, why: str) -> None:
    with pytest.raises(InvalidEntries, match=r"^Invalid request format\. " + why):
        read(entries)


@pytest.mark.parametrize("value", ["0.5", None, True, [], "NaN"])
@pytest.mark.parametrize(
    ("task", "type"), [("facial-recognition", "detection"), ("ocr", "detection"), ("ocr", "recognition")]
)
def test_a_score_that_is_no_number(task: str, type: str, value: Any) -> None:
    entries: dict[str, Any] = {"detection": dict(ENTRY), "recognition": dict(ENTRY)}
    entries[type]["options"] = {"minScore": value}
    with pytest.raises(InvalidEntries, match=f"{task}.{type}.options.minScore must be a number"):
        read({task: entries})


@pytest.mark.parametrize("value", ["736", None, True, 0, -1, 0.5, 736.5, []])
def test_a_resolution_that_is_no_whole_number(value: Any) -> None:
    with pytest.raises(InvalidEntries, match="maxResolution must be a whole number of at least 1"):
        read({"ocr": {"detection": {**ENTRY, "options": {"maxResolution": value}}}})


@pytest.mark.parametrize("task", ["ocr", "facial-recognition"])
def test_recognition_needs_detection(task: str) -> None:
    with pytest.raises(BadRequest, match=f"Task {task} of type recognition depends on output of detection") as caught:
        read({task: {"recognition": ENTRY}})
    assert caught.value.status == 400


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["m", "zh-CN", 0.5, 736]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("clip", "ocr", "facial-recognition", "visual", "textual", "detection", "recognition"),
                    *("modelName", "options", "minScore", "maxResolution", "language", "x"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {"modelName": st.text(min_size=1, max_size=5)},
    optional={"options": st.dictionaries(st.sampled_from(["minScore", "maxResolution", "language"]), JSON)},
)
REQUESTS = st.dictionaries(
    st.sampled_from(["clip", "ocr", "facial-recognition"]),
    st.dictionaries(st.sampled_from(["visual", "textual", "detection", "recognition"]), st.one_of(ENTRIES, JSON)),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(JSON, REQUESTS).map(json.dumps) | st.text(max_size=50))
def test_any_text_is_tasks_or_a_refusal(text: str) -> None:
    """No client can make `entries` a failure of ours."""
    try:
        tasks = read_text(text)
    except (BadRequest, InvalidEntries):
        return
    assert tasks != Tasks()
    for task in (tasks.faces, tasks.ocr):
        assert task is None or task.detection


# --- answers ---


def write(answer: Answer) -> Any:
    return json.loads(write_answer(answer))


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


FOUND = Faces(
    boxes=floats(9.6, -3.2, 200.4, 1000.5).reshape(1, 4),
    scores=floats(0.75),
    landmarks=np.arange(10, dtype=np.float32).reshape(1, 5, 2),
)
LINES = TextBoxes(boxes=floats(0, 0, 100, 0, 100, 50, 0, 50).reshape(1, 4, 2), scores=floats(0.875))


def test_an_embedding_is_a_string_that_holds_an_array() -> None:
    body = write_answer(Answer(clip=floats(0.1, -0.25, 1e-9, 3.0)))
    assert body == b'{"clip":"[0.1,-0.25,1e-9,3.0]"}'


def test_an_embedding_survives_to_the_last_bit() -> None:
    vector = np.random.default_rng(0).normal(size=512).astype(np.float32)
    sent = write(Answer(clip=vector[::1], size=(2, 1)))
    assert np.array_equal(np.array(json.loads(sent["clip"]), dtype=np.float32), vector)
    backwards = write(Answer(clip=vector[::-1]))["clip"]
    assert np.array_equal(np.array(json.loads(backwards), dtype=np.float32), vector[::-1])


def test_the_size_comes_last_as_integers() -> None:
    body = write_answer(Answer(clip=floats(1), size=(1920, 1440)))
    assert body == b'{"clip":"[1.0]","imageHeight":1440,"imageWidth":1920}'


def test_a_text_has_no_size() -> None:
    assert list(write(Answer(clip=floats(1)))) == ["clip"]


def test_face_boxes_are_whole_numbers_written_as_floats() -> None:
    body = write_answer(Answer(faces=EmbeddedFaces(FOUND, (floats(0.5, -2),)), size=(640, 480)))
    assert body == (
        b'{"facial-recognition":[{"boundingBox":{"x1":10.0,"y1":-3.0,"x2":200.0,"y2":1000.0},'
        b'"embedding":"[0.5,-2.0]","score":0.75}],"imageHeight":480,"imageWidth":640}'
    )


def test_no_face_is_an_empty_array() -> None:
    nobody = Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))
    assert write(Answer(faces=EmbeddedFaces(nobody, ()), size=(1, 1)))["facial-recognition"] == []
    raw = write(Answer(faces=nobody, size=(1, 1)))["facial-recognition"]
    assert raw == {"boxes": [], "scores": [], "landmarks": []}


def test_face_detection_alone_is_answered_raw() -> None:
    found = write(Answer(faces=FOUND, size=(640, 480)))["facial-recognition"]
    assert found == {
        "boxes": [[10.0, -3.0, 200.0, 1000.0]],
        "scores": [0.75],
        "landmarks": [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]],
    }


def test_text_boxes_are_flat_and_normalised_by_width_and_height() -> None:
    read_text = ReadText(LINES, ('你好，"世界"',), (0.98765,))
    body = write_answer(Answer(ocr=read_text, size=(200, 100)))
    expected = (
        '{"ocr":{"box":[0.0,0.0,0.5,0.0,0.5,0.5,0.0,0.5],"text":["你好，\\"世界\\""],"boxScore":[0.875],'
        '"textScore":[0.98765]},"imageHeight":100,"imageWidth":200}'
    )
    assert body == expected.encode()


def test_eight_numbers_a_line() -> None:
    boxes = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    lines = ReadText(TextBoxes(boxes, floats(1, 0.5, 0.25)), ("a", "b", "c"), (0.9, 0.8, 0.7))
    ocr = write(Answer(ocr=lines, size=(24, 24)))["ocr"]
    assert ocr["box"] == [pytest.approx(value / 24) for value in range(24)]
    assert [len(ocr[key]) for key in ("text", "boxScore", "textScore")] == [3, 3, 3]


def test_no_text_is_four_empty_arrays() -> None:
    nothing = TextBoxes(np.empty((0, 4, 2), np.float32), np.empty(0, np.float32))
    ocr = write(Answer(ocr=ReadText(nothing, (), ()), size=(10, 10)))["ocr"]
    assert ocr == {"box": [], "text": [], "boxScore": [], "textScore": []}
    assert write(Answer(ocr=nothing, size=(10, 10)))["ocr"] == {"boxes": [], "scores": []}


def test_text_detection_alone_is_answered_raw_in_pixels() -> None:
    ocr = write(Answer(ocr=LINES, size=(200, 100)))["ocr"]
    assert ocr == {"boxes": [[[0.0, 0.0], [100.0, 0.0], [100.0, 50.0], [0.0, 50.0]]], "scores": [0.875]}


def test_all_tasks_in_one_body() -> None:
    answer = Answer(floats(1), EmbeddedFaces(FOUND, (floats(1),)), ReadText(LINES, ("a",), (0.5,)), (200, 100))
    assert list(write(answer)) == ["clip", "facial-recognition", "ocr", "imageHeight", "imageWidth"]


BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["clip", "box", "face score", "landmark", "face", "line", "line score", "text score"])
def test_a_value_that_is_no_number_never_leaves(where: str, bad: float) -> None:
    """JSON would write it as null, which Immich's database refuses."""
    faces = Faces(FOUND.boxes.copy(), FOUND.scores.copy(), FOUND.landmarks.copy())
    lines = TextBoxes(LINES.boxes.copy(), LINES.scores.copy())
    clip, face, text_score = floats(1, 1), floats(1, 1), 0.5
    match where:
        case "clip":
            clip[1] = bad
        case "box":
            faces.boxes[0, 2] = bad
        case "face score":
            faces.scores[0] = bad
        case "landmark":
            faces.landmarks[0, 3, 1] = bad
        case "face":
            face[0] = bad
        case "line":
            lines.boxes[0, 1, 1] = bad
        case "line score":
            lines.scores[0] = bad
        case _:
            text_score = bad
    answer = Answer(clip, EmbeddedFaces(faces, (face,)), ReadText(lines, ("a",), (text_score,)), (10, 10))
    with pytest.raises(InferenceFailed, match="not a number"):
        write_answer(answer)


def test_the_fine_answer_of_the_test_above() -> None:
    body = write_answer(
        Answer(floats(1, 1), EmbeddedFaces(FOUND, (floats(1, 1),)), ReadText(LINES, ("a",), (0.5,)), (10, 10))
    )
    assert b"null" not in body
    assert orjson.loads(body)
