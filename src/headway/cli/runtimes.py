"""`headway runtimes`: what runs models here."""

from headway.cli.render import Bars, Json, emit, table


def runtimes(json: Json = False) -> None:
    """List what runs models, on each device, and whether it works here: "ready" has just run a tiny model."""
    from headway.doctor.probe import Probe
    from headway.doctor.runtimes import listed

    found = listed(Probe(), Bars())
    if json:
        emit({"runtimes": [it.document() for it in found]})
        return
    rows = [[it.runtime, it.device, it.state, it.detail + (f". {it.remedy}" if it.remedy else "")] for it in found]
    table("", ["runtime", "device", "state", ""], rows)
