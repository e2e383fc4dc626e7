"""What every lowering walks over: the traced program, its regions, graphs under construction.

Knows no backend; each one's own nodes are in its own folder.
"""
