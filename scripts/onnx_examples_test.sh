#!/usr/bin/env bash
# Run docs/examples where neither PyTorch nor bci_decode is installed: Python, Node.js and PyTorch must decode the same.
#   scripts/onnx_examples_test.sh [PYTHON]      of the project; needs the registries of pip and npm
# Exit code 0: all the same; 1: not; 77: this machine has no npm.
set -euo pipefail
python=${1:-.venv/bin/python}
command -v npm > /dev/null || { echo "examples not run: npm is not installed"; exit 77; }
D=$(mktemp -d)
trap 'rm -rf "$D"' EXIT
export OMP_NUM_THREADS=1

echo "--- a decoder, counts, and what PyTorch decodes from them"
"$python" -m bci_decode.cli train session=simulated session.minutes=2 session.channels=8 data_dir="$D" \
  output_dir="$D/outputs" model=lngru model.recurrent.hidden_size=16 trainer.epochs=1 data.low_pass=2 > "$D/log" 2>&1 \
  || { cat "$D/log"; exit 1; }
run=$(dirname "$(find "$D/outputs" -name best.pt)")
"$python" -m bci_decode.cli export "$run" "$D/decoder.onnx"
"$python" - "$run" "$D" <<'END'
import sys
import numpy as np
from bci_decode.realtime.decoder import StreamingDecoder
decoder = StreamingDecoder.load(sys.argv[1], "torch")
counts = np.random.default_rng(0).poisson(0.5, (500, len(decoder.units))).astype(np.float32)
np.save(f"{sys.argv[2]}/counts.npy", counts)
np.savetxt(f"{sys.argv[2]}/pytorch.csv", decoder.predict(counts), delimiter=",")
END

echo "--- Python without PyTorch"
python3 -m venv "$D/venv"
"$D/venv/bin/python" -m pip install -q --disable-pip-version-check numpy onnxruntime
if "$D/venv/bin/python" -c "import torch" 2> /dev/null; then echo "PyTorch is there"; exit 1; fi
cp docs/examples/onnx_step.* "$D"
"$D/venv/bin/python" "$D/onnx_step.py" "$D/decoder.onnx" "$D/counts.npy" | tail -n +2 | cut -d, -f2- > "$D/python.csv"
PYTHONPATH=$PWD "$D/venv/bin/python" - "$D" <<'END'
import sys
import numpy as np
from bci_decode.realtime.onnx.decoder import OnnxDecoder
decoded = OnnxDecoder(f"{sys.argv[1]}/decoder.onnx").predict(np.load(f"{sys.argv[1]}/counts.npy"))
np.savetxt(f"{sys.argv[1]}/class.csv", decoded, delimiter=",")
END

echo "--- Node.js"
(cd "$D" && npm install --ignore-scripts --no-audit --no-fund --silent onnxruntime-node)
node "$D/onnx_step.mjs" "$D/decoder.onnx" "$D/counts.npy" > "$D/node.csv"

"$python" - "$D" <<'END'
import sys
import numpy as np
expected = np.loadtxt(f"{sys.argv[1]}/pytorch.csv", delimiter=",")
for name in ("python", "class", "node"):
    decoded = np.loadtxt(f"{sys.argv[1]}/{name}.csv", delimiter=",")
    assert decoded.shape == expected.shape, name
    difference = np.abs(decoded - expected).max() / expected.std()
    print(f"{name}.csv: {len(decoded)} bins, at most {difference:.1e} SD from PyTorch")
    assert difference < 1e-4, name  # the examples print six digits
END
