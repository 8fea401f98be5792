// Requests to the server. The token stays in this browser's storage and travels in a header, so no cookie can be misused.

const KEY = "passel-token";
const offline = document.getElementById("offline");

export const token = {
  get: () => localStorage.getItem(KEY) ?? "",
  set: (value) => (value ? localStorage.setItem(KEY, value) : localStorage.removeItem(KEY)),
};

export class WrongToken extends Error {}

// Nobody answers, or something before the server (a proxy, a server that starts) says that it is not there now.
export class Away extends Error {}

export function headers(more = {}) {
  return token.get() ? { Authorization: `Bearer ${token.get()}`, ...more } : more;
}

// The JSON answer; throws with the server's words. `still`: a signal that aborts it.
export async function get(path, still) {
  return read(await reach(path, { headers: headers(), signal: still }));
}

export async function post(path, fields = {}) {
  const body = new URLSearchParams(fields);
  return read(await reach(path, { method: "POST", headers: headers(), body }));
}

// For links and pictures that the browser fetches itself.
export function link(path) {
  return token.get() ? `${path}${path.includes("?") ? "&" : "?"}token=${encodeURIComponent(token.get())}` : path;
}

// A fetch that says on the page when the server is away, and throws Away then. Other errors of HTTP are not thrown here.
export async function reach(path, options) {
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  const away = answer === null || [502, 503, 504].includes(answer.status);
  offline.hidden = !away;
  if (away) throw new Away("The server does not answer.");
  return answer;
}

async function read(answer) {
  if (answer.status === 401) throw new WrongToken();
  const content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}` }));
  if (content?.error) {
    if (String(content.error).startsWith("Invalid authentication token")) throw new WrongToken(content.error);
    throw new Error(content.error);
  }
  return content;
}

// Calls `look` now and then until `still` is aborted; a server that is away is asked again.
export async function poll(look, every_ms, still) {
  while (!still.aborted) {
    try {
      if ((await look()) === "enough") return;
    } catch (error) {
      if (still.aborted) return;
      if (!(error instanceof Away)) throw error;
    }
    await new Promise((wake) => {
      const timer = setTimeout(wake, document.hidden ? 4 * every_ms : every_ms);
      still.addEventListener("abort", () => { clearTimeout(timer); wake(); }, { once: true });
    });
  }
}
