"""Files as they lie on disks, whatever is in them: documents, tensors, paths, what a disk lacks."""
