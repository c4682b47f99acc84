// Shows the stored completions of sweeps (see explorer.py): filters, a scatter and a list of settings, the texts of one.
// What is chosen stands in the address, after "?". All text is inserted as text, never as HTML.
(() => {
  const FILTERS = ["feature", "ablated", "method", "prompts"];
  const ALL = "all methods";
  const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM, NEAR] = [360, 58, 14, 16, 48, 18]; // pixels
  const unique = (values) => [...new Set(values)];
  const percent = (share) => (share === null ? "–" : `${+(100 * share).toFixed(1)}%`);
  const size = (edit) => (edit === null ? "not recorded" : edit === 0 ? "none" : `${+edit.toPrecision(3)}`);

  const element = (name, attributes = {}, ...content) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  };
  const shape = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const unpack = async (script) => {
    const bytes = Uint8Array.from(atob(script.textContent), (one) => one.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };

  // ---- The scatter. Colours are hexadecimal or currentColor, so that a copy of the drawing stands alone.
  const scales = (shown, width) => {
    const edits = shown.map((one) => one.edit).filter((edit) => edit > 0).map(Math.log10);
    const none = shown.some((one) => !(one.edit > 0)); // they get a column of their own, left of the logarithmic axis
    const begin = LEFT + (none ? 46 : 10), end = Math.max(width - RIGHT - 8, begin + 10);
    // From a number that begins with 1, 2 or 5 to another one, so that there are always two ticks.
    const nice = Array.from({ length: 40 }, (_, i) => i - 20).flatMap((power) => [1, 2, 5].map((f) => Math.log10(f * 10 ** power)));
    const least = edits.length ? Math.min(...edits) : 0, most = edits.length ? Math.max(...edits) : 0;
    const low = Math.max(...nice.filter((tick) => tick <= least + 1e-9)), high = Math.min(...nice.filter((tick) => tick > most - 1e-9 && tick > low));
    const x = (edit) => (edit > 0 ? begin + ((end - begin) * (Math.log10(edit) - low)) / (high - low) : LEFT + 16);
    const y = (share) => TOP + 8 + (1 - (share ?? 0)) * (HEIGHT - TOP - BOTTOM - 16);
    const inside = nice.filter((tick) => edits.length && tick >= low - 1e-9 && tick <= high + 1e-9);
    const powers = inside.filter((tick) => Math.abs(tick - Math.round(tick)) < 1e-9);
    const wide = (end - begin) / (high - low) > 110 || powers.length < 2; // is there room for all of them?
    const ticks = (wide ? inside : powers).map((tick) => 10 ** tick);
    return { x, y, none, ticks };
  };

  const draw = (place, shown, colourOf, chosen) => {
    const width = place.clientWidth || 600, { x, y, none, ticks } = scales(shown, width), bottom = HEIGHT - BOTTOM;
    const font = { "font-family": "system-ui, sans-serif", "font-size": "12" };
    const svg = shape("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true", ...font });
    const line = (x1, y1, x2, y2, opacity) =>
      svg.append(shape("line", { x1, y1, x2, y2, stroke: "currentColor", "stroke-opacity": opacity }));
    const label = (text, at, anchor = "middle") =>
      svg.append(shape("text", { ...at, fill: "currentColor", "text-anchor": anchor }, text));
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      line(LEFT, y(share), width - RIGHT, y(share), 0.15);
      label(percent(share), { x: LEFT - 6, y: y(share) + 4 }, "end");
    }
    for (const tick of ticks) {
      line(x(tick), TOP, x(tick), bottom, 0.15);
      label(`${+tick.toPrecision(1)}`, { x: x(tick), y: bottom + 16 });
    }
    if (none) label(shown.some((one) => one.edit === null) ? "unknown" : "none", { x: x(0), y: bottom + 16 });
    line(LEFT, bottom, width - RIGHT, bottom, 0.6);
    line(LEFT, TOP, LEFT, bottom, 0.6);
    label("relative edit norm (edit over residual stream)", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 8 });
    label("fluent stories", { transform: `translate(13 ${HEIGHT / 2 - 14}) rotate(-90)` });
    for (const one of shown) {
      const [colour, filled] = colourOf(one.method);
      const look = filled ? { fill: colour, stroke: "currentColor", "stroke-width": 0.6 } : { fill: "none", stroke: colour, "stroke-width": 2.5 };
      svg.append(shape("circle", { cx: x(one.edit), cy: y(one.share), r: 5, ...look, "fill-opacity": 0.8, "data-setting": one.id }));
    }
    const ring = { r: 9, fill: "none", stroke: "currentColor", "stroke-width": 3, class: "explorer-ring" };
    if (chosen) svg.append(shape("circle", { ...ring, cx: x(chosen.edit), cy: y(chosen.share) }));
    place.querySelector("svg")?.remove();
    place.append(svg);
    place.setAttribute("aria-label", `${shown.length} settings: share of fluent stories by relative edit norm. The list has the same.`);
    return ({ clientX, clientY }) => { // the setting whose dot is nearest to a pointer
      const { left, top } = svg.getBoundingClientRect();
      const far = (one) => Math.hypot(x(one.edit) - clientX + left, y(one.share) - clientY + top);
      const nearest = shown.reduce((best, one) => (best && far(best) <= far(one) ? best : one), null);
      return nearest && far(nearest) <= NEAR ? { one: nearest, left: x(nearest.edit), top: y(nearest.share) } : null;
    };
  };

  // ---- A page.
  const start = (page) => {
    const { features, settings, verdicts, colours, order } = JSON.parse(page.querySelector("script[type='application/json']").textContent);
    const find = (name) => page.querySelector(name), say = (name, text) => (find(`[data-say=${name}]`).textContent = text);
    const control = Object.fromEntries([...page.querySelectorAll("[data-choose]")].map((c) => [c.dataset.choose, c]));
    const all = settings.map(([id, feature, ablated, method, label, shares]) => ({ id, feature, ablated, method, label, shares }));
    const several = unique(features.map(([model]) => model)).length > 1;
    const names = features.map(([model, role]) => (several ? `${model}: ${role}` : role));
    const methods = unique([...order, ...all.map((one) => one.method).sort()]);
    const colourOf = (method) => { // beyond the palette, rings in the same colours
      const number = methods.indexOf(method);
      return [colours.methods[number % colours.methods.length], number < colours.methods.length];
    };
    const chunks = new Map(); // unpacked when a feature is chosen
    const chunk = (number) => {
      if (!chunks.has(number)) chunks.set(number, unpack(find(`[data-chunk="${number}"]`)));
      return chunks.get(number);
    };
    const plot = find(".explorer-plot"), tip = element("div", { class: "explorer-tip", hidden: "" });
    plot.append(tip);
    let state = {}, shown = [], nearest = () => null;

    // The address names the view in its query, so that what is after "#" stays a heading's. It was there that it stood once.
    const named = ([name, value]) => value && Object.hasOwn(control, name);
    const own = (text) => Object.fromEntries([...new URLSearchParams(text)].filter(named));
    const former = () => (Object.keys(own(location.hash.slice(1))).length ? own(location.hash.slice(1)) : null);
    const read = () => former() ?? own(location.search);
    const address = () => {
      const url = new URL(location.href);
      if (former()) url.hash = "";
      for (const [name, value] of Object.entries(state)) url.searchParams.set(name, value);
      return url.href;
    };
    const write = () => {
      try {
        history.replaceState(history.state, "", address());
      } catch (error) { // Safari allows a hundred changes in half a minute; the button has the address all the same
        if (error.name !== "SecurityError") throw error;
      }
    };

    const fill = (select, entries, value) =>
      select.replaceChildren(...entries.map(([text, own]) => new Option(text, own, false, String(own) === String(value))));
    const known = (edit) => edit ?? Infinity;
    const best = (ones) => ones.reduce((a, b) => (b.share > a.share || (b.share === a.share && known(b.edit) < known(a.edit)) ? b : a));

    // What is asked for as far as it is there, and a default for the rest: the next filter has what the last one leaves.
    const resolve = (asked) => {
      const took = {}, gone = [];
      const take = (name, values, otherwise) => {
        took[name] = values.includes(asked[name]) ? asked[name] : otherwise ?? values[0];
        if (asked[name] !== undefined && asked[name] !== took[name]) gone.push(`${name} “${asked[name]}”`);
        return took[name];
      };
      const feature = names.indexOf(take("feature", names));
      const own = all.filter((one) => one.feature === feature);
      const ablated = take("ablated", unique(own.map((one) => one.ablated)));
      const directed = own.filter((one) => one.ablated === ablated);
      const splits = unique(directed.flatMap((one) => Object.keys(one.shares)));
      const split = take("prompts", splits, splits.includes("held out") ? "held out" : undefined);
      const offered = directed.filter((one) => one.shares[split]);
      const method = take("method", [ALL, ...unique(offered.map((one) => one.method))]);
      shown = offered.filter((one) => method === ALL || one.method === method);
      for (const one of shown) [one.n, one.share, one.phrase, one.edit] = one.shares[split];
      const before = all.find((one) => one.id === state.setting); // the same setting of another feature, if there is one
      const same = shown.find((one) => one.label === before?.label);
      take("setting", shown.map((one) => one.id), (same ?? best(shown)).id);
      fill(control.feature, names.map((name) => [name, name]), took.feature);
      fill(control.ablated, unique(own.map((one) => one.ablated)).map((o) => [o === "feature" ? "the feature's own" : o, o]), took.ablated);
      fill(control.prompts, splits.map((name) => [name, name]), split);
      fill(control.method, [ALL, ...unique(offered.map((one) => one.method))].map((name) => [name, name]), method);
      return [took, gone];
    };

    const redraw = () => {
      nearest = draw(plot, shown, colourOf, shown.find((one) => one.id === state.setting));
      tip.hidden = true;
    };

    const list = () => {
      const groups = unique(shown.map((one) => one.method)).map((method) => {
        const ofMethod = shown.filter((one) => one.method === method);
        const pieces = ({ label }) => (label.startsWith(`${method}, `) ? label.slice(method.length + 2) : label).split(", ");
        const shared = ofMethod.length < 2 ? [] : pieces(ofMethod[0]).filter((one) => ofMethod.every((other) => pieces(other).includes(one)));
        const own = (one) => pieces(one).filter((piece) => !shared.includes(piece)).join(", ");
        const options = ofMethod.map((one) => new Option(`${percent(one.share)} · ${size(one.edit)} · ${own(one)}`, one.id));
        return element("optgroup", { label: method }, ...options);
      });
      control.setting.replaceChildren(...groups);
      control.setting.value = state.setting;
      say("count", `${shown.length} settings: fluent stories · edit norm · parameters`);
      find(".explorer-legend").replaceChildren(...unique(shown.map((one) => one.method)).map((method) => {
        const [colour, filled] = colourOf(method), swatch = element("span", { class: "explorer-swatch" });
        swatch.style.cssText = filled ? `background: ${colour}` : `border: 2.5px solid ${colour}`;
        return element("li", {}, swatch, method);
      }));
    };

    const panel = (title, text, verdict) => element("section", {}, element("h3", {}, title),
      element("p", { class: "explorer-verdict", style: `--verdict: ${colours.verdicts[verdict]}` }, verdicts[verdict]),
      element("p", { class: "explorer-completion" }, text.trim() || "(empty completion)"));

    const strip = ({ vocabulary, texts, strips }, prompt, text, number) => {
      const ids = [...texts[prompt], ...texts[text]], values = new Map();
      for (let i = 0; number !== null && i < strips[number].length; i += 2) values.set(strips[number][i], strips[number][i + 1]);
      const top = Math.max(...values.values(), 1e-9);
      const pieces = ids.map((id, i) => {
        const value = values.get(i) ?? 0, written = vocabulary[id].replaceAll("\n", "⏎\n");
        const piece = element("span", i < texts[prompt].length ? {} : { class: "explorer-new" }, written);
        const opacity = Math.round(255 * (0.12 + (0.48 * value) / top));
        if (value) piece.style.backgroundColor = `${colours.methods[0]}${opacity.toString(16).padStart(2, "0")}`; // #rrggbbaa
        if (number !== null) piece.title = `activation ${value}`;
        return piece;
      });
      find(".explorer-strip").replaceChildren(...pieces);
      if (number === null) return "No activations per token are kept of this setting.";
      const most = [...values].find(([, value]) => value === top);
      const where = most ? `, most on “${vocabulary[ids[most[0]]].trim()}” (${top})` : "";
      return `In the clean run the feature fires on ${values.size} of the ${ids.length} tokens below${where}.`;
    };

    const showTexts = async () => {
      const one = shown.find((s) => s.id === state.setting), data = await chunk(one.feature);
      if (one.id !== state.setting) return; // another was chosen meanwhile
      const answers = data.answers[one.id][state.prompts], text = (number) => data.texts[number].map((id) => data.vocabulary[id]).join("");
      const answer = answers.find(([number]) => String(number) === state.prompt) ?? answers[0];
      const gone = `There is no prompt ${state.prompt} here; this is the first.`;
      if (state.prompt && state.prompt !== String(answer[0])) say("note", `${find("[data-say=note]").textContent} ${gone}`.trim());
      state.prompt = String(answer[0]);
      const shorten = (prompt) => text(data.prompts[prompt][1]).replace(/\s+/g, " ").slice(0, 60);
      fill(control.prompt, answers.map(([number, prompt, , verdict]) =>
        [`${state.prompts} ${number}, ${verdicts[verdict]}: ${shorten(prompt)}…`, number]), state.prompt);
      const [, prompt, completion, verdict, before, after, edit, number] = answer;
      const [, promptText, ...others] = data.prompts[prompt];
      say("title", `${names[one.feature]}, ${one.ablated}: ${one.label}. Fluent stories: ${percent(one.share)}; ` +
        `“${data.phrase ?? "the phrase"}”: ${percent(one.phrase)}; relative edit norm: ${size(one.edit)}; ` +
        `${one.n} ${state.prompts} prompts.`);
      find(".explorer-text").textContent = text(promptText);
      const panels = [["This setting", completion, verdict]];
      ["Untouched", "Base model, prompt without the tag"].forEach((title, i) => others[i] && panels.push([title, ...others[i]]));
      find(".explorer-panels").replaceChildren(...panels.map(([title, own, verdict]) => panel(title, text(own), verdict)));
      const fires = strip(data, promptText, completion, number), figure = (value) => value ?? "–";
      say("activation", `${fires} Mean activation: ${figure(before)} in the clean run, ${figure(after)} in the intervened run; ` +
        `relative edit norm on this prompt: ${figure(edit)}.`);
      write();
      page.dataset.shown = `${one.id} ${state.prompt}`;
    };

    const choose = (asked, told = true) => {
      const [took, gone] = resolve(asked);
      state = { ...took, ...(asked.prompt && { prompt: asked.prompt }) };
      say("note", told && gone.length ? `Not on this page: ${gone.join(", ")}; the nearest view is shown.` : "");
      list();
      redraw();
      return showTexts();
    };

    for (const name of FILTERS) control[name].addEventListener("input", () => choose({ ...state, [name]: control[name].value }, false));
    const pick = (changes) => { // of what is listed: the list stays as it is, and where it is scrolled to
      Object.assign(state, changes);
      say("note", "");
      control.setting.value = state.setting;
      redraw();
      showTexts();
    };
    for (const name of ["setting", "prompt"]) control[name].addEventListener("input", () => pick({ [name]: control[name].value }));
    plot.addEventListener("pointermove", (event) => {
      const near = nearest(event);
      plot.style.cursor = near ? "pointer" : "";
      tip.hidden = !near;
      if (!near) return;
      tip.textContent = `${near.one.label}: ${percent(near.one.share)} fluent stories, edit ${size(near.one.edit)}, ${near.one.n} prompts`;
      tip.style.left = `${Math.min(near.left, plot.clientWidth - tip.offsetWidth)}px`;
      tip.style.top = `${near.top + 12}px`;
    });
    plot.addEventListener("pointerleave", () => (tip.hidden = true));
    plot.addEventListener("click", (event) => nearest(event) && pick({ setting: nearest(event).one.id }));
    const actions = {
      address: async () => {
        const copied = navigator.clipboard?.writeText(address()) ?? Promise.reject();
        await copied.then(() => say("note", "Copied."), () => say("note", `This browser does not copy it: ${address()}`));
      },
      csv: () => {
        const lines = shown.map((o) => [names[o.feature], o.ablated, o.method, o.label, state.prompts, o.n, o.share, o.phrase, o.edit]);
        const head = ["feature", "direction", "method", "setting", "prompts", "n", "fluent_stories", "says_phrase", "relative_edit_norm"];
        savedFiles.save(savedFiles.csv([head, ...lines]), "text/csv", "settings.csv");
      },
      svg: () => {
        const copy = plot.querySelector("svg").cloneNode(true);
        copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
        copy.style.color = "#222222";
        savedFiles.save(copy.outerHTML, "image/svg+xml", "settings.svg");
      },
    };
    for (const button of page.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
    let width = 0;
    new ResizeObserver(() => {
      if (!plot.clientWidth || plot.clientWidth === width) return;
      width = plot.clientWidth;
      redraw();
    }).observe(plot);
    addEventListener("popstate", () => { // also after a click on a heading's link, which changes nothing here
      const asked = read();
      if (Object.keys(asked).some((name) => asked[name] !== state[name])) choose(asked);
    });
    choose(read()).then(() => performance.mark("explorer-shown"));
  };

  for (const page of document.querySelectorAll(".explorer:not([data-ready])")) {
    if (!("DecompressionStream" in window)) break; // the page says so
    page.dataset.ready = "true";
    page.querySelector(".explorer-view").hidden = false;
    start(page);
    page.querySelector(".explorer-needs").hidden = true;
  }
})();
