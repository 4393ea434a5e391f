// Cuts sections of the text into rows of a width, so that only the rows in sight need to be in the document.

import { piecesOfBytes } from "./glyphs.mjs";

export const ROW_HEIGHT = 24; // px, as in page.css
export const HEAD_ROWS = 2; // rows that the head of a document takes
const LONGEST_ROW = 108; // columns
const PLAIN = /^[\x20-\x7e]*\n?$/; // as wide as its characters are many: the font is monospaced
const AVERAGE_ROW_TOKENS = 18; // until rows of this text are known

// Widths come from a canvas with the text's own font, so nothing has to be laid out to be measured.
export class Layout {
  constructor(text, font, width, mostTokens) {
    Object.assign(this, { text, mostTokens, room: width });
    this.context = document.createElement("canvas").getContext("2d");
    this.context.font = font;
    this.unit = this.context.measureText("0").width;
    this.width = Math.min(width, LONGEST_ROW * this.unit);
    this.widths = new Map();
    this.pieces = new Array(text.vocabulary); // of tokens that write their own piece, whatever stands around them
    this.rowsKnown = 0;
    this.tokensKnown = 0;
  }

  // Return what token i of a section shows, as pieces with a width in px.
  piecesOf(section, i) {
    const [from, to] = section.byteRange(i);
    const { chunk } = section;
    const { bytes } = section.run;
    if (from === to) return i === section.from && section.startsDocument ? [] : [{ mark: true, width: this.unit }];
    if (!chunk.isStored) {
      const id = chunk.token[i];
      const own = (this.pieces[id] ??= this.ownPieces(id));
      if (own.bytes !== null && to - from === own.bytes.length && own.bytes.every((byte, k) => byte === bytes[from + k]))
        return own.pieces;
    }
    return this.measured(piecesOfBytes(bytes, from, to));
  }

  beginsWithBlank(section, token, piece) {
    return this.piecesOf(section, token)[piece].text?.startsWith(" ") ?? false;
  }

  ownPieces(id) {
    const bytes = this.text.tokenBytes(id);
    if (bytes === null) return { bytes };
    const pieces = this.measured(piecesOfBytes(bytes, 0, bytes.length));
    return pieces.some((piece) => piece.text === undefined) ? { bytes: null } : { bytes, pieces };
  }

  measured(pieces) {
    for (const piece of pieces) {
      if (piece.text === "\t") piece.width = 4 * this.unit;
      else if (piece.text !== undefined) piece.width = this.measure(piece.text);
      else piece.width = piece.part ? this.unit : 8 + 7 * piece.label.length;
    }
    return pieces;
  }

  measure(string) {
    if (PLAIN.test(string)) return this.unit * Math.max(1, string.length - (string.endsWith("\n") ? 1 : 0));
    let width = this.widths.get(string);
    if (width === undefined) {
      const visible = string === "\n" ? "↵" : string.endsWith("\n") ? string.slice(0, -1) : string;
      width = this.context.measureText(visible).width;
      this.widths.set(string, width);
    }
    return width;
  }

  // Cut a section into rows: its `rows` become pairs (token, piece of the token) where each begins, and an end. A row
  // breaks at a blank if it can. Rows that a blank begins hang it in the margin.
  layOut(section) {
    const rows = [section.from, 0];
    let x = 0;
    let breakToken = -1;
    let breakPiece = 0;
    let breakX = 0;
    let held = 0; // pieces that the row holds
    let breakHeld = 0;
    let endsWord = true;
    for (let i = section.from; i < section.to; i++) {
      const pieces = this.piecesOf(section, i);
      for (let k = 0; k < pieces.length; k++) {
        const { text, width } = pieces[k];
        const first = text === undefined ? 0 : text.charCodeAt(0);
        const isBlank = first === 32 || first === 9;
        const isFull = x + width > this.width || held >= this.mostTokens;
        const mayBreak = isBlank || endsWord || first >= 0x2e80 || (isFull && breakToken < 0);
        if (held && mayBreak) [breakToken, breakPiece, breakX, breakHeld] = [i, k, x, held];
        if (held && isFull) {
          rows.push(breakToken, breakPiece);
          held -= breakHeld;
          x -= breakX + (this.beginsWithBlank(section, breakToken, breakPiece) ? this.unit : 0);
          breakToken = -1;
        }
        x += width;
        held += 1;
        const last = text === undefined ? 0 : text.charCodeAt(text.length - 1);
        endsWord = last === 32 || last === 9 || last === 45 || last >= 0x2e80;
        if (last === 10) {
          if (k + 1 < pieces.length) rows.push(i, k + 1);
          else if (i + 1 < section.to) rows.push(i + 1, 0);
          x = 0;
          breakToken = -1;
          held = 0;
          endsWord = true;
        }
      }
    }
    rows.push(section.to, 0);
    section.rows = Uint32Array.from(rows);
    section.layout = this;
    this.rowsKnown += rows.length / 2 - 1;
    this.tokensKnown += section.to - section.from;
  }

  isLaidOut(section) {
    return section.layout === this;
  }

  // Return the height of a section in rows: estimated, until it is laid out.
  rowsOf(section) {
    const head = section.startsDocument ? HEAD_ROWS : 0;
    if (this.isLaidOut(section)) return head + section.rows.length / 2 - 1;
    const perRow = this.tokensKnown > 2000 ? this.tokensKnown / this.rowsKnown : AVERAGE_ROW_TOKENS;
    return head + Math.max(1, Math.round((section.to - section.from) / perRow));
  }
}

// Return the row of a section that holds (the first piece of) a token.
export function rowOfToken(section, token) {
  const { rows } = section;
  let low = 0;
  let high = rows.length / 2 - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (rows[2 * middle] < token || (rows[2 * middle] === token && rows[2 * middle + 1] === 0)) low = middle;
    else high = middle - 1;
  }
  return low;
}
