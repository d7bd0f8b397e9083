// Keeps both sides, frame beside frame, for a stereo recording: left the system, right the user.
import { FRAME, RATE } from "./wire.js";
const MOST_FRAMES = 15000;  // 20 minutes, 110 MB

export class Recorder {
  constructor() { this.user = []; this.system = []; }
  get seconds() { return Math.min(this.system.length, MOST_FRAMES) * FRAME / RATE; }
  addUser(frame) { if (this.user.length < MOST_FRAMES) this.user.push(frame); }
  addSystem(samples) { if (this.system.length < MOST_FRAMES) this.system.push(samples); }

  wav() {
    const frames = Math.min(this.system.length, this.user.length), size = frames * FRAME * 4;
    const buffer = new ArrayBuffer(44 + size), view = new DataView(buffer);
    const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    write(0, "RIFF"); view.setUint32(4, 36 + size, true); write(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 2, true);
    view.setUint32(24, RATE, true); view.setUint32(28, RATE * 4, true); view.setUint16(32, 4, true); view.setUint16(34, 16, true);
    write(36, "data"); view.setUint32(40, size, true);
    const samples = new Int16Array(buffer, 44);
    for (let f = 0; f < frames; f++) {
      for (let i = 0; i < FRAME; i++) {
        samples[2 * (f * FRAME + i)] = this.system[f][i] ?? 0;
        samples[2 * (f * FRAME + i) + 1] = this.user[f][i];
      }
    }
    return new Blob([buffer], { type: "audio/wav" });
  }
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
