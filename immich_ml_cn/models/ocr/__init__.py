"""PP-OCR: find lines of text (`TextDetector`), turn them upright (`TextOrientation`), read them
(`TextRecognizer`).

One picture goes ``detector.prepare → infer → boxes``, then per box ``crop_line →
orientation.prepare → infer → upside_down_lines → turned → recognizer.prepare → infer → decode →
is_text``. PaddleOCR (Cui et al., "PaddleOCR 3.0 Technical Report", 2025) is the method, the
package RapidOCR the reference that the tests compare with.
"""

from .crops import crop_line, turned
from .ctc import is_text
from .detection import DetectionInput, TextDetector, load_detector
from .orientation import OrientationInput, TextOrientation, is_page_upside_down, load_classifier, upside_down_lines
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
    "is_page_upside_down",
    "is_text",
    "load_classifier",
    "load_detector",
    "load_recognizer",
    "reading_order",
    "turned",
    "upside_down_lines",
]
