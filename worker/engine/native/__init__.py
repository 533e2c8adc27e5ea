"""Our C code for models on a CPU: whole decoders, and attention for models of other kinds.

`build` compiles it ahead of the first start, with a C compiler (`CC`, by default `cc`). It needs a torch with
GNU OpenMP, as on Linux. Without it, torch computes everything, which is slower.
"""
