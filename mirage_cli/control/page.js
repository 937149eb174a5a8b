"use strict";
// The preview page: one WebSocket for changes and numbers, one picture that the server keeps renewing.
const $ = (id) => document.getElementById(id);
let socket = null;
let count = 0;
let sliding = false;
let typed = false; // a prompt that is not sent yet: no state writes over it
let shownPrompt = null;

function say(text, bad) {
  $("told").textContent = text;
  $("told").className = bad ? "bad" : "";
}

function send(change) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return say("not connected", true);
  socket.send(JSON.stringify({ ...change, id: ++count }));
}

const number = (value, digits, unit) => (value === null || value === undefined ? "-" : value.toFixed(digits) + unit);

function showState(state) {
  $("fps-out").textContent = number(state.fps_out, 1, " fps");
  $("fps-in").textContent = number(state.fps_in, 1, " fps");
  $("p50").textContent = number(state.latency_ms && state.latency_ms.p50, 1, " ms");
  $("p95").textContent = number(state.latency_ms && state.latency_ms.p95, 1, " ms");
  $("dropped").textContent = state.dropped;
  $("frame").textContent = state.frame;
  if (!typed && document.activeElement !== $("prompt") && state.prompt !== shownPrompt) {
    $("prompt").value = shownPrompt = state.prompt;
  }
  if (!sliding) {
    $("strength").value = state.strength;
    $("strength-value").textContent = state.strength.toFixed(2);
  }
  for (const name of ["pause", "record"]) $(name).setAttribute("aria-pressed", String(state[name]));
  $("about").textContent = `${state.model} on ${state.device}, ${state.size.join("x")}, guard events ${state.guard_events}, cuts ${state.cuts}` +
    (state.last_event ? ` (last: ${state.last_event})` : "");
}

function showAnswer(answer) {
  if (!answer.ok) return say(`${answer.error.message}. ${answer.error.remedy}`, true);
  const what = Object.entries(answer.applied).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  say(`${what.join(", ")}: applied at frame ${answer.frame}. ${answer.notes.join(" ")}`, false);
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/socket`);
  socket.onopen = () => {
    $("link").textContent = "connected";
    $("picture").src = `/preview.mjpg?${Date.now()}`;
  };
  socket.onmessage = (event) => {
    const data = JSON.parse(event.data);
    if (data.type === "state") showState(data);
    if (data.type === "answer") showAnswer(data);
  };
  socket.onclose = (event) => {
    $("link").textContent = event.reason || "not connected; trying again";
    setTimeout(connect, 2000);
  };
}

async function begin() {
  const looks = await fetch("/api/looks");
  if (looks.status === 401) {
    $("link").textContent = "a token is needed";
    $("login").hidden = false;
    return;
  }
  const names = (await looks.json()).looks;
  for (const name of names) $("looks").add(new Option(name, name));
  $("login").hidden = true;
  $("all").hidden = false;
  connect();
}

async function login(token) {
  const answer = await fetch("/api/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }),
  });
  if (!answer.ok) {
    $("link").textContent = (await answer.json()).error.message;
    $("login").hidden = false;
    return;
  }
  await begin();
}

$("login").onsubmit = (event) => { event.preventDefault(); login($("token").value); };
$("prompt").oninput = () => { typed = true; };
$("ask").onsubmit = (event) => { event.preventDefault(); typed = false; send({ prompt: $("prompt").value }); };
$("looks").onchange = () => { if ($("looks").value) send({ blend: { [$("looks").value]: 1 } }); };
$("strength").oninput = () => { sliding = true; $("strength-value").textContent = Number($("strength").value).toFixed(2); };
$("strength").onchange = () => { sliding = false; send({ strength: Number($("strength").value) }); };
for (const name of ["pause", "record"]) {
  $(name).onclick = () => send({ [name]: $(name).getAttribute("aria-pressed") !== "true" });
}
for (const name of ["snapshot", "reset"]) $(name).onclick = () => send({ [name]: true });

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", "/");
  login(given);
} else {
  begin();
}
