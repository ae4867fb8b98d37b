"""A Modular Diffusers block: image -> control_image and pose_keypoints. This folder is a hub repository as it is."""
