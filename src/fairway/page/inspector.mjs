// The card about one token: its bits, its probability, what the model expected, and who predicted it.

import { nodesOfPieces, piecesOfBytes } from "./glyphs.mjs";
import { percent } from "./words.mjs";

const PREDICTOR_NAMES = ["network", "n-grams", "neural cache"];
const CAPITAL_MARKS = { "EE 80 81": "⇧ capital", "EE 80 82": "⇪ capitals" }; // U+E001, U+E002 of the tokenizer

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

// Return nodes that show what a token writes; null: it begins a document, or another control token.
function shown(bytes) {
  if (bytes === null) return ["(document start)"];
  const pieces = piecesOfBytes(bytes, 0, bytes.length);
  for (const piece of pieces) piece.label = CAPITAL_MARKS[piece.hex] ?? piece.label;
  return nodesOfPieces(pieces, { marks: true });
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
    const cost = element("p", "", { class: "cost" });
    const value = element("b", bits.toFixed(2), { "data-bits": bits });
    if (id === null) cost.append(element("b", bits.toFixed(2)), " bits: these bytes are stored as they are");
    else cost.append(value, ` bits · probability ${percent(2 ** -bits)}`);
    const parts = [element("p", shown(own), { class: "what" }), cost];
    if (likeliest.length) parts.push(this.table(text, id, bits, likeliest));
    if (shares) parts.push(...this.sharesOf(shares));
    this.card.replaceChildren(...parts);
    this.card.hidden = false;
    this.place(beside);
    if (isFocused) this.say(own, bits, likeliest, text);
  }

  table(text, id, bits, likeliest) {
    const table = element("table", element("caption", "What the model expected here"));
    const row = (other, otherBits) => {
      const bar = element("i", "");
      bar.style.width = `${100 * 2 ** -otherBits}%`;
      const cells = [element("th", shown(text.tokenBytes(other)), { scope: "row" }), element("td", bar), element("td", percent(2 ** -otherBits))];
      table.append(element("tr", cells, { "data-id": other, "data-bits": otherBits, ...(other === id && { class: "this" }) }));
    };
    for (const { id: other, bits: otherBits } of likeliest) row(other, otherBits);
    if (!likeliest.some((other) => other.id === id)) row(id, bits);
    return table;
  }

  sharesOf(shares) {
    const bar = element("div", shares.map(() => element("i", "")), { class: "shares", "aria-hidden": "true" });
    shares.forEach((share, k) => (bar.children[k].style.width = `${100 * share}%`));
    const named = shares.map((share, k) => [share, `${PREDICTOR_NAMES[k]} ${percent(share)}`]).filter(([share]) => share > 0);
    return [bar, element("p", named.map(([, name]) => name).join(" · "), { class: "by", "data-shares": shares.join(" ") })];
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
    const spoken = (bytes) => element("p", shown(bytes)).textContent;
    const best = likeliest.length ? ` Likeliest: ${spoken(text.tokenBytes(likeliest[0].id))}, ${percent(2 ** -likeliest[0].bits)}.` : "";
    this.announce(`${spoken(own)}: ${bits.toFixed(1)} bits, probability ${percent(2 ** -bits)}.${best}`);
  }
}
