// Two scrolling lanes: how loud each side is, who speaks, where both do, and what happened.
import { FRAME_SECONDS } from "./wire.js";
const MARKS = { barge_in: "interrupts", yielded: "yields", false_yield: "false yield", backchannel: "backchannel", truncated: "cut" };

export class Timeline {
  constructor(canvas, seconds = 24) {
    this.canvas = canvas;
    this.seconds = innerWidth < 640 ? seconds / 2 : seconds;
    this.clear();
    this.colours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.colours());
    const draw = () => { this.draw(); requestAnimationFrame(draw); };
    requestAnimationFrame(draw);
  }

  clear() { this.frames = []; this.marks = []; this.words = []; this.began = null; this.now = 0; }

  colours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = Object.fromEntries(["user", "system", "overlap", "quiet", "line", "lane", "bad", "ink"].map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  add(frame) {  // { index, user, system, userLevel, systemLevel, events, words }
    this.frames.push(frame);
    const time = frame.index * FRAME_SECONDS;
    for (const event of frame.events) if (MARKS[event.kind]) this.marks.push({ time: event.time, kind: event.kind });
    for (const word of frame.words) this.words.push(word);
    const oldest = time - this.seconds - 2;
    while (this.frames.length && this.frames[0].index * FRAME_SECONDS < oldest) this.frames.shift();
    this.marks = this.marks.filter((mark) => mark.time > oldest);
    this.words = this.words.filter((word) => word.start > oldest);
    this.began = performance.now() / 1000 - time - FRAME_SECONDS;
  }

  draw() {
    const { canvas, colour } = this, scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
    }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    const top = 20, words = 18, lane = (height - top - words - 22) / 2;
    const systemMiddle = top + lane / 2, userMiddle = top + lane + 6 + words + lane / 2;
    const last = this.frames.at(-1);
    if (last) {  // moves smoothly between frames, and never far ahead of them
      const heard = (last.index + 1) * FRAME_SECONDS;
      this.now = Math.max(this.now, Math.min(performance.now() / 1000 - this.began, heard + 0.12), heard - 0.1);
    }
    const x = (time) => width - (this.now - time) * (width / this.seconds);
    for (const [middle, label] of [[systemMiddle, "system"], [userMiddle, "you"]]) {
      g.fillStyle = colour.lane;
      g.beginPath(); g.roundRect(0, middle - lane / 2, width, lane, 8); g.fill();
    }
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "alphabetic";
    for (let second = Math.ceil(Math.max(0, this.now - this.seconds)); second <= this.now; second++) {
      if (second % 2) continue;
      g.fillStyle = colour.line; g.fillRect(x(second), top, 1, height - top - 16);
      g.fillStyle = colour.quiet; g.textAlign = "center";
      if (x(second) > 12 && x(second) < width - 14) g.fillText(clock(second), x(second), height - 3);
    }
    const step = FRAME_SECONDS * width / this.seconds, bar = Math.max(1.4, step * 0.62);
    g.fillStyle = colour.overlap;
    g.globalAlpha = 0.22;
    for (const frame of this.frames) {
      if (frame.user && frame.system) {
        g.fillRect(x(frame.index * FRAME_SECONDS), top, step + 0.5, userMiddle + lane / 2 - top);
      }
    }
    g.globalAlpha = 1;
    for (const frame of this.frames) {
      const left = x(frame.index * FRAME_SECONDS) + (step - bar) / 2;
      if (left < -step) continue;
      for (const [middle, level, active, name] of [[systemMiddle, frame.systemLevel, frame.system, "system"],
        [userMiddle, frame.userLevel, frame.user, "user"]]) {
        const size = Math.max(2, level * (lane - 10));
        g.globalAlpha = active ? 1 : 0.35;
        g.fillStyle = colour[name];
        g.beginPath(); g.roundRect(left, middle - size / 2, bar, size, bar / 2); g.fill();
      }
    }
    g.globalAlpha = 1;
    g.textAlign = "left";
    g.fillStyle = colour.ink;
    const turns = [];  // what was said in one go is one line of text, cut where the next begins
    for (const word of this.words) {
      const turn = turns.at(-1);
      if (turn && word.start - turn.end < 0.7) { turn.text += ` ${word.word}`; turn.end = word.end; } else {
        turns.push({ text: word.word, start: word.start, end: word.end });
      }
    }
    turns.forEach((turn, i) => {
      const left = x(turn.start), room = (turns[i + 1] ? x(turns[i + 1].start) : width) - left - 8;
      g.fillText(fit(g, turn.text, room), left, top + lane + words - 2);
    });
    for (const mark of this.marks) {
      const at = x(mark.time), before = mark.kind === "barge_in";
      g.fillStyle = mark.kind === "backchannel" ? colour.quiet : colour.bad;
      g.beginPath(); g.moveTo(at - 5, 8); g.lineTo(at + 5, 8); g.lineTo(at, 16); g.fill();
      g.fillRect(at - 0.5, 16, 1, userMiddle + lane / 2 - 16);
      g.textAlign = before ? "right" : "left";
      g.fillText(MARKS[mark.kind], before ? at - 9 : at + 9, 14);
    }
    g.fillStyle = colour.quiet;
    g.textAlign = "left";
    if (!last || x(this.frames[0].index * FRAME_SECONDS) > 60) {
      g.fillText("system", 10, systemMiddle - lane / 2 + 16); g.fillText("you", 10, userMiddle - lane / 2 + 16);
    }
    if (!last) { g.textAlign = "center"; g.fillText("the conversation scrolls by here", width / 2, systemMiddle + 4); }
  }
}

function fit(g, text, room) {
  if (g.measureText(text).width <= room) return text;
  let length = text.length;
  while (length > 0 && g.measureText(`${text.slice(0, length)}\u2026`).width > room) length--;
  return length > 2 ? `${text.slice(0, length).trimEnd()}\u2026` : "";
}

export function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
