"""Where images come from: each of conf/data is one `Dataset`, read from folders, zips and LMDBs, and decoded into the
cache once or streamed. Triggers and noise are applied elsewhere. Start at dataset.py and celebahq.py.
"""
