"""The ground that every part stands on: types, conditions, random numbers, images, tables, checkpoints."""
