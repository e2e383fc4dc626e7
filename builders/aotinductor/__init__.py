"""AOTInductor backend: the traced program with compiled operators and caches written in place.

program.py    the traced program rewritten for one device: its operators, its buffers
fakes.py      what torch must know of the operators to trace them
cpu.py        the CPU's operators and weights (panels of plugins/cpu)
cuda.py       the GPU's operators and weights (plugins/torch)
package.py    compiling a program to a .pt2 package
recording.py  a program as the list of calls that the backend torch runs
weights_file.py  the weights beside it
build.py      checkpoint to engine directory
eager.py      the same program under torch.compile, to measure the package against
"""
