"""What a release is, as facts: its configuration, its layers' roles, its tensors, their names."""
