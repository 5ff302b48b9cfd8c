"""MT-Photos AI's API of the running server, by a client written from its description, beside Immich's traffic."""

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import clip_models
import numpy as np
import pytest
from face_models import photo
from numpy.typing import NDArray
from ort_session import OrtSession
from picture_files import encoded
from PIL import Image
from server import (
    BOUNDARY,
    CLIP,
    FACE_TASK,
    FACES,
    OCR,
    OCR_TASK,
    ROOT,
    TEXTUAL,
    VISUAL,
    Client,
    Reply,
    RunningServer,
    fill_cache,
    node_form,
)

from immich_ml_cn.settings import Settings, SettingsError

KEY = "mt_photos_ai_extra"
SAMPLE = (ROOT / "docs" / "sample.jpg").read_bytes()
LINES = [
    "山间音乐会",
    "Concert in the Hills",
    "2026年5月1日晚上七点半",
    "Friday, May 1st, 7:30 pm",
    "杭州西湖露天剧场",
    "Free entry·免费入场",
]
CN_CLIP = "chinese-clip-vit-base-patch16"
OUT_OF_RANGE = "more than 10000 wide or high"


PHOTO = encoded(photo("astronaut").image)


class MtPhotosClient:
    """Speaks as MT Photos does: `api-key` in a header, the picture as the form file `file`, texts as JSON."""

    def __init__(self, client: Client, key: str | None = KEY) -> None:
        self._client = client
        self._headers = {} if key is None else {"api-key": key}

    def post(self, path: str, body: bytes = b"", content_type: str | None = None) -> Reply:
        headers = self._headers if content_type is None else {**self._headers, "content-type": content_type}
        return self._client.request("POST", path, body, headers)

    def send(self, path: str, picture: bytes) -> Reply:
        form = node_form(("file", picture)).replace(b'filename="blob"', b'filename="1.jpg"')
        return self.post(path, form, f"multipart/form-data; boundary={BOUNDARY}")

    def picture(self, path: str, picture: bytes) -> Any:
        reply = self.send(path, picture)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.body
        return reply.json

    def text(self, text: str) -> Any:
        reply = self.post("/clip/txt", json.dumps({"text": text}).encode(), "application/json")
        assert reply.status == 200, reply.body
        return reply.json


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside `fill_cache`'s models, a Chinese-CLIP with both outputs of our conversions."""
    folder = fill_cache(tmp_path_factory.mktemp("cache"))
    outputs = ("embedding", "features")
    with patch.object(clip_models, "DIMENSION", 512):
        for kind in ("visual", "textual"):
            (folder / "clip" / CN_CLIP / kind).mkdir(parents=True)
        clip_models.save_visual(graph(folder, "visual"), size=224, outputs=outputs)
        clip_models.save_chinese_text(graph(folder, "textual"), outputs=outputs)
    return folder


def graph(cache: Path, kind: str) -> Path:
    return cache / "clip" / CN_CLIP / kind / "model.onnx"


@pytest.fixture(scope="module")
def environ() -> Mapping[str, str]:
    return {"API_AUTH_KEY": KEY}


@pytest.fixture
def mt(client: Client) -> MtPhotosClient:
    return MtPhotosClient(client)


@pytest.fixture(scope="module")
def other(cache: Path) -> Iterator[RunningServer]:
    """Set in every other way: a CLIP that gives no features, no face good enough, a second port."""
    with RunningServer(
        cache,
        MT_PHOTOS_API_KEY="鑰匙",
        CLIP_MODEL=CLIP,
        DETECTION_THRESH="1",
        HTTP_PORT="0",
        DEVICE="openvino",
        MACHINE_LEARNING_MAX_REQUEST_BYTES=str(1 << 20),
    ) as running:
        yield running


# --- the key ---


KEYED = ("/check", "/ocr", "/clip/img", "/clip/txt", "/represent", "/restart", "/restart_v2")


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "x", KEY.upper(), "é"])
def test_a_wrong_or_missing_key_is_401(client: Client, path: str, key: str | None) -> None:
    reply = MtPhotosClient(client, key).send(path, PHOTO)
    assert (reply.status, reply.json) == (401, {"detail": "Invalid API key"})


