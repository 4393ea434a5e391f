// A worker: it opens the model, then predicts for a group of lanes of one chunk after another.
import { Damage, NoVerdict } from "./binary.mjs";
import { readArtifact } from "./artifact.mjs";
import { LaneGroup } from "./group.mjs";

/** Serve a port {postMessage, onmessage}: a Web Worker's own scope, or the parent's port in Node. */
export function serveWorker(port) {
  let artifact = null;
  let group = null;

  const tellDetails = (atEnd) => {
    const block = group.takeDetails(atEnd);
    if (block) port.postMessage({ kind: "details", block }, Object.values(block).map(({ buffer }) => buffer));
  };
  const tellPrediction = () => {
    const prediction = group.predict();
    if (prediction) port.postMessage({ kind: "prediction", ...prediction });
  };
  const answers = {
    open({ model }) {
      artifact = readArtifact(model);
      const { recipe, tokenizer: { kind, text } } = artifact;
      port.postMessage({ kind: "opened", recipe, tokenizer: { kind, text } });
    },
    start({ lanes, details }) {
      group = new LaneGroup(artifact, lanes, details);
      tellPrediction();
    },
    tokens({ tokens }) {
      group.accept(tokens);
      tellPrediction();
      tellDetails(false);
    },
    finish() {
      tellDetails(true);
      group = null;
      port.postMessage({ kind: "finished" });
    },
  };

  port.onmessage = ({ data }) => {
    try {
      answers[data.kind](data);
    } catch (error) {
      const failure = error instanceof NoVerdict ? "NoVerdict" : error instanceof Damage ? "Damage" : "Error";
      port.postMessage({ kind: "failed", failure, sentence: failure === "Error" ? String(error.stack) : error.message });
    }
  };
}
