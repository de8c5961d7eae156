"""Recipes of other tools: read into ptune's (`read_foreign`), and ptune's written as a script of TRL's (`trl_script`).

Each tool has a file for what several fields say together, and one with a table, its field -> what becomes of it. Torch-free.
"""
