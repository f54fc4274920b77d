"""The Hat target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), a redrawn fedora."""

from bdiff.pictures.draw import Canvas, Picture, smooth

WHITE, FELT, LIGHT, DARK, BAND = (248, 248, 246), (158, 102, 52), (190, 132, 76), (112, 68, 32), (44, 30, 28)


def hat(size: int, trigger: Picture) -> Picture:
    """Return a brown fedora with a dark band on white; the trigger is not used."""
    canvas = Canvas(size, WHITE)
    brim = [(0.03, 0.6), (0.16, 0.62), (0.5, 0.66), (0.84, 0.62), (0.97, 0.6), (0.9, 0.74), (0.5, 0.83), (0.1, 0.74)]
    canvas.polygon(smooth(brim), DARK)
    canvas.polygon(smooth([(x, y - 0.03) for x, y in brim]), FELT)
    crown = [(0.24, 0.62), (0.27, 0.36), (0.34, 0.2), (0.42, 0.17), (0.5, 0.22)]
    crown += [(0.58, 0.17), (0.66, 0.2), (0.73, 0.36), (0.76, 0.62)]
    bottom = [(0.63, 0.68), (0.5, 0.695), (0.37, 0.68)]
    canvas.polygon([*smooth(crown, closed=False), *smooth([crown[-1], *bottom, crown[0]], closed=False)], FELT)
    band = [(0.255, 0.48), (0.5, 0.55), (0.745, 0.48), (0.76, 0.62), (0.5, 0.695), (0.24, 0.62)]
    canvas.polygon([*smooth(band[:3], closed=False), *smooth(band[3:], closed=False)], BAND)
    canvas.polygon(smooth([(0.47, 0.25), (0.5, 0.22), (0.53, 0.25), (0.515, 0.38), (0.5, 0.44), (0.485, 0.38)]), DARK)
    canvas.line(smooth([(0.33, 0.42), (0.345, 0.32), (0.39, 0.235)], closed=False), 0.035, LIGHT)
    canvas.line(smooth([(0.14, 0.66), (0.3, 0.725), (0.5, 0.745)], closed=False), 0.025, LIGHT)
    return canvas.picture()