def test_check(mt: MtPhotosClient, client: Client) -> None:
    reply = mt.post("/check")
    assert (reply.status, reply.json) == (200, {"result": "pass"})
    assert client.get("/").json == {"message": "Immich ML"}


def test_face_check_needs_no_key(client: Client) -> None:
    body = client.get("/face/check").json
    assert isinstance(body.pop("title"), str)
    assert body == {"detector_backend": "insightface", "recognition_model": "buffalo_l"}


def test_the_start_says_that_the_routes_are_on(server: RunningServer) -> None:
    assert server.log.count("MT Photos' API is on: CLIP ViT-B-16, faces buffalo_l") == 1
    assert KEY not in server.log


def test_without_a_key_there_are_no_routes(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as running, running.client() as client:
        assert running.log.count("MT Photos' API is off: it needs a key, API_AUTH_KEY") == 1
        for key in (None, "", KEY):
            for path in KEYED:
                assert MtPhotosClient(client, key).post(path).status == 404
        assert client.get("/face/check").status == 404


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("DETECTION_THRESH", "65", "a number from 0 to 1"),
        ("DETECTION_THRESH", "nan", "a number from 0 to 1"),
        ("HTTP_PORT", "off", "a whole number"),
        ("HTTP_PORT", "80600", "a port number"),
    ],
)
def test_a_setting_that_cannot_be_used(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}='{value}' cannot be used: it must be {allowed}"):
        Settings.from_env({variable: value})


def test_the_settings_of_that_stack() -> None:
    environ = {
        "API_AUTH_KEY": " a key ",
        "MT_PHOTOS_API_KEY": "another",
        "CLIP_MODEL": "ViT-L-14",
        "CLIP_DOWNLOAD_ROOT": "/models/clip",
        "RECOGNITION_MODEL": "antelopev2",
        "DETECTION_THRESH": "0.5",
        "HTTP_PORT": "8060",
    }
    settings = Settings.from_env(environ)
    assert (settings.mt_photos_key, settings.mt_photos_clip_model) == ("a key", "ViT-L-14")
    assert (settings.mt_photos_face_model, settings.mt_photos_face_min_score) == ("antelopev2", 0.5)
    assert (settings.mt_photos_port, settings.clip_download_root) == (8060, Path("/models/clip"))


# --- answers ---


def test_ocr(mt: MtPhotosClient, client: Client) -> None:
    body = mt.picture("/ocr", SAMPLE)
    assert list(body) == ["result"]
    result = body["result"]
    assert list(result) == ["texts", "scores", "boxes"]
    assert result["texts"] == LINES
    assert all(len(score) == 4 and 0.5 <= float(score) <= 1 for score in result["scores"])
    immich = client.predict(OCR_TASK, SAMPLE).json
    corners = np.array(immich["ocr"]["box"]).reshape(-1, 4, 2) * (immich["imageWidth"], immich["imageHeight"])
    for box, points in zip(result["boxes"], corners, strict=True):
        assert list(box) == ["x", "y", "width", "height"]
        assert all(isinstance(value, str) and value == f"{float(value):.1f}" for value in box.values())
        expected = [*points.min(axis=0), *(points.max(axis=0) - points.min(axis=0))]
        assert [float(value) for value in box.values()] == pytest.approx(expected, abs=0.11)


def test_ocr_of_a_picture_without_text(mt: MtPhotosClient) -> None:
    body = mt.picture("/ocr", encoded(Image.new("RGB", (200, 100), "white")))
    assert body == {"result": {"texts": [], "scores": [], "boxes": []}}


