"""Logits that exist already, from files of other tools: imported as runs, or shown.

python -m benchmark.logits import FILE... --model NAME --dataset NAME
python -m benchmark.logits show FOLDER
"""
