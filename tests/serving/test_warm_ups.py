"""Models that nobody has asked for yet are run once, each on what it takes."""

from pathlib import Path

import clip_models
import pytest

from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.service import Service
from immich_ml_cn.serving.catalogue import BUNDLED_OCR, Catalogue
from immich_ml_cn.serving.tasks import ClipTextual, ClipVisual, OcrTask, Tasks
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.downloader import Downloader

pytestmark = pytest.mark.anyio

CLIP = "ViT-B-32__laion400m_e31"


async def test_each_is_run_once(tmp_path: Path) -> None:
    folder = tmp_path / "clip" / CLIP
    clip_models.save_visual(folder / "visual" / "model.onnx", outputs=("embedding",))
    clip_models.save_preprocessing(folder, size=32, mean=[0, 0, 0], std=[1, 1, 1])
    vocabulary = clip_models.save_tokenizer(folder)
    clip_models.save_openclip_text(folder / "textual" / "model.onnx", vocabulary=vocabulary)
    settings = Settings(cache_folder=tmp_path, hf_hub_offline=True, preload_ocr_max_resolution=64, intra_op_threads=2)
    catalogue = Catalogue(settings, Downloader(settings), on_gpu=False)
    used = (
        Tasks(visual=ClipVisual(CLIP)),
        Tasks(textual=ClipTextual(CLIP)),
        Tasks(ocr=OcrTask(BUNDLED_OCR, BUNDLED_OCR)),
    )
    specs = [spec for tasks in used for spec in catalogue.plan(tasks).specs()]
    service = Service(settings, CpuEngine(settings), pytest.fail)
    async with service.running():
        for spec in specs:
            await service.registry.load_if_here(spec)
        exposed = (await service.exposition()).decode()
    assert len(specs) == 5
    for spec in specs:
        assert f'immich_ml_batch_size_count{{model="{spec.key}"}} 1.0' in exposed
