// Follows a job's events over WebSockets that may break: each event once, in order, to the end.

import { ApiError, askStream, streamUrl } from "./api.js";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
const NORMAL = 1000;
// Another attempt would get the same code. With 4429, too many streams, it might not.
const FINAL_CODES = new Set([4400, 4401, 4404]);

/**
 * Calls onEvent(event) for every event, onTrouble(message) when the connection breaks, onTrouble(null) when it is
 * back, and onRefused(message) when the server refuses for good. Returns a function that stops everything.
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
      else if (wasOpen) reconnect();
      else askStream(jobId).then(() => reconnect(), failed);
    };
  }

  function failed(error) {
    if (stopped) return;
    if (!(error instanceof ApiError)) reconnect();
    else if (error.isFinal) onRefused(error.message);
    else reconnect(error.message);
  }

  function receive(event) {
    if (stopped || event.seq <= after) return;
    // There should be no gaps. If there is one, the log has the missing events.
    if (event.seq > after + 1) return socket.close(4000);
    after = event.seq;
    pause = FIRST_PAUSE_MS;
    if (trouble !== null) onTrouble((trouble = null));
    onEvent(event);
  }

  function reconnect(reason = "connection lost") {
    if (stopped) return;
    if (trouble !== reason) onTrouble((trouble = reason));
    // A random part, so that many pages do not reconnect at the same moment.
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
