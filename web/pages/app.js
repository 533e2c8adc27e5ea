// The page: the job that is shown, the server's state and the recent jobs.

import { ApiError, call, newKey, setKey } from "./api.js";
import { follow } from "./stream.js";

const REFRESH_MS = 2000;
const RECENT_JOBS = 10;
// The same request within this time after the answer is the second click of a double click.
const DOUBLE_CLICK_MS = 500;
const ENDED = new Set(["completed", "failed", "cancelled", "expired"]);

const $ = (id) => document.getElementById(id);
let current = null; // { id, status, line, stop }
let lastRequest = null; // { body, key, until }

// --- the job that is shown ---

async function submit() {
  const request = {
    prompt: $("prompt").value,
    max_tokens: $("max-tokens").valueAsNumber,
    temperature: $("temperature").valueAsNumber,
  };
  if ($("seed").value !== "") request.seed = $("seed").valueAsNumber;
  const key = keyFor(request);
  const job = await call("POST", "/v1/jobs", request, key);
  if (lastRequest.key === key) lastRequest.until = performance.now() + DOUBLE_CLICK_MS;
  show(job);
  refreshQuietly();
}

/** Returns a new key, or the last one for a double click and for a repetition after a lost answer. */
function keyFor(request) {
  const body = JSON.stringify(request);
  if (lastRequest?.body !== body || performance.now() > lastRequest.until) {
    lastRequest = { body, key: newKey(), until: Infinity };
  }
  return lastRequest.key;
}

function show(job) {
  current?.stop();
  $("result").hidden = false;
  $("asked").textContent = promptOf(job);
  $("output").replaceChildren();
  current = { id: job.id };
  // The id is in the page's address, so that a reload shows the job again.
  history.replaceState(null, "", `#${job.id}`);
  showStatus(job);
  current.stop = follow(job.id, {
    onEvent,
    onTrouble: (reason) => say(reason === null ? current.line : `${reason}, trying again …`),
    onRefused: (reason) => {
      say(current.line);
      tell(reason);
    },
  });
}

function onEvent(event) {
  if (event.type === "token") choice(event.index).append(event.text);
  if (event.type === "status") showStatus(event);
  if (event.type === "done") {
    showStatus(event.job);
    refreshQuietly();
  }
}

/** Returns the paragraph of one of the job's n outputs. */
function choice(index) {
  while ($("output").children.length <= index) $("output").append(document.createElement("p"));
  return $("output").children[index];
}

function showStatus(job) {
  current.status = job.status;
  current.line = statusLine(job);
  $("cancel").disabled = ENDED.has(job.status);
  say(current.line);
}

function statusLine(job) {
  const parts = [job.status.replace("_", " ")];
  if (job.status === "queued") {
    parts.push(job.reason);
    if (job.eta_seconds !== null) parts.push(`about ${Math.ceil(job.eta_seconds)} s`);
  }
  if (job.attempt > 1) parts.push(`attempt ${job.attempt}`);
  if (ENDED.has(job.status)) {
    parts.push(`${job.usage.completion_tokens} tokens`);
    if (job.metrics.tokens_per_second !== null) parts.push(`${job.metrics.tokens_per_second} tokens/s`);
    if (job.error) parts.push(job.error.message);
  }
  return parts.filter(Boolean).join(" · ");
}

const say = (line) => {
  $("status").textContent = line;
};

function promptOf({ request }) {
  return request.prompt ?? request.messages.map(textOf).join("\n");
}

function textOf({ content }) {
  return typeof content === "string" ? content : content.map((part) => part.text).join("");
}

// --- the server and the recent jobs ---

async function refresh() {
  const [health, recent, waiting] = await Promise.all([
    call("GET", "/health"),
    call("GET", `/v1/jobs?fields=summary&limit=${RECENT_JOBS}`),
    current?.status === "queued" ? call("GET", `/v1/jobs/${current.id}`) : null,
  ]);
  showHealth(health);
  showRecent(recent.data);
  // In the meantime the job may have started, or another job may be shown.
  if (waiting?.status === "queued" && waiting.id === current.id && current.status === "queued") {
    showStatus(waiting);
  }
}

const refreshQuietly = () => refresh().catch(showAway);

function showHealth({ jobs, workers }) {
  $("health").classList.toggle("bad", workers.length === 0);
  if (workers.length === 0) {
    $("health").textContent = "no worker is alive: jobs wait";
    return;
  }
  const sum = (name) => workers.reduce((total, worker) => total + worker[name], 0);
  const models = new Set(workers.map((worker) => worker.model));
  $("health").textContent = [
    [...models].join(", "),
    `${workers.length} worker${workers.length > 1 ? "s" : ""}`,
    `${sum("running")} of ${sum("slots")} slots busy`,
    `${jobs.queued ?? 0} queued`,
    `${Math.round(sum("tokens_per_second"))} tokens/s`,
  ].join(" · ");
}

function showRecent(jobs) {
  $("no-jobs").hidden = jobs.length > 0;
  const focused = document.activeElement?.dataset?.job;
  $("recent").replaceChildren(...jobs.map(recentJob));
  if (focused) document.querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
}

function recentJob(job) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.job = job.id;
  button.append(
    span(job.status, job.status.replace("_", " ")),
    span("prompt", job.prompt),
    span("time", new Date(job.created_at).toLocaleTimeString()),
  );
  button.onclick = () => attempt(async () => show(await call("GET", `/v1/jobs/${job.id}`)));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function span(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

// --- errors ---

/** Runs an action. Shows its error on the page, and asks for a key if one is missing. */
async function attempt(action) {
  // Cleared before the action, not after it: by then a stream may have shown a refusal.
  tell("");
  try {
    await action();
  } catch (error) {
    askForKey(error);
    tell(error.message);
  }
}

function showAway(error) {
  askForKey(error);
  $("health").classList.add("bad");
  $("health").textContent = error.isFinal ? error.message : `${error.message}, trying again …`;
}

function askForKey(error) {
  if (error instanceof ApiError && error.status === 401) $("key-form").hidden = false;
}

function tell(problem) {
  $("problem").hidden = problem === "";
  $("problem").textContent = problem;
}

// --- wiring ---

$("job-form").onsubmit = (event) => {
  event.preventDefault();
  attempt(submit);
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("job-form").requestSubmit();
};
$("cancel").onclick = () => attempt(() => call("POST", `/v1/jobs/${current.id}/cancel`));
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  setKey($("key").value);
  $("key-form").hidden = true;
  attempt(begin);
};

async function begin() {
  if (location.hash && !current) show(await call("GET", `/v1/jobs/${encodeURIComponent(location.hash.slice(1))}`));
  await refresh();
}

attempt(begin);
setInterval(() => {
  if (!document.hidden && $("key-form").hidden) refreshQuietly();
}, REFRESH_MS);
