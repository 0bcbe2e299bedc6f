"""The REST routes of the model repository: its index, and models loaded and unloaded."""

from typing import Any

from headway.core.errors import RequestError
from headway.serve import describe
from headway.serve.errors import UnsupportedError
from headway.serve.extensions import Extensions
from headway.serve.fields import RequestLimits
from headway.serve.json_body import LONG, json_object
from headway.serve.routes import Answer, Call, Route, json_answer


def routes(extensions: Extensions, limits: RequestLimits) -> list[Route]:
    """Every route."""

    async def index(call: Call) -> Answer:
        if not isinstance(ready := (await asked(call)).get("ready", False), bool):
            raise RequestError("must be true or false", where="ready")
        return json_answer(200, describe.index(extensions.plane, ready=ready))

    async def load(call: Call) -> Answer:
        extensions.control.check(call.headers)
        await extensions.load(call.named["model"], await parameters(call))
        return json_answer(200, {})

    async def unload(call: Call) -> Answer:
        extensions.control.check(call.headers)
        await extensions.unload(call.named["model"], await parameters(call))
        return json_answer(200, {})

    async def asked(call: Call) -> dict[str, Any]:
        if (named := call.named.get("repository")) is not None:
            raise UnsupportedError(f"there is one repository, which has no name, and not {named[:100]!r}")
        if len(call.body) < LONG:
            return json_object(call.body, limits) if call.body.strip() else {}
        return await extensions.aside.run(json_object, call.body, limits)

    async def parameters(call: Call) -> dict[str, Any]:
        found = (await asked(call)).get("parameters", {})
        if not isinstance(found, dict):
            raise RequestError("must be an object", where="parameters")
        return found

    found: list[Route] = []
    for start in ("/v2/repository", "/v2/repository/{repository}"):
        model = f"{start}/models/{{model}}"
        found += [
            Route("POST", f"{start}/index", "Every version of every model, and its state", index),
            Route("POST", f"{model}/load", "Load a model, or load it anew", load),
            Route("POST", f"{model}/unload", "Stop serving a model", unload),
        ]
    return found
