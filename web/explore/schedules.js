// Noise schedules, as in microdlm/schedules.py: alpha(t), the share of tokens still visible at time t, and
// weight(t) = -alpha'(t) / (1 - alpha(t)), what the bound multiplies the masked cross-entropy by. Both in closed form.

const HALF_PI = Math.PI / 2;

function line(end) {
  return { alpha: (t) => 1 - end * t, weight: (t) => 1 / t };
}

function clippedCosine(low, high) {
  const u = (t) => 1 - low - (high - low) * Math.cos(HALF_PI * t);
  return { alpha: (t) => 1 - u(t), weight: (t) => ((high - low) * HALF_PI * Math.sin(HALF_PI * t)) / u(t) };
}

function sigmoid(k) {
  const alpha = (t) => 1 / (1 + Math.exp(k * (t - 0.5)));
  return { alpha, weight: (t) => k * alpha(t) };
}

// From the one that masks most on average to the one that masks least. The two cosines are called alike in papers.
export const SCHEDULES = {
  sqrt: { alpha: (t) => 1 - Math.sqrt(t), weight: (t) => 0.5 / t },
  maskgit_cosine: {
    alpha: (t) => 1 - Math.sin(HALF_PI * t),
    weight: (t) => Math.max(0, HALF_PI / Math.tan(HALF_PI * t)),
  },
  linear: line(1),
  sigmoid: sigmoid(10),
  loglinear: line(1 - 1e-3),
  clipped_cosine: clippedCosine(0.05, 0.95),
  cosine: { alpha: (t) => Math.cos(HALF_PI * t), weight: (t) => HALF_PI / Math.tan((HALF_PI / 2) * t) },
};

/** The share that is masked at time t, u = 1 - alpha(t). */
export const masked = (name, t) => 1 - SCHEDULES[name].alpha(t);

/** The mean share masked when t is uniform on [0, 1], by the midpoint rule. */
export function meanShare(name, points = 20000) {
  let sum = 0;
  for (let i = 0; i < points; i++) sum += masked(name, (i + 0.5) / points);
  return sum / points;
}
