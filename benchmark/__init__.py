"""Calibration benchmark: compare the calibration of many Hugging Face models."""
