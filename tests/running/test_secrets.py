"""No secret of the settings is in a log, an answer or a command's output, whatever fails."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from server import CONTENT_TYPE, FACE_TASK, ROOT, TEXTUAL, Reply, RunningServer, predict_form

NOBODY = "127.0.0.1:9"
"""An address on which nobody listens."""

SECRETS = {
    "MACHINE_LEARNING_API_KEY": ("secret-of-ours", "{}"),
    "API_AUTH_KEY": ("secret-of-mt-photos", "{}"),
    "HF_TOKEN": ("hf_secret-token", "{}"),
    "IMMICH_API": ("secret-of-upstream", f"http://user:{{}}@{NOBODY}/key/secret-in-a-path"),
    "HF_ENDPOINT": ("secret-of-the-hub", f"http://user:{{}}@{NOBODY}"),
    "MACHINE_LEARNING_MODEL_SOURCE": (
        "secret-of-a-mirror",
        f"modelscope=http://user:{{}}@{NOBODY},github=http://{{}}@{NOBODY}",
    ),
}
ENVIRON = {variable: value.replace("{}", secret) for variable, (secret, value) in SECRETS.items()}
PLAIN = [*(secret for secret, _ in SECRETS.values()), "secret-in-a-path"]
KEY = {"x-api-key": "secret-of-ours"}


def shown(text: str) -> list[str]:
    return [secret for secret in PLAIN if secret in text]


def texts(reply: Reply) -> str:
    return reply.body.decode() + str(reply.headers)


@pytest.mark.parametrize("as_json", ["false", "true"])
def test_a_server_on_which_everything_fails(tmp_path: Path, as_json: str) -> None:
    environ = {
        **ENVIRON,
        "HF_HUB_OFFLINE": "0",
        "IMMICH_LOG_LEVEL": "debug",
        "MACHINE_LEARNING_LOG_JSON": as_json,
        "MACHINE_LEARNING_FORWARD": "ocr",
        "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL": "nobody-has-it,ViT-B-32__openai",
        "MACHINE_LEARNING_CLIP_ALIAS": "secret-of-ours",
    }
    ocr = {"ocr": {"detection": {"modelName": "PP-OCRv6_small"}}}
    picture = (ROOT / "docs" / "sample.jpg").read_bytes()
    with RunningServer(tmp_path, **environ) as server, server.client() as client:
        headers = {**KEY, "content-type": CONTENT_TYPE}
        replies = [
            client.request("POST", "/predict", predict_form(entries, image, text), headers)
            for entries, image, text in ((TEXTUAL, None, "cat"), (FACE_TASK, picture, None), (ocr, picture, None))
        ]
        assert [reply.status for reply in replies] == [503, 503, 502]
        replies += [client.request("GET", path, None, KEY) for path in ("/status", "/metrics", "/settings", "/nothing")]
        replies.append(client.get("/key/secret-of-ours/nothing"))
        replies.append(client.get("/elsewhere/key/secret-of-ours/nothing"))
        for reply in replies:
            assert not shown(texts(reply))
        assert json.loads(replies[3].body)["lastErrors"]
        server.stop()
        assert not shown(server.log)
        assert "cannot fetch" in server.log


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("doctor", "--json"), ("models", "fetch", "buffalo_l"), ("models", "list")]
)
@pytest.mark.parametrize("proxy", [{}, {"HTTPS_PROXY": "user:secret-of-a-proxy@127.0.0.1:9"}])
def test_commands(tmp_path: Path, arguments: tuple[str, ...], proxy: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "immich_ml_cn", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path / "cache"),
            "MACHINE_LEARNING_PROVIDER": "cpu",
            "IMMICH_LOG_LEVEL": "debug",
            "IMMICH_PORT": "9",
            **ENVIRON,
            **proxy,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    text = done.stdout + done.stderr
    assert not shown(text)
    assert "secret-of-a-proxy" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("variable", SECRETS)
def test_a_value_that_cannot_be_used(variable: str) -> None:
    secret = SECRETS[variable][0]
    wrong = {"IMMICH_API": f"user:{secret}@host", "HF_ENDPOINT": f"ftp://{secret}@host"}.get(
        variable, f"ftp://{secret}@x"
    )
    done = subprocess.run(
        [sys.executable, "-m", "immich_ml_cn", "models", "where"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], variable: wrong},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
