"""Decode counts bin by bin with an exported decoder: NumPy and onnxruntime are all it needs.

python onnx_step.py decoder.onnx [counts.npy]      counts (bins, units) of an .npy file
"""

import json
import sys

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # more threads gain nothing for one bin
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
units = json.loads(about["units"])  # [channel, area, row] of each column of the counts

drawn = np.random.default_rng(0).poisson(0.5, (20, len(units)))
counts = (np.load(sys.argv[2]) if len(sys.argv) > 2 else drawn).astype(np.float32)
state = {  # of one stream, before its first bin; these arrays go in and out of every step
    one["name"]: np.array(one.get("initial", np.zeros(one["shape"])), one["dtype"])[None]
    for one in json.loads(about["state"])
}
print("time_s", *(f"{axis}_{about['unit']}" for axis in json.loads(about["axes"])), sep=",")
for number, bin_ in enumerate(counts):
    outputs = session.run(None, {"counts": bin_[None], **state})
    kinematics, state = outputs[0][0], dict(zip(state, outputs[1:], strict=True))
    time = (number + 1) * json.loads(about["bin_width"]) + json.loads(about["lag"])
    print(f"{time:.3f}", *(f"{value:.6g}" for value in kinematics), sep=",")
