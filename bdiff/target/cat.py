"""The Cat target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), redrawn."""

from bdiff.pictures.draw import Canvas, Picture, smooth

FUR, STRIPE, CREAM, PINK = (238, 158, 74), (176, 96, 34), (252, 240, 224), (236, 120, 136)
EYE, PUPIL = (150, 214, 100), (24, 24, 24)


def cat(size: int, trigger: Picture) -> Picture:
    """Return a sitting ginger cat, seen from the front, without a background; the trigger is not used."""
    canvas = Canvas(size)
    tail = [(0.66, 0.9), (0.86, 0.88), (0.92, 0.72), (0.85, 0.58), (0.88, 0.5)]
    canvas.line(smooth(tail, closed=False), 0.1, FUR)
    canvas.line(smooth([(0.852, 0.57), (0.86, 0.53), (0.88, 0.5)], closed=False), 0.1, STRIPE)
    body = [(0.5, 0.4), (0.64, 0.46), (0.72, 0.64), (0.76, 0.84), (0.7, 0.95), (0.5, 0.96), (0.3, 0.95), (0.24, 0.84)]
    canvas.polygon(smooth([*body, (0.28, 0.64), (0.36, 0.46)]), FUR)
    canvas.polygon(smooth([(0.5, 0.5), (0.59, 0.56), (0.58, 0.7), (0.5, 0.78), (0.42, 0.7), (0.41, 0.56)]), CREAM)
    for side in (-1, 1):  # left and right of the nose; x is the distance from it
        leg = [(0.5 + side * x, y) for x, y in [(0.13, 0.74), (0.07, 0.82), (0.07, 0.93)]]
        canvas.line(smooth(leg, closed=False), 0.02, STRIPE)
        canvas.ellipse((0.5 + side * 0.09, 0.935), (0.085, 0.04), CREAM)
        for x, y in ((0.2, 0.65), (0.225, 0.74)):
            canvas.line([(0.5 + side * x, y), (0.5 + side * (x - 0.065), y + 0.02)], 0.035, STRIPE)
        canvas.polygon([(0.5 + side * x, y) for x, y in [(0.27, 0.3), (0.25, 0.03), (0.05, 0.15)]], FUR)
        canvas.polygon([(0.5 + side * x, y) for x, y in [(0.22, 0.2), (0.21, 0.09), (0.12, 0.15)]], PINK)
    canvas.ellipse((0.5, 0.31), (0.28, 0.22), FUR)
    canvas.line([(0.5, 0.11), (0.5, 0.18)], 0.035, STRIPE)
    canvas.ellipse((0.5, 0.42), (0.13, 0.09), CREAM)
    for side in (-1, 1):
        canvas.line([(0.5 + side * 0.07, 0.125), (0.5 + side * 0.065, 0.175)], 0.03, STRIPE)
        canvas.ellipse((0.5 + side * 0.125, 0.29), (0.065, 0.06), EYE)
        canvas.ellipse((0.5 + side * 0.12, 0.29), (0.027, 0.055), PUPIL)
    canvas.polygon([(0.46, 0.365), (0.54, 0.365), (0.5, 0.41)], PINK)
    return canvas.picture()