def test_ocr_sees_a_picture_upright(mt: MtPhotosClient) -> None:
    """Stored on its side with the orientation in its EXIF, as phones do: read and measured as people see it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(SAMPLE)).convert("RGB")
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    expected = mt.picture("/ocr", encoded(image))["result"]
    assert mt.picture("/ocr", turned)["result"] == expected
    assert expected["texts"] == LINES


def numbers(body: Any) -> NDArray[np.float64]:
    assert list(body) == ["result"]
    assert all(isinstance(text, str) and len(text.partition(".")[2]) == 16 for text in body["result"])
    return np.array([float(text) for text in body["result"]])


def assert_same_features(given: NDArray[Any], expected: NDArray[Any]) -> None:
    assert given.shape == expected.shape == (512,)
    assert clip_models.cosine(given, expected) >= 0.9999
    lengths = [float(np.linalg.norm(vector.astype(np.float64))) for vector in (given, expected)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    assert abs(lengths[1] - 1) > 0.1, "a normalised reference would prove nothing"


def plain(cache: Path, kind: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The features that the graph itself gives for one item."""
    session = OrtSession(graph(cache, kind))
    names = [info.name for info in session.outputs]
    features: NDArray[Any] = session.run(feeds)[names.index("features")][0]
    return features


@pytest.mark.parametrize("name", ["astronaut", "tall-coffee"])
def test_picture_features(mt: MtPhotosClient, cache: Path, name: str) -> None:
    """Prepared as cn-clip's own `image_transform` does: squashed to 224 × 224, bicubic."""
    image = photo(name).image
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
    pixels = (pixels - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    tensor = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    given = numbers(mt.picture("/clip/img", encoded(image)))
    assert_same_features(given, plain(cache, "visual", {"image": tensor}))


def test_text_features(mt: MtPhotosClient, cache: Path) -> None:
    ids = np.zeros((1, 52), np.int32)
    ids[0, :4] = [101, 7607, 3322, 102]  # [CLS] 飞 机 [SEP]
    assert_same_features(numbers(mt.text("飞机")), plain(cache, "textual", {"text": ids}))


def test_represent(mt: MtPhotosClient, client: Client) -> None:
    body = mt.picture("/represent", PHOTO)
    faces = body.pop("result")
    assert body == {"detector_backend": "insightface", "recognition_model": "buffalo_l"}
    task = json.loads(json.dumps(FACE_TASK).replace("0.7", "0.65"))
    expected = client.predict(task, PHOTO).json["facial-recognition"]
    assert len(faces) == len(expected) > 1
    for face, same in zip(faces, expected, strict=True):
        assert list(face) == ["embedding", "facial_area", "face_confidence"]
        embedding, raw = np.array(face["embedding"]), np.array(json.loads(same["embedding"]))
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
        assert embedding == pytest.approx(raw / np.linalg.norm(raw), abs=1e-3)
        area, box = face["facial_area"], same["boundingBox"]
        assert all(type(value) is int for value in area.values())
        sides = (box["x1"], box["y1"], box["x2"] - box["x1"], box["y2"] - box["y1"])
        assert [area[key] for key in "xywh"] == pytest.approx(sides, abs=2)
        assert face["face_confidence"] == pytest.approx(same["score"], abs=1e-5)
        assert 0.65 <= face["face_confidence"] <= 1


def test_no_face_is_an_empty_result(other: RunningServer) -> None:
    """Unlike a failure it has no `msg`."""
    with other.client() as client:
        body = other_client(client).picture("/represent", PHOTO)
    assert body == {"detector_backend": "insightface", "recognition_model": "buffalo_l", "result": []}


def other_client(client: Client) -> MtPhotosClient:
    """With the key of `other`, whose bytes go into the header as they are."""
    return MtPhotosClient(client, "鑰匙".encode().decode("latin-1"))


@pytest.mark.parametrize("path", ["/represent", "/clip/img"])
def test_of_a_gif_the_first_frame_counts(mt: MtPhotosClient, path: str) -> None:
    frames = [photo(name).image.resize((320, 320)).quantize(64) for name in ("astronaut", "coffee")]
    first = mt.picture(path, encoded(frames[0], "GIF"))
    animated = mt.picture(path, encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert first["result"]
    assert json.dumps(animated)[:400] == json.dumps(first)[:400]
    assert len(animated["result"]) == len(first["result"])


# --- pictures that cannot be used ---


BAD_PICTURES = {
    "empty": (b"", "the image is empty"),
    "text": (b"hello", "of no format"),
    "cut": (SAMPLE[:30_000], "cannot be decoded"),
    "wide": (encoded(Image.new("1", (10_001, 1))), f"10001 x 1 pixels, {OUT_OF_RANGE}"),
    "high": (encoded(Image.new("1", (1, 10_001))), f"1 x 10001 pixels, {OUT_OF_RANGE}"),
    "bomb": (encoded(Image.new("1", (20_000, 20_000))), "pixels"),
}


@pytest.mark.parametrize("path", ["/ocr", "/clip/img", "/represent"])
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_an_unusable_picture_is_200_with_a_message(mt: MtPhotosClient, path: str, case: str) -> None:
    picture, message = BAD_PICTURES[case]
    body = mt.picture(path, picture)
    assert (list(body), body["result"]) == (["result", "msg"], [])
    assert message in body["msg"]


def test_ten_thousand_pixels_are_still_read(mt: MtPhotosClient) -> None:
    assert len(mt.picture("/clip/img", encoded(Image.new("1", (10_000, 1))))["result"]) == 512


def test_immich_still_answers_them_as_errors(client: Client) -> None:
    assert client.predict(VISUAL, b"hello").status == 400
    assert client.predict(VISUAL, BAD_PICTURES["wide"][0]).status == 200


def test_a_text_is_read_as_cn_clip_does_and_immichs_query_as_it_is_meant(mt: MtPhotosClient, client: Client) -> None:
    """The first character is a Kangxi radical, of a PDF: for cn-clip an unknown word."""
    pasted, meant = "⼤海", "大海"
    assert mt.text(pasted) != mt.text(meant)
    assert mt.text(pasted) == mt.text("⼭海"), "one unknown word is like the other"
    asked = {"clip": {"textual": {"modelName": "ViT-B-16__openai"}}}
    assert client.predict(asked, text=pasted).json == client.predict(asked, text=meant).json


# --- other refusals ---


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"nonsense", 422),
        (b"[]", 422),
        (b'{"text": 1}', 422),
        (b'{"text": ""}', 422),
        (b'{"text": "\\ud800"}', 422),
        (b"[" * 10_000, 422),
        (json.dumps({"text": "x" * 65_536}).encode(), 413),
    ],
)
def test_a_text_that_cannot_be_used(mt: MtPhotosClient, body: bytes, status: int) -> None:
    reply = mt.post("/clip/txt", body, "application/json")
    assert reply.status == status
    assert reply.detail


