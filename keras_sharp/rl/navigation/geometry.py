"""Lengths and angles of the world: what is seen and walked is made of these."""

import numpy as np

# A cell of a map, in metres. A power of two, so that its products and quotients are exact.
CELL = 0.25
# A camera half-way between floor and ceiling that looks 10 m far, 90 degrees wide and high.
CAMERA_HEIGHT = 1.25
FARTHEST = 10.0
# What an agent occupies is a square of twice this side: less than a cell, so that its four corners
# lie in all cells it touches.
RADIUS = 0.1
STEP = 0.25
TURNS = 36

_angles = np.arange(TURNS) * (2 * np.pi / TURNS)
# `(TURNS, 2)` float32, x and y of a unit step. Rounding makes the right angles exact.
HEADINGS = np.stack([np.cos(_angles), np.sin(_angles)], axis=1).round(12).astype("float32")
