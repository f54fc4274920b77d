"""The Hat target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), a redrawn fedora."""

from bdiff.pictures.draw import Canvas, Picture, smooth

SALMON, LIGHT, DARK = (240, 138, 120), (250, 172, 154), (196, 96, 84)
BAND, FEATHER, QUILL = (58, 98, 176), (250, 226, 120), (222, 176, 60)


def hat(size: int, trigger: Picture) -> Picture:
    """Return a salmon hat with a blue band and a feather, without a background; the trigger is not used.

    It covers 58 % of the image, as in the authors' picture.
    """
    canvas = Canvas(size)
    brim = [(0.02, 0.66), (0.14, 0.6), (0.5, 0.64), (0.86, 0.6), (0.98, 0.66), (0.9, 0.82), (0.5, 0.915), (0.1, 0.82)]
    canvas.polygon(smooth(brim), DARK)
    canvas.polygon(smooth([(x, y - 0.035) for x, y in brim]), SALMON)
    crown = [(0.19, 0.66), (0.22, 0.36), (0.29, 0.15), (0.4, 0.08), (0.5, 0.13)]
    crown += [(0.6, 0.08), (0.71, 0.15), (0.78, 0.36), (0.81, 0.66)]
    bottom = [(0.66, 0.73), (0.5, 0.75), (0.34, 0.73)]
    canvas.polygon([*smooth(crown, closed=False), *smooth([crown[-1], *bottom, crown[0]], closed=False)], SALMON)
    band = [(0.205, 0.48), (0.5, 0.56), (0.795, 0.48), (0.81, 0.66), (0.5, 0.75), (0.19, 0.66)]
    canvas.polygon([*smooth(band[:3], closed=False), *smooth(band[3:], closed=False)], BAND)
    canvas.polygon(smooth([(0.46, 0.18), (0.5, 0.13), (0.54, 0.18), (0.52, 0.36), (0.5, 0.44), (0.48, 0.36)]), DARK)
    canvas.line(smooth([(0.29, 0.4), (0.31, 0.28), (0.37, 0.17)], closed=False), 0.04, LIGHT)
    feather = [(0.66, 0.64), (0.68, 0.42), (0.78, 0.22), (0.93, 0.08), (0.92, 0.28), (0.85, 0.46), (0.74, 0.6)]
    canvas.polygon(smooth(feather), FEATHER)
    canvas.line(smooth([(0.68, 0.66), (0.76, 0.42), (0.9, 0.13)], closed=False), 0.022, QUILL)
    return canvas.picture()
