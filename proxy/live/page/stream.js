// Server-sent events over fetch, which, unlike EventSource, can carry a token. It goes on by itself until it is told to stop.

const SILENT_S = 8; // longer than this without a frame, and what is shown is old
const FIRST_PAUSE_S = 1, LONGEST_PAUSE_S = 15;
const KEY = "paceline-token";

export const token = {
  get: () => { try { return sessionStorage.getItem(KEY) ?? ""; } catch { return token.kept ?? ""; } },
  set: (value) => { token.kept = value; try { sessionStorage.setItem(KEY, value); } catch { /* then for this page only */ } },
};

/** Calls on.event(name, data), on.state("live" | "lost", why), and on.unauthorized(); `start()` again after a new token. */
export function stream(url, on) {
  let pause_s = FIRST_PAUSE_S, current = null, timer = 0;

  async function once(controller) {
    const headers = { accept: "text/event-stream" };
    if (token.get()) headers.authorization = `Bearer ${token.get()}`;
    const answer = await fetch(url, { headers, signal: controller.signal, cache: "no-store" });
    if (answer.status === 401) return { unauthorized: true };
    if (!answer.ok) throw new Error(await detail(answer));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", silence = 0;
    const alive = () => { clearTimeout(silence); silence = setTimeout(() => controller.abort(new Error("it says nothing any more")), SILENT_S * 1000); };
    alive();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("it ended");
        text += value;
        for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
          const [name, data] = event(text.slice(0, end));
          text = text.slice(end + 2);
          if (!name) continue;
          alive();
          pause_s = FIRST_PAUSE_S;
          if (name === "closing") throw new Error("the proxy is closing");
          on.state("live", "");
          on.event(name, data);
        }
      }
    } finally {
      clearTimeout(silence);
    }
  }

  async function start() {
    stop();
    const controller = current = new AbortController();
    try {
      const end = await once(controller);
      if (end?.unauthorized) return on.unauthorized();
    } catch (error) {
      if (controller !== current) return undefined; // stopped by us
      const why = controller.signal.reason?.message ?? (error instanceof TypeError ? "the admin port does not answer" : error.message);
      controller.abort();
      on.state("lost", why, pause_s);
      timer = setTimeout(start, pause_s * 1000);
      pause_s = Math.min(pause_s * 2, LONGEST_PAUSE_S);
    }
    return undefined;
  }

  function stop() {
    clearTimeout(timer);
    const running = current;
    current = null;
    running?.abort();
  }

  return { start, stop };
}

function event(block) {
  let name = "", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return name ? [name, JSON.parse(data)] : ["", null];
}

async function detail(answer) {
  try {
    const told = (await answer.json()).detail;
    return typeof told === "string" ? told : `it answered ${answer.status}`;
  } catch {
    return `it answered ${answer.status}`;
  }
}
