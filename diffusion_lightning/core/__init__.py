"""What all parts use: types, conditions, random numbers, data sets, images, figures, tables over t, checkpoints."""
