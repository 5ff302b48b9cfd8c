"""Faces: found by SCRFD or RetinaFace, turned upright, embedded by ArcFace (the model packs of InsightFace)."""

from .detection import DetectionInput, FaceDetector, RawDetection, load_detector
from .recognition import FaceRecognizer, load_recognizer

__all__ = [
    "DetectionInput",
    "FaceDetector",
    "FaceRecognizer",
    "RawDetection",
    "load_detector",
    "load_recognizer",
]
