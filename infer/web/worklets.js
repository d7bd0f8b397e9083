// Audio thread: the microphone to frames of 80 ms at 24 kHz, and received frames to the speaker.
const RATE = 24000, FRAME = 1920;

// Streaming resampler: a windowed sinc read at any ratio, which may change a little from call to call.
class Resampler {
  constructor(from, to) {
    this.half = 12;
    this.step = from / to;
    this.cutoff = Math.min(1, to / from) * 0.94;
    this.table = 256;
    const span = this.half;
    this.kernel = new Float32Array((span + 1) * this.table + 1);
    for (let i = 0; i < this.kernel.length; i++) {
      const x = i / this.table, angle = Math.PI * x * this.cutoff;
      const sinc = x === 0 ? 1 : Math.sin(angle) / angle;
      this.kernel[i] = x >= span ? 0 : sinc * this.cutoff * (0.5 + 0.5 * Math.cos(Math.PI * x / span));
    }
    this.input = new Float32Array(2 * this.half);
    this.position = this.half;
  }

  push(samples) {
    const joined = new Float32Array(this.input.length + samples.length);
    joined.set(this.input);
    joined.set(samples, this.input.length);
    this.input = joined;
  }

  get available() { return Math.max(0, Math.floor((this.input.length - this.half - this.position) / this.step)); }

  // One sample; `speed` above 1 reads faster.
  next(speed = 1) {
    const base = Math.floor(this.position), part = this.position - base;
    let sum = 0;
    for (let k = -this.half + 1; k <= this.half; k++) {
      sum += this.input[base + k] * this.kernel[Math.round(Math.abs(k - part) * this.table)];
    }
    this.position += this.step * speed;
    return sum;
  }

  trim() {
    const drop = Math.floor(this.position) - this.half;
    if (drop > 0) { this.input = this.input.slice(drop); this.position -= drop; }
  }
}

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
  }

  process([input]) {
    const silent = !input.length;
    this.resampler.push(silent ? new Float32Array(128) : input[0]);
    while (this.resampler.available > 0) {
      const value = Math.max(-1, Math.min(1, this.resampler.next()));
      this.frame[this.filled++] = value * 32767;
      if (this.filled === FRAME) {
        this.port.postMessage(this.frame);
        this.frame = new Int16Array(FRAME);
        this.filled = 0;
      }
    }
    this.resampler.trim();
    return true;
  }
}

// How late what comes is, against the most punctual of the last 10 s, and the delay that would have been enough for nearly all
// of the last minute: duplex/lateness.py in seconds.
class Lateness {
  constructor() { this.offsets = []; this.peaks = []; this.begun = null; }

  seen(now, offset) {
    while (this.offsets.length && this.offsets[0][0] < now - 10) this.offsets.shift();
    while (this.offsets.length && this.offsets[this.offsets.length - 1][1] >= offset) this.offsets.pop();
    this.offsets.push([now, offset]);
    return offset - this.offsets[0][1];
  }

  beginAnew(now, offset) { this.offsets = [[now, offset]]; }

  remember(now, lateness) {
    if (this.begun === null) this.begun = now;
    while (this.peaks.length && this.peaks[0][0] < now - 60) this.peaks.shift();
    const last = this.peaks[this.peaks.length - 1];
    if (last && now - last[0] < 0.5) last[1] = Math.max(last[1], lateness);
    else this.peaks.push([now, lateness]);
  }

  enough(share) {
    if (!this.peaks.length) return 0;
    const peaks = this.peaks.map(([, peak]) => peak).sort((a, b) => b - a);
    const allowed = share * Math.min(this.peaks[this.peaks.length - 1][0] - this.begun, 60);
    let sum = 0, delay = 0;
    peaks.forEach((peak, k) => { sum += peak; delay = Math.max(delay, (sum - allowed) / (k + 1)); });
    return delay;
  }
}

// Keeps the delay that the connection needs, 60 to 500 ms, by reading up to 0.5 % faster or slower; an excess goes where the
// sound is quiet. The rules of duplex/playout.py.
class Playout extends AudioWorkletProcessor {
  constructor() {
    super();
    this.wait = 0.06; this.cap = 0.5; this.margin = 0.02; this.share = 0.004;
    this.resampler = new Resampler(RATE, sampleRate);
    this.lateness = new Lateness();
    this.device = this.pushed = this.enough = 0; // seconds that the speaker took, that came, that would have been enough
    this.delay = null;
    this.starved = false;
    this.nextCut = 0;
    this.underruns = this.silence = this.trimmed = this.sinceReport = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  get held() { return Math.max(0, this.resampler.input.length - this.resampler.half - this.resampler.position) / RATE; }

  get target() { return Math.min(Math.max(this.wait, this.enough + this.margin), this.cap); }

  take(data) {
    if (data === "flush") { // silence takes the place of what is not heard any more, so that the delay stays
      const length = Math.round(this.held * RATE);
      this.resampler = new Resampler(RATE, sampleRate);
      this.resampler.push(new Float32Array(length));
      return;
    }
    if (this.delay === null) this.resampler.push(new Float32Array(this.wait * RATE));
    const offset = this.device - this.pushed;
    let late = this.lateness.seen(this.device, offset);
    if (late > 2 * this.cap) { // the source has paused: its time begins anew
      this.lateness.beginAnew(this.device, offset);
      late = 0;
      if (this.resampler.available < 2) this.resampler.push(new Float32Array(this.wait * RATE));
    }
    this.lateness.remember(this.device, late);
    this.enough = this.lateness.enough(this.share);
    this.delay = this.held + late;
    const samples = new Float32Array(data.length);
    for (let i = 0; i < data.length; i++) samples[i] = data[i] / 32768;
    this.resampler.push(samples);
    this.pushed += data.length / RATE;
    if (this.delay > this.cap) this.skip(Math.min(this.delay - this.target, this.held), "trimmed");
  }

  skip(seconds, counter) {
    this.resampler.position += seconds * RATE;
    this.delay -= seconds;
    if (counter) this[counter] += seconds;
  }

  // Leaves 10 ms out where they are next to nothing.
  cut() {
    const { input, position } = this.resampler, from = Math.floor(position);
    for (let i = from; i < from + 0.01 * RATE; i++) if (Math.abs(input[i]) > 0.003) return;
    this.skip(0.01);
    this.nextCut = this.device + 0.03;
  }

  process(_, [[output, ...others]]) {
    if (this.delay !== null) {
      const excess = this.delay - this.target;
      if (excess > 0.02 && this.device >= this.nextCut && this.held > 0.03) this.cut();
      const most = excess > 0.02 ? 0.01 : 0.005;
      const speed = 1 + Math.max(-0.005, Math.min(most, excess * 0.1));
      let i = 0;
      while (i < output.length && this.resampler.available >= 2) output[i++] = this.resampler.next(speed);
      this.resampler.trim();
      if (i < output.length && !this.starved) this.underruns++;
      this.starved = i < output.length;
      this.silence += (output.length - i) / sampleRate;
      this.device += output.length / sampleRate;
    }
    for (const other of others) other.set(output);
    if (++this.sinceReport >= 38) {
      this.sinceReport = 0;
      this.port.postMessage({ held: this.held, underruns: this.underruns, trimmed: this.trimmed });
    }
    return true;
  }
}

registerProcessor("duplex-capture", Capture);
registerProcessor("duplex-playout", Playout);
