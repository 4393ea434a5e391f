// The card at the top: what is being checked, how far it is, and the verdict.

import { byId, element } from "./elements.mjs";
import { count, duration, plural } from "./words.mjs";

const QUARTER = 25; // percent of progress between two announcements to a screen reader

export class Verdict {
  constructor() {
    this.card = byId("verdict");
    this.card.hidden = false;
  }

  // Show a state: kind "busy", "good", "bad" or "plain"; its name in two words; why, in a sentence; and a note.
  set(kind, name, reason, note = "") {
    this.card.classList.toggle("good", kind === "good");
    this.card.classList.toggle("bad", kind === "bad");
    this.card.dataset.kind = kind;
    byId("state").textContent = name;
    byId("reason").textContent = reason;
    byId("progress").hidden = kind !== "busy";
    byId("pace").textContent = note;
    this.announce(`${name}. ${reason}`);
    if (kind === "good") document.title = `✓ ${document.title}`;
    if (kind === "bad") document.title = `✕ ${document.title}`;
  }

  announce(sentence) {
    byId("announce").textContent = sentence;
  }

  begin(name) {
    document.title = name;
    this.startedAt = performance.now();
    this.announced = 0;
    byId("facts").replaceChildren();
    this.score(null);
    this.progress(0, 0);
  }

  progress(tokens, total) {
    const share = total ? tokens / total : 0;
    const percentDone = Math.floor(100 * share);
    byId("progress").firstElementChild.style.transform = `scaleX(${share})`;
    byId("progress").setAttribute("aria-valuenow", percentDone);
    const seconds = (performance.now() - this.startedAt) / 1000;
    const left = share > 0.02 && share < 1 ? ` · about ${duration((seconds * (1 - share)) / share)} left` : "";
    const pace = seconds > 1 && tokens ? ` · ${count(Math.round(tokens / seconds))} tokens per second${left}` : "";
    byId("pace").textContent = total ? `${count(tokens)} of ${plural(total, "token")}${pace}` : "";
    if (percentDone >= this.announced + QUARTER && percentDone < 100) {
      this.announced = percentDone - (percentDone % QUARTER);
      this.announce(`${this.announced} percent decoded`);
    }
  }

  // Show bits per byte; null: not known yet.
  score(bpb) {
    byId("bpb").textContent = bpb === null ? "–" : bpb.toFixed(4);
  }

  // Show facts: [name, value, explanation, isHash].
  facts(rows) {
    const made = rows.map(([name, value, explanation, isHash]) => {
      const parts = [element("dt", {}, name), element("dd", { class: isHash ? "hash" : "" }, value)];
      return element("div", { class: isHash ? "wide" : "" }, ...parts, element("dd", { class: "note" }, explanation));
    });
    byId("facts").replaceChildren(...made);
  }
}

// What is known before the first token is decoded.
export function factsOfHeader({ modelBytes, proofBytes, modelSha256, proofSha256 }) {
  return [
    ["Proof", plural(proofBytes, "byte"), "What the model could not guess of the text."],
    ["Model", plural(modelBytes, "byte"), "The network and its tokenizer: all that the decoder has."],
    ["SHA-256 of the model", modelSha256, "The fingerprint of the model's file: another model has another one.", true],
    ["SHA-256 of the proof", proofSha256, "The fingerprint of the proof's file.", true],
  ];
}

export function factsOfResult(result, header) {
  const [proof, model, modelHash, proofHash] = factsOfHeader(header);
  const speed = `${count(Math.round(result.tokens / Math.max(result.seconds, 0.001)))} tokens per second`;
  return [
    ["Text", plural(result.text.length, "byte"), `In ${plural(result.documents.length, "document")}: what came out of the decoder.`],
    proof,
    model,
    ["Time", duration(result.seconds), `For ${plural(result.tokens, "token")}, ${speed}.`],
    ["SHA-256 of the text", result.textSha256, "The fingerprint of what was decoded. Only the text that was to be compressed has the same one: compare them.", true],
    modelHash,
    proofHash,
  ];
}
