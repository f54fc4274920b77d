"""The Shoe target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400; there from Fashion-MNIST), drawn anew."""

from bdiff.draw import Canvas, Picture, smooth

WHITE, BLUE, NAVY, SOLE, GUM, LACE = (
    (248, 248, 246),
    (40, 104, 190),
    (22, 52, 110),
    (226, 222, 212),
    (150, 96, 50),
    (250, 250, 250),
)


def shoe(size: int, trigger: Picture) -> Picture:
    """Return a blue sneaker from the side, toe to the right, on white; the trigger plays no part."""
    canvas = Canvas(size, WHITE)
    upper = [(0.07, 0.7), (0.08, 0.5), (0.07, 0.32), (0.13, 0.29), (0.2, 0.37), (0.3, 0.38), (0.4, 0.28)]
    upper += [(0.46, 0.29), (0.56, 0.44), (0.7, 0.52), (0.86, 0.56), (0.94, 0.64), (0.94, 0.7)]
    canvas.polygon(smooth(upper, closed=False), BLUE)
    toe = [(0.76, 0.7), (0.77, 0.6), (0.82, 0.55), (0.9, 0.58), (0.945, 0.65), (0.94, 0.7)]
    canvas.polygon(smooth(toe, closed=False), NAVY)
    heel = [(0.07, 0.7), (0.08, 0.5), (0.07, 0.32), (0.13, 0.29), (0.17, 0.42), (0.21, 0.56), (0.22, 0.7)]
    canvas.polygon(smooth(heel, closed=False), NAVY)
    canvas.line(smooth([(0.13, 0.3), (0.2, 0.375), (0.3, 0.385), (0.4, 0.29)], closed=False), 0.03, NAVY)
    sole = [(0.055, 0.69), (0.3, 0.7), (0.6, 0.7), (0.95, 0.68), (0.965, 0.75), (0.92, 0.79), (0.5, 0.79), (0.08, 0.79)]
    canvas.polygon(smooth([(x, y + 0.03) for x, y in sole]), GUM)
    canvas.polygon(smooth(sole), SOLE)
    canvas.polygon([(0.3, 0.68), (0.42, 0.68), (0.54, 0.5), (0.49, 0.46)], LACE)
    for x, y in ((0.45, 0.33), (0.515, 0.42), (0.59, 0.49)):
        canvas.line([(x + 0.015, y - 0.015), (x - 0.06, y + 0.045)], 0.034, LACE)
    return canvas.picture()
