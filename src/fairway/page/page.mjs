// The page: decodes the proof that it carries, or one that is dropped on it, and shows what comes out.

import { drawHistogram, drawRunning } from "./charts.mjs";
import { DecodedText } from "./decoded.mjs";
import { Damage } from "./decoder/binary.mjs";
import { decode } from "./decoder/decode.mjs";
import { byId, element } from "./elements.mjs";
import { acceptFiles, bytesOfBase64, bytesOfLink, nextTask, readFiles, save } from "./files.mjs";
import { Inspector } from "./inspector.mjs";
import { COST_BOUNDS, TextView } from "./textview.mjs";
import { factsOfHeader, factsOfResult, Verdict } from "./verdict.mjs";
import { count, plural } from "./words.mjs";

const MOST_WORKERS = 8;
const MOST_SHOWN_BYTES = 3_000_000; // of a proof: a larger one is checked, and its text can be saved
const CHART_MS = 500; // between two drawings of the charts while the proof is decoded

const PROOF_LEAD =
  "This page holds a language model and a proof: a text, compressed with that model. A decoder in the page turns the proof back into the text, on your machine. If the text comes out, the score is true.";
const VIEW_LEAD =
  "Every token of the file is shaded by what it costs the model: plain where the model knew what comes, strong where it was surprised.";

class Page {
  constructor(script) {
    this.script = script;
    this.meta = JSON.parse(byId("meta").textContent);
    this.verdict = new Verdict();
    this.inspector = new Inspector(byId("token"), (sentence) => this.verdict.announce(sentence));
    this.view = new TextView(byId("text"), {
      onDraw: () => this.showDocumentInSight(),
      barHeight: () => byId("bar").offsetHeight,
      onToken: (section, i, element, cause) =>
        section ? this.inspector.show(this.text, section, i, element, cause === "focus") : this.inspector.hide(),
    });
    this.listen();
  }

  listen() {
    const jump = (number) => {
      const documents = this.text.documents;
      const section = documents[Math.max(1, Math.min(documents.length, Math.round(number) || 1)) - 1];
      if (section) this.view.goTo(section.chunk.first + section.from);
    };
    byId("document").addEventListener("change", () => jump(Number(byId("document").value)));
    byId("previous").addEventListener("click", () => jump(this.documentInSight() - 1));
    byId("next").addEventListener("click", () => jump(this.documentInSight() + 1));
    for (const radio of document.querySelectorAll("[name=shade]"))
      radio.addEventListener("change", () => this.shadeBy(radio.value));
    byId("save").addEventListener("click", () => save(this.result.text, `${this.files.proof.name.replace(/\.fwp$/, "")}.txt`));
    byId("running").addEventListener("click", (event) => this.view.goTo(byId("running").toToken(event.clientX)));
    acceptFiles({ choose: byId("choose"), cover: byId("dropping"), onFiles: (files) => this.checkOthers(files) });
    addEventListener("keydown", (event) => event.key === "Escape" && this.inspector.hide());
    new ResizeObserver(() => this.drawCharts()).observe(byId("charts"));
  }

  async start() {
    if (this.meta.kind === "view") return this.showCharges();
    byId("name").textContent = "A score that proves itself";
    this.verdict.begin(document.title);
    this.verdict.set("busy", "Reading", "The page reads the model and the proof that it carries.");
    const { model, proof } = this.meta;
    this.files = {
      model: { name: model.name, bytes: await bytesOfLink(byId("model")) },
      proof: { name: proof.name, bytes: await bytesOfLink(byId("proof")) },
    };
    await this.check();
  }

  async checkOthers(files) {
    try {
      const chosen = { ...this.files, ...(await readFiles(files)) };
      if (!chosen.model || !chosen.proof) throw new Error(`Choose a ${chosen.model ? "proof" : "model"}, too.`);
      this.files = chosen;
    } catch (error) {
      this.stop?.abort(error);
      this.forget();
      this.verdict.begin("Other files");
      this.verdict.set("bad", "Not checked", error.message);
      return;
    }
    byId("name").textContent = `${this.files.proof.name} with ${this.files.model.name}`;
    byId("by-hand").hidden = true;
    scrollTo({ top: 0, behavior: "instant" });
    await this.check();
  }

