// Calls to the server, with the API key where it wants one.

const KEY = "tokenrelay-api-key";

/** The server's refusal; its message is the server's own. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// For this tab only: a key should not outlive the visit.
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** The answer's JSON. Throws ApiError, and TypeError where the server cannot be reached. */
export async function call(method, path, body) {
  const headers = {};
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, answer.detail ?? `HTTP ${response.status}`);
  return answer;
}

/** The address of a job's events behind number `after`. */
export async function streamUrl(jobId, after) {
  const url = new URL(`/v1/jobs/${jobId}/stream`, location.href);
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
