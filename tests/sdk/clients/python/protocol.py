"""The protocol of all clients here: a line `fetch` makes a new credential chain, a line `use` keeps the one before; each is answered by
one JSON line that says whom a call signed with the chain's credentials was taken for, or the error. A client ends with its input.
"""

import json
import sys


def serve(identity):
    """Answers each line by the members that `identity` returns for it, or by what it raises."""
    for line in sys.stdin:
        print(json.dumps(attempt(identity, line.strip())), flush=True)


def attempt(identity, request):
    try:
        return {"ok": True, **identity(request)}
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
