"""What of a model's work on a CPU is our own, in C: whole decoders, and attention for models of other kinds.

Compiled when a worker starts, for the machine that it runs on. It takes a C compiler (`CC`, by default `cc`)
and a torch with GNU OpenMP, as on Linux. Where one is missing, all goes by torch's own operations, slower.
"""
