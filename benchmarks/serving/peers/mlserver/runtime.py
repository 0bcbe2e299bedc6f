"""MLServer's custom runtime: base64 in, base64 out."""

import asyncio
import base64

import numpy as np
from greedy import Model
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Runtime(MLModel):
    """MLServer's adaptive batching has joined the requests' lists before `predict` sees them."""

    async def load(self) -> bool:
        """Once."""
        self.model = Model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Rows as base64 texts, [n] -> [n]."""
        texts = payload.inputs[0].data.root
        rows = np.concatenate([self.model.rows(base64.b64decode(text)) for text in texts])
        outputs = await asyncio.get_running_loop().run_in_executor(None, self.model.run, rows)
        data = [base64.b64encode(row.tobytes()).decode() for row in outputs]
        output = ResponseOutput(name=self.model.output, datatype="BYTES", shape=[len(data), 1], data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
