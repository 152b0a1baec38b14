// The generator of PyTorch on a CPU, so that a seed writes the same text here as in Python: MT19937
// (Matsumoto and Nishimura, 1998), and a float64 in [0, 1) from 53 bits of two draws, high word first.

const N = 624;
const M = 397;

/** uniform64 of microdlm/drawing.py: a function that returns the next number of torch.rand(..., dtype=float64). */
export function generator(seed) {
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = N;

  function twist() {
    for (let i = 0; i < N; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % N] & 0x7fffffff);
      state[i] = state[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  }

  function next32() {
    if (at === N) twist();
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  return () => {
    const high = next32() & 0x1fffff;
    return (high * 2 ** 32 + next32()) / 2 ** 53;
  };
}
