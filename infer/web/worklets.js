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

// Keeps about 100 ms in hand: reads up to 0.5 % faster or slower against clock drift, and never holds over 250 ms.
class Playout extends AudioWorkletProcessor {
  constructor() {
    super();
    this.target = 0.1; this.cap = 0.25;
    this.resampler = new Resampler(RATE, sampleRate);
    this.playing = false;
    this.underruns = this.trimmed = this.sinceReport = 0;
    this.port.onmessage = ({ data }) => {
      if (data === "flush") { this.resampler = new Resampler(RATE, sampleRate); this.playing = false; return; }
      const samples = new Float32Array(data.length);
      for (let i = 0; i < data.length; i++) samples[i] = data[i] / 32768;
      this.resampler.push(samples);
      const excess = this.held - this.cap;
      if (excess > 0) { this.resampler.position += excess * RATE; this.trimmed += excess; }
    };
  }

  get held() { return Math.max(0, this.resampler.input.length - this.resampler.half - this.resampler.position) / RATE; }

  process(_, [[output, ...others]]) {
    const held = this.held;
    if (!this.playing && held >= this.target) this.playing = true;
    if (this.playing) {
      const speed = 1 + Math.max(-0.005, Math.min(0.005, (held - this.target) * 0.05));
      for (let i = 0; i < output.length; i++) {
        if (this.resampler.available < 2) { this.playing = false; this.underruns++; break; }
        output[i] = this.resampler.next(speed);
      }
      this.resampler.trim();
    }
    for (const other of others) other.set(output);
    if (++this.sinceReport >= 38) {
      this.sinceReport = 0;
      this.port.postMessage({ held, underruns: this.underruns, trimmed: this.trimmed });
    }
    return true;
  }
}

registerProcessor("duplex-capture", Capture);
registerProcessor("duplex-playout", Playout);
