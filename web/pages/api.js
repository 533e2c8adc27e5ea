// Calls to the server, with the API key if the server requires one.

const KEY = "tokenrelay-api-key";

// The server's answer to a plain request for a stream that a WebSocket could open.
const NO_HANDSHAKE = 400;
// The server, or a proxy in front of it, is busy at the moment.
const PASSING = new Set([408, 429]);

/** The server refused a request; the message is the server's own. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Returns whether the same request would be refused again. */
  get isFinal() {
    return this.status >= 400 && this.status < 500 && !PASSING.has(this.status);
  }
}

// Kept for this tab only: a key should not outlive the visit.
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** Returns the answer's JSON. Throws ApiError, and Error if the server cannot be reached. */
export async function call(method, path, body, idempotencyKey) {
  const response = await ask(method, path, body, idempotencyKey);
  const answer = await jsonOf(response);
  if (answer === undefined) throw new ApiError(response.status, "the server's answer is not JSON");
  return answer;
}

/**
 * Finds out why the WebSocket of a job cannot be opened: throws as `call` does, or returns if it could be opened now.
 * Browsers do not show a page the answer to a handshake; the server refuses this request for the same reasons.
 * The method is OPTIONS because with GET a browser would not send the page's origin.
 */
export async function askStream(jobId) {
  await ask("OPTIONS", streamPath(jobId)).catch((error) => {
    if (error.status !== NO_HANDSHAKE) throw error;
  });
}

/** Returns a new Idempotency-Key. crypto.randomUUID is missing on pages that came over plain HTTP. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function ask(method, path, body, idempotencyKey) {
  const headers = new Headers();
  if (hasKey()) headers.set("Authorization", `Bearer ${sessionStorage.getItem(KEY)}`);
  if (idempotencyKey) headers.set("Idempotency-Key", idempotencyKey);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("the server cannot be reached");
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const detail = (await jsonOf(response))?.detail;
  const isText = typeof detail === "string" && detail.trim() !== "";
  // A proxy may answer with an HTML page.
  return new ApiError(response.status, isText ? detail : `HTTP ${response.status} ${response.statusText}`.trim());
}

/** Returns undefined if the body is not JSON. */
const jsonOf = (response) => response.json().catch(() => undefined);

const streamPath = (jobId) => `/v1/jobs/${jobId}/stream`;

/** Returns the address of a job's events after number `after`. */
export async function streamUrl(jobId, after) {
  const url = new URL(streamPath(jobId), location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("after", after);
  url.searchParams.set("done", "short");
  if (hasKey()) {
    // A browser's WebSocket sends no headers.
    const { ticket } = await call("POST", `/v1/jobs/${jobId}/ticket`);
    url.searchParams.set("ticket", ticket);
  }
  return url;
}
