// A worker: it opens the model, then predicts for a group of lanes of one chunk after another. Each
// message [name, value] gets one answer, {answer} or {failure, sentence}.
import { readArtifact } from "./artifact.mjs";
import { Damage, NoVerdict } from "./binary.mjs";
import { LaneGroup } from "./group.mjs";

/** Serve a port {postMessage, onmessage}: a Web Worker's own scope, or a port of Node. */
export function serveWorker(port) {
  let artifact, group;
  const answers = {
    open(model) {
      artifact = readArtifact(model);
      const { kind, text } = artifact.tokenizer;
      return { recipe: artifact.recipe, kind, text };
    },
    start({ lanes, details }) {
      group = new LaneGroup(artifact, lanes, details);
      return group.predict();
    },
    tokens(tokens) {
      group.accept(tokens);
      return group.predict();
    },
  };
  port.onmessage = ({ data: [name, value] }) => {
    try {
      port.postMessage({ answer: answers[name](value) });
    } catch (error) {
      const isDamage = error instanceof Damage;
      const sentence = isDamage ? error.message : String(error.stack);
      const failure = error instanceof NoVerdict ? "NoVerdict" : isDamage ? "Damage" : "Error";
      port.postMessage({ failure, sentence });
    }
  };
}
