import { useState } from "react";

// Yields the messages of a stream of server-sent events; an event is the lines before an empty one.
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
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      // Messages with a name of their own tell how far it is; those without are what is said.
      if (data && !lines.some((line) => line.startsWith("event:"))) yield JSON.parse(data);
    }
  }
}

function ended({ status, meta }) {
  return `${status}: ${meta.outcome ? `${meta.outcome}, ${meta.reason}` : meta.batch.text}`;
}

export default function RetrainModel({ url = "/retrain" }) {
  const [file, setFile] = useState(null);
  const [steps, setSteps] = useState([]);
  const [status, setStatus] = useState("No file is chosen yet.");
  const [busy, setBusy] = useState(false);

  async function retrain(event) {
    event.preventDefault();
    if (!file) {
      setStatus("Choose a CSV file first.");
      return;
    }
    setBusy(true);
    setSteps([]);
    setStatus("Retraining…");
    let last = null;
    try {
      const body = new FormData();
      body.append("file", file);
      const response = await fetch(url, { method: "POST", body });
      if (!response.ok) throw new Error((await response.json()).detail);
      for await (const message of messages(response)) {
        if (message.type === "progress") setSteps((before) => [...before, message.data]);
        else last = message;
      }
      if (!last) throw new Error("the connection was lost; the training goes on");
      if (last.type === "error") throw new Error(last.data);
      setStatus(ended(last.data));
    } catch (error) {
      setStatus(`failed: ${error.message}`);
    } finally {
      setBusy(false);
    }
  }

  return (
    <form onSubmit={retrain}>
      <label>
        CSV file <input type="file" accept=".csv" onChange={(event) => setFile(event.target.files[0] || null)} />
      </label>
      <button type="submit" disabled={busy}>Retrain Model</button>
      <p role="status">{status}</p>
      <ol>{steps.map((step, number) => <li key={number}>{step}</li>)}</ol>
    </form>
  );
}