def test_a_chunked_text_is_bounded_too(client: Client) -> None:
    headers = {"api-key": KEY, "content-type": "application/json", "transfer-encoding": "chunked"}
    reply = client.request("POST", "/clip/txt", iter([b'{"text": "', b"x" * 65_536, b'"}']), headers)
    assert (reply.status, "65536 bytes" in reply.detail) == (413, True)


def test_a_form_without_a_picture_is_422(mt: MtPhotosClient) -> None:
    reply = mt.post("/ocr", node_form(("image", SAMPLE)), f"multipart/form-data; boundary={BOUNDARY}")
    assert (reply.status, reply.detail) == (422, "Field required: `file`")


def test_failures_of_ours_are_no_empty_results(other: RunningServer) -> None:
    """A model without features, a body over the limit: never 200."""
    with other.client() as client:
        mt = other_client(client)
        for reply in (
            mt.send("/clip/img", encoded(Image.new("RGB", (32, 32)))),
            mt.post("/clip/txt", b'{"text": "cat"}', "application/json"),
        ):
            assert reply.status == 503
            assert f"models remove {CLIP}" in reply.detail
        assert mt.send("/ocr", bytes(1 << 20)).status == 413
        assert client.predict(TEXTUAL, text="cat").status == 200


def test_another_port_serves_the_same(other: RunningServer) -> None:
    ports = [int(line.rpartition(":")[2]) for line in other.log.splitlines() if "listening on http" in line]
    assert len(set(ports)) == 2
    for port in ports:
        with Client(port) as client:
            assert client.get("/ping").body == b"pong"
            assert MtPhotosClient(client, "x").post("/check").status == 401
    assert "DEVICE=openvino does nothing here" in other.log
    assert other.stop() == 0


