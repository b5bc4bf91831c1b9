// One record as elements. Every text from data or a model goes through textContent, so markup in it stays text.
window.report.detail = (() => {
  const { word, name } = window.report;

  function element(kind, className, text) {
    const made = document.createElement(kind);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function signed(value, digits) {
    return (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(digits);
  }

  function tone(value) {
    return value > 1e-9 ? "up" : value < -1e-9 ? "down" : "";
  }

  // A change is told by its sign and an arrow as well as by its colour.
  function change(value, digits) {
    const arrow = value > 1e-9 ? "▲ " : value < -1e-9 ? "▼ " : "";
    return element("span", `delta ${tone(value)}`, arrow + signed(value, digits));
  }

  function marked(parent, text, search) {
    const wanted = search.trim().toLowerCase();
    let from = 0;
    if (wanted && text.toLowerCase().length === text.length) {
      for (let at = text.toLowerCase().indexOf(wanted); at >= 0; at = text.toLowerCase().indexOf(wanted, from)) {
        parent.append(text.slice(from, at), element("mark", "", text.slice(at, at + wanted.length)));
        from = at + wanted.length;
      }
    }
    parent.append(text.slice(from));
    return parent;
  }

  function prose(text, search, language) {
    const block = element("div", "prose");
    block.dir = "auto";
    if (language) block.lang = language === "zh" ? "zh-CN" : language;
    if (text.trim() === "") {
      block.classList.add("empty");
      block.textContent = word("empty");
      return block;
    }
    return marked(block, text, search);
  }

  function score(label, value, digits, before) {
    const item = element("li");
    item.append(element("span", "", label), element("b", "", value.toFixed(digits).replace("-", "−")));
    if (before !== undefined && before !== null) item.append(change(value - before, digits));
    return item;
  }

  function scores(sample, before) {
    const list = element("ul", "scores");
    const past = before || {};
    if (sample.g !== undefined) list.append(score(word("gold_name"), sample.g, 0, past.g));
    if (sample.w !== undefined) list.append(score(word("reward_name"), sample.w, 2, past.w));
    if (sample.k !== undefined) list.append(score("KL", sample.k, 2));
    if (sample.n !== undefined) list.append(score(word("tokens"), sample.n, 0));
    if (sample.f === false) list.append(element("li", "flag", word("truncated")));
    return list;
  }

  function column(sample, before, record, search) {
    const model = ["base", "sft", "ppo"].includes(sample.m) ? sample.m : "step";
    const made = element("section", `response ${model}`);
    const title = sample.m !== undefined ? name("model", sample.m)
      : sample.s !== undefined ? word("at_step", sample.s) : "";
    made.append(element("h4", "", title), scores(sample, before), prose(sample.r, search, record.lang));
    return made;
  }

  function tags(record) {
    const list = element("p", "tags");
    if (record.lang) list.append(element("span", "tag", name("language", record.lang)));
    if (record.family) list.append(element("span", "tag", record.family));
    return list;
  }

  function show(place, record, search) {
    const about = tags(record);
    if (record.id !== record.prompt) about.append(element("code", "", record.id));
    const columns = element("div", "columns");
    record.samples.forEach((sample, index) => columns.append(column(sample, record.samples[index - 1], record, search)));
    const heading = element("h3", "", word("prompt"));
    place.replaceChildren(about, heading, prose(record.prompt, search, record.lang), columns);
  }

  function option(record, digits) {
    const item = element("li");
    const excerpt = element("span", "excerpt", record.prompt.slice(0, 200));
    excerpt.dir = "auto";
    const foot = tags(record);
    if (record.gain !== null) foot.append(change(record.gain, digits));
    item.append(excerpt, foot);
    return item;
  }

  return { show, option };
})();
