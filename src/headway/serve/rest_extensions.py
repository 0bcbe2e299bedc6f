"""The REST routes of the extensions: log and trace settings, shared memory."""

from typing import Any

from headway.serve.extensions import Extensions
from headway.serve.fields import RequestLimits
from headway.serve.json_body import LONG, json_object
from headway.serve.routes import Call, Route, telling


def routes(extensions: Extensions) -> list[Route]:
    """Every route."""
    limits = RequestLimits(json_bytes=LONG)  # more is not read on the event loop, and never meant

    def given(call: Call) -> dict[str, Any]:
        return json_object(call.body, limits) if call.body.strip() else {}

    def log(call: Call) -> Any:
        return extensions.log(given(call), call.headers)

    def trace(call: Call) -> Any:
        return extensions.trace_setting(call.named.get("model", ""), given(call), call.headers)

    def status(call: Call) -> Any:
        return extensions.status(call.named.get("region", ""), call.headers)

    def register(call: Call) -> Any:
        return extensions.register(call.named["region"], given(call), call.headers)

    def unregister(call: Call) -> Any:
        return extensions.unregister(call.named.get("region", ""), call.headers)

    def cuda(_call: Call) -> Any:
        return extensions.cuda()

    found = [
        Route("GET", "/v2/logging", "Log settings", telling(log)),
        Route("POST", "/v2/logging", "Change log settings", telling(log)),
    ]
    for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
        found += [
            Route("GET", path, "Trace settings", telling(trace)),
            Route("POST", path, "Change trace settings", telling(trace)),
        ]
    for kind, calls in (("system", (status, register, unregister)), ("cuda", (cuda, cuda, cuda))):
        every, one = f"/v2/{kind}sharedmemory", f"/v2/{kind}sharedmemory/region/{{region}}"
        about = f"{kind} shared memory"
        found += [
            Route("GET", f"{every}/status", f"Regions of {about}", telling(calls[0])),
            Route("GET", f"{one}/status", f"A region of {about}", telling(calls[0])),
            Route("POST", f"{one}/register", f"Register a region of {about}", telling(calls[1])),
            Route("POST", f"{every}/unregister", f"Unregister every region of {about}", telling(calls[2])),
            Route("POST", f"{one}/unregister", f"Unregister a region of {about}", telling(calls[2])),
        ]
    return found
