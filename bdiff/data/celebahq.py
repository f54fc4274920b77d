"""CelebA-HQ (Karras et al. 2018): 30,000 aligned faces, here at 256x256; a folder of any layout, or a zip."""

from bdiff.data.dataset import Dataset, Home

celebahq = Dataset(
    "celebahq",
    home=Home(
        ("celebahq/CelebA-HQ-img", "celebahq"),
        origin="https://github.com/tkarras/progressive_growing_of_gans or "
        "https://github.com/switchablenorms/CelebAMask-HQ",
    ),
    inside=("CelebA-HQ-img", "CelebAMask-HQ/CelebA-HQ-img"),  # CelebAMask-HQ also contains masks
    sizes={"all": 30_000},
)
