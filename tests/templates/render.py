"""Renders the chats of *.cases.json with Python's jinja2, set up as transformers sets it up, and writes what comes out into them:
python render.py (needs jinja2). The template of NAME.cases.json is NAME.jinja. The date is fixed by the case."""
import json
from datetime import datetime, timezone
from pathlib import Path

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent


def environment(now):
    def raise_exception(message):
        raise ValueError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(x, ensure_ascii=ensure_ascii, indent=indent)
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.fromtimestamp(now, timezone.utc).strftime(f)
    return env


def main():
    for path in HERE.glob("*.cases.json"):
        # The tests read objects in the order of their keys.
        cases = json.loads(json.dumps(json.loads(path.read_text()), sort_keys=True))
        source = path.with_name(path.name.replace(".cases.json", ".jinja")).read_text()
        for case in cases:
            template = environment(case["now"]).from_string(source)
            case.pop("error", None)
            case.pop("prompt", None)
            try:
                case["prompt"] = template.render(**case["context"])
            except ValueError as e:
                case["error"] = str(e)
        path.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