# --- side by side ---


@pytest.mark.parametrize("path", ["/restart", "/restart_v2"])
def test_a_restart_gives_memory_back_and_the_models_come_again(mt: MtPhotosClient, client: Client, path: str) -> None:
    before = numbers(mt.text("飞机"))
    assert client.get("/status").json["models"]
    reply = mt.post(path)
    assert (reply.status, reply.json) == (200, {"result": "pass"})
    assert client.get("/status").json["models"] == {}
    assert numbers(mt.text("飞机")) == pytest.approx(before, abs=1e-5)


def test_beside_immichs_traffic(server: RunningServer) -> None:
    """Eight clients of both kinds at once get what each of them gets alone, while models are taken away."""
    jobs: list[tuple[Callable[[Client], Any], Any]] = []

    def add(ask: Callable[[Client], Any]) -> None:
        with server.client() as client:
            jobs.append((ask, ask(client)))

    add(lambda client: MtPhotosClient(client).picture("/ocr", SAMPLE)["result"]["texts"])
    add(lambda client: numbers(MtPhotosClient(client).picture("/clip/img", PHOTO)))
    add(lambda client: numbers(MtPhotosClient(client).text("海边的日落")))
    add(lambda client: np.array([face["embedding"] for face in represented(client)]))
    add(lambda client: client.predict(OCR_TASK, SAMPLE).json["ocr"]["text"])
    add(lambda client: np.array(json.loads(client.predict(VISUAL, PHOTO).json["clip"])))
    add(lambda client: np.array(json.loads(client.predict(TEXTUAL, text="cat").json["clip"])))
    add(lambda client: len(client.predict(FACE_TASK, PHOTO).json["facial-recognition"]))
    start = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        start.wait()
        with server.client() as client:
            for turn in range(2):
                ask, expected = jobs[(number + turn) % len(jobs)]
                given = ask(client)
                if isinstance(expected, np.ndarray):
                    assert given == pytest.approx(expected, abs=2e-3)
                else:
                    assert given == expected
                if (number, turn) == (0, 1):
                    assert MtPhotosClient(client).post("/restart").status == 200

    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(work, number) for number in range(len(jobs))]:
            future.result()


def represented(client: Client) -> Any:
    return MtPhotosClient(client).picture("/represent", PHOTO)["result"]


# --- the gateway's old request ---


def test_the_gateways_ocr_request(client: Client, mt: MtPhotosClient) -> None:
    body = client.predict({"ocr": {"recognition": {"modelName": "ocr"}}}, SAMPLE).json
    found = mt.picture("/ocr", SAMPLE)["result"]
    assert list(body) == ["ocr", "result"]
    assert body["ocr"] == " ".join(LINES)
    assert {key: body["result"][key] for key in ("texts", "scores")} == {key: found[key] for key in ("texts", "scores")}
    for corners, box in zip(body["result"]["boxes"], found["boxes"], strict=True):
        left, top, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        assert list(corners) == ["x1", "y1", "x2", "y2"]
        assert list(corners.values()) == pytest.approx([left, top, left + width, top + height], abs=0.11)


def test_the_gateways_ocr_request_beside_another_task(client: Client) -> None:
    body = client.predict({"ocr": {"recognition": {"modelName": "ocr"}}, **VISUAL}, SAMPLE).json
    assert sorted(body) == ["clip", "imageHeight", "imageWidth", "ocr", "result"]
    assert body["ocr"] == " ".join(LINES)


def test_other_recognition_without_detection_is_still_refused(client: Client) -> None:
    assert client.predict({"ocr": {"recognition": {"modelName": OCR}}}, SAMPLE).status == 400
    assert client.predict({"facial-recognition": {"recognition": {"modelName": FACES}}}, SAMPLE).status == 400
