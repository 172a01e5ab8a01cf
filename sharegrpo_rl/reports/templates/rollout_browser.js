"use strict";
// The rollout browser. Filters stand in the page's address (#verdict=wrong&trained=shared), so that a view is a link.
(() => {
  const PAGE = 12; // groups shown at a time
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  let { groups } = read("rollout-data");
  let images = read("rollout-images");
  const form = document.getElementById("filters");
  const list = document.getElementById("groups");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  let limit = PAGE;
  let drawn = new Map(); // what is shown, by what it shows

  const make = (tag, className, text, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined && text !== null) element.textContent = text; // never innerHTML: a model wrote this
    element.append(...children);
    return element;
  };
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

  // A pair is a completion under the prompt that it was trained with: its own (native) or a sibling variant's (shared).
  const pairsOf = (group) => group.slots.flatMap((slot, v) => slot.completions.flatMap((completion) =>
    completion.advantages.map((advantage, prompt) => ({ completion, sampled: v, prompt, advantage,
      trained: advantage === null ? "untrained" : prompt === v ? "native" : "shared" }))
      .filter((pair) => pair.advantage !== null || pair.prompt === v)));

  const verdict = (completion) => (completion.error ? "grader error" : completion.parts.accuracy >= 1 ? "right" : "wrong");

  const fits = (wanted, group, pair) => {
    const { completion } = pair;
    if (wanted.variant && String(pair.sampled) !== wanted.variant) return false;
    if (wanted.trained && pair.trained !== wanted.trained) return false;
    if (wanted.verdict === "cut" ? !completion.truncated : wanted.verdict && verdict(completion) !== wanted.verdict) return false;
    if (wanted.from !== "" && completion.reward < Number(wanted.from)) return false;
    if (wanted.to !== "" && completion.reward > Number(wanted.to)) return false;
    if (!wanted.search) return true;
    const said = [group.question_id, group.answer, completion.text, ...group.slots.map((slot) => slot.wording)];
    return said.some((text) => text.toLowerCase().includes(wanted.search.toLowerCase()));
  };

  const matching = (wanted) => groups
    .filter((group) => !wanted.iteration || String(group.iteration) === wanted.iteration)
    .filter((group) => !wanted.kind || group.subtask === wanted.kind)
    .map((group) => ({ group, pairs: pairsOf(group).filter((pair) => fits(wanted, group, pair)) }))
    .filter((found) => found.pairs.length > 0);

  const drawPair = (pair) => {
    const { completion } = pair;
    const facts = [`variant ${pair.sampled}`, pair.trained === "shared" ? `shared with variant ${pair.prompt}` : pair.trained,
      `${completion.tokens} tokens`, ...(completion.truncated ? ["cut off"] : []), ...(completion.error ? [completion.error] : [])].join(" · ");
    const parts = Object.entries(completion.parts).map(([name, value]) => `${name} ${value}`).join(", ");
    const reward = make("span", completion.error ? "wrong" : verdict(completion), `reward ${completion.reward.toFixed(2)}`);
    reward.title = parts;
    const credit = pair.advantage === null ? "no credit" : `advantage ${signed(pair.advantage)}`;
    return make("div", `pair ${pair.trained}`, null, make("p", "note", null, reward, ` · ${credit} · ${facts}`),
      make("pre", "", completion.text || "(nothing)"));
  };

  const drawSlot = (slot, v) => {
    const shown = (images[slot.image] || []).map((source) => {
      const picture = make("img");
      picture.src = source;
      picture.alt = "image of the question";
      return picture;
    });
    return make("div", "slot", null, ...shown,
      make("p", "ask", slot.wording), make("p", "note", `variant ${v}: wording ${slot.variant_index}, ${slot.transform || "untouched"}`));
  };

  const drawGroup = ({ group, pairs }) => make("article", "group", null,
    make("p", "note", `iteration ${group.iteration}${group.subtask ? ` · ${group.subtask}` : ""} · right answer: ${group.answer} · ${group.question_id}`),
    make("div", "slots", null, ...group.slots.map(drawSlot)),
    make("div", "answers", null, ...pairs.map(drawPair)));

  // Elements that stay are not moved: their images are not loaded again, and the page does not jump.
  const place = (elements) => {
    for (const old of [...list.children]) if (!elements.includes(old)) old.remove();
    elements.forEach((element, i) => {
      if (list.children[i] !== element) list.insertBefore(element, list.children[i] ?? null);
    });
  };

  const wantedNow = () => Object.fromEntries([...form.elements].filter((field) => field.name).map((field) => [field.name, field.value]));

  const show = () => {
    const found = matching(wantedNow());
    const pairs = found.reduce((sum, { pairs: own }) => sum + own.length, 0);
    count.textContent = `${pairs} of ${groups.reduce((sum, group) => sum + pairsOf(group).length, 0)} pairs in ${found.length} of ${groups.length} groups`;
    const before = drawn;
    drawn = new Map(found.slice(0, limit).map((each) => JSON.stringify([groups.length - groups.indexOf(each.group), each]))
      .map((name, i) => [name, before.get(name) ?? drawGroup(found[i])]));
    place([...drawn.values()]);
    more.hidden = found.length <= limit;
  };

  const readAddress = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const field of form.elements) if (field.name && asked.has(field.name)) field.value = asked.get(field.name);
  };

  form.addEventListener("input", () => {
    limit = PAGE;
    const set = Object.entries(wantedNow()).filter(([, value]) => value !== "");
    history.replaceState(null, "", `#${new URLSearchParams(set)}`);
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += PAGE; show(); });
  form.addEventListener("rollouts", () => { // a page that is served live has got others
    const known = groups.length;
    ({ groups } = read("rollout-data"));
    images = read("rollout-images");
    limit += Math.max(0, groups.length - known); // those that were shown stay
    show();
  });
  window.addEventListener("hashchange", () => { readAddress(); show(); });
  readAddress();
  show();
})();
