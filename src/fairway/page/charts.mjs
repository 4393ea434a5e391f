// Two drawings: bits per byte along the text, and how many tokens cost how much.

import { COST_BOUNDS } from "./textview.mjs";
import { count, percent } from "./words.mjs";

const SVG = "http://www.w3.org/2000/svg";
const BINS = 160;
const HEIGHT = 190; // px
const HISTOGRAM_BOUNDS = Array.from({ length: 17 }, (_, bits) => bits);

function draw(name, attributes = {}, content = []) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

// Return about `ticks` round numbers from 0 to `most`.
function roundTicks(most, ticks) {
  const raw = most / ticks;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, k) => k * step);
}

// An empty drawing as wide as its box, with room for axes; x and y map values to px.
function frame(box, label, mostX, mostY, left = 34) {
  const width = Math.max(box.clientWidth, 200);
  const [right, top, bottom] = [8, 10, 34];
  const x = (value) => left + (value / mostX) * (width - left - right);
  const y = (value) => HEIGHT - bottom - (value / mostY) * (HEIGHT - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": label });
  return { svg, x, y, width, left, right };
}

function axisY({ svg, y, width, left, right }, ticks, form) {
  for (const tick of ticks) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, form(tick)));
  }
}

function axisX({ svg, x, width, right }, ticks, form, name) {
  const y = HEIGHT - 18;
  for (const tick of ticks) svg.append(draw("text", { x: x(tick), y, "text-anchor": "middle" }, form(tick)));
  svg.append(draw("text", { x: width - right, y: HEIGHT - 2, "text-anchor": "end" }, name));
}

// Draw the mean of every run of tokens as a bar, and the mean of all decoded so far as a line.
// Return the mean of all.
export function drawRunning(box, says, text) {
  const bins = Math.min(BINS, Math.max(8, text.tokens >> 4));
  const sums = text.statistics(bins, COST_BOUNDS);
  const local = Array.from(sums.bits, (bits, bin) => (sums.bytes[bin] ? bits / sums.bytes[bin] : 0));
  const high = local.filter((value) => value > 0).sort((a, b) => a - b);
  const most = Math.max(0.5, 1.1 * (high[Math.floor(0.98 * (high.length - 1))] ?? 4));
  let [bits, bytes] = [0, 0];
  const whole = local.map((_, bin) => {
    bits += sums.bits[bin];
    bytes += sums.bytes[bin];
    return bytes && local[bin] ? [bin, bits / bytes] : null;
  });
  const mean = bytes ? bits / bytes : 0;
  const label = `Bits per byte along ${count(text.tokens)} tokens; the mean of all is ${mean.toFixed(4)}.`;
  const made = frame(box, label, bins, most);
  axisY(made, roundTicks(most, 4), (tick) => String(Math.round(tick * 100) / 100));
  const { svg, x, y } = made;
  local.forEach((value, bin) => {
    if (!value) return;
    const top = y(Math.min(value, most));
    svg.append(draw("rect", { class: "local", x: x(bin) + 0.3, width: x(1) - x(0) - 0.6, y: top, height: y(0) - top }));
  });
  const points = whole.filter(Boolean).map(([bin, value]) => `${x(bin + 0.5).toFixed(1)},${y(Math.min(value, most)).toFixed(1)}`);
  svg.append(draw("polyline", { class: "whole", points: points.join(" ") }));
  axisX(made, roundTicks(text.tokens, 5).map((tick) => (tick / text.tokens) * bins), (bin) => count(Math.round((bin / bins) * text.tokens)), "tokens");
  box.replaceChildren(svg);
  box.toToken = (clientX) => {
    const { left, width } = svg.getBoundingClientRect();
    const share = (((clientX - left) / width) * made.width - made.left) / (made.width - made.left - made.right);
    return Math.max(0, Math.min(text.tokens - 1, Math.floor(share * text.tokens)));
  };
  says.textContent = `Bars: the mean of ${count(Math.ceil(text.tokens / bins))} tokens each. Line: the mean of all up to there. Click to go there.`;
  return mean;
}

export function drawHistogram(box, says, text) {
  const sums = text.statistics(1, HISTOGRAM_BOUNDS);
  const total = sums.count.reduce((a, b) => a + b, 0) || 1;
  const cost = sums.cost.reduce((a, b) => a + b, 0) || 1;
  const shares = Array.from(sums.count, (number) => number / total);
  const most = Math.max(0.05, 1.08 * Math.max(...shares));
  const cheap = percent(shares[0]);
  const dear = HISTOGRAM_BOUNDS.findIndex((bits) => bits === 8);
  const tail = (values, sum) => percent(values.slice(dear).reduce((a, b) => a + b, 0) / sum);
  const sentence = `${cheap} of the tokens cost less than 1 bit. ${tail(sums.count, total)} cost 8 bits or more, and take ${tail(sums.cost, cost)} of all bits.`;
  const bars = HISTOGRAM_BOUNDS.length;
  const made = frame(box, `Histogram of bits per token. ${sentence}`, bars, most, 38);
  axisY(made, roundTicks(most, 4), (tick) => `${Math.round(100 * tick)} %`);
  const { svg, x, y } = made;
  shares.forEach((share, k) => {
    const level = COST_BOUNDS.findLastIndex((bound) => bound <= HISTOGRAM_BOUNDS[k]);
    svg.append(draw("rect", { class: `bar-edge fill${level}`, x: x(k) + 1, width: x(1) - x(0) - 2, y: y(share), height: y(0) - y(share) }));
  });
  axisX(made, [0, 4, 8, 12, 16], (bits) => (bits === 16 ? "16+" : String(bits)), "bits per token");
  box.replaceChildren(svg);
  says.textContent = sentence;
}
