// Moshi's wire over a WebSocket: [kind][payload]. Sound is 16-bit little-endian PCM at 24 kHz (`audio=pcm`).
export const RATE = 24000, FRAME = 1920, FRAME_SECONDS = FRAME / RATE;
const [HANDSHAKE, SOUND, TEXT, , METADATA, ERROR] = [0, 1, 2, 3, 4, 5];

export class Wire {
  // `on` has: ready(), start(info), sound(Int16Array), text(string), frame(info), end(reason)
  constructor(options, on) {
    const query = new URLSearchParams({ audio: "pcm", events: "1" });
    for (const [name, value] of Object.entries(options)) if (value !== "" && value != null) query.set(name, value);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/api/chat?${query}`);
    this.socket.binaryType = "arraybuffer";
    this.on = on;
    this.ready = false;
    this.reason = "";
    this.socket.onmessage = (message) => this.#take(message.data);
    this.socket.onclose = (event) => this.#closed(event);
  }

  send(frame) {
    // A network that does not carry a second of sound is not helped by more of it.
    if (!this.ready || this.socket.readyState !== WebSocket.OPEN || this.socket.bufferedAmount > 2 * RATE) return false;
    const message = new Uint8Array(1 + frame.byteLength);
    message[0] = SOUND;
    message.set(new Uint8Array(frame.buffer, frame.byteOffset, frame.byteLength), 1);
    this.socket.send(message);
    return true;
  }

  close() { this.reason ||= "ended"; this.socket.close(1000); }

  #take(data) {
    if (typeof data === "string" || !data.byteLength) return;
    const bytes = new Uint8Array(data), payload = bytes.subarray(1);
    switch (bytes[0]) {
      case HANDSHAKE: this.ready = true; this.on.ready(); break;
      case SOUND: this.on.sound(new Int16Array(data.slice(1))); break;
      case TEXT: this.on.text(new TextDecoder().decode(payload)); break;
      case METADATA: {
        const info = JSON.parse(new TextDecoder().decode(payload));
        if (info.type === "start") this.on.start(info); else if (info.type === "frame") this.on.frame(info);
        break;
      }
      case ERROR: this.reason = new TextDecoder().decode(payload); break;
    }
  }

  #closed(event) {
    this.ready = false;
    const refused = event.code === 1006 ? "the server refused or vanished; does it ask for a token?" : "";
    this.on.end(this.reason || event.reason || refused || `closed (${event.code})`, event.code === 1000);
  }
}
