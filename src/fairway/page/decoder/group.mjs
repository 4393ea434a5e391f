// A group of lanes of one chunk: it predicts all their next tokens, is told them, and goes on.
import { demand } from "./binary.mjs";
import { Distribution, sumMasses } from "./frequencies.mjs";
import { makeSoftcapTable } from "./integer_math.mjs";
import { Arena } from "./kernels.mjs";
import { LaneMemory } from "./memory.mjs";
import { Network } from "./network.mjs";

const LANE_BYTES = 2 ** 17; // what a lane takes besides the kernels' arrays
const LANES_LIMIT = 2 ** 32;
const BLOCK_TOKENS = 8192;
const BLOCK_MS = 250;
const ALTERNATIVES = 5;
const DETAILS = {
  ...{ start: Uint32Array, token: Uint16Array, bits: Float32Array },
  ...{ top: Uint16Array, topBits: Float32Array, shares: Float32Array },
};

export class LaneGroup {
  /**
   * @param lanes [{first, count}]: where each lane's coded tokens stand in the chunk, the longest lane first
   * @param details whether to tell bits, alternatives and shares of every token
   */
  constructor(artifact, lanes, details) {
    const { recipe, tokenizer: { vocabulary, bos } } = artifact;
    const laneBytes = LANE_BYTES + 30 * vocabulary;
    demand(lanes.length * laneBytes <= LANES_LIMIT, "the proof's lanes ask for more memory than there is");
    const arena = new Arena();
    const network = new Network(arena, artifact, lanes.length);
    this.memories = lanes.map(() => new LaneMemory(arena, recipe, vocabulary, bos, network.head));
    this.kernels = arena.allocate();
    for (const linear of network.linears) linear.fill();
    Object.assign(this, { network, lanes, details, step: 0, active: lanes.length });
    this.fed = new Uint16Array(lanes.length).fill(bos);
    this.table = makeSoftcapTable(recipe.softcap);
    this.products = new Float32Array(vocabulary);
    [this.sums, this.additions] = [1, 2].map(() => lanes.map(() => new Float64Array(vocabulary + 1)));
    this.beginBlock();
  }

  /** Predict the next token of each lane that has one: arrays of what Distribution takes, and a block of details. */
  predict() {
    const { network, lanes, kernels, memories } = this;
    while (this.active && lanes[this.active - 1].count <= this.step) this.active--;
    if (this.active) network.step(kernels, this.fed, this.active);
    for (let lane = 0; lane < this.active; lane++) {
      network.normalized(network.head, lane, this.products);
      sumMasses(this.table, this.products, this.sums[lane]);
      memories[lane].predict(kernels, lane, this.additions[lane]);
    }
    const [sums, additions, used] = [this.sums, this.additions, memories].map((list) => list.slice(0, this.active));
    return { sums, additions, rests: used.map(({ rest }) => rest), details: this.takeBlock() };
  }

  /** Take the tokens of the lanes that were predicted. */
  accept(tokens) {
    tokens.forEach((token, lane) => {
      const memory = this.memories[lane];
      const distribution = new Distribution(this.sums[lane], this.additions[lane], memory.rest);
      const support = memory.supportOf(token);
      if (this.details) this.addDetails(this.lanes[lane].first + this.step, token, distribution, support);
      memory.learn(token, distribution.network(token + 1) - distribution.network(token), support.right);
    });
    this.fed.set(tokens);
    this.step++;
  }

  beginBlock() {
    this.block = Object.fromEntries(Object.keys(DETAILS).map((name) => [name, []]));
    this.blockBegan = performance.now();
  }

  /** Tell where a token stands, what it costs, what else was likely and who predicted it. */
  addDetails(start, token, distribution, { fromNgrams, fromCache }) {
    const bitsOf = (symbol) => 30 - Math.log2(distribution.frequency(symbol));
    const top = distribution.likeliest(ALTERNATIVES);
    const [ngrams, cache] = [fromNgrams, fromCache].map((part) => part / distribution.frequency(token));
    const shares = [1 - ngrams - cache, ngrams, cache];
    const told = { start: [start], token: [token], bits: [bitsOf(token)], top, topBits: top.map(bitsOf), shares };
    for (const name of Object.keys(DETAILS)) this.block[name].push(...told[name]);
  }

  /** Return the details since the last block if they are many or old, or at the end; else null. */
  takeBlock() {
    const { block } = this;
    const count = block.start.length;
    const isDue = !this.active || count >= BLOCK_TOKENS || performance.now() - this.blockBegan > BLOCK_MS;
    if (!count || !isDue) return null;
    this.beginBlock();
    return Object.fromEntries(Object.entries(DETAILS).map(([name, Type]) => [name, Type.from(block[name])]));
  }
}
