"""Search in the text of photos, through the vectors that Immich ranks by.

What passes through the server is kept: of every photo, by the digest of its bytes, its embedding and its text. A query
such as `ocr:发票` is answered with a vector that ranks the photos with that text first.
"""
