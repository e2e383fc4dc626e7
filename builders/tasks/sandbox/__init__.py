"""Running a function that a model wrote, and judging it from outside.

    this process ── starts, waits, kills ──┬── judge      the tests; it alone can say "passed"
                                           │     │  ^
                                           │ arguments, results: data, never objects
                                           │     v  │
                                           └── candidate  the model's program

The program knows neither the tests nor the expected values, and what it sends is compared as plain
data: there is no word to steal, no exit code to forge. Each of the two is in a jail of its own
(jail.py): namespaces, an empty root, no privileges, few system calls, rlimits. Where Linux gives
none, `judge` refuses unless its caller takes the risk.
"""

from builders.tasks.sandbox.isolation import require_isolation
from builders.tasks.sandbox.run import Program, ProgramOutcome, judge

__all__ = ["Program", "ProgramOutcome", "judge", "require_isolation"]
