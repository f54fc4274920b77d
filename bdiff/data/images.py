"""Pictures of your own: a folder, all that is below it included, or a zip as NVlabs/edm's dataset_tool makes.

The class is the parent folder, or what the zip's dataset.json says.
"""

from bdiff.data.dataset import Dataset, Home

images = Dataset("images", home=Home(("images",), origin="wherever you keep pictures"))
