"""Tables, pages and figures, made from run folders and the files of stages. Nothing is trained or measured here. Start
at runs.py for tables, figures.py for pictures.
"""
