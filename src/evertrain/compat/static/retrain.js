"use strict";

// Uploads a file and shows what the training says, as it says it: the answer is a stream of server-sent events.

const at = (id) => document.getElementById(id);
const query = location.search; // ?model=NAME, where there are several forecasting models

function say(text, kind) {
  at("status").textContent = text;
  at("status").className = kind || "";
}

function step(text) {
  at("steps-section").hidden = false;
  const item = document.createElement("li");
  item.textContent = text;
  at("steps").append(item);
  at("steps").scrollTop = at("steps").scrollHeight;
}

function cell(text, kind) {
  const made = document.createElement(kind);
  const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
  made.textContent = text === null ? "–" : typeof text === "number" ? text.toLocaleString(undefined, digits) : text;
  if (kind === "th") made.scope = "col";
  return made;
}

async function problem(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `the service answered ${response.status}`;
  }
}

// Yields the messages of a stream: an event is the lines before an empty one.
async function* messages(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/);
      const named = lines.find((line) => line.startsWith("event:"));
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data) yield { name: named ? named.slice(6).trim() : "message", data: JSON.parse(data) };
    }
  }
}

async function showForecast() {
  const response = await fetch(`/forecast${query}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: '{"days": 7}',
  });
  if (!response.ok) return;
  const found = await response.json();
  const names = Object.keys(found.forecast[0]);
  at("head").replaceChildren(...names.map((name) => cell(name, "th")));
  at("forecast").replaceChildren(...found.forecast.map((row) => {
    const line = document.createElement("tr");
    line.append(...names.map((name) => cell(row[name], "td")));
    return line;
  }));
  at("inventory").textContent = `Stock: ${found.inventory.recommendation || found.inventory.why}.`;
  at("forecast-section").hidden = false;
}

function end(message) {
  if (message.type === "error") {
    say(`Retraining failed: ${message.data}`, "bad");
    return;
  }
  const { status, meta } = message.data;
  // Without a run of its own the rows were known, or several models learnt from them.
  const what = meta.outcome ? `${meta.outcome}: ${meta.reason}` : meta.batch.text;
  say(status === "success" ? `Done, ${what}` : `Ended, ${status}, ${what}`, status === "success" ? "good" : "bad");
}

async function upload(event) {
  event.preventDefault();
  const file = at("file").files[0];
  if (!file) {
    say("Choose a CSV file first.", "bad");
    return;
  }
  at("send").disabled = true;
  at("steps").replaceChildren();
  at("progress").hidden = false;
  at("progress").removeAttribute("value");
  say(`Uploading ${file.name}…`);
  try {
    const body = new FormData();
    body.append("file", file);
    const response = await fetch(`/retrain${query}`, { method: "POST", body });
    if (!response.ok) {
      say(response.status === 401 ? "Log in first, at /login." : `Not accepted: ${await problem(response)}`, "bad");
      return;
    }
    say("Retraining…");
    let last = null;
    for await (const { name, data } of messages(response)) {
      if (name === "state") {
        if (data.fraction !== null) at("progress").value = data.fraction;
      } else if (data.type === "progress") {
        step(data.data);
      } else {
        last = data;
      }
    }
    if (!last) {
      say("The connection was lost. The training goes on; the page Runs shows it.", "bad");
      return;
    }
    end(last);
    await showForecast();
  } catch (error) {
    say(`The service cannot be reached: ${error.message}`, "bad");
  } finally {
    at("send").disabled = false;
    at("progress").hidden = true;
  }
}

at("upload").addEventListener("submit", upload);
at("file").addEventListener("change", () => {
  const file = at("file").files[0];
  say(file ? `${file.name}, ${Math.ceil(file.size / 1024).toLocaleString()} kB` : "No file is chosen yet.");
});