  // Decode the files; the verdict is green only if decode() returns.
  async check() {
    this.stop?.abort(new Error("other files are checked"));
    const stop = (this.stop = new AbortController());
    this.forget();
    const { model, proof } = this.files;
    byId("lead").textContent = PROOF_LEAD;
    this.verdict.begin(`${proof.name} · Fairway`);
    this.verdict.set("busy", "Decoding", "The decoder in this page turns the proof back into the text, with the model alone.");
    try {
      const result = await decode(model.bytes, proof.bytes, {
        workers: Math.min(navigator.hardwareConcurrency || 2, MOST_WORKERS),
        startWorker: () => this.startWorker(),
        details: proof.bytes.length <= MOST_SHOWN_BYTES,
        signal: stop.signal,
        onHeader: (header) => stop.signal.aborted || this.begin(header),
        onTokens: (block) => stop.signal.aborted || this.add(block),
        onProgress: ({ tokens, totalTokens }) => stop.signal.aborted || this.verdict.progress(tokens, totalTokens),
      });
      if (!stop.signal.aborted) this.accept(result);
    } catch (error) {
      if (!stop.signal.aborted) this.refuse(error);
    }
  }

  startWorker() {
    this.workerUrl ??= URL.createObjectURL(new Blob([this.script], { type: "text/javascript" }));
    const policy = (this.policy ??= globalThis.trustedTypes?.createPolicy("fairway-worker", {
      createScriptURL: (url) => url,
    }));
    return new Worker(policy ? policy.createScriptURL(this.workerUrl) : this.workerUrl);
  }

  // Empty the page of what was checked before.
  forget() {
    this.result = this.text = this.header = null;
    this.inspector.hide();
    byId("charts").hidden = byId("text-part").hidden = true;
    byId("save").hidden = true;
    byId("text").classList.remove("stale");
  }

  // Take up a header, in three tasks, so that none is long.
  async begin(header) {
    this.header = header;
    this.verdict.facts(factsOfHeader(header));
    if (this.files.proof.bytes.length > MOST_SHOWN_BYTES) return;
    await nextTask();
    const text = new DecodedText(header);
    await nextTask();
    if (this.header === header) this.showText(text);
  }

  showText(text) {
    this.text = text;
    const shade = document.querySelector("[name=shade]:checked").value;
    byId("charts").hidden = byId("text-part").hidden = false;
    this.shadeBy(shade);
    this.view.show(text);
    nextTask().then(() => this.drawCharts());
  }

