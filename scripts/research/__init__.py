"""Research: what compares and measures, beside the product.

Nothing in river_trt or builders imports it, and no wheel has it. A module is the logic of a
script in scripts/ that docs/ name beside their figures; the script itself only reads arguments.
"""
