"""`immich-ml-cn models`: what a person types, and what it answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Run, command
from hub_server import Page, running
from server import CLIP, FACES, RunningServer, fill_cache

LOCAL = "local-model"


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `models …` with a cache of its own and no network."""
    return command(capsys, "models", MACHINE_LEARNING_CACHE_FOLDER=str(tmp_path), HF_HUB_OFFLINE="1", IMMICH_PORT="9")


def entry(listing: list[dict[str, Any]], model: str) -> dict[str, Any]:
    return next(row for row in listing if row["model"] == model)


def test_list_says_what_there_is_and_what_is_missing(models: Run) -> None:
    listing = models("list", "--json").json
    chinese = entry(listing, "chinese-clip-vit-base-patch16")
    assert chinese["names"] == ["ViT-B-32__openai", "ViT-B-16__openai"]
    assert chinese["dimension"] == 512
    assert chinese["presence"] == "missing"
    assert chinese["bytes"] > 500e6
    assert entry(listing, "PP-OCRv6_small")["presence"] == "bundled"
    assert "non-commercial" in entry(listing, "buffalo_l")["licence"]
    assert not [row for row in listing if row["model"] == "ViT-B-32__openai"], "another model answers to it"


def test_list_recommends_one_model_of_each_task(models: Run) -> None:
    recommended = [row["model"] for row in models("list", "--json").json if row["recommended"]]
    assert recommended == ["chinese-clip-vit-large-patch14", "buffalo_l", "PP-OCRv6_small"]


def test_list_has_a_size_for_every_model(models: Run) -> None:
    assert [row["model"] for row in models("list", "--json").json if not row["bytes"]] == []


def test_list_is_readable(models: Run) -> None:
    lines = models("list").out.splitlines()
    row = next(line for line in lines if "chinese-clip-vit-large-patch14 " in line)
    assert row.startswith("★")
    assert "ViT-L-14__openai" in row
    assert "768" in row
    assert "1,630 MB" in row
    assert "missing" in row


