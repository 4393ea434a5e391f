// A worker: it opens the model, then predicts for a group of lanes of one chunk after another. Each message
// [name, value] gets one answer, {answer} or {failure, sentence}.
import { Damage, NoVerdict } from "./binary.mjs";
import { readArtifact } from "./artifact.mjs";
import { LaneGroup } from "./group.mjs";

/** Serve a port {postMessage, onmessage}: a Web Worker's own scope, or the parent's port in Node. */
export function serveWorker(port) {
  let artifact, group;
  const answers = {
    open(model) {
      artifact = readArtifact(model);
      return { recipe: artifact.recipe, kind: artifact.tokenizer.kind, text: artifact.tokenizer.text };
    },
    start({ lanes, details }) { group = new LaneGroup(artifact, lanes, details); return group.predict(); },
    tokens(tokens) { group.accept(tokens); return group.predict(); },
  };
  port.onmessage = ({ data: [name, value] }) => {
    try {
      port.postMessage({ answer: answers[name](value) });
    } catch (error) {
      const failure = error instanceof NoVerdict ? "NoVerdict" : error instanceof Damage ? "Damage" : "Error";
      port.postMessage({ failure, sentence: failure === "Error" ? String(error.stack) : error.message });
    }
  };
}
