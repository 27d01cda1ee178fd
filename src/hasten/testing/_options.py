"""What holds for everything that has options: techniques and runtimes alike."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

from ..core.seams import Profile, Runtime, Technique

_HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "onnxslim", "sklearn", "transformers", "matplotlib")


def check_options(kind: type[Technique] | type[Runtime], profile: Profile) -> None:
    """Options are frozen, documented and rebuilt from JSON; the space holds different instances, the defaults' values first.

    Raises AssertionError.
    """
    plain, fields = kind(), dataclasses.fields(kind)  # type: ignore[arg-type]
    for field in fields:
        assert field.metadata.get("help"), f"{kind.__name__}.{field.name} says what it means (use `option`)"
        assert field.kw_only, f"{kind.__name__}.{field.name} is keyword-only"
        try:
            setattr(plain, field.name, field.default)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{kind.__name__} is frozen")
    space: list[Technique | Runtime] = list(kind.space(profile))
    assert space, f"the space of {kind.__name__} holds at least one instance"
    assert len({json.dumps(one.step().to_json(), sort_keys=True) for one in space}) == len(space), "no two of the space are the same"
    for one in space:
        assert type(one) is kind
        assert kind(**json.loads(json.dumps(one.options()))) == one, "options survive JSON"
    for field in fields:
        if choices := field.metadata.get("choices"):
            assert field.default in choices, f"the default of {field.name} is one of its choices"
            assert getattr(space[0], field.name) == field.default, f"the space starts with the default of {field.name}"


def check_fits_imports_nothing(kind: type[Technique] | type[Runtime]) -> None:
    """Importing the plug-in and asking `fits` loads no model library. Raises AssertionError."""
    module: Any = sys.modules[kind.__module__]
    script = f"""
import importlib.util, json, sys
sys.path[:] = {sys.path!r}
name, path = {module.__name__!r}, {str(module.__file__)!r}
if name.startswith("hasten_plugin_"):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
else:
    module = importlib.import_module(name)
from hasten.core.machine import this_machine
from hasten.core.seams import Profile, Runtime, Target
kind, target = getattr(module, {kind.__name__!r}), Target(threads=1)
profile = Profile(machine=this_machine(), target=target)
answer = kind().fits(None, target if issubclass(kind, Runtime) else profile)
assert answer is None or (isinstance(answer, str) and answer and "\\n" not in answer), answer
print(json.dumps([m for m in {_HEAVY!r} if m in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [], f"fits of {kind.__name__} imports nothing heavy"
