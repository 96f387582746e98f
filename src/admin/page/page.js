"use strict";
// Shows /api/v1/routes, again every two seconds. Text goes in as text: names come from a file, but never as markup.
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const counts = (all) => {
  const some = Object.entries(all).filter(([, count]) => count > 0);
  return some.length ? some.map(([word, count]) => `${word} ${count.toLocaleString("en")}`).join(", ") : "–";
};
const matched = ({ host, path, path_prefix, methods, headers }) =>
  [methods.join("|"), host ?? "", path ?? `${path_prefix ?? ""}…`, ...Object.entries(headers).map(([k, v]) => `${k}: ${v}`)]
    .filter(Boolean).join(" ");
const row = (model, role, share, calls) => {
  const line = element("tr");
  for (const [text, kind] of [[model], [role], [share, "number"], [`${calls.in_flight}`, "number"], [counts(calls.outcomes)]]) {
    line.append(element("td", text, kind));
  }
  const ejected = calls.endpoints.filter((endpoint) => endpoint.ejected).map((endpoint) => endpoint.address);
  line.append(element("td", ejected.length ? `ejected: ${ejected.join(", ")}` : counts(calls.skipped ?? {}), ejected.length ? "bad" : ""));
  return line;
};
const section = (route) => {
  const made = element("section");
  made.append(element("h2", route.name), element("small", `${matched(route.match)} · ${route.seen.toLocaleString("en")} requests`));
  const table = element("table"), head = element("tr");
  for (const title of ["model", "role", "share", "in flight", "calls", "skipped"]) head.append(element("th", title));
  table.append(head, row(route.prod.model, "prod", "–", route.prod));
  for (const candidate of route.candidates) table.append(row(candidate.model, candidate.role, `${candidate.percent} %`, candidate));
  made.append(table);
  return made;
};
const show = async () => {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("api/v1/routes", { cache: "no-store" });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const { config, last_reload, routes } = await answer.json();
    document.getElementById("routes").replaceChildren(...routes.map(section));
    const rejected = last_reload.outcome === "rejected";
    const faults = document.getElementById("faults");
    faults.textContent = rejected ? last_reload.faults.join("\n") : "";
    faults.hidden = !rejected;
    const since = new Date(last_reload.at * 1000).toLocaleString();
    state.textContent = rejected
      ? `the routing file was rejected at ${since}; the old one (${config}) stays in force`
      : `routing file ${config} since ${since}, ${routes.length} ${routes.length === 1 ? "route" : "routes"}`;
    state.className = rejected ? "bad" : "";
  } catch (error) {
    state.textContent = `no answer: ${error.message}`;
    state.className = "bad";
  }
};
show();
setInterval(show, 2000);
