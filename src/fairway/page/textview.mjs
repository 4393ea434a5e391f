// Shows the rows of the text that are in sight, token by token, and moves between tokens.

import { element } from "./elements.mjs";
import { Layout, HEAD_ROWS, ROW_HEIGHT, rowOfToken } from "./layout.mjs";
import { count } from "./words.mjs";

export const COST_BOUNDS = [0, 0.5, 1, 2, 4, 6, 8, 12]; // bits at which the shades of cost begin
const SHARE_BOUNDS = [0, 0.5, 0.7, 0.9]; // shares at which the shades of a predictor begin
const PREDICTOR_CLASSES = ["n", "g", "m"];
const AHEAD_ROWS = 5; // rows that are kept beyond either edge of the window
const TOKENS_IN_SIGHT = 1900; // that are in the document at a time: each is an element and its text
const MARGINS = 38; // px, left and right of the rows together
const SLICE_MS = 8; // of layout, per frame

export class TextView {
  // box: the element of the text; barHeight(): how much of the window a bar covers; onToken(section, i, element,
  // cause): a token was pointed at, or none (null); onDraw(): rows were shown
  constructor(box, { barHeight, onToken, onDraw }) {
    Object.assign(this, { box, barHeight, onToken, onDraw, shade: "cost", text: null, current: 0, shown: new Map() });
    const redraw = () => this.request();
    addEventListener("scroll", redraw, { passive: true });
    new ResizeObserver(redraw).observe(box);
    box.addEventListener("pointerover", (event) => this.point(event));
    box.addEventListener("pointerleave", () => this.leave());
    box.addEventListener("click", (event) => this.choose(event));
    box.addEventListener("focusin", (event) => this.point(event, "focus"));
    box.addEventListener("focusout", () => this.leave());
    box.addEventListener("keydown", (event) => this.press(event));
  }

  show(text) {
    this.text = text;
    this.layout = null;
    this.current = 0;
    this.redraw();
  }

  setShade(shade) {
    this.shade = shade;
    this.redraw();
  }

  redraw() {
    this.shown.clear();
    this.box.replaceChildren();
    this.request();
  }

  request() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  // Lay out for a while, find what is in sight, and show it.
  draw() {
    if (!this.text || this.box.clientWidth === 0) return;
    const style = getComputedStyle(this.box);
    const width = this.box.clientWidth - MARGINS;
    const rowsInSight = (Math.ceil(innerHeight / 200) * 200) / ROW_HEIGHT + 2 * AHEAD_ROWS;
    const mostTokens = Math.floor(TOKENS_IN_SIGHT / rowsInSight);
    if (this.layout?.room !== width || this.layout.mostTokens !== mostTokens)
      this.layout = new Layout(this.text, `${style.fontSize} ${style.fontFamily}`, width, mostTokens);
    const anchor = this.anchor();
    this.place();
    if (this.layOutSome()) this.request();
    this.keep(anchor);
    this.showRows();
    this.onDraw();
  }

  // Number the rows: offsets[k] is the row at which section k begins.
  place() {
    let rows = 0;
    this.offsets = this.text.sections.map((section) => {
      const offset = rows;
      rows += this.layout.rowsOf(section);
      return offset;
    });
    this.rows = rows;
    this.box.style.height = `${rows * ROW_HEIGHT}px`;
  }

  // The rows in sight, as numbers from the top of the text.
  sight() {
    const top = -this.box.getBoundingClientRect().top / ROW_HEIGHT;
    return [top - AHEAD_ROWS, top + innerHeight / ROW_HEIGHT + AHEAD_ROWS];
  }

