/* The one script of the pages: theme, times, actions, live updates, uploads. Without it pages can be read. */
"use strict";
(() => {
  const root = document.documentElement;
  const $ = (what, where = document) => where.querySelector(what);
  const $$ = (what, where = document) => [...where.querySelectorAll(what)];
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* storage is off: the system's theme it is */ }
  if (kept) root.dataset.theme = kept;

  function turn() {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as above */ }
  }

  /* --- times --- */
  const minute = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
  const day = new Intl.DateTimeFormat(undefined, minute), year = new Intl.DateTimeFormat(undefined, { ...minute, year: "numeric" });
  const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const short = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  const clock = (at) => hour.format(at);
  function moment(at) {
    const far = Math.abs(Date.now() - at);
    if (at.toDateString() === new Date().toDateString()) return clock(at);
    if (far < 6 * 86400e3) return short.format(at);
    return (at.getFullYear() === new Date().getFullYear() ? day : year).format(at);
  }
  function ago(at) {
    const s = (at - Date.now()) / 1000, far = Math.abs(s);
    for (const [unit, size, least] of [["day", 86400, 172800], ["hour", 3600, 5400], ["minute", 60, 90]])
      if (far >= least) return relative.format(Math.round(s / size), unit);
    return far < 10 ? "just now" : relative.format(Math.round(s), "second");
  }
  function spoken(s) {
    if (s === null || s === undefined) return "not known yet";
    for (const [unit, size, least] of [["d", 86400, 172800], ["h", 3600, 3600], ["min", 60, 120]])
      if (s >= least) return `${+(s / size).toFixed(1)} ${unit}`;
    return s > 0 && s < 0.1 ? `${Math.round(s * 1000)} ms` : `${+s.toFixed(1)} s`;
  }
  function times(where) {
    for (const one of $$("time[datetime]", where)) {
      const at = new Date(one.dateTime);
      if (isNaN(at)) continue;
      const said = "ago" in one.dataset ? ago(at) : moment(at);
      if (one.textContent !== said) one.textContent = said;
      one.title = full.format(at);
    }
    const zone = $("[data-zone]", where);
    if (zone) zone.textContent = "your zone, " + Intl.DateTimeFormat().resolvedOptions().timeZone;
  }

  /* --- pages that stay: what changed is changed in place, the rest is not touched --- */
  function morph(old, now) {
    if (old.isEqualNode(now)) return;
    if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) { old.replaceWith(now.cloneNode(true)); return; }
    if (old.nodeType !== 1) { old.nodeValue = now.nodeValue; return; }
    if (old.open && old.nodeName === "DIALOG" || "keep" in old.dataset || old.contains(document.activeElement) && old.matches("input, textarea, select")) return;
    for (const { name, value } of [...now.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open") && name !== "title") old.removeAttribute(name);
    let at = old.firstChild;
    const named = (within, id) => id ? [...within.children].find((one) => one.id === id) : undefined;
    for (const one of now.childNodes) {
      const same = named(old, one.id);
      if (same && same !== at) { old.insertBefore(same, at); at = same; }
      if (!at || at.id && at.id !== one.id && named(now, at.id)) { old.insertBefore(one.cloneNode(true), at); continue; }
      const next = at.nextSibling;
      morph(at, one);
      at = next;
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }
  let asked = 0;
  async function refresh(url = location.href, parts = "[data-part]") {
    const mine = ++asked;
    const answer = await fetch(url, { headers: { accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/login") { location.assign(answer.url); return; }
    if (!answer.ok || mine !== asked) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    times(page);
    for (const one of $$(parts)) { const now = page.getElementById(one.id); if (now) morph(one, now); }
  }

  /* --- live --- */
  const sign = () => $("#live");
  let since = null, waiting = 0, last = 0;
  function live(on) {
    const box = sign();
    if (!box) return;
    if (on) { since = null; box.className = "live on"; $("[data-live]", box).textContent = "Live"; return; }
    since = since || new Date();
    box.className = "live off";
    $("[data-live]", box).textContent = `Not live since ${clock(since)}; trying again`;
  }
  function soon() {
    if (waiting) return;
    const pause = Math.max(300, 1500 - (Date.now() - last));
    waiting = setTimeout(() => { waiting = 0; last = Date.now(); refresh().catch(() => live(false)); }, pause);
  }
  function listen() {
    let wait = 1000, opened = false, stream = null;
    const begin = () => {
      stream?.close();
      if (document.hidden) return;
      const behind = $("#events-list[data-follow]")?.dataset.newest;
      stream = new EventSource(`/api/v1/events/live${behind ? `?after=${behind}` : ""}`);
      stream.onopen = () => { live(true); wait = 1000; if (opened) soon(); opened = true; };
      stream.onmessage = (message) => { soon(); append(message); };
      stream.onerror = () => {
        live(false);
        if (stream.readyState === EventSource.CLOSED) { setTimeout(begin, wait); wait = Math.min(wait * 2, 30000); }
      };
    };
    begin();
    addEventListener("pagehide", () => stream?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
    // A browser opens six connections to one host, over all tabs: those that nobody looks at give theirs back.
    addEventListener("visibilitychange", () => { if (document.hidden) stream?.close(); else begin(); });
  }
  function append(message) {
    const list = $("#events-list[data-follow]");
    if (!list) return;
    let told;
    try { told = JSON.parse(message.data); } catch { return; }
    for (const name of ["model", "kind", "run"]) {
      const wanted = list.dataset[name];
      if (wanted && String(told[name]) !== wanted) return;
    }
    if (told.id && told.id <= Number(list.dataset.newest)) return;
    list.dataset.newest = told.id || list.dataset.newest;
    list.prepend(logLine(told.at, told.text));
    while (list.children.length > 300) list.lastChild.remove();
  }
  function logLine(at, text) {
    const line = document.createElement("li"), time = document.createElement("time"), said = document.createElement("span");
    time.dateTime = at || new Date().toISOString();
    time.dataset.moment = "";
    said.dir = "auto";
    said.textContent = text;
    line.append(time, said);
    times(line);
    return line;
  }

  /* --- a run, live --- */
  function follow(id) {
    const log = $("#log"), bar = $("#run-bar");
    let stream = null, newest = log.dataset.newest, over = false;
    const say = (text) => {
      const near = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(logLine(null, text));
      while (log.children.length > 500) log.firstChild.remove();
      if (near) log.scrollTop = log.scrollHeight;
    };
    const heard = (message) => {
      const told = JSON.parse(message.data);
      newest = message.lastEventId || newest;
      if (told.type === "progress") say(told.data);
      else if (told.type === "error") say("Error: " + told.data);
      else { say("Ended: " + (told.data.status || "")); over = true; stream.close(); soon(); }
    };
    const moved = (message) => {
      const told = JSON.parse(message.data);
      if (bar && told.total) {
        const p = $("progress", bar);
        p.max = 1;
        p.value = told.fraction ?? told.done / told.total;
        const left = told.eta_s === null || told.eta_s === undefined ? "" : `, about ${spoken(told.eta_s)} left`;
        $("[data-told]", bar).textContent = `${told.done.toLocaleString()} of ${told.total.toLocaleString()} partitions${left}`;
      }
      const saying = $("[data-saying]");
      if (saying) saying.textContent = told.text;
    };
    const begin = () => {
      stream?.close();
      if (over || document.hidden) return;
      stream = new EventSource(`/api/v1/runs/${id}/events?after=${newest}`);
      stream.onmessage = heard;
      stream.addEventListener("state", moved);
      stream.onerror = () => { if (stream.readyState === EventSource.CLOSED) soon(); };
    };
    begin();
    addEventListener("pagehide", () => stream?.close());
    addEventListener("visibilitychange", () => { if (document.hidden) stream?.close(); else begin(); });
  }

  /* --- actions --- */
  function link(box, href, text) {
    const made = document.createElement("a");
    made.href = href;
    made.textContent = text;
    box.append(" ", made);
  }
  function tell(box, text, bad, run) {
    if (!box) return;
    box.textContent = text;
    if (run) link(box, `/runs/${run}`, `Watch run ${run}`);
    box.classList.toggle("bad", Boolean(bad));
    box.hidden = false;
  }
  async function send(method, path, body) {
    const answer = await fetch(path, {
      method,
      headers: { "content-type": "application/json", accept: "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    let told = {};
    try { told = JSON.parse(text); } catch { told = { detail: text.slice(0, 300) }; }
    if (!answer.ok) throw new Error([told.detail || told.title || `The service answered ${answer.status}.`, told.serving].filter(Boolean).join(" "));
    return told || {};
  }
  const runOf = (told) => told.run_id ?? (typeof told.run === "object" ? told.run?.run : told.run) ?? null;
  function said(told, form) {
    if (told.announcement) return told.announcement;
    if (told.announcements) return [told.text, ...told.announcements, ...(told.notes || [])].join(" ");
    if (runOf(told) && told.of !== undefined)
      return `Retraining ${told.model} in the background: ${told.partitions.toLocaleString()} of ${told.of.toLocaleString()} partitions.`;
    if (told.after !== undefined) return `${told.after} serves again; ${told.before} served before. Partitions: ${told.partitions.toLocaleString()}.`;
    if (told.pinned !== undefined) return told.pinned ? `Held against every challenger: ${told.partitions.toLocaleString()} champions.` : "Free again: a challenger that passes the gate takes over.";
    return form.dataset.done || told.text || told.reason || "Done.";
  }
  function fields(form) {
    const body = JSON.parse(form.dataset.body || "{}");
    for (const one of form.elements) {
      if (!one.name || one.disabled || "skip" in one.dataset) continue;
      if (one.type === "checkbox") body[one.name] = one.checked;
      else if (one.type === "radio") { if (one.checked) body[one.name] = one.value; }
      else if (one.value !== "") body[one.name] = one.dataset.json !== undefined ? JSON.parse(one.value) : one.value;
    }
    return body;
  }
  async function act(form) {
    const dialog = form.closest("dialog");
    const inside = $(".answer", form);
    const box = document.getElementById(form.dataset.say) || inside;
    const buttons = $$("button", form);
    buttons.forEach((one) => { one.disabled = true; });
    form.setAttribute("aria-busy", "true");
    try {
      let text, run;
      if ("each" in form.dataset) {
        const { force } = fields(form), reasons = [];
        for (const one of $$("[name=each]", form)) {
          const told = await send("POST", one.value, { partitions: null, force });
          run = runOf(told) ?? run;
          reasons.push(said(told, form));
        }
        text = reasons.join(" ");
      } else {
        const [method, path] = form.dataset.api.split(" ");
        const told = await send(method, path, method === "DELETE" ? undefined : fields(form));
        text = said(told, form);
        run = runOf(told);
      }
      if (dialog) dialog.close();
      tell(box, text, false, run);
      await refresh();
    } catch (error) {
      const shown = dialog?.open ? inside : box;
      tell(shown, error instanceof TypeError ? "The service cannot be reached; nothing was done." : error.message, true);
    } finally {
      buttons.forEach((one) => { one.disabled = false; });
      form.removeAttribute("aria-busy");
    }
  }
  async function plan(dialog, button) {
    const form = $("form", dialog), box = $("[data-plan]", dialog), path = button.dataset.path;
    form.dataset.api = `${form.dataset.api.split(" ")[0]} ${path}${form.dataset.tail}`;
    form.dataset.say = button.dataset.sayto;
    $("[data-name]", dialog).textContent = button.dataset.name || button.dataset.model;
    if ($("[data-detail]", dialog)) $("[data-detail]", dialog).textContent = button.dataset.told;
    if (!box) return;
    const key = button.dataset.partition ? JSON.parse(button.dataset.partition) : null;
    let input = $("[name=partitions]", form);
    if (input) input.remove();
    if (key) {
      input = document.createElement("input");
      input.type = "hidden"; input.name = "partitions"; input.dataset.json = ""; input.value = JSON.stringify([key]);
      form.append(input);
      $("[data-name]", dialog).textContent = `${button.dataset.label} of ${button.dataset.model}`;
    }
    box.textContent = "Looking at what would be trained …";
    try {
      const p = await send("GET", `${path}/plan?${key ? new URLSearchParams(key) : "full=1"}`);
      const above = p.rollups ? ` (${p.leaves.toLocaleString()} and ${p.rollups.toLocaleString()} above)` : "";
      const lines = [
        `${p.partitions.toLocaleString()} of ${p.of.toLocaleString()} partitions${above} would be trained.`,
        `It takes ${spoken(p.wall_s)} on ${p.workers} ${p.workers === 1 ? "worker" : "workers"}; at most ${spoken(p.estimate_s)} of work, by the last fits.`,
        p.reason ? `Because: ${p.reason}.` : "",
        p.held_until ? `A blackout window holds others back until ${moment(new Date(p.held_until))}; this request starts all the same.` : "",
      ];
      box.replaceChildren(...lines.filter(Boolean).map((text) => Object.assign(document.createElement("p"), { textContent: text })));
    } catch (error) { box.textContent = "No preview: " + error.message; }
  }

  /* --- uploads --- */
  async function upload(zone, file) {
    const steps = $("#steps"), box = $("#say-upload"), bar = $("#upload-bar");
    bar.hidden = true;
    steps.replaceChildren();
    box.hidden = true;
    const step = (text) => {
      const line = Object.assign(document.createElement("li"), { textContent: text });
      line.dir = "auto";
      steps.append(line);
      while (steps.children.length > 200) steps.firstChild.remove();
    };
    const { dataset: name, look } = fields(zone.closest("form"));
    step(`${file.name}: sending ${(file.size / 1024).toLocaleString(undefined, { maximumFractionDigits: 1 })} kB`);
    const body = new FormData();
    body.append("file", file);
    try {
      const accept = look ? "application/json" : "text/event-stream", how = look ? "dry_run=1" : "stream=1";
      const answer = await fetch(`/api/v1/datasets/${encodeURIComponent(name)}/batches?${how}`, { method: "POST", body, headers: { accept } });
      if (!answer.ok) {
        const told = await answer.json().catch(() => ({}));
        throw new Error(told.detail || `The service answered ${answer.status}.`);
      }
      if (look) {
        const would = await answer.json();
        step(`${would.rows.toLocaleString()} rows: ${would.added.toLocaleString()} would be added, ${would.updated.toLocaleString()} updated, ${would.unchanged.toLocaleString()} are as they are, ${would.set_aside.toLocaleString()} would be set aside.`);
        if (would.fresh.length) step(`New columns: ${would.fresh.join(", ")}.`);
        tell(box, would.would.join(". ") || "Nothing would be trained.");
        return;
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "", ended = false;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const parts = rest.split(/\r?\n\r?\n/);
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split(/\r?\n/).filter((one) => one.startsWith("data:")).map((one) => one.slice(5).trimStart()).join("\n");
          if (!data) continue;
          const told = JSON.parse(data);
          if (/^event: ?state/m.test(part)) {
            bar.hidden = false;
            bar.value = told.fraction ?? 0;
            continue;
          }
          if (told.type === "progress") step(told.data);
          else if (told.type === "error") throw new Error(told.data);
          else if (told.type === "result") {
            ended = true;
            const { batch, runs = [] } = told.data.meta || {};
            const text = [...(batch?.announcements || []), ...runs.map((one) => `${one.model}: ${one.outcome}, ${one.reason}.`)];
            tell(box, text.join(" ") || batch?.text || "The file is in.", told.data.status !== "success", runs[0]?.run);
            for (const one of runs) link(box, `/models/${encodeURIComponent(one.model)}`, `See ${one.model}`);
          }
        }
      }
      if (!ended) tell(box, "The stream ended early; what was merged stays merged, and training goes on.", true);
    } catch (error) {
      tell(box, error instanceof TypeError ? "The service cannot be reached; nothing was merged." : error.message, true);
    }
    refresh();
  }

  /* --- wiring: one listener for each kind of event, so that parts may be exchanged --- */
  document.addEventListener("click", (event) => {
    const hit = event.target.closest("button, a");
    if (!hit) return;
    if ("themeToggle" in hit.dataset) turn();
    else if (hit.dataset.open) {
      const dialog = document.getElementById(hit.dataset.open);
      const old = $(".answer", dialog);
      if (old) old.hidden = true;
      dialog.showModal();
      if (hit.dataset.path) plan(dialog, hit);
    } else if ("close" in hit.dataset) hit.closest("dialog").close();
    else if (hit.id === "bell") {
      event.preventDefault();
      $("#drawer").showModal();
      fetch(hit.href).then((answer) => answer.text()).then((text) => {
        const page = new DOMParser().parseFromString(text, "text/html");
        times(page);
        $("[data-drawer]").replaceChildren(...$$("#notifications", page));
      });
    }
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.api || "each" in form.dataset) { event.preventDefault(); act(form); }
  });
  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-search]");
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      const url = `${location.pathname}?${new URLSearchParams(new FormData(form))}`;
      history.replaceState(null, "", url);
      refresh(url, form.dataset.search);
    }, 250);
  });
  function choose(form) {
    const every = form.elements.every?.value;
    for (const one of $$("[data-when]", form)) {
      one.hidden = !one.dataset.when.split(" ").includes(every);
      for (const field of $$("input, select", one)) { field.disabled = one.hidden; field.required = !one.hidden; }
    }
  }
  document.addEventListener("change", (event) => {
    if (event.target.name === "every") choose(event.target.form);
    const form = event.target.closest("form[data-auto]");
    if (form) form.requestSubmit();
    if (event.target.matches(".drop input[type=file]") && event.target.files[0]) {
      upload(event.target.closest(".drop"), event.target.files[0]);
      event.target.value = ""; // so that the same file can be chosen again
    }
  });
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
    const zone = event.target.closest?.(".drop");
    if (!zone) return;
    event.preventDefault();
    zone.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) upload(zone, event.dataTransfer.files[0]);
  });
  document.addEventListener("DOMContentLoaded", () => {
    times(document);
    for (const one of $$(".wide-chart")) one.scrollLeft = one.scrollWidth;
    setInterval(() => times(document), 30000);
    setInterval(() => { if (!document.hidden && $("[data-part] .bar progress")) soon(); }, 3000);
    $$("form").filter((form) => form.elements.every).forEach(choose);
    if (!sign()) return;
    listen();
    const run = $("[data-follow-run]");
    if (run) follow(run.dataset.followRun);
  });
})();
