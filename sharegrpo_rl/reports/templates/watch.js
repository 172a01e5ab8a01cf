"use strict";
// Keeps a served page up to date. What the server sends is compared node by node with what is shown, and only what differs
// is changed: filters, open details, the selection and the scroll position stay.
(() => {
  const PAUSE = 2000; // milliseconds between two questions
  const badge = document.createElement("p");
  badge.id = "live";
  let version = document.documentElement.dataset.version;
  let filters = null; // the form that the rollout browser was started for
  let rollouts = "";

  // Children are matched by kind and name, so that a new section shifts none of the others.
  const named = { SECTION: "h2, summary", FIGURE: "figcaption, img", DETAILS: "summary" };
  const key = (node) => {
    const name = named[node.nodeName] && node.querySelector(named[node.nodeName]);
    return `${node.nodeName} ${node.id || ""} ${name ? name.textContent || name.alt : ""}`;
  };

  const bring = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.dataset.drawn !== undefined) return; // the rollout browser's own
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const name of old.getAttributeNames()) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    const chosen = old.nodeName === "SELECT" ? old.value : null;
    bringChildren(old, fresh);
    if (chosen !== null) old.value = [...old.options].some((option) => option.value === chosen) ? chosen : "";
  };

  const bringChildren = (old, fresh) => {
    const left = [...old.childNodes];
    const pairs = [...fresh.childNodes].map((wanted) => {
      const index = left.findIndex((node) => key(node) === key(wanted));
      return [wanted, index < 0 ? null : left.splice(index, 1)[0]];
    });
    for (const node of left) node.remove();
    let place = old.firstChild;
    for (const [wanted, kept] of pairs) {
      if (kept !== null && kept === place) place = place.nextSibling;
      else old.insertBefore(kept ?? document.importNode(wanted, true), place);
      if (kept !== null) bring(kept, wanted);
    }
  };

  const showRollouts = () => {
    const form = document.getElementById("filters");
    if (form === null) return;
    const data = document.getElementById("rollout-data").textContent;
    if (form !== filters) {
      const script = document.createElement("script");
      script.src = "/rollout_browser.js";
      document.body.append(script);
    } else if (data !== rollouts) {
      form.dispatchEvent(new Event("rollouts"));
    }
    [filters, rollouts] = [form, data];
  };

  const update = async () => {
    const answer = await fetch("/").catch(() => null);
    if (answer === null) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    bring(document.querySelector("main"), fresh.querySelector("main"));
    document.title = fresh.title;
    version = fresh.documentElement.dataset.version;
    showRollouts();
  };

  const ago = (seconds) => {
    if (seconds === null) return "nothing yet";
    if (seconds < 120) return `last change ${seconds} s ago`;
    return seconds < 7200 ? `last change ${Math.floor(seconds / 60)} min ago` : `last change ${Math.floor(seconds / 3600)} h ago`;
  };

  const ask = async () => {
    const answer = await fetch("/state").catch(() => null);
    badge.classList.toggle("lost", answer === null);
    if (answer === null) {
      badge.textContent = "the server has ended; this is the page as it was";
      return;
    }
    const state = await answer.json();
    if (state.version !== version) await update();
    badge.textContent = `live · ${ago(state.seconds)}`;
  };

  const loop = async () => {
    try {
      if (!document.hidden) await ask();
    } finally {
      setTimeout(loop, PAUSE);
    }
  };

  document.body.append(badge);
  showRollouts();
  loop();
})();
