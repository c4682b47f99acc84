// Answers of a precomputed sweep (see explorer.py). All text goes in as text, never as HTML.
(() => {
  const names = ["cross-entropy (nats per token)", "of the completion only", "target's mean activation before",
    "target's mean activation after", "largest edit, share of the stream", "overshoot below the threshold"];
  for (const place of document.querySelectorAll(".explorer:not([data-ready])")) {
    place.dataset.ready = "true";
    const { prompts, texts, choices } = JSON.parse(place.querySelector("script").textContent);
    const control = Object.fromEntries([...place.querySelectorAll("[data-choose]")].map((c) => [c.dataset.choose, c]));
    const text = place.querySelector(".explorer-text"), figures = place.querySelector(".explorer-figures");
    const fill = (select, values) => {
      const before = select.value;
      select.replaceChildren(...values.map((v, i) => new Option(Array.isArray(v) ? v[0] : v, Array.isArray(v) ? i : v)));
      if ([...select.options].some((o) => o.value === before)) select.value = before;
    };
    const unique = (values) => [...new Set(values)];
    const shorten = (prompt, i) => `${i + 1}: ${prompt.replace(/\s+/g, " ").slice(0, 60)}…`;
    const answer = () => {
      const roles = choices.filter((c) => c.role === control.role.value);
      fill(control.target, unique(roles.map((c) => c.target)));
      const targets = roles.filter((c) => c.target === control.target.value);
      fill(control.method, targets.map((c) => c.method));
      const { strengths } = targets.find((c) => c.method === control.method.value);
      control.strength.max = strengths.length - 1;
      const strength = strengths[control.strength.value];
      place.querySelector("output").textContent = strength.name;
      control.strength.setAttribute("aria-valuetext", strength.name); // else the slider is read as 0, 1, 2
      const [number, phrase, ...values] = strength.answers[control.prompt.value];
      const written = document.createElement("mark");
      written.textContent = texts[number] || "(nothing)";
      text.replaceChildren(prompts[control.prompt.value], written);
      const lines = [["the phrase", phrase ? "said" : "not said"], ...names.map((n, i) => [n, values[i] ?? "–"])];
      figures.replaceChildren(...lines.flatMap(([name, value]) => ["dt", "dd"].map((tag, i) => {
        const line = document.createElement(tag);
        line.textContent = i ? value : name;
        return line;
      })));
    };
    fill(control.role, unique(choices.map((c) => c.role)));
    fill(control.prompt, prompts.map((p, i) => [shorten(p, i)]));
    control.strength.max = choices[0].strengths.length - 1;
    control.strength.value = Math.floor(choices[0].strengths.length / 2);
    for (const one of Object.values(control)) one.addEventListener("input", answer);
    answer();
  }
})();
