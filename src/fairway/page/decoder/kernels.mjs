// Inner loops. All sums are sums of integers below 2^31, so every order and every engine gives the same.

/** The plain loops: the reference, and what runs where WebAssembly is missing. */
export const plainKernels = {
  /** out[v · outStride + r] = Σ_j rows[r · width + j] · vectors[v · width + j], arrays of int16. */
  dots(rows, rowsAt, rowCount, vectors, vectorsAt, vectorCount, width, out, outAt, outStride) {
    for (let v = 0; v < vectorCount; v++) {
      const vector = vectorsAt + v * width;
      for (let r = 0, row = rowsAt; r < rowCount; r++, row += width) {
        let sum = 0;
        for (let j = 0; j < width; j++) sum = (sum + rows[row + j] * vectors[vector + j]) | 0;
        out[outAt + v * outStride + r] = sum;
      }
    }
  },

  /** out[i] = Σ_r weights[r] · rows[r · width + i], int32 weights and int16 rows. */
  mix(weights, weightsAt, rows, rowsAt, rowCount, width, out, outAt) {
    out.fill(0, outAt, outAt + width);
    for (let r = 0, row = rowsAt; r < rowCount; r++, row += width) {
      const weight = weights[weightsAt + r];
      if (weight === 0) continue;
      for (let i = 0; i < width; i++) out[outAt + i] = (out[outAt + i] + weight * rows[row + i]) | 0;
    }
  },
};

/** Collect arrays that kernels work on; then lay them into one memory. */
export class Arena {
  constructor() {
    this.requests = [];
    this.size = 0;
  }

  /** Let owner[key] become an array of this type and length. */
  reserve(owner, key, Type, length) {
    this.requests.push({ owner, key, Type, length, offset: this.size });
    this.size = (this.size + length * Type.BYTES_PER_ELEMENT + 15) & ~15;
  }

  /** Make all arrays; they are zeros. */
  allocate() {
    const buffer = new ArrayBuffer(this.size);
    for (const { owner, key, Type, length, offset } of this.requests) owner[key] = new Type(buffer, offset, length);
  }
}
