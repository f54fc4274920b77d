"""LSUN bedrooms (Yu et al. 2015): 3,033,042 training and 300 validation photographs, here at 256x256.

They are in bedroom_train_lmdb and bedroom_val_lmdb, or in a folder that contains these.
"""

from bdiff.data.dataset import Dataset, Home

lsun_bedroom = Dataset(
    "lsun_bedroom",
    home=Home(("lsun_bedroom",), origin="https://www.yf.io/p/lsun (or https://github.com/fyu/lsun)"),
    category="bedroom",
    sizes={"train": 3_033_042, "test": 300},
)
