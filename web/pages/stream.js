// A job's events over a WebSocket that may break: each once, in order, to the end.

import { ApiError, askStream, streamUrl } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
const NORMAL = 1000;
// It would be the same the next time, which is not so with 4429: too many streams.
const FINAL_CODES = new Set([4400, 4401, 4404]);

/**
 * Calls onEvent(event) for every event, onTrouble(message) when the connection breaks, onTrouble(null) when it is
 * back, and onRefused(message) where there is nothing to be had. Returns a function that stops it all.
 */
export function follow(jobId, { onEvent, onTrouble, onRefused }) {
  let after = 0;
  let pause = FIRST_PAUSE_MS;
  let socket;
  let timer;
  let stopped = false;
  let trouble = null;

  async function connect() {
    let url;
    try {
      url = await streamUrl(jobId, after);
    } catch (error) {
      return failed(error);
    }
    if (stopped) return;
    let wasOpen = false;
    socket = new WebSocket(url);
    socket.onopen = () => {
      wasOpen = true;
    };
    socket.onmessage = ({ data }) => receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => {
      if (stopped || code === NORMAL) return;
      if (FINAL_CODES.has(code)) onRefused(reason);
      else if (wasOpen) comeAgain();
      else askStream(jobId).then(() => comeAgain(), failed);
    };
  }

  function failed(error) {
    if (stopped) return;
    if (!(error instanceof ApiError)) comeAgain();
    else if (error.isFinal) onRefused(error.message);
    else comeAgain(error.message);
  }

  function receive(event) {
    if (stopped || event.seq <= after) return;
    // A gap cannot be, but if it were, the log has what is missing.
    if (event.seq > after + 1) return socket.close(4000);
    after = event.seq;
    pause = FIRST_PAUSE_MS;
    if (trouble !== null) onTrouble((trouble = null));
    onEvent(event);
  }

  function comeAgain(reason = "connection lost") {
    if (stopped) return;
    if (trouble !== reason) onTrouble((trouble = reason));
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