  // Return the index of the section that holds a row.
  sectionAt(row) {
    let low = 0;
    let high = this.offsets.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.offsets[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // Lay out what is in sight, then other sections while there is time. Return whether any are left.
  layOutSome() {
    const end = performance.now() + SLICE_MS;
    const isDue = (section) => section.run !== null && !this.layout.isLaidOut(section);
    for (let round = 0; round < 4; round++) {
      const [from, to] = this.sight();
      let isMoved = false;
      for (let k = this.sectionAt(from); k < this.offsets.length && this.offsets[k] < to; k++)
        if (isDue(this.text.sections[k])) {
          this.layout.layOut(this.text.sections[k]);
          isMoved = true;
        }
      if (!isMoved) break;
      this.place();
    }
    for (const section of this.text.sections)
      if (isDue(section)) {
        if (performance.now() > end) {
          this.place();
          return true;
        }
        this.layout.layOut(section);
      }
    this.place();
    return false;
  }

  // What stands at the top edge of the window, so that it stays there when rows above it come or go.
  anchor() {
    const row = this.box.getBoundingClientRect().top < 0 ? this.topRow() : null;
    return row && { token: Number(row.dataset.from), y: row.getBoundingClientRect().top };
  }

  keep(anchor) {
    if (!anchor) return;
    const y = this.box.getBoundingClientRect().top + this.rowOf(anchor.token) * ROW_HEIGHT;
    if (Math.abs(y - anchor.y) >= ROW_HEIGHT) scrollBy({ top: y - anchor.y, behavior: "instant" });
  }

  // Return the row, from the top of the text, of a token with this index in the text.
  rowOf(index) {
    const { section, i } = this.text.find(index);
    const offset = this.offsets[this.text.sections.indexOf(section)];
    const head = section.startsDocument ? HEAD_ROWS : 0;
    if (i === section.from) return offset;
    return offset + head + (this.layout.isLaidOut(section) ? rowOfToken(section, i) : 0);
  }

  showRows() {
    const [from, to] = this.sight();
    const wanted = new Map();
    for (let k = this.sectionAt(from); k < this.offsets.length && this.offsets[k] < to; k++)
      this.wantRows(wanted, k, from, to);
    for (const [key, element] of this.shown)
      if (!wanted.has(key)) {
        if (element.contains(document.activeElement)) this.leave();
        element.remove();
        this.shown.delete(key);
      }
    let after = this.box.firstChild;
    for (const [key, { make, row }] of wanted) {
      let element = this.shown.get(key);
      if (!element) this.shown.set(key, (element = make()));
      if (element === after) after = after.nextSibling;
      else this.box.insertBefore(element, after);
      const place = `translateY(${row * ROW_HEIGHT}px)`;
      if (element.style.transform !== place) element.style.transform = place;
    }
    this.tabStop();
  }

  wantRows(wanted, k, from, to) {
    const section = this.text.sections[k];
    const { chunk } = section;
    const id = chunk.first + section.from;
    let row = this.offsets[k];
    if (section.run === null) {
      const rows = this.layout.rowsOf(section);
      const first = Math.max(row, Math.floor(from));
      const last = Math.min(row + rows, Math.ceil(to));
      if (last > first) wanted.set(`gap ${id} ${last - first}`, { make: () => this.makeGap(last - first), row: first });
      return;
    }
    if (section.startsDocument) {
      if (row + HEAD_ROWS > from && row < to) {
        const number = this.text.documents.indexOf(section) + 1;
        wanted.set(`head ${id} ${number}`, { make: () => this.makeHead(section, number), row });
      }
      row += HEAD_ROWS;
    }
    const { rows } = section;
    for (let r = Math.max(0, Math.floor(from - row)); r < rows.length / 2 - 1 && row + r < to; r++) {
      const key = `row ${id} ${rows.subarray(2 * r, 2 * r + 4).join(" ")}`;
      wanted.set(key, { make: () => this.makeRow(section, r), row: row + r });
    }
  }

  makeGap(rows) {
    const gap = element("div", { class: "gap" });
    gap.style.height = `${rows * ROW_HEIGHT}px`;
    return gap;
  }

  makeHead(section, number) {
    const from = section.chunk.first + section.from;
    const head = element("div", { class: "row head", "data-from": from }, `Document ${count(number)}`);
    if (section.chunk.bits[section.from] > 0) {
      const token = this.makeToken(section, section.from, []);
      token.append("start");
      head.append(token);
    }
    return head;
  }

  makeRow(section, r) {
    const { rows } = section;
    let [token, piece] = rows.subarray(2 * r, 2 * r + 2);
    const [endToken, endPiece] = rows.subarray(2 * r + 2, 2 * r + 4);
    const row = element("div", { class: "row", "data-from": section.chunk.first + token });
    let isWrapped = token > section.run.from && !this.endsLine(section, token, piece);
    for (; token < endToken || (token === endToken && piece < endPiece); token++, piece = 0) {
      let pieces = this.layout.piecesOf(section, token);
      pieces = pieces.slice(piece, token === endToken ? endPiece : undefined);
      if (!pieces.length) continue;
      if (isWrapped && pieces[0].text?.startsWith(" ")) row.classList.add("wrapped");
      isWrapped = false;
      row.append(this.makeToken(section, token, pieces));
    }
    return row;
  }

  // Whether a newline stands right before a piece of a token.
  endsLine(section, token, piece) {
    const before = piece ? this.layout.piecesOf(section, token)[piece - 1] : this.layout.piecesOf(section, token - 1).at(-1);
    return before?.text?.endsWith("\n") ?? false;
  }

  makeToken(section, i, pieces) {
    const shown = pieces.map(({ text, label, hex, mark }) => {
      if (label) return element("b", { class: "byte", "data-label": label, "data-hex": hex });
      if (text === undefined) return element("i", { class: mark ? "mark" : "part" });
      return text === "\t" ? element("i", { class: "space" }, text) : text;
    });
    const shade = this.shadeOf(section.chunk, i) + (pieces[0]?.text === "\n" ? " end" : "");
    return element("span", { class: shade, "data-i": section.chunk.first + i }, ...shown);
  }

  shadeOf(chunk, i) {
    const bits = chunk.bits[i];
    if (this.shade === "cost" || chunk.isStored || bits === 0) return `k${shadeLevel(bits, COST_BOUNDS)}`;
    const shares = chunk.shares.subarray(3 * i, 3 * i + 3);
    const most = Math.max(...shares);
    return PREDICTOR_CLASSES[shares.indexOf(most)] + (1 + shadeLevel(most, SHARE_BOUNDS));
  }

  // Exactly one token can be reached with the tab key: the current one, or else the first in sight.
  tabStop() {
    const first = () => this.topRow(".row:has([data-i])")?.querySelector("[data-i]");
    const current = this.box.querySelector(`[data-i="${this.current}"]`) ?? first();
    if (current === this.stop) return;
    this.stop?.removeAttribute("tabindex");
    if (current) current.tabIndex = 0;
    this.stop = current;
  }

  point(event, cause = "point") {
    const element = event.target.closest("[data-i]");
    if (!element || (cause === "point" && event.pointerType === "touch")) return;
    this.tell(element, cause);
  }

  choose(event) {
    const element = event.target.closest("[data-i]");
    if (!element) return this.leave(true);
    this.current = Number(element.dataset.i);
    this.tabStop();
    element.focus({ preventScroll: true });
    this.tell(element, "tap");
  }

  tell(element, cause) {
    const { section, i } = this.text.find(Number(element.dataset.i));
    this.box.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
    this.box.querySelectorAll(`[data-i="${element.dataset.i}"]`).forEach((part) => part.classList.add("chosen"));
    this.onToken(section, i, element, cause);
  }

  leave() {
    const focused = this.box.querySelector("[data-i]:focus");
    if (focused) return this.tell(focused, "focus");
    this.box.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
    this.onToken(null);
  }

  press(event) {
    const element = event.target.closest("[data-i]");
    if (!element || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = {
      ArrowRight: () => this.step(Number(element.dataset.i), 1),
      ArrowLeft: () => this.step(Number(element.dataset.i), -1),
      ArrowDown: () => this.stepRow(element, 1),
      ArrowUp: () => this.stepRow(element, -1),
      Escape: () => element.blur(),
    }[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  // Move to the next decoded token that is shown.
  step(index, by) {
    for (let next = index + by; next >= 0 && next < this.text.tokens; next += by) {
      const { section } = this.text.find(next);
      if (section.run === null || this.focus(next)) return;
    }
  }

  stepRow(element, by) {
    const rows = [...this.box.querySelectorAll(".row")].filter((row) => row.querySelector("[data-i]"));
    const next = rows[rows.indexOf(element.closest(".row")) + by];
    if (!next) return;
    const x = element.getBoundingClientRect().left;
    const distance = (token) => Math.abs(token.getBoundingClientRect().left - x);
    const tokens = [...next.querySelectorAll("[data-i]")];
    this.focus(Number(tokens.reduce((best, token) => (distance(token) < distance(best) ? token : best)).dataset.i));
  }

  // Focus a token and bring it into sight; return whether it has anything to focus.
  focus(index) {
    this.current = index;
    const y = this.box.getBoundingClientRect().top + this.rowOf(index) * ROW_HEIGHT;
    const top = this.barHeight() + ROW_HEIGHT;
    const bottom = innerHeight - 3 * ROW_HEIGHT;
    if (y < top) scrollBy({ top: y - top, behavior: "instant" });
    else if (y > bottom) scrollBy({ top: y - bottom, behavior: "instant" });
    this.draw();
    const element = this.box.querySelector(`[data-i="${index}"]`);
    element?.focus({ preventScroll: true });
    return Boolean(element);
  }

  // Bring a token with this index to the top of the window.
  goTo(index) {
    this.draw();
    for (let round = 0; round < 3; round++) {
      const y = this.box.getBoundingClientRect().top + this.rowOf(index) * ROW_HEIGHT;
      scrollBy({ top: y - this.barHeight() - 8, behavior: "instant" });
      this.draw();
    }
  }

  // Return the row at the top of what the bar leaves of the window.
  topRow(kind = ".row") {
    const edge = this.barHeight() + ROW_HEIGHT / 2;
    return [...this.box.querySelectorAll(kind)].find((row) => row.getBoundingClientRect().bottom > edge);
  }
}

export function shadeLevel(value, bounds) {
  let level = bounds.length - 1;
  while (level > 0 && value < bounds[level]) level--;
  return level;
}
