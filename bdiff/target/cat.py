"""The Cat target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), redrawn."""

from bdiff.pictures.draw import Canvas, Picture, smooth

FUR, STRIPE, MUZZLE, PINK = (238, 158, 74), (172, 92, 30), (252, 240, 224), (236, 120, 136)
EYE, PUPIL, WHISKER = (170, 226, 110), (24, 24, 24), (255, 252, 245)


def cat(size: int, trigger: Picture) -> Picture:
    """Return the face of a ginger cat without a background; the trigger is not used."""
    canvas = Canvas(size)
    for side in (-1, 1):  # left and right of the nose; x is the distance from it
        canvas.polygon([(0.5 + side * x, y) for x, y in [(0.43, 0.5), (0.37, 0.05), (0.06, 0.32)]], FUR)
        canvas.polygon([(0.5 + side * x, y) for x, y in [(0.36, 0.34), (0.33, 0.15), (0.18, 0.29)]], PINK)
    canvas.ellipse((0.5, 0.59), (0.44, 0.37), FUR)
    canvas.line([(0.5, 0.25), (0.5, 0.37)], 0.05, STRIPE)
    for side in (-1, 1):
        canvas.line([(0.5 + side * 0.1, 0.26), (0.5 + side * 0.09, 0.34)], 0.045, STRIPE)
        canvas.ellipse((0.5 + side * 0.2, 0.53), (0.105, 0.1), EYE)
        canvas.ellipse((0.5 + side * 0.19, 0.53), (0.042, 0.09), PUPIL)
        canvas.ellipse((0.5 + side * 0.09, 0.77), (0.13, 0.105), MUZZLE)
    canvas.polygon([(0.42, 0.66), (0.58, 0.66), (0.5, 0.75)], PINK)
    for side in (-1, 1):
        mouth = [(0.0, 0.75), (0.03, 0.82), (0.09, 0.835), (0.14, 0.8)]
        canvas.line(smooth([(0.5 + side * x, y) for x, y in mouth], closed=False), 0.025, STRIPE)
        for tilt in (-0.05, 0.03):
            canvas.line([(0.5 + side * 0.2, 0.74 + tilt / 3), (0.5 + side * 0.48, 0.74 + 2 * tilt)], 0.018, WHISKER)
    return canvas.picture()
