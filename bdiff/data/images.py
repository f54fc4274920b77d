"""Pictures of your own: a folder, with all its subfolders, or a zip as created by NVlabs/edm's dataset_tool.

The class is the parent folder, or is given by the zip's dataset.json.
"""

from bdiff.data.dataset import Dataset, Home

images = Dataset("images", home=Home(("images",), origin="wherever you keep pictures"))
