// Shows the stored completions of a sweep (see explorer.py). All text is inserted as text, never as HTML.
(() => {
  for (const page of document.querySelectorAll(".explorer:not([data-ready])")) {
    page.dataset.ready = "true";
    const { prompts, texts, choices, measures } = JSON.parse(page.querySelector("script").textContent);
    const control = Object.fromEntries([...page.querySelectorAll("[data-choose]")].map((c) => [c.dataset.choose, c]));
    const text = page.querySelector(".explorer-text"), figures = page.querySelector(".explorer-figures");
    const fill = (select, values) => {
      const before = select.value;
      select.replaceChildren(...values.map((v, i) => new Option(Array.isArray(v) ? v[0] : v, Array.isArray(v) ? i : v)));
      if ([...select.options].some((o) => o.value === before)) select.value = before;
    };
    const unique = (values) => [...new Set(values)];
    const shorten = (prompt, i) => `${i + 1}: ${prompt.replace(/\s+/g, " ").slice(0, 60)}…`;
    const answer = () => {
      const ofRole = choices.filter((c) => c.role === control.role.value);
      fill(control.ablated, unique(ofRole.map((c) => c.ablated)));
      const ofAblated = ofRole.filter((c) => c.ablated === control.ablated.value);
      fill(control.method, ofAblated.map((c) => c.method));
      const { settings } = ofAblated.find((c) => c.method === control.method.value);
      control.strength.max = settings.length - 1;
      const setting = settings[control.strength.value];
      page.querySelector("output").textContent = setting.label;
      control.strength.setAttribute("aria-valuetext", setting.label); // else the slider is read as 0, 1, 2
      const [number, phrase, ...values] = setting.answers[control.prompt.value];
      const completion = document.createElement("mark");
      completion.textContent = texts[number] || "(empty completion)";
      text.replaceChildren(prompts[control.prompt.value], completion);
      const lines = [["the phrase", phrase ? "said" : "not said"], ...measures.map((n, i) => [n, values[i] ?? "–"])];
      figures.replaceChildren(...lines.flatMap(([name, value]) => ["dt", "dd"].map((tag, i) => {
        const line = document.createElement(tag);
        line.textContent = i ? value : name;
        return line;
      })));
    };
    fill(control.role, unique(choices.map((c) => c.role)));
    fill(control.prompt, prompts.map((p, i) => [shorten(p, i)]));
    control.strength.max = choices[0].settings.length - 1;
    control.strength.value = Math.floor(choices[0].settings.length / 2);
    for (const one of Object.values(control)) one.addEventListener("input", answer);
    answer();
  }
})();
