// What is wrong with the flows in the folder, as the terminal of `dev` says it: asked for while somebody looks.

import { $, make } from "/page/dom.js";

const EVERY_MS = 2_000;
let asking = null;
let told = "[]";

async function ask() {
  if (document.hidden || $("connection").dataset.state !== "live") return;
  let problems;
  try {
    const answer = await fetch("/page/problems");
    if (!answer.ok) {
      clearInterval(asking); // with --public, from another machine
      return;
    }
    ({ problems } = await answer.json());
  } catch {
    return; // what became of the server, the state of the connection tells
  }
  if (JSON.stringify(problems) === told) return; // a screen reader hears it once
  told = JSON.stringify(problems);
  $("flow-problems").replaceChildren(...problems.map((line) => make("li", {}, line)));
  $("broken").hidden = problems.length === 0;
}

/** Begin to ask. */
export function watchFlows() {
  asking = setInterval(ask, EVERY_MS);
  addEventListener("visibilitychange", ask);
  ask();
}
