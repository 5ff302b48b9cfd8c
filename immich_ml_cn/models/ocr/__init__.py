"""PP-OCR: find lines of text (`TextDetector`), see which way round they are (`TextOrientation`), read them
(`TextRecognizer`).

One picture goes ``detector.prepare → infer → boxes``, then per box ``crop_line → orientation.prepare → infer``, and
`read_page` asks for what is to be read by ``recognizer.prepare → infer → decode``. PaddleOCR (Cui et al., "PaddleOCR
3.0 Technical Report", 2025) is the method, the package RapidOCR the reference that the tests compare with.
"""

from .crops import crop_line
from .ctc import is_text
from .detection import DetectionInput, TextDetector, load_detector
from .orientation import OrientationInput, TextOrientation, load_classifier
from .page import read_page, step
from .reading_order import reading_order
from .recognition import RecognitionInput, TextRecognizer, load_recognizer

__all__ = [
    "DetectionInput",
    "OrientationInput",
    "RecognitionInput",
    "TextDetector",
    "TextOrientation",
    "TextRecognizer",
    "crop_line",
    "is_text",
    "load_classifier",
    "load_detector",
    "load_recognizer",
    "read_page",
    "reading_order",
    "step",
]
