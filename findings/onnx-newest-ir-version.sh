#!/usr/bin/env bash
# onnx writes the newest IR version, whatever the operators need, so older runtimes refuse the file.
#
# Packages: onnx 1.23.2, onnxruntime 1.17.3 (with numpy 1.26.4, as it needs).
# Input: one Relu with opset 18, made by onnx.helper.make_model. (torch.onnx does alike: IR 10.)
# Seen: ir_version is that of the onnx package, not of opset 18; onnxruntime 1.17.3 raises "Unsupported
#     model IR version ... max supported IR version: 9", though it knows all operators of opset 18.
#     With ir_version set to 8 it loads and gives the same numbers.
# Expected: the lowest IR version that allows the opset (8 for opset 18: onnx's table of versions).
# Known: microsoft/onnxruntime#20559, onnx/sklearn-onnx#1118.
# Instead: model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import) before saving.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 numpy==2.4.6 || exit 2
python3 -m venv old
old/bin/pip install --quiet --disable-pip-version-check \
    onnxruntime==1.17.3 numpy==1.26.4 || exit 2

cat > check.py <<'PY'
import subprocess
import sys

import onnx
from onnx import TensorProto, helper

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
least = helper.find_min_ir_version_for(model.opset_import)
load = """
import sys, numpy, onnxruntime
try:
    session = onnxruntime.InferenceSession(sys.argv[1])
    print(session.run(None, {"x": numpy.array([-1, 1], "f4")})[0].tolist())
except Exception as error:
    print(str(error).split(":", 3)[-1].strip()[-90:])
"""
seen = {}
for version in (model.ir_version, least):
    model.ir_version = version
    onnx.save(model, "relu.onnx")
    command = ["old/bin/python", "-c", load, "relu.onnx"]
    seen[version] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
print("onnx", onnx.__version__, "onnxruntime 1.17.3; IR version that opset 18 needs:", least)
print("expected: [0.0, 1.0] from the model as onnx makes it")
for version, answer in seen.items():
    print(f"seen: IR version {version}: {answer}")
written = max(seen)
if "nsupported" not in seen[written] or seen[least] != "[0.0, 1.0]" or written == least:
    sys.exit("changed: onnx writes an IR version that fits the opset, or the runtime takes it")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
