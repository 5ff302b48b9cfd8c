"""How right the text of pictures is: layouts with a known reading order, and scenes with a known text."""
