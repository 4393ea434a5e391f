// The card about one token: its bits, its probability, what the model expected, and who predicted it.

import { element } from "./elements.mjs";
import { nodesOfPieces, piecesOfBytes } from "./glyphs.mjs";
import { percent } from "./words.mjs";

const PREDICTOR_NAMES = ["network", "n-grams", "neural cache"];
const CAPITAL_MARKS = { "EE 80 81": "⇧ capital", "EE 80 82": "⇪ capitals" }; // U+E001, U+E002 of the tokenizer

// Return nodes that show what a token writes; null: it begins a document, or another control token.
function shown(bytes) {
  if (bytes === null) return ["(document start)"];
  const pieces = piecesOfBytes(bytes, 0, bytes.length);
  for (const piece of pieces) piece.label = CAPITAL_MARKS[piece.hex] ?? piece.label;
  return nodesOfPieces(pieces);
}

// Return a bar as long as a share.
function bar(share) {
  const made = element("i");
  made.style.width = `${100 * share}%`;
  return made;
}

export class Inspector {
  constructor(card, announce) {
    Object.assign(this, { card, announce });
  }

  hide() {
    this.card.hidden = true;
  }

  show(text, section, i, beside, isFocused) {
    const { bytes, bits, id, likeliest, shares } = text.detailsOf(section, i);
    const own = id === text.bos ? null : id !== null && !bytes.length ? text.tokenBytes(id) : bytes;
    const why = id === null ? "bits: these bytes are stored as they are" : `bits · probability ${percent(2 ** -bits)}`;
    const cost = element("p", { class: "cost" }, element("b", { "data-bits": bits }, bits.toFixed(2)), ` ${why}`);
    const parts = [element("p", { class: "what" }, ...shown(own)), cost];
    if (likeliest.length) parts.push(this.table(text, id, bits, likeliest));
    if (shares) parts.push(...this.sharesOf(shares));
    this.card.replaceChildren(...parts);
    this.card.hidden = false;
    this.place(beside);
    if (isFocused) this.say(own, bits, likeliest, text);
  }

  table(text, id, bits, likeliest) {
    const isThere = likeliest.some((other) => other.id === id);
    const rows = [...likeliest, ...(isThere ? [] : [{ id, bits }])].map((other) => {
      const probability = 2 ** -other.bits;
      const attributes = { "data-id": other.id, "data-bits": other.bits, class: other.id === id ? "this" : "" };
      const name = element("th", { scope: "row" }, ...shown(text.tokenBytes(other.id)));
      return element("tr", attributes, name, element("td", {}, bar(probability)), element("td", {}, percent(probability)));
    });
    return element("table", {}, element("caption", {}, "What the model expected here"), ...rows);
  }

  sharesOf(shares) {
    const named = shares.map((share, k) => share > 0 && `${PREDICTOR_NAMES[k]} ${percent(share)}`).filter(Boolean);
    return [
      element("div", { class: "shares", "aria-hidden": "true" }, ...shares.map(bar)),
      element("p", { class: "by", "data-shares": shares.join(" ") }, named.join(" · ")),
    ];
  }

  place(beside) {
    const box = beside.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const room = innerHeight - box.bottom;
    const y = room > height + 16 || box.top < height + 16 ? box.bottom + 8 : box.top - height - 8;
    this.card.style.left = `${Math.max(8, Math.min(box.left - 12, document.documentElement.clientWidth - width - 8))}px`;
    this.card.style.top = `${Math.max(8, Math.min(y, innerHeight - height - 8))}px`;
  }

  // Tell a screen reader about the token that has the focus.
  say(own, bits, likeliest, text) {
    const spoken = (bytes) => shown(bytes).map((node) => node.textContent ?? node).join("");
    const best = likeliest.length ? ` Likeliest: ${spoken(text.tokenBytes(likeliest[0].id))}, ${percent(2 ** -likeliest[0].bits)}.` : "";
    this.announce(`${spoken(own)}: ${bits.toFixed(1)} bits, probability ${percent(2 ** -bits)}.${best}`);
  }
}
