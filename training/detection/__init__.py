"""Person detection: generated scenes, label assignment, losses, measurement. The recipe is training.train_detector."""
