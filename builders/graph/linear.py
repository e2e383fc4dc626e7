"""A linear of the dialect in a lowering's hands."""

from typing import Literal

Bank = Literal["backbone", "river"]
