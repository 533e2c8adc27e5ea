// A job's events over a WebSocket that may break: each once, in order, to the end.

import { ApiError, streamUrl } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
const NORMAL = 1000;
// It would be the same the next time, which is not so with 4429: too many streams.
const FINAL_CODES = new Set([4400, 4401, 4404]);

/**
 * Calls onEvent(event) for every event, onTrouble(true) when the connection breaks, onTrouble(false) when it is
 * back, and onRefused(message) where there is nothing to be had. Returns a function that stops it all.
 */
export function follow(jobId, { onEvent, onTrouble, onRefused }) {
  let after = 0;
  let pause = FIRST_PAUSE_MS;
  let socket;
  let timer;
  let stopped = false;
  let broken = false;

  async function connect() {
    let url;
    try {
      url = await streamUrl(jobId, after);
    } catch (error) {
      if (error instanceof ApiError && error.status < 500) onRefused(error.message);
      else comeAgain();
      return;
    }
    if (stopped) return;
    socket = new WebSocket(url);
    socket.onmessage = ({ data }) => receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => {
      if (stopped || code === NORMAL) return;
      if (FINAL_CODES.has(code)) onRefused(reason);
      else comeAgain();
    };
  }

  function receive(event) {
    if (stopped || event.seq <= after) return;
    // A gap cannot be, but if it were, the log has what is missing.
    if (event.seq > after + 1) return socket.close(4000);
    after = event.seq;
    pause = FIRST_PAUSE_MS;
    if (broken) onTrouble((broken = false));
    onEvent(event);
  }

  function comeAgain() {
    if (stopped) return;
    if (!broken) onTrouble((broken = true));
    // Scattered, so that many pages do not come all at once.
    timer = setTimeout(connect, pause * (0.5 + Math.random() / 2));
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }

  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    socket?.close();
  };
}