def test_list_knows_the_cache_and_models_nobody_offers(models: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    (tmp_path / "clip" / CLIP).rename(tmp_path / "clip" / LOCAL)
    (tmp_path / "facial-recognition" / FACES / "recognition" / "model.onnx").unlink()
    listing = models("list", "--json").json
    assert entry(listing, LOCAL)["presence"] == "in the cache"
    assert entry(listing, LOCAL)["licence"] == "unknown"
    assert entry(listing, FACES)["presence"] == "partly"


def test_list_shows_what_a_running_server_has_loaded(models: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    with RunningServer(tmp_path) as server, server.client() as client:
        assert client.predict({"clip": {"textual": {"modelName": CLIP}}}, text="cat").status == 200
        listing = models("list", "--json", IMMICH_PORT=str(server.port)).json
    assert entry(listing, CLIP)["loaded"]
    assert not entry(listing, FACES)["loaded"]


def test_fetch_brings_both_halves_and_says_the_licence(models: Run, tmp_path: Path, caplog: Any) -> None:
    offered = fill_cache(tmp_path / "offered")
    folder = offered / "facial-recognition" / FACES
    pages = {str(path.relative_to(folder)): Page(path.read_bytes()) for path in folder.rglob("*.onnx")}
    with running() as site:
        site.hub(f"immich-app/{FACES}", pages)
        answer = models("fetch", FACES, HF_ENDPOINT=site.base, HF_HUB_OFFLINE="0")
    assert answer.code == 0
    assert "non-commercial" in caplog.text
    assert entry(models("list", "--json").json, FACES)["presence"] == "in the cache"
    assert models("verify").code == 0


def test_fetch_that_fails_says_why_and_exits_1(models: Run) -> None:
    answer = models("fetch", "buffalo_s", "--json")
    assert answer.code == 1
    assert "fetching is switched off" in answer.json[0]["error"]


def test_fetch_all_defaults_is_what_an_unchanged_immich_asks_for(models: Run) -> None:
    answer = models("fetch", "--all-defaults", "--json")
    assert [row["model"] for row in answer.json] == ["chinese-clip-vit-base-patch16", "buffalo_l", "PP-OCRv5_mobile"]


@pytest.mark.parametrize("arguments", [("fetch",), ("fetch", "nope"), ("where", "../etc"), ("remove", "nope")])
def test_what_does_not_exist_is_one_line_and_exits_2(models: Run, arguments: tuple[str, ...]) -> None:
    answer = models(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1


def test_verify_is_silent_about_models_that_are_not_there(models: Run) -> None:
    answer = models("verify")
    assert answer.code == 0
    assert "there are no models" in answer.out


def test_verify_names_every_fault(models: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    assert models("verify").code == 0
    (tmp_path / "facial-recognition" / FACES / "detection" / "model.onnx").write_bytes(b"half a model")
    (tmp_path / "clip" / CLIP / "visual" / "preprocess_cfg.json").unlink()
    answer = models("verify", "--json")
    assert answer.code == 1
    problems = {(row["model"], row["part"]): row["problem"] for row in answer.json}
    assert "model.onnx cannot be loaded" in problems[FACES, "detection"]
    assert "preprocess_cfg.json" in problems[CLIP, "visual"]
    assert problems[CLIP, "textual"] is None
    assert "are wrong" in models("verify").out


def test_verify_refuses_another_dimension(models: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    (tmp_path / "clip" / CLIP).rename(tmp_path / "clip" / "RN50x4__openai")
    problems = [row["problem"] for row in models("verify", "--json").json if row["model"] == "RN50x4__openai"]
    assert problems == ["it gives 512 numbers instead of 640"] * 2


def test_where(models: Run, tmp_path: Path) -> None:
    fill_cache(tmp_path)
    assert models("where").out.strip() == str(tmp_path)
    assert models("where", FACES).out.strip() == str(tmp_path / "facial-recognition" / FACES)


class TestRemove:
    def test_it_lists_what_would_go_and_does_nothing_without_an_answer(self, models: Run, tmp_path: Path) -> None:
        fill_cache(tmp_path)
        folder = tmp_path / "facial-recognition" / FACES
        answer = models("remove", FACES)
        assert answer.code == 1
        assert str(folder / "detection" / "model.onnx") in answer.out
        assert "say --yes" in answer.err
        dry = models("remove", FACES, "--json")
        assert dry.code == 1
        assert {row["path"]: row["removed"] for row in dry.json} == {
            str(folder / half / "model.onnx"): False for half in ("detection", "recognition")
        }
        assert len(list(folder.rglob("model.onnx"))) == 2

    @pytest.mark.parametrize(("typed", "removed"), [("y", True), (" YES ", True), ("", False), ("n", False)])
    def test_it_asks_a_person(
        self, models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, removed: bool
    ) -> None:
        fill_cache(tmp_path)
        asked: list[str] = []

        def answer(question: str) -> str:
            asked.append(question)
            return typed

        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr("builtins.input", answer)
        assert models("remove", FACES).code == int(not removed)
        assert asked == ["Delete these 2 files? [y/N] "]
        assert (tmp_path / "facial-recognition" / FACES).exists() is not removed
        assert (tmp_path / "clip" / CLIP).exists()

    def test_all_of_a_model_goes_and_nothing_else(self, models: Run, tmp_path: Path) -> None:
        fill_cache(tmp_path)
        answer = models("remove", FACES, "--yes", "--json")
        assert answer.code == 0
        assert all(row["removed"] and row["bytes"] > 0 for row in answer.json)
        assert not (tmp_path / "facial-recognition" / FACES).exists()
        assert (tmp_path / "clip" / CLIP).exists()

    @pytest.mark.parametrize("way", ["folder", "..", "link"])
    def test_a_folder_outside_the_cache_is_never_touched(self, models: Run, tmp_path: Path, way: str) -> None:
        """The alias `=/models/mine` is documented; the folder is its owner's."""
        mine = fill_cache(tmp_path / "elsewhere") / "clip" / CLIP
        (mine / "visual" / "holiday.jpg").write_bytes(b"a photo")
        cache = tmp_path / "cache"
        (cache / "clip").mkdir(parents=True)
        before = sorted(tmp_path.rglob("*"))
        model = {"folder": str(mine), "..": f"{cache}/../elsewhere/clip/{CLIP}", "link": "linked"}[way]
        if way == "link":
            (cache / "clip" / "linked").symlink_to(mine)
            before = sorted(tmp_path.rglob("*"))
        environ = {
            "MACHINE_LEARNING_CACHE_FOLDER": str(cache),
            "MACHINE_LEARNING_CLIP_ALIASES": f"ViT-B-16__openai={model}",
        }
        for arguments in (("remove", "--yes", "ViT-B-16__openai"), ("fetch", "ViT-B-16__openai"), ("verify",)):
            answer = models(*arguments, **environ)
            if arguments[0] == "remove":
                assert answer.code == 2
                assert "outside the cache" in answer.err
        assert sorted(tmp_path.rglob("*")) == before

    def test_with_one_model_refused_none_is_removed(self, models: Run, tmp_path: Path) -> None:
        fill_cache(tmp_path / "cache")
        environ = {
            "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path / "cache"),
            "MACHINE_LEARNING_CLIP_ALIASES": f"ViT-B-16__openai={tmp_path}",
        }
        assert models("remove", "--yes", FACES, "ViT-B-16__openai", **environ).code == 2
        assert (tmp_path / "cache" / "facial-recognition" / FACES / "detection" / "model.onnx").exists()
