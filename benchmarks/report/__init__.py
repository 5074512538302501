"""One page about this machine: do the kernels compile, are they right, how fast is all of it?

    make report        (python -m benchmarks.report [--backend auto] [--out FOLDER] [--quick])

For someone with a Mac or an NVIDIA card and nothing but this checkout: it needs no test packages.
Every part runs in a process of its own with a limit, and report.json and report.md are written anew
with each thing that is learnt; so an abort, a hang or Ctrl-C leaves what was known by then, and the
name of what was being done. Nothing in it is estimated: what was not run is not there. docs/mac.md
says how to read the page.

    schedule   the parts, in their order, and the process that each wants
    children   one part in its process: its rows, its limit, its end
    teller     the part's own side of that
    kept       report.json and report.md on the disk
    parts/     what is measured, one file per subject
    page, verdict, tables
               the page for people
"""
