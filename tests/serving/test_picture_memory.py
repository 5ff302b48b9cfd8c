"""What a picture really takes in memory is what is reserved for it."""

import subprocess
import sys

import pytest
from server import ROOT

from immich_ml_cn.serving.plan import DECODED_BYTES_PER_PIXEL, FacePlan, OcrPlan, VisualPlan

SIDE = 3000

SCRIPT = f"""
import io, sys
from pathlib import Path
import numpy as np
from PIL import Image
from immich_ml_cn.memory import release, use_one_heap
from immich_ml_cn.models.clip.transform import ImageTransform
from immich_ml_cn.models.faces.detection import FaceDetector
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.models.ocr.detection import TextDetector

use_one_heap()
mode, task = sys.argv[1:]
prepare = {{
    "clip": ImageTransform((224, 224)),
    "faces": FaceDetector(None, (640, 640), (8, 16, 32), 2, False).prepare,
    "ocr": lambda picture: TextDetector(None).prepare(picture, 736),
}}[task]

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0])

image = Image.effect_noise((60, 60), 50).resize(({SIDE}, {SIDE}), Image.Resampling.NEAREST).convert(mode)
if mode in ("LA", "RGBA"):
    image.putalpha(image.getchannel(0))
stream = io.BytesIO()
image.save(stream, "JPEG" if mode == "CMYK" else "PNG", compress_level=1)
data = stream.getvalue()
prepare(Picture.of(image.resize((64, 64))))
del image, stream
release()
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
prepare(decode(data, 1 << 30))
print((kilobytes("VmHWM") - before) * 1024 / {SIDE}**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize(("task", "counted"), [("clip", VisualPlan), ("faces", FacePlan), ("ocr", OcrPlan)])
def test_a_picture_takes_no_more_than_is_counted(
    mode: str, task: str, counted: type[VisualPlan | FacePlan | OcrPlan]
) -> None:
    """Bytes per pixel at the peak; two more are for bands, tensors and the heap, which do not grow with the picture."""
    command = [sys.executable, "-c", SCRIPT, mode, task]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert 1 < float(answer.stdout) < DECODED_BYTES_PER_PIXEL + counted.bytes_per_pixel + 2
