// The browser of transcripts: filters, a page of the list, the chosen record, and the keys that walk through them.
(() => {
  const groups = JSON.parse(document.getElementById("transcripts-data").textContent);
  if (!groups.length) return;
  const { word, name: named, records, detail } = window.report;
  const PAGE = 8;
  const at = (id) => document.getElementById(id);
  const list = at("list");
  const filters = Object.fromEntries(
    ["search", "source", "language", "family", "change", "sort"].map((name) => [name, at(`filter-${name}`)]));
  let found = [];
  let chosen = 0;
  groups.forEach(records.prepare);

  const group = () => groups[Number(filters.source.value) || 0];
  const present = (field) => [...new Set(group().records.map((record) => record[field]).filter(Boolean))].sort();
  const has = (field) => group().records.some((record) => record.samples.some((sample) => sample[field] !== undefined));

  function fill(select, options) {
    const kept = select.value;
    select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
    if (options.some(([value]) => value === kept)) select.value = kept;
    select.disabled = options.length < 2;
  }

  function fillFilters() {
    const every = ["", word("all")];
    fill(filters.source, groups.map((item, index) => [String(index), item.title[window.report.language()]]));
    fill(filters.language, [every, ...present("lang").map((code) => [code, named("language", code)])]);
    fill(filters.family, [every, ...present("family").map((name) => [name, name])]);
    for (const name of ["language", "family"]) filters[name].closest("label").hidden = filters[name].disabled;
    const measured = word(group().measure === "g" ? "gold_name" : "reward_name");
    const changes = records.CHANGES.filter((name) => name !== "hacked" || group().measure === "g");
    const label = (name) => (["improved", "worsened", "same"].includes(name) ? `${word(name)} (${measured})` : word(name));
    fill(filters.change, changes.map((name) => [name, label(name)]));
    const needs = { gold: "g", score: "w", kl: "k", length: "n", step: "s" };
    const orders = records.ORDERS.filter((name) => !needs[name] || has(needs[name]));
    fill(filters.sort, orders.map((name) => [name, word(name)]));
  }

  function filter() {
    found = records.select(group(), Object.fromEntries(Object.entries(filters).map(([name, input]) => [name, input.value])));
    choose(0);
  }

  function choose(index) {
    chosen = Math.max(0, Math.min(index, found.length - 1));
    drawList();
    const record = found[chosen];
    if (record) detail.show(at("detail"), record, filters.search.value);
    else at("detail").replaceChildren(word("none"));
    at("position").textContent = word("of", record ? chosen + 1 : 0, found.length);
    at("record-previous").disabled = chosen <= 0;
    at("record-next").disabled = chosen >= found.length - 1;
  }

  function drawList() {
    const page = Math.floor(chosen / PAGE);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const digits = group().measure === "g" ? 0 : 2;
    const items = found.slice(page * PAGE, (page + 1) * PAGE).map((record, offset) => {
      const item = detail.option(record, digits);
      const index = page * PAGE + offset;
      item.id = `record-${index}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(index === chosen));
      item.addEventListener("click", () => choose(index));
      return item;
    });
    list.replaceChildren(...items);
    if (found.length) list.setAttribute("aria-activedescendant", `record-${chosen}`);
    else list.removeAttribute("aria-activedescendant");
    const current = items[chosen - page * PAGE];
    if (current) list.scrollTop = Math.max(0, current.offsetTop + current.offsetHeight - list.clientHeight);
    at("page-number").textContent = word("page", page + 1, pages);
    at("page-previous").disabled = page === 0;
    at("page-next").disabled = page >= pages - 1;
  }

  const turn = (pages) => choose((Math.floor(chosen / PAGE) + pages) * PAGE);
  const LIST_KEYS = {
    ArrowDown: () => choose(chosen + 1), ArrowUp: () => choose(chosen - 1), PageDown: () => turn(1),
    PageUp: () => turn(-1), Home: () => choose(0), End: () => choose(found.length - 1),
  };
  const PAGE_KEYS = { j: () => choose(chosen + 1), k: () => choose(chosen - 1), "/": () => filters.search.focus() };

  function press(event, keys) {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  list.addEventListener("keydown", (event) => press(event, LIST_KEYS));
  document.addEventListener("keydown", (event) => {
    if (!event.target.closest("input, select, textarea, details")) press(event, PAGE_KEYS);
  });
  at("record-previous").addEventListener("click", () => choose(chosen - 1));
  at("record-next").addEventListener("click", () => choose(chosen + 1));
  at("page-previous").addEventListener("click", () => turn(-1));
  at("page-next").addEventListener("click", () => turn(1));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("reset", () => setTimeout(() => { fillFilters(); filter(); }));
  filters.source.addEventListener("input", fillFilters);
  for (const input of Object.values(filters)) input.addEventListener("input", filter);
  window.report.onLanguage(() => { const kept = chosen; fillFilters(); filter(); choose(kept); });
  fillFilters();
  filter();
})();
