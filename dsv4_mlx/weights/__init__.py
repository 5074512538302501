"""From the files of a folder to arrays: a checkpoint, the plan of its parameters, their forms."""
