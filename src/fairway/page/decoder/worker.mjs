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
    if (!prediction) return;
    const { lanes, sums, additions, rests } = prediction;
    const size = lanes * (group.vocabulary + 1);
    const copies = [sums.slice(0, size), additions?.slice(0, size) ?? null, rests.slice(0, lanes)];
    const message = { lanes, sums: copies[0], additions: copies[1], rests: copies[2] };
    port.postMessage({ kind: "prediction", prediction: message }, copies.filter((copy) => copy).map(({ buffer }) => buffer));
  };

  const answers = {
    open({ model }) {
      artifact = readArtifact(model);
      const { recipe, tokenizer } = artifact;
      port.postMessage({ kind: "opened", recipe, tokenizerKind: tokenizer.kind, tokenizerText: tokenizer.text });
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
      const damage = error instanceof Damage;
      const sentence = damage ? error.message : `a worker failed: ${error.stack ?? error}`;
      port.postMessage({ kind: "failed", damage, noVerdict: error instanceof NoVerdict, sentence });
    }
  };
}
