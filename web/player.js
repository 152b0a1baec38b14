// Where in the run the reader is: plays, pauses, follows what is being written. Knows nothing of what is drawn.

const LASTS = 9; // seconds a replay takes, however long the run took

export class Player {
  /** `duration()` is the end of the run on the present axis; `draw()` is called whenever something moved. */
  constructor(duration, draw) {
    Object.assign(this, { duration, draw, at: 0, playing: false, following: false, frame: 0 });
  }

  /** How much of the axis passes in a second of replay. */
  get speed() {
    return this.duration() / LASTS;
  }

  play() {
    if (this.playing) return;
    if (this.at >= this.duration()) this.at = 0;
    Object.assign(this, { playing: true, following: false });
    let before = performance.now();
    const tick = (now) => {
      if (!this.playing) return;
      this.at = Math.min(this.duration(), this.at + ((now - before) / 1000) * this.speed);
      before = now;
      if (this.at >= this.duration()) this.playing = false;
      this.draw();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    this.draw();
  }

  pause() {
    Object.assign(this, { playing: false, following: false });
    this.draw();
  }

  seek(at) {
    Object.assign(this, { playing: false, following: false, at: Math.max(0, Math.min(this.duration(), at)) });
    this.draw();
  }

  /** Stay at the end while it moves: one drawing a screen refresh, however many steps arrive. */
  follow() {
    Object.assign(this, { playing: false, following: true });
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      if (!this.following) return;
      this.at = this.duration();
      this.draw();
    });
  }
}
