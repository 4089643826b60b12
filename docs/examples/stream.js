// Angles of an EMG stream by a model of `emg-train export RUN --streaming --json`, in a browser. Needs onnxruntime-web.
import * as ort from "onnxruntime-web";

// emg: Float32Array of rows x channels in the recordings' units. lag and left_context: as export prints them.
// Gives a Float32Array of (rows - left_context) x joints, radians.
export async function stream(model, emg, { lag, left_context }) {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });
  const shape = Object.fromEntries(session.inputMetadata.map(({ name, shape }) => [name, shape]));
  const [, chunk, channels] = shape.emg, rows = emg.length / channels, parts = [];
  let state = new ort.Tensor("float32", new Float32Array(shape.state[0]), shape.state);
  let position = new ort.Tensor("int64", new BigInt64Array(shape.position[0]), shape.position);
  for (let start = 0; start < rows + lag; start += chunk) { // behind the end come the rows that lag
    const padded = new Float32Array(chunk * channels), count = Math.max(0, Math.min(chunk, rows - start));
    padded.set(emg.subarray(start * channels, (start + count) * channels));
    const fed = { emg: new ort.Tensor("float32", padded, [1, chunk, channels]), state, position };
    const out = await session.run({ ...fed, rows: new ort.Tensor("int64", [BigInt(count)], [1]) });
    [state, position] = [out.next_state, out.next_position];
    parts.push(out.joint_angles.data);
  }
  const joints = parts[0].length / chunk, angles = new Float32Array(parts.length * parts[0].length);
  parts.forEach((part, i) => angles.set(part, i * part.length));
  return angles.slice((left_context + lag) * joints, (rows + lag) * joints);
}
