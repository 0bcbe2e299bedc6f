"""The whole journey as one script: ship the digits model, serve it, ask it with a client that is not ours.

Everything it makes lies in the folder `demo/`, its registry and keys included.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"
HEADWAY = Path(sys.executable).with_name("headway")
SHOWN = 12


def main() -> None:
    environment = {**os.environ, "HEADWAY_HOME": str(DEMO / "home")}
    print("1. ship: train, prune, quantize, measure, seal, register", flush=True)
    recipe = ROOT / "examples" / "digits.yaml"
    shipped = subprocess.run([HEADWAY, "ship", recipe, "--out", DEMO / "digits"], env=environment, check=False)
    if shipped.returncode:
        sys.exit(shipped.returncode)

    print("\n2. serve it from the registry, on a port that the system picks", flush=True)
    command = [HEADWAY, "serve", "digits", "--http-port", "0", "--grpc-port", "0", "--json"]
    with (
        (DEMO / "serve.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            print(f"   ready at {url}")
            print("\n3. ask with tritonclient, an ordinary Open Inference Protocol client", flush=True)
            right = ask(url)
        finally:
            server.terminate()
            server.wait(timeout=30)
    print(f"\nAll {SHOWN} answers came from the sealed bundle; {right} are right.")
    print(f"The report: {DEMO / 'digits' / 'report.html'}\nThe server's log: {DEMO / 'serve.log'}")


def ask(url: str) -> int:
    """Print the model's answers beside the truth; returns how many are right."""
    import numpy as np
    import tritonclient.http as client

    from headway.tasks.images import digits

    inputs, truth = digits().parts.test.batch(np.arange(SHOWN))
    images = inputs["image"]
    image = client.InferInput("image", list(images.shape), "FP32")
    image.set_data_from_numpy(images)
    with client.InferenceServerClient(url.removeprefix("http://")) as asked:
        logits = asked.infer("digits", [image]).as_numpy("logits")
    answers = logits.argmax(axis=1)
    print("   truth  ", *truth)
    print("   answer ", *answers)
    return int((answers == truth).sum())


if __name__ == "__main__":
    main()
