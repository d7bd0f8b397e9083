// The page: microphone and speaker at one end, the wire at the other, and what is shown in between.
import { FRAME_SECONDS, Wire } from "./wire.js";
import { Timeline, clock } from "./timeline.js";
import { Recorder, save } from "./recorder.js";
import { Transcript } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const timeline = new Timeline($("timeline"));
const transcript = new Transcript($("transcript"));
let call = null, recorder = new Recorder();

function show(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

function level(samples) {  // 0..1 over 60 dB
  let sum = 0;
  for (const value of samples) sum += value * value;
  const decibel = 20 * Math.log10(Math.sqrt(sum / Math.max(1, samples.length)) / 32768 + 1e-6);
  return Math.max(0, Math.min(1, 1 + decibel / 60));
}

function options() {
  const heat = (id) => ($(id).valueAsNumber < 0 ? "" : $(id).value);
  return {
    text_temperature: heat("text-temperature"), audio_temperature: heat("audio-temperature"), policy: $("policy").value,
    persona: $("persona").value.trim(), seed: $("seed").value.trim(), token: $("token").value || sessionStorage.getItem("token") || "",
  };
}

class Call {
  async start() {
    if (!navigator.mediaDevices) throw new Error("the browser gives a microphone only to https and to localhost");
    show("idle", "asking for the microphone");
    // The context is made in the click, or phones keep it silent. It runs at the device's own rate: the worklets convert.
    this.context = new AudioContext({ latencyHint: "interactive" });
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: {
      channelCount: 1, echoCancellation: $("echo").checked, noiseSuppression: $("echo").checked, autoGainControl: true } });
    await this.context.audioWorklet.addModule("/web/worklets.js");
    await this.context.resume();
    this.capture = new AudioWorkletNode(this.context, "duplex-capture", { numberOfOutputs: 0 });
    this.playout = new AudioWorkletNode(this.context, "duplex-playout", { numberOfInputs: 0, outputChannelCount: [1] });
    this.context.createMediaStreamSource(this.stream).connect(this.capture);
    this.playout.connect(this.context.destination);
    this.capture.port.onmessage = ({ data }) => this.heard(data);
    this.playout.port.onmessage = ({ data }) => this.played(data);
    this.stream.getAudioTracks()[0].onended = () => this.stop("the microphone was taken away");
    this.sentAt = []; this.levels = []; this.pending = null;
    this.dropped = 0; this.lost = { underruns: 0 };
    this.wire = new Wire(options(), {
      ready: () => { show("live", "listening"); $("mute").disabled = false; },
      start: (info) => { $("model").textContent = info.model; },
      sound: (samples) => { this.pending = samples; recorder.addSystem(samples); },
      text: (text) => { $("empty").hidden = true; transcript.text(text, this.time ?? 0); },
      frame: (info) => this.frame(info),
      end: (reason, fine) => this.ended(reason, fine),
    });
    show("idle", "connecting");
  }

  heard(frame) {
    if (this.muted) frame.fill(0);
    $("level-user").style.transform = `scaleX(${level(frame)})`;
    if (!this.wire.send(frame)) return;
    this.sentAt.push(performance.now());
    this.levels.push(level(frame));
    recorder.addUser(frame);
  }

  frame(info) {  // comes after the frame's sound and text
    const samples = this.pending ?? new Int16Array(0), number = info.index + info.dropped;
    this.pending = null;
    this.time = (info.index + 1) * FRAME_SECONDS;
    if (info.flush) this.playout.port.postMessage("flush");
    this.playout.port.postMessage(samples);
    const loud = level(samples);
    $("level-system").style.transform = `scaleX(${loud})`;
    timeline.add({ index: info.index, user: info.user, system: info.system, userLevel: this.levels[number] ?? 0, systemLevel: loud,
      events: info.events, words: info.words });
    for (const event of info.events) {
      transcript.event(event);
      if (event.kind === "system_start" && event.seconds != null) $("stat-answer").textContent = `${event.seconds.toFixed(2)} s`;
    }
    if (this.sentAt[number] != null) $("stat-trip").textContent = `${Math.round(performance.now() - this.sentAt[number])} ms`;
    if (info.latency_ms != null) $("stat-server").textContent = `${info.latency_ms.toFixed(0)} ms`;
    this.dropped = info.dropped;
    $("length").textContent = clock(recorder.seconds);
  }

  played(report) {
    this.lost = report;
    $("stat-buffer").textContent = `${Math.round(1000 * report.held)} ms`;
    $("stat-lost").textContent = `${this.dropped} · ${report.underruns}`;
  }

  mute(on) { this.muted = on; }

  stop(reason) {
    if (this.wire) { if (reason) this.wire.reason = reason; this.wire.close(); } else this.ended(reason ?? "ended", !reason);
  }

  ended(reason, fine) {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    show(fine ? "idle" : "bad", reason);
    for (const name of ["user", "system"]) $(`level-${name}`).style.transform = "scaleX(0)";
    $("talk").setAttribute("aria-pressed", "false");
    $("talk-text").textContent = "Start talking";
    $("mute").disabled = true;
    $("save-audio").disabled = !recorder.seconds;
    $("save-text").disabled = !transcript.entries.length;
    if (call === this) call = null;
  }
}

$("talk").onclick = async () => {
  if (call) { call.stop(); return; }
  call = new Call();
  recorder = new Recorder();
  timeline.clear(); transcript.clear();
  $("empty").hidden = false;
  $("talk").setAttribute("aria-pressed", "true");
  $("talk-text").textContent = "Stop";
  const mine = call;
  try { await mine.start(); } catch (error) {
    const words = { NotAllowedError: "the microphone was not allowed; allow it in the browser", NotFoundError: "there is no microphone" };
    mine.ended(words[error.name] ?? error.message, false);
  }
};
$("mute").onclick = () => {
  const on = $("mute").getAttribute("aria-pressed") !== "true";
  $("mute").setAttribute("aria-pressed", String(on));
  $("mute").textContent = on ? "Muted" : "Mute";
  call?.mute(on);
};
$("save-audio").onclick = () => save(recorder.wav(), "conversation.wav");
$("save-text").onclick = () => save(new Blob([transcript.json()], { type: "application/json" }), "transcript.json");
for (const [slider, out] of [["text-temperature", "out-text"], ["audio-temperature", "out-audio"]]) {
  const tell = () => { $(out).textContent = $(slider).valueAsNumber < 0 ? "recommended" : $(slider).valueAsNumber.toFixed(2); };
  $(slider).oninput = tell;
  tell();
}
$("token").onchange = () => sessionStorage.setItem("token", $("token").value);
// A link with #token=... hands the token over without sending it to any log.
const handed = new URLSearchParams(location.hash.slice(1)).get("token");
if (handed) { sessionStorage.setItem("token", handed); history.replaceState(null, "", location.pathname); }
fetch("/healthz").then((answer) => answer.json()).then((state) => {
  $("model").textContent = state.model;
  if (state.sessions >= state.slots) show("idle", "all places are taken just now");
}).catch(() => show("bad", "the server does not answer"));
