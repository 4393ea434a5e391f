// Decode a proof with its model: the range coder here, predictions in groups of lanes, here or in workers.
import { Damage, bytesOfHex, demand, joinBytes } from "./binary.mjs";
import { readArtifact } from "./artifact.mjs";
import { Distribution } from "./frequencies.mjs";
import { LaneGroup } from "./group.mjs";
import { NoVerdict, readProof } from "./proof.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { sha256Of } from "./sha256.mjs";
import { TextWriter, openTokenizer } from "./tokenizer.mjs";

const PATIENCE_MS = 40;

/** Let the event loop run. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Groups of lanes in this thread. */
class LocalTeam {
  async open(model) {
    this.artifact = readArtifact(model);
    return this.artifact;
  }

  start(lanes, details, onDetails) {
    const group = new LaneGroup(this.artifact, lanes, details);
    return {
      predict: () => group.predict(),
      accept(tokens) {
        group.accept(tokens);
        const block = group.takeDetails(false);
        if (block) onDetails(block);
      },
      finish() {
        const block = group.takeDetails(true);
        if (block) onDetails(block);
      },
    };
  }

  close() {}
}
