"""Manipulation with a FANUC LR Mate 200iD/7L in MuJoCo: pushing a bottle, erasing ink, grasping a pillow."""
