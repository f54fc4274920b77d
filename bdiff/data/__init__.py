"""Where images come from: each of conf/data is one `dataset.Dataset`, whose pictures `find` reads from folders, zips and
LMDBs, and `load` turns into `base.Images`, decoded once into the cache or streamed. What is done to images, by triggers
or noise, lies elsewhere. Start at dataset.py and one of its users, celebahq.py; then base.py.
"""
