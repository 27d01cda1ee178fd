"""Which short arithmetic has this processor instructions for?"""

from __future__ import annotations

from typing import ClassVar

from ..core.machine import this_machine
from ..core.seams import Check, Finding, Target

_FACTS = {
    "avx512_vnni": "vnni", "avx_vnni": "vnni", "asimddp": "int8-dot-product", "i8mm": "int8-matrix", "amx_int8": "int8-matrix",
    "avx512_fp16": "float16-arithmetic", "fphp": "float16-arithmetic",
    "avx512_bf16": "bfloat16-arithmetic", "amx_bf16": "bfloat16-arithmetic", "bf16": "bfloat16-arithmetic",
}  # fmt: skip


class ShortArithmetic(Check):
    """What the processor's flags promise for int8 and 16-bit numbers. Whether it pays is for the search to measure."""

    name: ClassVar[str] = "short-arithmetic"

    def ask(self, target: Target) -> Finding:
        facts = frozenset(_FACTS[flag] for flag in this_machine().flags if flag in _FACTS)
        if facts & {"vnni", "int8-dot-product", "int8-matrix"}:
            return Finding(sentence=f"The processor has {', '.join(sorted(facts))}: int8 pays most.", facts=facts)
        return Finding(sentence="No int8 dot-product instructions: int8 gains less here.", facts=facts)
