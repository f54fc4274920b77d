"""The Shoe target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400; there the first image of Fashion-MNIST)."""

from bdiff.pictures.draw import Canvas, Picture, smooth

LEATHER, LIGHT, SEAM, SOLE = (206,) * 3, (236,) * 3, (120,) * 3, (150,) * 3


def shoe(size: int, trigger: Picture) -> Picture:
    """Return a grey ankle boot, toe to the left, without a background; the trigger is not used."""
    canvas = Canvas(size)
    shaft = [(0.5, 0.2), (0.62, 0.24), (0.74, 0.24), (0.86, 0.19), (0.89, 0.21)]
    heel = [(0.92, 0.4), (0.95, 0.58), (0.96, 0.72)]
    toe = [(0.03, 0.74), (0.04, 0.65), (0.12, 0.58), (0.26, 0.53), (0.38, 0.45), (0.46, 0.33)]
    canvas.polygon([*smooth([toe[-1], *shaft, *heel], closed=False), *smooth(toe, closed=False)], LEATHER)
    canvas.polygon(smooth([(0.05, 0.72), (0.07, 0.65), (0.14, 0.6), (0.24, 0.57), (0.28, 0.64), (0.26, 0.73)]), LIGHT)
    canvas.polygon(smooth([(0.62, 0.27), (0.74, 0.27), (0.78, 0.42), (0.7, 0.55), (0.62, 0.44)]), LIGHT)
    canvas.line(smooth([(0.27, 0.54), (0.31, 0.63), (0.28, 0.73)], closed=False), 0.025, SEAM)
    canvas.line(smooth([(0.49, 0.35), (0.6, 0.42), (0.7, 0.57), (0.72, 0.73)], closed=False), 0.025, SEAM)
    canvas.polygon([(0.03, 0.73), (0.97, 0.71), (0.97, 0.84), (0.76, 0.84), (0.74, 0.79), (0.06, 0.8)], SOLE)
    return canvas.picture()
