// Decode counts bin by bin with an exported decoder in Node.js: npm install onnxruntime-node
//
//     node onnx_step.mjs decoder.onnx counts.npy      float32 counts (bins, units)
import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [model, file] = process.argv.slice(2);
const session = await InferenceSession.create(model, { intraOpNumThreads: 1 });

const npy = readFileSync(file); // a header in text, then the numbers row by row
const start = 10 + npy.readUInt16LE(8);
const header = npy.toString("latin1", 10, start);
if (!header.includes("'descr': '<f4'") || !header.includes("'fortran_order': False"))
  throw new Error(`${file} has other numbers than float32, row by row: ${header.trim()}`);
const [bins, units] = header.match(/\((\d+), (\d+)\)/).slice(1).map(Number);
const counts = new Float32Array(new Uint8Array(npy.subarray(start)).buffer);

const arrays = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };
let state = {}; // of one stream: zeros before its first bin; goes in and out of every step
for (const { name, type, shape } of session.inputMetadata) {
  const sizes = [1, ...shape.slice(1)];
  const zeros = new arrays[type](sizes.reduce((product, size) => product * size, 1));
  if (name !== "counts") state[name] = new Tensor(type, zeros, sizes);
}
for (let bin = 0; bin < bins; bin++) {
  const row = new Tensor("float32", counts.slice(bin * units, (bin + 1) * units), [1, units]);
  const outputs = await session.run({ counts: row, ...state });
  console.log(Array.from(outputs.kinematics.data, (value) => value.toPrecision(6)).join(","));
  for (const name in state) state[name] = outputs[`next.${name}`];
}
