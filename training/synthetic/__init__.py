"""Labelled people from CC0 assets: bodies, poses, clothes, camera, renderer, keypoints, compositing."""
