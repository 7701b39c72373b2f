"""Densities in TensorFlow alone: what a trained model is made of; nothing here knows zfit or training."""
