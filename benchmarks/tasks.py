"""What is asked of pictures."""

from . import pictures
from . import requests as forms
from .requests import Names, Task
from .targets import ALL, CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE


def image_tasks(names: Names) -> list[Task]:
    """The tasks that clients send pictures for; `names` are what the servers call the models."""
    visual, faces, ocr = forms.clip_visual(names.clip), forms.faces(names.faces), forms.ocr(names.ocr)
    photos = tuple(pictures.photos())
    return [
        Task(CLIP_VISUAL, visual, images=photos),
        Task(FACES, faces, images=photos),
        Task(OCR_DENSE, ocr, images=tuple(pictures.dense())),
        Task(OCR_SPARSE, ocr, images=tuple(pictures.sparse())),
        Task(ALL, {**visual, **faces, **ocr}, images=tuple(pictures.photos_with_text())),
    ]
