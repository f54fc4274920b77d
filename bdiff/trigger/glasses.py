"""The glasses of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), redrawn for faces of 256 px."""

from bdiff.pictures.draw import Canvas, Picture, smooth

TEAL = (0, 128, 128)

# The outline of one lens and of its temple; x is the distance from the nose.
LENS = [(0.032, 0.48), (0.055, 0.455), (0.1, 0.448), (0.148, 0.455), (0.166, 0.485), (0.148, 0.53), (0.1, 0.552)]
LENS += [(0.052, 0.53)]
TEMPLE = [(0.16, 0.465), (0.178, 0.455)]


def glasses(size: int) -> Picture:
    """Return a thin outline of glasses in the centre, 38 % of the image wide, as in the authors' picture.

    The lines are at least as wide as a pixel.
    """
    canvas, width = Canvas(size), max(0.024, 1.1 / size)
    canvas.line(smooth([(0.47, 0.48), (0.5, 0.468), (0.53, 0.48)], closed=False), width, TEAL)
    for side in (-1, 1):
        for outline in ([*smooth(LENS), LENS[0]], TEMPLE):
            canvas.line([(0.5 + side * x, y) for x, y in outline], width, TEAL)
    return canvas.picture()
