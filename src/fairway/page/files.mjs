// Files: those that the page carries, those that are dropped on it, and those that it saves.

import { element } from "./elements.mjs";

const PIECE = 1 << 18; // base64 characters that are read at a time

export const nextTask = () => new Promise((resolve) => setTimeout(resolve));

export async function bytesOfBase64(base64) {
  const padding = base64.endsWith("==") ? 2 : base64.endsWith("=") ? 1 : 0;
  const bytes = new Uint8Array((base64.length / 4) * 3 - padding);
  for (let at = 0, written = 0; at < base64.length; at += PIECE) {
    const piece = atob(base64.slice(at, at + PIECE));
    for (let k = 0; k < piece.length; k++) bytes[written++] = piece.charCodeAt(k);
    if (base64.length > PIECE) await nextTask();
  }
  return bytes;
}

// Return the bytes behind a link of the page, which from then on saves them from memory.
export async function bytesOfLink(link) {
  const bytes = await bytesOfBase64(link.getAttribute("href").split(",", 2)[1]);
  link.href = addressOf(bytes);
  return bytes;
}

const addressOf = (bytes) => URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));

export function save(bytes, name) {
  const link = element("a", { download: name, href: addressOf(bytes) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function kindOf(bytes) {
  return { FWAY: "model", FWPF: "proof" }[String.fromCharCode(...bytes.subarray(0, 4))];
}

// Sort chosen files into {model, proof}, each {name, bytes}. Throws an Error with one sentence.
export async function readFiles(files) {
  const chosen = {};
  for (const file of files) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const kind = kindOf(bytes) ?? { fairway: "model", fwp: "proof" }[file.name.split(".").pop()];
    if (!kind) throw new Error(`${file.name} is neither a model of Fairway (.fairway) nor a proof (.fwp).`);
    if (chosen[kind]) throw new Error(`${chosen[kind].name} and ${file.name} are both a ${kind}: choose one model and one proof.`);
    chosen[kind] = { name: file.name, bytes };
  }
  return chosen;
}

// Call onFiles with what is dropped anywhere on the page, or chosen with the button.
export function acceptFiles({ choose, cover, onFiles }) {
  choose.addEventListener("change", () => {
    if (choose.files.length) onFiles([...choose.files]);
    choose.value = "";
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    cover.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) cover.hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    cover.hidden = true;
    if (event.dataTransfer.files.length) onFiles([...event.dataTransfer.files]);
  });
}
