// What the system says, turn by turn as it says it, and what the turn events tell of the user.
import { clock } from "./timeline.js";

export class Transcript {
  constructor(list) { this.list = list; this.clear(); }

  clear() {
    this.list.replaceChildren();
    this.open = null;
    this.entries = [];
    this.lastText = -10;
  }

  text(text, time) {
    if (!this.open || time - this.lastText > 1.5) this.open = this.#add("system", "", time);
    this.open.text += text;
    this.open.node.textContent = this.open.text.trimStart();
    this.lastText = time;
    this.#follow();
  }

  event(event) {
    const length = event.seconds == null ? "" : ` ${event.seconds.toFixed(1)} s`;
    switch (event.kind) {
      case "user_stop": this.#add("user", `you spoke for${length}`, event.time); this.open = null; break;
      case "yielded": this.#add("event", `interrupted; it fell silent after${length}`, event.time); this.open = null; break;
      case "truncated": if (this.open) { this.open.text += " \u2014"; this.open.node.textContent = this.open.text.trimStart(); } break;
    }
  }

  #add(kind, text, time) {
    const item = document.createElement("li"), stamp = document.createElement("time"), node = document.createElement("p");
    item.className = kind;
    stamp.textContent = clock(Math.max(0, time));
    node.textContent = text;
    item.append(stamp, node);
    this.list.append(item);
    const entry = { kind, time, text, node };
    this.entries.push(entry);
    this.#follow();
    return entry;
  }

  #follow() { this.list.scrollTop = this.list.scrollHeight; }

  json() { return JSON.stringify(this.entries.map(({ kind, time, text }) => ({ kind, time, text: text.trim() })), null, 2); }
}
