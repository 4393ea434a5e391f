// Numbers as a reader wants them.

// Commas by hand: a browser takes 200 ms to load its own way of writing numbers.
export const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

// Return a share of 1 as percent with about three digits; a tiny one as "1 in N".
export function percent(share) {
  const value = 100 * share;
  if (share <= 0) return "0 %";
  if (value < 0.01) return `1 in ${count(Number((1 / share).toPrecision(2)))}`;
  if (value > 99.95) return share === 1 ? "100 %" : "> 99.9 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
}

export function duration(seconds) {
  if (seconds < 1) return "under a second";
  if (seconds < 90) return plural(Math.round(seconds), "second");
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? plural(minutes, "minute") : `${(seconds / 3600).toFixed(1)} hours`;
}
