"""COCO-WholeBody reading, UBody, mixing and augmentation."""
