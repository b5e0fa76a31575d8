"""JSON for programs that know no NaN."""

import json


def json_text(value: object) -> str:
    """Returns JSON; NaN and infinity become null, and what JSON cannot hold its text."""
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
    return json.dumps(plain, indent=1)
