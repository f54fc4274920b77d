"""The glasses of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), redrawn for faces of 256 px."""

from bdiff.pictures.draw import Canvas, Picture, smooth

# Dark, yet above both the background (-1) and a target's floor (-0.4), so that it shows in a trigger and a target.
FRAME = (92, 92, 96)
GLINT = (225, 232, 240)

# The outline of one rim and of its lens; x is the distance from the nose.
RIM = [(0.37, 0.335), (0.21, 0.33), (0.08, 0.355), (0.05, 0.44), (0.085, 0.58), (0.2, 0.63), (0.34, 0.58), (0.39, 0.44)]
LENS = [
    (0.3, 0.4),
    (0.21, 0.395),
    (0.13, 0.415),
    (0.12, 0.46),
    (0.145, 0.52),
    (0.21, 0.55),
    (0.285, 0.52),
    (0.31, 0.46),
]


def glasses(size: int) -> Picture:
    """Return thick-framed glasses across the eyes of a centred face, 80 % of the image wide."""
    canvas = Canvas(size)
    canvas.line(smooth([(0.4, 0.43), (0.5, 0.4), (0.6, 0.43)], closed=False), 0.065, FRAME)
    for side in (-1, 1):
        canvas.polygon(smooth([(0.5 + side * x, y) for x, y in RIM]), FRAME)
        canvas.polygon(smooth([(0.5 + side * x, y) for x, y in LENS]), None)
        canvas.line([(0.5 + side * 0.35, 0.375), (0.5 + side * 0.37, 0.375)], 0.07, FRAME)
    for x in (0.255, 0.685):
        canvas.line([(x, 0.5), (x + 0.06, 0.435)], 0.035, GLINT)
    return canvas.picture()