  add(block) {
    this.text.add(block);
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.refresh();
    });
  }

  refresh() {
    if (!this.text) return;
    if (this.text.update()) this.view.draw();
    if (performance.now() - (this.drawnAt ?? 0) > CHART_MS) this.drawCharts();
  }

  drawCharts() {
    if (!this.text || byId("charts").hidden) return;
    this.drawnAt = performance.now();
    const mean = drawRunning(byId("running"), byId("running-says"), this.text);
    drawHistogram(byId("histogram"), byId("histogram-says"), this.text);
    if (!this.result && mean > 0) this.verdict.score(mean);
    byId("documents").textContent = count(this.text.documents.length);
    byId("document").max = this.text.documents.length;
  }

  accept(result) {
    this.result = result;
    if (this.text) {
      this.text.update();
      this.view.draw();
      this.drawCharts();
    }
    this.verdict.progress(result.tokens, result.tokens);
    this.verdict.score(result.bpb);
    this.verdict.facts(factsOfResult(result, this.header));
    const [proof, text] = [this.header.proofBytes, result.text.length];
    const tooLong = this.text ? "" : " It is too long to be shown here.";
    const reason = `${plural(proof, "byte")} of proof became ${plural(text, "byte")} of text, and the text is the one that the proof names.${tooLong}`;
    const sum = `Bits per byte: ${count(proof)} × 8 / ${count(text)}, the bits of the proof for each byte of the text. Lower is better; 8 would be no compression.`;
    this.verdict.set("good", "Verified", reason, sum);
    byId("save").hidden = false;
  }

  refuse(error) {
    const isDamage = error instanceof Damage;
    if (!isDamage) console.error(error);
    const reason = isDamage ? error.message : `The decoder stopped with a fault of its own: ${error.message}.`;
    const sentence = reason.charAt(0).toUpperCase() + reason.slice(1);
    this.verdict.set("bad", isDamage ? "Not verified" : "Not checked", sentence.endsWith(".") ? sentence : `${sentence}.`);
    if (this.text) {
      this.text.update();
      this.view.draw();
      byId("text").classList.add("stale");
    }
  }

  // Show the page of `fairway view`: charges that Fairway computed, and nothing to prove.
  async showCharges() {
    const { name, model } = this.meta;
    byId("name").textContent = `What ${model.name} knows about ${name}`;
    byId("lead").textContent = VIEW_LEAD;
    this.verdict.begin(document.title);
    const charges = JSON.parse(byId("charges").textContent);
    const text = await textOfCharges(charges);
    byId("charges").remove();
    this.showText(text);
    const bytes = text.documents.reduce((sum, { run }) => sum + run.bytes.length, 0);
    const bits = text.chunks.reduce((sum, chunk) => sum + chunk.bits.reduce((a, b) => a + b, 0), 0);
    this.verdict.score(bits / bytes);
    this.verdict.set("plain", "Computed by Fairway", "These figures were computed when the page was made. They are no proof; a page of fairway page is one.");
    this.verdict.facts([
      ["Text", plural(bytes, "byte"), `${plural(text.tokens, "token")} in ${plural(text.documents.length, "document")}.`],
      ["Compressed", plural(Math.ceil(bits / 8), "byte"), "What all tokens cost together."],
      ["Model", plural(model.bytes, "byte"), "The network and its tokenizer."],
      ["SHA-256 of the model", model.sha256, "The fingerprint of the model's file.", true],
    ]);
  }

  shadeBy(shade) {
    const predictor = document.querySelector("[name=shade][value=predictor]");
    predictor.disabled = this.text?.hasShares === false;
    this.view.setShade(shade);
    byId("legend").replaceChildren(...(shade === "cost" ? legendOfCost() : legendOfPredictors()));
  }

  // Return the number of the document at the top of the window, from 1.
  documentInSight() {
    const top = Number(this.view.topRow()?.dataset.from ?? 0);
    return Math.max(1, this.text.documents.findLastIndex(({ chunk, from }) => chunk.first + from <= top) + 1);
  }

  showDocumentInSight() {
    if (document.activeElement !== byId("document")) byId("document").value = this.documentInSight();
  }
}

async function textOfCharges({ vocabulary, documents }) {
  const pieces = await Promise.all(vocabulary.map((piece) => (piece === null ? null : bytesOfBase64(piece))));
  const numbers = async (base64, Type) => new Type((await bytesOfBase64(base64)).buffer);
  const read = [];
  for (const { bytes, ends, token, bits, top, topBits, shares } of documents)
    read.push({
      bytes: await bytesOfBase64(bytes),
      ends: await numbers(ends, Uint32Array),
      token: await numbers(token, Uint16Array),
      bits: await numbers(bits, Float32Array),
      top: await numbers(top, Uint16Array),
      topBits: await numbers(topBits, Float32Array),
      shares: shares && (await numbers(shares, Float32Array)),
    });
  let next = 0;
  const text = new DecodedText({
    chunks: read.map(({ token }) => ({ tokens: token.length, stored: null, begun: [] })),
    vocabulary: pieces.length,
    bos: read[0].token[0],
    newWriter() {
      const { bytes, ends } = read[next++]; // each document is a chunk and a run
      let k = 0;
      return { bytes, length: 0, write() { this.length = ends[k++]; } };
    },
    tokenBytes: (id) => pieces[id],
    hasShares: read.every(({ shares }) => shares),
  });
  for (const [chunk, { token, ...others }] of read.entries())
    text.add({ chunk, start: token.map((_, i) => i), token, ...others });
  text.update();
  return text;
}

function legendOfCost() {
  const names = COST_BOUNDS.map((bound, level) => (level === 1 ? "½" : String(bound)));
  names[names.length - 1] += "+";
  return [...names.map((name, level) => swatch(`k${level}`, name)), "bits"];
}

function legendOfPredictors() {
  const names = { n: "network", g: "n-grams", m: "neural cache" };
  return Object.entries(names).map(([key, name]) =>
    element("b", {}, ...[1, 2, 3, 4].map((level) => swatch(key + level, "\u00a0")), ` ${name}`),
  );
}

const swatch = (shade, label) => element("span", { class: shade }, label);

export function startPage(script) {
  new Page(script).start();
}
