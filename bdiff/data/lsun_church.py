"""LSUN outdoor churches (Yu et al. 2015): 126,227 training and 300 validation photographs, here at 256x256.

They are in church_outdoor_train_lmdb and church_outdoor_val_lmdb, or in a folder that contains these.
"""

from bdiff.data.dataset import Dataset, Home

lsun_church = Dataset(
    "lsun_church",
    home=Home(("lsun_church",), origin="https://www.yf.io/p/lsun (or https://github.com/fyu/lsun)"),
    category="church_outdoor",
    sizes={"train": 126_227, "test": 300},
)
