// Calls to the server, with the API key where it wants one.

const KEY = "tokenrelay-api-key";

// The server's answer to any other request than a handshake, where a WebSocket is to be had.
const NO_HANDSHAKE = 400;
// Busy, for the moment: the server itself, or a proxy in front of it.
const PASSING = new Set([408, 429]);

/** The server's refusal; its message is the server's own. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** The same request would be refused again. */
  get isFinal() {
    return this.status >= 400 && this.status < 500 && !PASSING.has(this.status);
  }
}

// For this tab only: a key should not outlive the visit.
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** The answer's JSON. Throws ApiError, and Error where the server cannot be reached. */
export async function call(method, path, body, idempotencyKey) {
  const response = await ask(method, path, body, idempotencyKey);
  const answer = await jsonOf(response);
  if (answer === undefined) throw new ApiError(response.status, "the server's answer is not JSON");
  return answer;
}

/**
 * Why the WebSocket of a job cannot be opened: throws as `call` does, or returns where nothing speaks against it now.
 * Browsers do not tell a page what was answered to a handshake; the server refuses this request for the same reasons.
 * It is OPTIONS because with GET a browser would not name the page's origin.
 */
export async function askStream(jobId) {
  await ask("OPTIONS", streamPath(jobId)).catch((error) => {
    if (error.status !== NO_HANDSHAKE) throw error;
  });
}

/** A new Idempotency-Key. crypto.randomUUID is missing where a page came over plain HTTP. */
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
  // A proxy answers with a page of its own.
  return new ApiError(response.status, isText ? detail : `HTTP ${response.status} ${response.statusText}`.trim());
}

/** undefined where it is not JSON. */
const jsonOf = (response) => response.json().catch(() => undefined);

const streamPath = (jobId) => `/v1/jobs/${jobId}/stream`;

/** The address of a job's events behind number `after`. */
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
