// What the browser tests ask a page. An expression: Playwright and Marionette evaluate `(...).name(arguments)`.
{
  // Scroll through the text. Return its rows in order, of each the parts of tokens that it shows as
  // [index, bytes in hexadecimal]; and of each token what the card about it says.
  async readText() {
    const encoder = new TextEncoder();
    const rows = new Map();
    const tokens = {};
    const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
    const shown = (node) => {
      if (node.nodeType === Node.TEXT_NODE) return hex(encoder.encode(node.data));
      if (node.dataset.hex) return node.dataset.hex.replaceAll(" ", "").toLowerCase();
      return [...node.childNodes].map(shown).join("");
    };
    const nextFrame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const card = document.getElementById("token");
    const pointAt = (part) => {
      part.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
      const bits = card.querySelector(".cost b");
      return {
        bits: Number(bits.dataset.bits ?? bits.textContent),
        likeliest: [...card.querySelectorAll("tr")].map(({ dataset }) => [Number(dataset.id), Number(dataset.bits)]),
        shares: card.querySelector("[data-shares]")?.dataset.shares.split(" ").map(Number) ?? null,
      };
    };
    const read = () => {
      for (const row of document.querySelectorAll("#text .row")) {
        const y = Number(row.style.transform.match(/[\d.]+/)[0]);
        if (rows.has(y)) continue;
        const parts = [...row.querySelectorAll("[data-i]")];
        const isHead = row.classList.contains("head");
        rows.set(y, isHead ? [] : parts.map((part) => [Number(part.dataset.i), shown(part)]));
        for (const part of parts) tokens[part.dataset.i] = pointAt(part);
      }
    };
    scrollTo(0, 0);
    for (let y = 0; y < document.documentElement.scrollHeight + innerHeight; y += innerHeight / 2) {
      scrollTo(0, y);
      await nextFrame();
      read();
    }
    return { rows: [...rows].sort(([a], [b]) => a - b).map(([, row]) => row), tokens };
  },

  countNodes() {
    const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL);
    let count = 0;
    while (walker.nextNode()) count++;
    return count;
  },

  // Return the shades of the tokens in sight by their index.
  shades() {
    const tokens = [...document.querySelectorAll("#text .row:not(.head) [data-i]")];
    return Object.fromEntries(tokens.map((token) => [token.dataset.i, token.className]));
  },

  // Return how far text stands out from what is behind it (WCAG 2), for every shade and every text in sight.
  contrasts() {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = (e) => (e ? [...behind(e.parentElement), getComputedStyle(e).backgroundColor] : ["white"]);
    const painted = (colours) => {
      for (const colour of colours) {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
      }
      return luminance(context.getImageData(0, 0, 1, 1).data);
    };
    const found = {};
    const measure = (name, element) => {
      const below = behind(element);
      const [a, b] = [painted(below), painted([...below, getComputedStyle(element).color])].sort((x, y) => x - y);
      found[name] = (b + 0.05) / (a + 0.05);
    };
    const levels = [..."01234567"].map((level) => `k${level}`);
    const predictors = [..."ngm"].flatMap((key) => [..."1234"].map((level) => key + level));
    const row = document.createElement("div");
    row.className = "row";
    document.getElementById("text").append(row);
    for (const name of [...levels, ...predictors])
      for (const parent of [row, document.getElementById("legend")]) {
        const token = document.createElement("span");
        token.className = name;
        parent.append(token);
        measure(`${name} in ${parent.id || "row"}`, token);
        token.remove();
      }
    row.remove();
    for (const element of document.querySelectorAll("main *, #token *")) {
      const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      if (hasText && element.checkVisibility())
        measure(`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)}`, element);
    }
    return found;
  },

  // Return which ways to reach an address or to run a text fail.
  async forbidden(address) {
    const fails = async (attempt) => {
      try {
        await attempt();
        return false;
      } catch {
        return true;
      }
    };
    const loads = (element, source) =>
      new Promise((good, bad) => {
        Object.assign(element, { onload: good, onerror: bad, src: source });
        document.body.append(element);
      });
    const opens = (source) => new Promise((good, bad) => Object.assign(source, { onopen: good, onerror: bad }));
    return {
      fetch: await fails(() => fetch(`${address}/fetch`)),
      image: await fails(() => loads(document.createElement("img"), `${address}/image.png`)),
      module: await fails(() => import(`${address}/module.js`)),
      socket: await fails(() => opens(new WebSocket(address.replace("http", "ws")))),
      events: await fails(() => opens(new EventSource(`${address}/events`))),
      markup: await fails(() => document.body.insertAdjacentHTML("beforeend", "<b>markup</b>")),
      eval: await fails(() => (0, eval)("1")),
      script: await fails(() => loads(document.createElement("script"), `${address}/script.js`)),
    };
  },

  // Drop files {name: bytes in hexadecimal} on the page.
  drop(files) {
    const dataTransfer = new DataTransfer();
    for (const [name, hex] of Object.entries(files)) {
      const bytes = Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16));
      dataTransfer.items.add(new File([bytes], name));
    }
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  },
}
